"""Film reviews with changed texts: plain fine-tuning beside copies that are changed in training.

The GPT is fine-tuned from ``base`` on 5,000 of IMDB's training reviews, without options and with
``task.augment`` of half of the kinds of changes; the other kinds are kept out. Both are judged on
the same changed test reviews, on all 5,000 unchanged ones, and on sentences of financial news.
Chinese reviews of hotels, judged on reviews of books, show the drop of another domain there. Cells
that have a row are not run again.

    python -m benchmarks.robustness --data ../shared/data --out robustness
    python -m benchmarks.robustness --out robustness --table
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import labelled_sets
from benchmarks.cells import Cell, Cells, parser
from benchmarks.labelled_sets import Pairs, phrasebank, some_of_imdb, thinned
from benchmarks.rivals import write
from wafergpt.api import evaluate, finetune
from wafergpt.runs.run import Run

TRAINED = ("typos", "drop", "case", "ocr", "whitespace", "truncation")
KEPT_OUT = ("swap", "insert", "homoglyphs", "punctuation", "contractions", "paraphrase")

SEVERITY = 3

ROWS, JUDGED = 5_000, 1_000
"""Reviews to train on, and those that are changed."""

SEEDS = (0, 1, 2)

WAYS: Mapping[str, tuple[str, ...]] = {
    "plain": (),
    "copies": (f"task.augment={list(TRAINED)}",),
}

BOOKS, HOTELS = "书|作者|小说|内容", "酒店|房间|宾馆|前台|服务员"


def trained(name: str, files: Mapping[str, Path], asked: Iterable[str], out: Path) -> Run:
    """Fine-tune ``base``; a finished run is not trained again."""
    if (out / name / "result.json").is_file() and Run(out / name).read("result").get("test"):
        return Run(out / name)
    rows = [f"task.{part}={path}" for part, path in files.items()]
    return finetune("base", None, [*rows, *asked, f"name={name}"], auto_resume=True, root=out).run


def english(way: str, seed: int, out: Path) -> Cell:
    """Train one, and judge it."""
    train, test = some_of_imdb()
    files = {
        "train": write(out / "train.jsonl", thinned(train, ROWS, seed)),
        "test": write(out / "test.jsonl", test),
    }
    run = trained(f"{way}-{seed}", files, [*WAYS[way], f"seed={seed}"], out)
    sentences = [pair for part in phrasebank() for pair in part if pair[1] != "neutral"]
    elsewhere = write(out / "news.jsonl", sentences)
    kinds = [*TRAINED, *KEPT_OUT]
    found = evaluate(run, ["rows", "calibration"], files=[elsewhere], root=out)
    changed = evaluate(run, ["robustness"], kinds=kinds, rows=JUDGED, root=out)["robustness"]
    at = {one["kind"]: one for one in changed["kinds"] if one["severity"] == SEVERITY}
    sets = found["rows"]["sets"]
    return {
        "accuracy": sets["test"]["metrics"]["accuracy"],
        "clean": changed["clean"],
        "changed": {kind: one["value"] for kind, one in at.items()},
        "news": sets[str(elsewhere)]["metrics"]["accuracy"],
        "news_interval": sets[str(elsewhere)]["intervals"]["accuracy"],
        "ece": [found["calibration"][when]["ece"] for when in ("before", "after")],
        "seconds": run.read("result")["elapsed"],
    }


def chinese(seed: int, out: Path) -> Cell:
    """Train on reviews of hotels, and judge on those that were held out and on those of books."""
    train, dev = labelled_sets.chnsenticorp()
    rows = list(dict.fromkeys([*train, *dev]))
    hotels, books = (_about(rows, one, other) for one, other in ((HOTELS, BOOKS), (BOOKS, HOTELS)))
    files = {
        "train": write(out / "hotels.jsonl", hotels[500:]),
        "test": write(out / "hotels-test.jsonl", hotels[:500]),
    }
    asked = [f"seed={seed}", "model.n_layers=2", "model.d_model=128", "model.n_heads=2",
             "model.seq_len=256", "model.vocab_size=4096"]  # fmt: skip
    name = f"chinese-{seed}"
    if not (out / name / "result.json").is_file():
        rows_of = [f"task.{part}={path}" for part, path in files.items()]
        finetune("scratch", None, [*rows_of, *asked, f"name={name}"], root=out)
    elsewhere = write(out / "books.jsonl", books)
    sets = evaluate(Run(out / name), ["rows"], files=[elsewhere], root=out)["rows"]["sets"]
    return {
        name: {"rows": one["rows"], "accuracy": one["metrics"]["accuracy"],
               "interval": one["intervals"]["accuracy"], "drop": one.get("drop")}
        for name, one in (("hotels", sets["test"]), ("books", sets[str(elsewhere)]))
    }  # fmt: skip


def _about(rows: Pairs, words: str, others: str) -> Pairs:
    found = [row for row in rows if re.search(words, row[0]) and not re.search(others, row[0])]
    return thinned(found, len(found), 3)


def table(cells: Mapping[str, Cell]) -> str:
    """Return the means over seeds as Markdown."""
    lines = ["| training | clean, 5,000 rows | trained kinds | kept-out kinds | news | ECE before, "
             "after a temperature | seconds |", "|---" * 7 + "|"]  # fmt: skip
    drops: dict[str, list[float]] = {}
    for way in WAYS:
        found = [cells[f"{way} {seed}"] for seed in SEEDS if f"{way} {seed}" in cells]
        if not found:
            continue
        drops[way] = [statistics.fmean(_drop(cell, kinds) for cell in found)
                      for kinds in (TRAINED, KEPT_OUT)]  # fmt: skip

        def mean(key: str, found: list[Any] = found) -> float:
            return statistics.fmean(cell[key] for cell in found)

        ece = ", ".join(f"{statistics.fmean(c['ece'][n] for c in found):.4f}" for n in (0, 1))
        lines.append(
            f"| {way} ({len(found)}) | {mean('accuracy'):.4f} | −{drops[way][0]:.4f} "
            f"| −{drops[way][1]:.4f} | {mean('news'):.4f} | {ece} | {mean('seconds'):.0f} |"
        )
    if len(drops) > 1:
        cut = [1 - drops["copies"][place] / drops["plain"][place] for place in (0, 1)]
        lines.append(f"\nThe drop at severity {SEVERITY} is cut by {cut[0]:.0%} on trained kinds "
                     f"and by {cut[1]:.0%} on kept-out ones.")  # fmt: skip
    return "\n".join(lines)


def _drop(cell: Cell, kinds: Iterable[str]) -> float:
    """Return by how much the accuracy falls, mean over kinds."""
    return statistics.fmean(cell["clean"] - cell["changed"][kind] for kind in kinds)


def main() -> None:
    """Run the cells that have no row yet, and print the table."""
    options = parser(__doc__, "robustness")
    options.add_argument("--data", type=Path, default=labelled_sets.DATA)
    options.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    asked = options.parse_args()
    labelled_sets.DATA = asked.data
    cells = Cells(asked.out)
    if not asked.table:
        for seed in asked.seeds:
            for way in WAYS:
                cells.measure(f"{way} {seed}", partial(english, way, seed, cells.out))
            cells.measure(f"chinese {seed}", partial(chinese, seed, cells.out))
    print(table(cells))


if __name__ == "__main__":
    main()
