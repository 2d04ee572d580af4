"""The labelled sets of the benchmarks, as pairs of text and label."""

from __future__ import annotations

import csv
import gzip
import json
import os
import random
from collections.abc import Callable
from pathlib import Path

DATA = Path(os.environ.get("WAFERGPT_DATA", "../shared/data"))

Pairs = list[tuple[str, str]]


def _csv(path: Path, text: str, label: str) -> Pairs:
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        return [(row[text], row[label]) for row in csv.DictReader(file)]


def _tsv(path: Path) -> Pairs:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        pairs = [line.rstrip("\n").rsplit("\t", 1) for line in file]
    return [(p[0], p[1]) for p in pairs if len(p) == 2 and p[1] not in ("label", "")]


def ag_news() -> tuple[Pairs, Pairs]:
    """Return train and test rows: the description alone."""
    folder = DATA / "ag_news"
    train = _csv(folder / "train_subset_alps10k.csv.gz", "description", "label_name")
    return train, _csv(folder / "test.csv.gz", "description", "label_name")


def banking77() -> tuple[Pairs, Pairs]:
    """Return train and test rows."""
    folder = DATA / "banking77"
    train, test = (_csv(folder / f"{n}.csv.gz", "text", "category") for n in ("train", "test"))
    return train, test


def clinc150() -> tuple[Pairs, Pairs]:
    """Return train and test rows in scope."""
    with gzip.open(DATA / "clinc150" / "data_full.json.gz") as file:
        found = json.load(file)
    return [tuple(row) for row in found["train"]], [tuple(row) for row in found["test"]]


def phrasebank() -> tuple[Pairs, Pairs]:
    """Return four fifths and one fifth of the sentences that half the annotators agree on."""
    rows = _tsv(DATA / "financial_phrasebank" / "Sentences_50Agree.tsv.gz")
    random.Random(2).shuffle(rows)
    return rows[len(rows) // 5 :], rows[: len(rows) // 5]


def chnsenticorp() -> tuple[Pairs, Pairs]:
    """Return train and dev rows: the test rows have no labels."""
    folder = DATA / "zh_chnsenticorp"
    return _tsv(folder / "train.tsv.gz"), _tsv(folder / "dev.tsv.gz")


def imdb() -> tuple[Pairs, Pairs]:
    """Return the official 25,000 train and 25,000 test rows; line breaks were markup."""

    def read(name: str) -> Pairs:
        with gzip.open(DATA / "imdb" / f"{name}.jsonl.gz", "rt", encoding="utf-8") as file:
            rows = [json.loads(line) for line in file]
        names = ("negative", "positive")
        return [(row["text"].replace("<br />", "\n"), names[row["label"]]) for row in rows]

    return read("train"), read("test")


def some_of_imdb() -> tuple[Pairs, Pairs]:
    """Return the official train rows and 5,000 test rows, drawn once."""
    train, test = imdb()
    random.Random(1).shuffle(test)
    return train, test[:5000]


SETS: dict[str, Callable[[], tuple[Pairs, Pairs]]] = {
    "clinc150": clinc150, "banking77": banking77, "phrasebank": phrasebank,
    "ag_news": ag_news, "chnsenticorp": chnsenticorp, "imdb": some_of_imdb,
}  # fmt: skip


def start_of(name: str) -> str:
    """Return what the fine-tuning on a set starts from: ``base`` reads English."""
    return "scratch" if name == "chnsenticorp" else "base"


def thinned(rows: Pairs, size: int, draw: int = 0) -> Pairs:
    """Return ``size`` rows of one draw, one of each class at least."""
    rows = list(rows)
    random.Random(draw).shuffle(rows)
    first: dict[str, int] = {}
    for place, (_, label) in enumerate(rows):
        first.setdefault(label, place)
    kept = set(first.values())
    rest = [place for place in range(len(rows)) if place not in kept]
    return [rows[place] for place in sorted([*kept, *rest[: size - len(kept)]])]
