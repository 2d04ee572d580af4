"""Film reviews with changed texts: plain fine-tuning beside trainings against that.

Each starts from the language model of ``wafergpt demo`` and learns from 10,000 of the demo's
reviews by its recipe, in one pass: as they are; with ``task.augment`` of half of the kinds of
changes, the others kept out; with ``task.consistency`` too; with ``task.adversarial``, alone and on
those copies; with ``task.spelling``, alone and beside both, and with a sentence of each review as a
text of its own (``task.excerpts``) too. All are judged on the same changed test reviews, on all
unchanged ones, and on sentences of financial news. Chinese reviews of hotels, judged on reviews of
books, show the drop of another domain there, beside that of TF-IDF of characters. Cells that have a
row are not run again.

    wafergpt demo
    python -m benchmarks.robustness --demo runs --data ../shared/data --out robustness
    python -m benchmarks.robustness --out robustness --table
"""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import labelled_sets
from benchmarks.cells import Cell, Cells, parser
from benchmarks.labelled_sets import Pairs, phrasebank, thinned
from benchmarks.rivals import linear, write
from wafergpt.api import evaluate, finetune
from wafergpt.runs.run import Run
from wafergpt.suites.robustness import robustness

TRAINED = ("typos", "drop", "case", "ocr", "whitespace", "truncation")
KEPT_OUT = ("swap", "insert", "homoglyphs", "punctuation", "contractions", "paraphrase")

SEVERITY, HARDEST = 3, 5

ROWS, JUDGED = 10_000, 6_000
"""Reviews to train on, and those that are changed: of IMDB's test, none of which the demo has."""

SEEDS = (0, 1, 2)

AUGMENT = f"task.augment={list(TRAINED)}"

WAYS: Mapping[str, tuple[str, ...]] = {
    "plain": (),
    "copies": (AUGMENT,),
    "copies, consistent": (AUGMENT, "task.consistency=1"),
    "adversarial": ("task.adversarial=0.03",),
    "copies, adversarial": (AUGMENT, "task.adversarial=0.03"),
    "spelling": ("task.spelling=true",),
    "all three": (AUGMENT, "task.adversarial=0.03", "task.spelling=true"),
    "all three, sentences": (
        AUGMENT,
        "task.adversarial=0.03",
        "task.spelling=true",
        "task.excerpts=1",
    ),
}

BOOKS, HOTELS = "书|作者|小说|内容", "酒店|房间|宾馆|前台|服务员"


def english(way: str, seed: int, demo: Path, out: Path) -> Cell:
    """Train one, and judge it."""
    data = demo / "demo-data"
    with (data / "train.jsonl").open(encoding="utf-8") as lines:
        rows = [(row["text"], row["label"]) for row in map(json.loads, lines)]
    known = {text for text, _ in labelled_sets.imdb()[0]}
    unseen = [row for row in labelled_sets.imdb()[1] if row[0] not in known]
    files = {
        "train": write(out / "train.jsonl", thinned(rows, ROWS, seed)),
        "validation": data / "validation.jsonl",
        "test": write(out / "test.jsonl", thinned(unseen, JUDGED)),
    }
    named = [f"task.{part}={path}" for part, path in files.items()]
    name = re.sub(r"\W+", "-", f"{way} {seed}")
    asked = [*named, "task.excerpts=0", *WAYS[way], "train.seconds=null", f"seed={seed}",
             f"name={name}"]  # fmt: skip
    clf = finetune(demo / "demo-pretrained", "demo-classify", asked, auto_resume=True, root=out)
    elsewhere = write(out / "news.jsonl", [
        pair for part in phrasebank() for pair in part if pair[1] != "neutral"
    ])  # fmt: skip
    kinds = [*TRAINED, *KEPT_OUT]
    changed = robustness(clf, JUDGED, kinds=kinds, severities=(SEVERITY, HARDEST))
    sets = evaluate(clf.run, ["rows"], files=[elsewhere], root=out)["rows"]["sets"]
    test, news = sets["test"], sets[str(elsewhere)]
    calibrated = evaluate(clf.run, ["calibration"], root=out)["calibration"]
    return {
        "accuracy": test["metrics"]["accuracy"],
        "clean": changed["clean"],
        **{
            name: {
                one["kind"]: one["value"] for one in changed["kinds"] if one["severity"] == severity
            }
            for name, severity in (("changed", SEVERITY), ("hardest", HARDEST))
        },
        "news": news["metrics"]["accuracy"],
        "news_interval": news["intervals"]["accuracy"],
        "ece": [calibrated[when]["ece"] for when in ("before", "after")],
        "seconds": clf.run.read("result")["elapsed"],
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
    judged = [*hotels[:500], *books]
    found, labels = linear("characters", hotels[500:], judged)
    right = [
        labels[best] == label for best, (_, label) in zip(found.argmax(1), judged, strict=True)
    ]
    rival = {"hotels": statistics.fmean(right[:500]), "books": statistics.fmean(right[500:])}
    sets = evaluate(Run(out / name), ["rows"], files=[elsewhere], root=out)["rows"]["sets"]
    return {
        name: {"rows": one["rows"], "accuracy": one["metrics"]["accuracy"],
               "interval": one["intervals"]["accuracy"], "drop": one.get("drop"),
               "tf_idf": rival[name]}
        for name, one in (("hotels", sets["test"]), ("books", sets[str(elsewhere)]))
    }  # fmt: skip


def _about(rows: Pairs, words: str, others: str) -> Pairs:
    found = [row for row in rows if re.search(words, row[0]) and not re.search(others, row[0])]
    return thinned(found, len(found), 3)


def table(cells: Mapping[str, Cell]) -> str:
    """Return the means over seeds as Markdown."""
    lines = ["| training | clean, all rows | trained kinds | kept-out kinds | both at 5 | news "
             "| ECE before, after a temperature | seconds |", "|---" * 8 + "|"]  # fmt: skip
    drops: dict[str, list[float]] = {}
    for way in WAYS:
        found = [cells[f"{way} {seed}"] for seed in SEEDS if f"{way} {seed}" in cells]
        if not found:
            continue
        drops[way] = [statistics.fmean(_drop(cell, kinds) for cell in found)
                      for kinds in (TRAINED, KEPT_OUT)]  # fmt: skip
        hardest = [statistics.fmean(_drop(cell, kinds, "hardest") for cell in found)
                   for kinds in (TRAINED, KEPT_OUT)]  # fmt: skip

        def mean(key: str, found: list[Any] = found) -> float:
            return statistics.fmean(cell[key] for cell in found)

        ece = ", ".join(f"{statistics.fmean(c['ece'][n] for c in found):.4f}" for n in (0, 1))
        lines.append(
            f"| {way} ({len(found)}) | {mean('accuracy'):.4f} | −{drops[way][0]:.4f} "
            f"| −{drops[way][1]:.4f} | −{hardest[0]:.4f}, −{hardest[1]:.4f} "
            f"| {mean('news'):.4f} | {ece} | {mean('seconds'):.0f} |"
        )
    for way in list(drops)[1:]:
        cut = [1 - drops[way][place] / drops["plain"][place] for place in (0, 1)]
        lines.append(f"\n{way}: the drop at severity {SEVERITY} is cut by {cut[0]:.0%} on trained "
                     f"kinds and by {cut[1]:.0%} on kept-out ones.")  # fmt: skip
    return "\n".join(lines)


def _drop(cell: Cell, kinds: Iterable[str], severity: str = "changed") -> float:
    """Return by how much the accuracy falls, mean over kinds."""
    return statistics.fmean(cell["clean"] - cell[severity][kind] for kind in kinds)


def main() -> None:
    """Run the cells that have no row yet, and print the table."""
    options = parser(__doc__, "robustness")
    options.add_argument("--data", type=Path, default=labelled_sets.DATA)
    options.add_argument("--demo", type=Path, default=Path("runs"))
    options.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    everything = [*WAYS, "chinese"]
    options.add_argument("--ways", nargs="+", choices=everything, default=everything)
    asked = options.parse_args()
    labelled_sets.DATA = asked.data
    cells = Cells(asked.out)
    if not asked.table:
        for seed in asked.seeds:
            for way in asked.ways:
                cell = partial(english, way, seed, asked.demo, cells.out)
                if way == "chinese":
                    cell = partial(chinese, seed, cells.out)
                cells.measure(f"{way} {seed}", cell)
    print(table(cells))


if __name__ == "__main__":
    main()
