"""Accuracy by the number of labelled rows: what pretraining on unlabelled text saves.

IMDB's official split, 5,000 test rows. A language model goes on from the shipped ``base`` with the
training reviews without their labels, once; then each cell fine-tunes without options on so many
labelled rows of one draw. Beside it: the same from ``base`` as it is, from scratch, the BiLSTM, and
TF-IDF of words whose C is tuned. Cells that have a row are not run again.

    python -m benchmarks.labels --out labels
    python -m benchmarks.labels --out labels --table
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.cells import Cell, Cells, parser
from benchmarks.labelled_sets import Pairs, some_of_imdb, thinned
from benchmarks.rivals import Found, Judged, bilstm, gpt, linear, write
from wafergpt.api import pretrain
from wafergpt.data.prepare import prepare
from wafergpt.reports.charts import ACCENT, INK, MUTED, SECOND, Chart
from wafergpt.reports.document import Document
from wafergpt.runs.run import Run

SIZES = (100, 300, 1000, 3000, 25000)
DRAWS = (0, 1, 2)
ADAPTED = "reads the reviews first"
KINDS = {
    ADAPTED: ACCENT, "base as it is": SECOND, "from scratch": INK, "BiLSTM": MUTED,
    "TF-IDF": "#7a8b3c",
}  # fmt: skip


def adapted(train: Pairs, out: Path) -> Run:
    """Return ``base`` after it has read the reviews without their labels, which is done once."""
    base = Run.find("base", out)
    text = write(out / "reviews.jsonl", train)
    corpus = prepare(text, out / "corpus", tokenizer=base.path / "tokenizer.json")
    overrides = [f"data.corpus={corpus.path}", "name=adapted"]
    return pretrain("adapt", overrides, start=base, auto_resume=True, root=out)


def cell(kind: str, size: int, draw: int, out: Path) -> dict[str, float]:
    """Train one model on some labelled rows; return its accuracy, loss and seconds."""
    whole, test = some_of_imdb()
    train, start = thinned(whole, size, draw), time.perf_counter()
    if kind == "TF-IDF":
        found = linear("words", train, test)
    elif kind == "BiLSTM":
        found = bilstm(train, test, draw)
    else:
        found = _gpt(kind, whole, train, test, draw, out)
    return {**Judged(found, test).metrics, "seconds": time.perf_counter() - start}


def _gpt(kind: str, whole: Pairs, train: Pairs, test: Pairs, draw: int, out: Path) -> Found:
    start: str | Run = {"base as it is": "base", "from scratch": "scratch"}.get(kind, "")
    start = start or adapted(whole, out)
    return gpt(start, train, test, out, [f"seed={draw}"])


def table(cells: Mapping[str, Cell]) -> str:
    """Return the mean over draws as Markdown."""
    lines = ["| labelled rows | " + " | ".join(KINDS) + " |", "|---" * (len(KINDS) + 1) + "|"]
    for size in SIZES:
        shown = []
        for kind in KINDS:
            found = _accuracies(cells, kind, size)
            spread = f" ± {statistics.stdev(found):.3f}" if len(found) > 1 else ""
            shown.append(f"{statistics.fmean(found):.3f}{spread}" if found else "")
        lines.append(f"| {size:,} | {' | '.join(shown)} |")
    return "\n".join(lines)


def _accuracies(cells: Mapping[str, Cell], kind: str, size: int) -> list[float]:
    names = (f"{kind}, {size}, {draw}" for draw in DRAWS)
    return [cells[name]["accuracy"] for name in names if name in cells]


def write_page(cells: Mapping[str, Cell], path: Path) -> None:
    """Draw the accuracies."""
    data: list[dict[str, Any]] = []
    for kind, colour in KINDS.items():
        points = {size: found for size in SIZES if (found := _accuracies(cells, kind, size))}
        means = {size: statistics.fmean(found) for size, found in points.items()}
        data.append(
            {
                "type": "scatter", "mode": "lines+markers", "name": kind,
                "x": list(means), "y": list(means.values()),
                "error_y": {
                    "type": "data", "symmetric": False, "thickness": 1, "color": colour,
                    "array": [max(found) - means[size] for size, found in points.items()],
                    "arrayminus": [means[size] - min(found) for size, found in points.items()],
                },
                "line": {"color": colour, "width": 2}, "marker": {"color": colour, "size": 6},
            }
        )  # fmt: skip
    axes = {
        "xaxis": {
            "title": {"text": "Labelled rows"}, "type": "log",
            "tickvals": list(SIZES), "ticktext": [f"{size:,}" for size in SIZES],
        },
        "yaxis": {"title": {"text": "Accuracy on 5,000 test reviews"}},
        "showlegend": True,
    }  # fmt: skip
    caption = "Mean of the draws; bars from the lowest to the highest."
    page = Document()
    page.add(page.chart(Chart("labels", "What labels buy", caption, data, axes, height=420), ""))
    path.write_text(page.html("Labels · wafergpt"), encoding="utf-8")


def main() -> None:
    """Run the cells that have no row yet, small ones first, and print the table."""
    options = parser(__doc__, "labels")
    options.add_argument("--kinds", nargs="*", choices=KINDS, default=list(KINDS))
    options.add_argument("--sizes", nargs="*", type=int, default=list(SIZES))
    options.add_argument("--draws", nargs="*", type=int, default=list(DRAWS))
    asked = options.parse_args()
    cells = Cells(asked.out)
    out = cells.out
    wanted = [(k, s, d) for d in asked.draws for s in asked.sizes for k in asked.kinds]
    for kind, size, draw in [] if asked.table else wanted:
        cells.measure(f"{kind}, {size}, {draw}", partial(cell, kind, size, draw, out))
    write_page(cells, out / "labels.html")
    print(table(cells))


if __name__ == "__main__":
    main()
