"""Plans beside the runs that they are plans of: time, tokens and memory, planned over measured.

Each cell plans a command, then runs it, both as users do, and writes one row; a cell with a row is
not run again. A product of matrices is timed before and after; its drift is divided out of the
time, and a cell during which it moved by more than 5% is repeated.

    python benchmarks/plans.py --out plans            # all cells, about half an hour
    python benchmarks/plans.py --out plans --table    # the table of what is there
"""

from __future__ import annotations

import csv
import gzip
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.cells import Cells, parser
from wafergpt import atomic_files
from wafergpt.data.prepare import prepare

DATA = Path(os.environ.get("WAFERGPT_DATA", "../shared/data"))
STABLE = 0.05
"""Largest drift of the probe during a cell that counts."""

ATTEMPTS = 3
S = ["model.n_layers=6", "model.d_model=256", "model.n_heads=4", "model.seq_len=256"]
L = ["model.n_layers=10", "model.d_model=768", "model.n_heads=12", "model.seq_len=512"]
TINY = ["model.n_layers=2", "model.d_model=128", "model.n_heads=2"]
WIKI = "data.corpus={out}/wiki"
LONG, SHORT = "task.train={out}/long.jsonl", "task.train={out}/short.jsonl"
CELLS: dict[str, tuple[str, list[str]]] = {
    "demo, pretraining": ("pretrain", ["demo", "data.corpus={out}/reviews"]),
    "demo, fine-tuning": ("finetune", ["{base}", "demo-classify", LONG]),
    "shape S": ("pretrain", [*S, WIKI, "train.steps=230", "system.compile=off"]),
    "shape L": ("pretrain", [*L, WIKI, "train.steps=40", "train.batch_size=4"]),
    "a compute-optimal small one": ("pretrain", [*TINY, WIKI, "train.tokens=6000000"]),
    "Muon": ("pretrain", [*S, WIKI, "optimizer.name=muon", "train.steps=200"]),
    "µP": ("pretrain", [*S, WIKI, "model.parametrization=mup", "model.base_d_model=64",
                        "train.steps=220"]),
    "accumulation": ("pretrain", [*S, WIKI, "train.batch_size=32", "train.micro_batch_size=4",
                                  "train.steps=110"]),
    "two processes": ("pretrain", [*S, WIKI, "train.steps=220", "system.nproc=2"]),
    "compiled, cold": ("pretrain", [*S, WIKI, "train.steps=400", "system.compile=on"]),
    "compiled, warm": ("pretrain", [*S, WIKI, "train.steps=400", "system.compile=on"]),
    "from scratch, short texts": ("finetune", ["scratch", *S, SHORT, "train.epochs=6"]),
    "from scratch, long texts": ("finetune", ["scratch", *TINY, "model.seq_len=512", LONG,
                                              "train.epochs=2"]),
}  # fmt: skip
"""The verb and the arguments of each cell."""


def probe() -> float:
    """Return the seconds of a large product, the best of several."""
    a = torch.randn(1024, 1024)
    times = []
    for _ in range(30):
        start = time.perf_counter()
        a @ a
        times.append(time.perf_counter() - start)
    return min(times)


def wafergpt(*arguments: str, cache: Path | None = None) -> tuple[dict[str, Any], float]:
    """Run a command; return its JSON result and its seconds."""
    start = time.perf_counter()
    environment = os.environ | ({} if cache is None else {"TORCHINDUCTOR_CACHE_DIR": str(cache)})
    code = "from wafergpt.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, *arguments, "--json"],
        stdout=subprocess.PIPE, text=True, env=environment, check=True,
    )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1]), time.perf_counter() - start


def cell(name: str, out: Path) -> dict[str, Any]:
    """Plan and run one cell; repeat it if the machine drifted."""
    verb, arguments = CELLS[name]
    arguments = [a.format(out=out, base=out / "runs" / "base") for a in arguments]
    for attempt in range(ATTEMPTS):
        shutil.rmtree(out / "runs" / "measured", ignore_errors=True)
        with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
            caches = (Path(first), Path(second)) if name.endswith("cold") else (None, None)
            before = probe()
            source, rest = ([], arguments) if verb == "pretrain" else (arguments[:1], arguments[1:])
            start = ["--from", *source] if source and source != ["scratch"] else []
            task = [] if verb == "pretrain" or "demo-classify" in rest else ["task.name=classify"]
            plan, planning = wafergpt("plan", *rest, *task, *start, cache=caches[0])
            between = probe()
            run = ["name=measured", "--runs", str(out / "runs")]
            result, seconds = wafergpt(verb, *arguments, *task, *run, cache=caches[1])
            after = probe()
        drift = max(before, between, after) / min(before, between, after) - 1
        if drift <= STABLE:
            break
        print(f"{name}: the probe moved by {drift:.1%}, attempt {attempt + 1}", file=sys.stderr)
    planned = plan["seconds"]
    if name.endswith("cold"):
        planned += plan["cold_compile_seconds"] - plan["time"]["compiling"]
    speed = (before + between) / (between + after)
    return {
        "cell": name,
        "planning": planning,
        "planned": planned,
        "measured": seconds,
        "time": planned / (seconds * speed),
        "tokens": plan["tokens"] / result["tokens"],
        "memory": plan["memory_bytes"] / result["peak_memory_bytes"],
        "drift": drift,
        "parts": {"planned": plan["time"], "measured": result["time"]},
    }


def inputs(out: Path) -> None:
    """Write the corpora, the rows and the base that cells start from."""
    if not (out / "long.jsonl").exists():
        with gzip.open(DATA / "imdb" / "train.jsonl.gz", "rt", encoding="utf-8") as file:
            rows = [json.loads(line) for line in file][::4]
        _write(out / "long.jsonl", [(row["text"], str(row["label"])) for row in rows])
        with gzip.open(DATA / "banking77" / "train.csv.gz", "rt", encoding="utf-8") as table:
            pairs = [(row["text"], row["category"]) for row in csv.DictReader(table)]
        _write(out / "short.jsonl", pairs)
    if not (out / "wiki").exists():
        prepare(DATA / "wikipedia_en" / "articles.jsonl.xz", out / "wiki", vocab_size=8192)
    if not (out / "reviews").exists():
        prepare(out / "long.jsonl", out / "reviews", vocab_size=16384, lowercase=True)
    if not (out / "runs" / "base").exists():
        where = ["--runs", str(out / "runs")]
        short_run = ["demo", f"data.corpus={out}/reviews", "train.tokens=500000", "name=base"]
        wafergpt("pretrain", *short_run, *where)


def _write(path: Path, rows: Sequence[tuple[str, str]]) -> None:
    lines = (json.dumps({"text": text, "label": label}) for text, label in rows)
    atomic_files.write_text(path, "\n".join(lines) + "\n")


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the rows as Markdown."""
    lines = [
        "| plan | planning | planned | measured | time | tokens | memory | drift |",
        "|---" * 8,
    ]
    lines[1] += "|"
    for row in rows:
        seconds = [f"{row[key]:.0f} s" for key in ("planning", "planned", "measured")]
        ratios = [f"{row[key]:.2f}" for key in ("time", "tokens", "memory")]
        cells = [row["cell"], *seconds, *ratios, f"{row['drift']:.1%}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Run the cells that have no row yet, and print the table."""
    options = parser(__doc__, "plans")
    options.add_argument("--cells", nargs="*", choices=CELLS, default=list(CELLS))
    asked = options.parse_args()
    cells = Cells(asked.out)
    if not asked.table:
        inputs(cells.out)
        for name in asked.cells:
            cells.measure(name, partial(cell, name, cells.out))
    print(table(list(cells.values())))


if __name__ == "__main__":
    main()
