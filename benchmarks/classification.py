"""Whole classification sets: the GPT without options beside TF-IDF, with rows of no class.

Each cell is one set, one fold, one model and one seed. ``words`` and ``characters`` are TF-IDF with
a logistic regression, its C chosen on a tenth of the training rows. All train on the same rows and
are judged once on the test rows. Cells that have a row are not run again.

    python -m benchmarks.classification --data ../shared/data --out classification
    python -m benchmarks.classification --out classification --table
"""

from __future__ import annotations

import gzip
import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import labelled_sets
from benchmarks.cells import Cell, Cells, parser
from benchmarks.labelled_sets import Pairs
from benchmarks.rivals import linear
from wafergpt import atomic_files
from wafergpt.api import finetune
from wafergpt.evaluation.metrics import classification_metrics
from wafergpt.evaluation.selective import detection_metrics, selective_metrics

OUTSIDE = "oos"

Rows = list[dict[str, str]]


@dataclass(frozen=True)
class Fold:
    """Rows to train on, to choose by and to judge on.

    Attributes:
        train: rows with a text or several, and a ``label``.
        test: rows to judge on, some perhaps ``oos``.
        validation: rows to choose by; the GPT holds some training rows out if there are none.
        asked: overrides of the GPT that say what the rows are.
    """

    train: Rows
    test: Rows
    validation: Rows = field(default_factory=list)
    asked: tuple[str, ...] = ()


def _rows(pairs: Pairs) -> Rows:
    return [{"text": text, "label": label} for text, label in pairs]


def ag_news() -> Iterator[Fold]:
    """Yield the two training subsets, without texts of the test rows."""
    folder = labelled_sets.DATA / "ag_news"
    train, _ = labelled_sets.ag_news()
    name = "train_subset_noisyag10k.csv.gz"
    train += labelled_sets._csv(folder / name, "title_and_description", "label_name")
    titles = labelled_sets._csv(folder / "test.csv.gz", "title", "label_name")
    texts = labelled_sets._csv(folder / "test.csv.gz", "description", "label_name")
    test = [(f"{title} . {text}", label) for (title, label), (text, _) in
            zip(titles, texts, strict=True)]  # fmt: skip
    known = {text for text, _ in [*test, *texts]}
    yield Fold(_rows([row for row in train if row[0] not in known]), _rows(test))


def banking77() -> Iterator[Fold]:
    """Yield all rows."""
    train, test = labelled_sets.banking77()
    yield Fold(_rows(train), _rows(test))


def clinc150() -> Iterator[Fold]:
    """Yield all rows, those out of scope in validation and test."""
    with gzip.open(labelled_sets.DATA / "clinc150" / "data_full.json.gz") as file:
        found = json.load(file)
    parts = {
        name: _rows([(text, OUTSIDE if "oos" in key else label) for key in keys
                     for text, label in found[key]])
        for name, keys in (("train", ["train"]), ("validation", ["val", "oos_val"]),
                           ("test", ["test", "oos_test"]))
    }  # fmt: skip
    yield Fold(
        parts["train"], parts["test"], parts["validation"], (f"task.out_of_scope={OUTSIDE}",)
    )


def phrasebank() -> Iterator[Fold]:
    """Yield five stratified folds of the sentences that all annotators agree on."""
    path = labelled_sets.DATA / "financial_phrasebank" / "Sentences_AllAgree.tsv.gz"
    rows = labelled_sets._tsv(path)
    order = np.random.default_rng(0).permutation(len(rows))
    place = {label: 0 for _, label in rows}
    folds: list[Pairs] = [[] for _ in range(5)]
    for row in order:
        label = rows[row][1]
        folds[place[label] % 5].append(rows[row])
        place[label] += 1
    for held in folds:
        train = [row for fold in folds if fold is not held for row in fold]
        yield Fold(_rows(train), _rows(held), asked=("evaluate.metric=macro_f1",))


def chnsenticorp() -> Iterator[Fold]:
    """Yield train and dev; what is chosen is chosen on a part of train."""
    train, test = labelled_sets.chnsenticorp()
    yield Fold(_rows(train), _rows(test))


def pubmedqa() -> Iterator[Fold]:
    """Yield the 500 rows that are not of the official test set, and that set."""
    folder = labelled_sets.DATA / "pubmedqa"
    with gzip.open(folder / "ori_pqal.json.gz") as file:
        found = json.load(file)
    official = json.loads((folder / "test_ground_truth.json").read_text())
    parts: dict[bool, Rows] = {True: [], False: []}
    for key, row in found.items():
        text = {"question": row["QUESTION"], "context": " ".join(row["CONTEXTS"])}
        parts[key in official].append({**text, "label": row["final_decision"]})
    asked = ("task.text=[question,context]", "evaluate.metric=macro_f1")
    yield Fold(parts[False], parts[True], asked=asked)


SETS: dict[str, Callable[[], Iterator[Fold]]] = {
    "pubmedqa": pubmedqa, "phrasebank": phrasebank, "banking77": banking77, "clinc150": clinc150,
    "chnsenticorp": chnsenticorp, "ag_news": ag_news,
}  # fmt: skip
MODELS = ("words", "characters", "scratch", "base")


def rival(kind: str, fold: Fold) -> dict[str, Any]:
    """Fit TF-IDF and return its metrics."""

    def pairs(rows: Rows) -> Pairs:
        return [
            ("\n".join(v for k, v in row.items() if k != "label"), row["label"]) for row in rows
        ]

    test = pairs(fold.test)
    probabilities, labels = linear(kind, pairs(fold.train), test)
    inside = np.array([label != OUTSIDE for _, label in test])
    targets = np.array([labels.index(label) for _, label in test if label != OUTSIDE])
    metrics = classification_metrics(probabilities[inside], targets, labels).to_dict()
    score = probabilities.max(1)
    right = probabilities[inside].argmax(1) == targets
    metrics |= selective_metrics(score[inside], right)
    if not inside.all():
        found = detection_metrics(score[inside], score[~inside])
        metrics["auroc"], metrics["fpr95"] = found
    return metrics


def gpt(model: str, fold: Fold, out: Path, seed: int) -> dict[str, Any]:
    """Fine-tune without options and return the metrics."""
    shutil.rmtree(out / "runs", ignore_errors=True)
    asked = [*fold.asked, f"seed={seed}", "name=run"]
    for part, rows in (("train", fold.train), ("validation", fold.validation), ("test", fold.test)):
        if rows:
            path = out / f"{part}.jsonl"
            atomic_files.write_text(path, "\n".join(map(json.dumps, rows)) + "\n")
            asked.append(f"task.{part}={path}")
    run = finetune(model, None, asked, root=out / "runs")
    found: dict[str, Any] = run.run.read("result")["test"]
    return found


KEPT = ("accuracy", "macro_f1", "aurc", "accuracy_at_90", "auroc", "fpr95", "auroc_energy",
        "fpr95_energy")  # fmt: skip


def cell(name: str, place: int, model: str, seed: int, out: Path) -> Cell:
    """Train one model on one fold."""
    fold = list(SETS[name]())[place]
    start = time.perf_counter()
    linear_model = model in ("words", "characters")
    found = rival(model, fold) if linear_model else gpt(model, fold, out, seed)
    return {
        "set": name, "fold": place, "model": model, "seed": seed, "rows": len(fold.train),
        **{key: found[key] for key in KEPT if key in found},
        "seconds": time.perf_counter() - start,
    }  # fmt: skip


def table(rows: Sequence[Cell]) -> str:
    """Return the rows as Markdown, folds as their mean."""
    heads = ("accuracy", "macro_f1", "accuracy_at_90", "auroc", "auroc_energy")
    lines = [f"| set | folds | rows | model | {' | '.join(heads)} | seconds |",
             "|---" * (5 + len(heads)) + "|"]  # fmt: skip
    for name, model in dict.fromkeys((row["set"], row["model"]) for row in rows):
        own = [row for row in rows if (row["set"], row["model"]) == (name, model)]
        means = [
            f"{np.mean([row[key] for row in own]):.4f}" if key in own[0] else "" for key in heads
        ]
        seconds = np.mean([row["seconds"] for row in own])
        lines.append(
            f"| {name} | {len(own)} | {own[0]['rows']:,} | {model} | {' | '.join(means)} "
            f"| {seconds:.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Run the cells that have no row yet, and print the table."""
    options = parser(__doc__, "classification")
    options.add_argument("--data", type=Path, default=labelled_sets.DATA)
    options.add_argument("--sets", nargs="*", choices=SETS, default=list(SETS))
    options.add_argument("--models", nargs="*", choices=MODELS, default=list(MODELS))
    options.add_argument("--seeds", nargs="*", type=int, default=[0])
    asked = options.parse_args()
    labelled_sets.DATA = asked.data
    cells = Cells(asked.out)
    wanted = [
        (name, place, model, seed)
        for name in asked.sets
        for model in asked.models
        for seed in (asked.seeds if model in ("scratch", "base") else [0])
        for place in range(5 if name == "phrasebank" else 1)
    ]
    for key in [] if asked.table else wanted:
        cells.measure(", ".join(map(str, key)), partial(cell, *key, cells.out))
    print(table(list(cells.values())))


if __name__ == "__main__":
    main()
