"""Fine-tuning without options beside linear rivals, on labelled sets of several sizes.

Each cell is one set and one size: the GPT is what ``wafergpt finetune base task.train=…`` makes
(Chinese: ``scratch``), and the rivals are TF-IDF of words and of characters with a logistic
regression, and NB-SVM; their C is chosen by validation. Test rows are judged once. Cells that have
a row are not run again.

    python -m benchmarks.finetuning --out finetuning
    python -m benchmarks.finetuning --out twice-the-rate --options optimizer.lr=1.2e-3
    python -m benchmarks.finetuning --out finetuning --table
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from benchmarks.cells import Cell, Cells, parser
from benchmarks.labelled_sets import SETS, start_of, thinned
from benchmarks.rivals import Judged, gpt, linear

SIZES = (500, 2000, 8000)
JUDGED = 7600
"""Test rows of a set at most."""

RIVALS = ("words", "characters", "nb-svm")


def wanted() -> Iterator[tuple[str, int]]:
    """Yield each set and size, small ones first; 0 is all rows."""
    for size in (*SIZES, 0):
        for name in SETS:
            if not (name == "phrasebank" and size == 8000) and not (name == "imdb" and size == 0):
                yield name, size


def cell(name: str, size: int, out: Path, seed: int, options: Sequence[str]) -> Cell:
    """Train all on one set and size; return their metrics and the paired interval."""
    train, test = SETS[name]()
    train, test = thinned(train, size or len(train)), test[:JUDGED]
    asked = [f"seed={seed}", *options]
    row: Cell = {
        "set": " ".join((name, *options)), "size": size, "seed": seed, "rows": len(train),
    }  # fmt: skip
    judged = {}
    for key in ("gpt", *RIVALS):
        start = time.perf_counter()
        if key == "gpt":
            found = gpt(start_of(name), train, test, out, asked)
        else:
            found = linear(key, train, test)
        judged[key] = Judged(found, test)
        row[key] = {**judged[key].metrics, "seconds": time.perf_counter() - start}
    best = max(RIVALS, key=lambda key: row[key]["accuracy"])
    gain = judged["gpt"].above(judged[best])
    return {**row, "rival": best, "gain": gain.value, "interval": [gain.low, gain.high]}


def table(rows: list[Cell]) -> str:
    """Return the rows as Markdown."""
    head = "set | rows | GPT | loss | seconds | TF-IDF words | characters | NB-SVM | GPT − rival"
    lines = [f"| {head}, points |", "|---" * 9 + "|"]
    for row in rows:
        low, high = (100 * bound for bound in row["interval"])
        lines.append(
            f"| {row['set']} | {row['rows']:,} | {row['gpt']['accuracy']:.4f} "
            f"| {row['gpt']['loss']:.3f} | {row['gpt']['seconds']:.0f} "
            f"| {' | '.join(format(row[key]['accuracy'], '.4f') for key in RIVALS)} "
            f"| {100 * row['gain']:+.1f} ({low:+.1f} to {high:+.1f}) |"
        )
    if rows:
        mean = sum(row["gain"] for row in rows) / len(rows)
        lines.append(f"| mean | | | | | | | | {100 * mean:+.2f} |")
    return "\n".join(lines)


def main() -> None:
    """Run the cells that have no row yet, and print the table."""
    options = parser(__doc__, "finetuning")
    options.add_argument("--sets", nargs="*", choices=SETS, default=list(SETS))
    options.add_argument("--sizes", nargs="*", type=int, default=[*SIZES, 0])
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--options", nargs="*", default=[], help="Of the fine-tuning.")
    asked = options.parse_args()
    cells = Cells(asked.out)
    for name, size in [] if asked.table else wanted():
        if name in asked.sets and size in asked.sizes:
            key = ", ".join(map(str, (name, size, asked.seed, *asked.options)))
            cells.measure(key, partial(cell, name, size, cells.out, asked.seed, asked.options))
    print(table(list(cells.values())))


if __name__ == "__main__":
    main()
