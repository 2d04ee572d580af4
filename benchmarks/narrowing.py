"""A network with fewer layers, channels or less width beside its parent, after a retraining.

The parent is the dense language model of ``benchmarks.sparsity`` (seed 0), or a deeper or a wider
one of fewer tokens. It is narrowed; then both read the same tokens more, the narrow ones with and
without their parent as the teacher. Runs that are there are not trained again. Speeds are of
updates and of generation, in turns; ratios are of one round.

    python -m benchmarks.sparsity --out sparsity
    python -m benchmarks.narrowing --out sparsity
    python -m benchmarks.narrowing --out sparsity --parent deeper
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

from benchmarks.sparsity import SHAPE
from wafergpt import atomic_files
from wafergpt.api import pretrain, prune
from wafergpt.config import load_recipe
from wafergpt.decoding.generator import Sampling
from wafergpt.distributed.collectives import SINGLE
from wafergpt.inference.writer import Writer
from wafergpt.runs.run import Run
from wafergpt.train.timing import tokens_per_second

TO: dict[str, dict[str, dict[str, int]]] = {
    "dense": {
        "3 layers": {"layers": 3},
        "2 layers": {"layers": 2},
        "2 layers, 384 channels": {"layers": 2, "channels": 384},
        "256 channels, 1 head": {"channels": 256, "heads": 1},
        "width 96": {"width": 96},
        "3 layers, width 112": {"layers": 3, "width": 112},
    },
    "deeper": {
        "4 layers": {"layers": 4},
        "5 layers, width 112": {"layers": 5, "width": 112},
    },
    "wider": {
        "width 128, 2 heads": {"width": 128, "heads": 2},
        "4 layers, width 160": {"layers": 4, "width": 160},
    },
}
"""Of each parent, the shapes."""

PARENTS = {
    "deeper": ["model.n_layers=8", "train.tokens=5000000"],
    "wider": ["model.n_layers=6", "model.d_model=192", "model.n_heads=3", "train.tokens=5000000"],
}
"""What the parents that are trained here have unlike the dense one."""

RETRAINING = [
    *(setting for setting in SHAPE if setting.split(".")[0] not in ("model", "optimizer")),
    "train.tokens=4000000", "optimizer.lr=1.5e-3",
]  # fmt: skip
ROUNDS = 5


def trained(parent: str, out: Path) -> Run:
    """Return a parent; all but the dense one are trained if they are not there."""
    if parent in PARENTS and not (out / "runs" / parent).exists():
        asked = [*SHAPE, *PARENTS[parent], f"data.corpus={out / 'corpus'}", f"name={parent}"]
        return pretrain(load_recipe(None, asked), root=out / "runs")
    return Run.find(parent, out / "runs")


def retrained(run: Run, out: Path, teacher: Run | None = None) -> Run:
    """Train a run on, by the same recipe for all, but for a teacher."""
    name = f"{run.name}-{'more' if teacher is None else 'distilled'}"
    asked = [*RETRAINING, f"data.corpus={out / 'corpus'}", f"name={name}"]
    if teacher is not None:
        asked.append(f"train.teacher={teacher.path}")
    return pretrain(None, asked, start=run, auto_resume=True, root=out / "runs")


def generation(run: Run) -> float:
    """Return the tokens/s of generation, batch 1."""
    writer = Writer.load(run, "cpu")
    start = time.perf_counter()
    writer.write("The history of", Sampling(max_tokens=200, temperature=1.0, seed=1))
    return 200 / (time.perf_counter() - start)


def speeds(runs: dict[str, Run]) -> dict[str, dict[str, list[float]]]:
    """Return tokens/s of updates and generation by round, in turns."""
    found: dict[str, dict[str, list[float]]] = {
        name: {"updates": [], "generation": []} for name in runs
    }
    for _ in range(ROUNDS):
        for name, run in runs.items():
            # Of the shape: a teacher is needed no more.
            train = run.recipe.train.model_copy(update={"teacher": None})
            recipe = run.recipe.model_copy(update={"start": None, "train": train})
            found[name]["updates"].append(tokens_per_second(recipe, SINGLE))
            found[name]["generation"].append(generation(run))
    return found


def table(rows: dict[str, dict[str, Any]], parent: str) -> str:
    """Return the rows as Markdown."""
    head = "shape | weights | loss at once | after retraining | against the parent | updates"
    lines = [f"| {head} | generation |", "|---" * 7 + "|"]
    for name, row in rows.items():
        more = row["loss"] / rows[parent]["loss"] - 1
        shown = []
        for kind in ("updates", "generation"):
            ratios = [a / b for a, b in zip(row[kind], rows[parent][kind], strict=True)]
            shown.append(f"{statistics.median(ratios):.2f} × ({min(ratios):.2f}–{max(ratios):.2f})")
        at_once = "" if row["at_once"] is None else f"{row['at_once']:.3f}"
        lines.append(
            f"| {name} | {row['parameters']:,} | {at_once} | {row['loss']:.3f} | {more:+.1%} "
            f"| {' | '.join(shown)} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Narrow, retrain, measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("sparsity"))
    parser.add_argument("--parent", choices=TO, default="dense")
    asked = parser.parse_args()
    out, which, parent = asked.out.resolve(), asked.parent, "the parent"
    first = trained(which, out)
    runs = {parent: retrained(first, out)}
    at_once: dict[str, float | None] = {parent: None}
    prefix = "" if which == "dense" else f"{which}-"
    for number, (name, to) in enumerate(TO[which].items()):
        made = Run(out / "runs" / f"{prefix}narrow-{number}")
        if not made.path.exists():
            prune(first, made.name, root=out / "runs", **to)  # type: ignore[arg-type]
        for kind, teacher in (("", None), (", distilled", first)):
            at_once[name + kind] = made.read("result")["val_loss_after"]
            runs[name + kind] = retrained(made, out, teacher)
    timed = speeds(runs)
    rows = {
        name: {
            "at_once": at_once[name],
            "loss": run.read("result")["val_loss"],
            "parameters": run.read("result")["parameters"],
            **timed[name],
        }
        for name, run in runs.items()
    }
    atomic_files.write_json(out / f"{prefix}narrowing.json", rows)
    print(table(rows, parent))


if __name__ == "__main__":
    main()
