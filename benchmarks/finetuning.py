"""Fine-tuning without options beside linear rivals, on labelled sets of several sizes.

Each cell is one set and one size: the GPT is what ``wafergpt finetune base task.train=…`` makes,
and the rivals are TF-IDF of words and of characters with a logistic regression, their C chosen by
validation and fitted again on all rows. Test rows are judged once. Cells that have a row are not
run again.

    python benchmarks/finetuning.py --out finetuning
    python benchmarks/finetuning.py --out finetuning --table
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import os
import random
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from wafergpt import atomic_files
from wafergpt.api import finetune
from wafergpt.runs.run import OUTPUTS
from wafergpt.tasks.classify import ClassifySettings

DATA = Path(os.environ.get("WAFERGPT_DATA", "../shared/data"))
SIZES = (500, 2000, 8000)
JUDGED = 7600
"""Test rows of a set at most; of IMDB 5,000, drawn once."""

REGULARIZATION = (1.0, 3.0, 10.0, 30.0, 100.0)
RESAMPLES = 2000

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
    """Return train rows and 5,000 test rows."""

    def read(name: str) -> Pairs:
        with gzip.open(DATA / "imdb" / f"{name}.jsonl.gz", "rt", encoding="utf-8") as file:
            rows = [json.loads(line) for line in file]
        names = ("negative", "positive")
        return [(row["text"].replace("<br />", "\n"), names[row["label"]]) for row in rows]

    test = read("test")
    random.Random(1).shuffle(test)
    return read("train"), test[:5000]


SETS: dict[str, Callable[[], tuple[Pairs, Pairs]]] = {
    "clinc150": clinc150, "banking77": banking77, "phrasebank": phrasebank,
    "ag_news": ag_news, "chnsenticorp": chnsenticorp, "imdb": imdb,
}  # fmt: skip


def thinned(rows: Pairs, size: int) -> Pairs:
    """Return ``size`` rows, one of each class at least."""
    rows = list(rows)
    random.Random(0).shuffle(rows)
    first: dict[str, int] = {}
    for place, (_, label) in enumerate(rows):
        first.setdefault(label, place)
    kept = set(first.values())
    rest = [place for place in range(len(rows)) if place not in kept]
    return [rows[place] for place in sorted([*kept, *rest[: size - len(kept)]])]


def cells() -> Iterator[tuple[str, int]]:
    """Yield each set and size, small ones first; 0 is all rows."""
    for size in (*SIZES, 0):
        for name in SETS:
            if not (name == "phrasebank" and size == 8000) and not (name == "imdb" and size == 0):
                yield name, size


def gpt(train: Path, test: Path, out: Path, seed: int) -> tuple[NDArray[np.float64], list[str]]:
    """Fine-tune without options; return the probabilities ``[n, labels]`` and the labels."""
    shutil.rmtree(out / "runs", ignore_errors=True)
    overrides = [f"task.train={train}", f"task.test={test}", f"seed={seed}", "name=run"]
    run = finetune("base", None, overrides, root=out / "runs").run
    task = run.recipe.task
    assert isinstance(task, ClassifySettings)
    return load_file(run.path / OUTPUTS)["test/probabilities"], list(task.labels)


def linear(kind: str, train: Pairs, test: Pairs) -> tuple[NDArray[np.float64], list[str]]:
    """Fit TF-IDF of words or characters; return probabilities and labels."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import log_loss

    chinese = sum("\u4e00" <= c <= "\u9fff" for text, _ in train[:50] for c in text) > 100
    if kind == "words":
        features = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    else:
        span = {"analyzer": "char", "ngram_range": (1, 3)} if chinese else {
            "analyzer": "char_wb", "ngram_range": (1, 5)}  # fmt: skip
        features = TfidfVectorizer(sublinear_tf=True, min_df=2, max_features=300_000, **span)
    texts, labels = zip(*train, strict=True)
    held = np.random.default_rng(0).permutation(len(train)) < max(1, len(train) // 10)
    known = {label for label, out in zip(labels, held, strict=True) if not out}
    held &= np.array([label in known for label in labels])
    inner = [i for i in range(len(train)) if not held[i]]
    outer = [i for i in range(len(train)) if held[i]]
    fitted, checked = (features.fit_transform([texts[i] for i in inner]),
                       features.transform([texts[i] for i in outer]))  # fmt: skip

    def loss(c: float) -> float:
        model = LogisticRegression(C=c, max_iter=300).fit(fitted, [labels[i] for i in inner])
        found = model.predict_proba(checked)
        return float(log_loss([labels[i] for i in outer], found, labels=model.classes_))

    best = min(REGULARIZATION, key=loss)
    whole = features.fit_transform(texts)
    model = LogisticRegression(C=best, max_iter=300).fit(whole, labels)
    found: NDArray[np.float64] = model.predict_proba(features.transform([t for t, _ in test]))
    return found, list(model.classes_)


def judged(
    found: tuple[NDArray[np.float64], list[str]], test: Pairs
) -> tuple[dict[str, float], NDArray[np.bool_]]:
    """Return accuracy and loss, and which rows are right."""
    probabilities, labels = found
    answers = np.array([labels.index(label) for _, label in test])
    right = probabilities.argmax(1) == answers
    own = probabilities[np.arange(len(answers)), answers]
    return {"accuracy": float(right.mean()), "loss": float(-np.log(own + 1e-15).mean())}, right


def cell(name: str, size: int, out: Path, seed: int) -> dict[str, Any]:
    """Train all on one set and size; return their metrics and the paired interval."""
    train, test = SETS[name]()
    train, test = thinned(train, size or len(train)), test[:JUDGED]
    files = {}
    for part, rows in (("train", train), ("test", test)):
        files[part] = out / f"{part}.jsonl"
        lines = (json.dumps({"text": text, "label": label}) for text, label in rows)
        atomic_files.write_text(files[part], "\n".join(lines) + "\n")
    row: dict[str, Any] = {"set": name, "size": size, "seed": seed, "rows": len(train)}
    right = {}
    for key in ("gpt", "words", "characters"):
        start = time.perf_counter()
        if key == "gpt":
            found = gpt(files["train"], files["test"], out, seed)
        else:
            found = linear(key, train, test)
        row[key], right[key] = judged(found, test)
        row[key]["seconds"] = time.perf_counter() - start
    best = max(("words", "characters"), key=lambda key: row[key]["accuracy"])
    gain = right["gpt"].astype(float) - right[best]
    draws = np.random.default_rng(0).integers(0, len(gain), (RESAMPLES, len(gain)))
    low, high = np.quantile(gain[draws].mean(1), (0.025, 0.975))
    return {**row, "rival": best, "gain": float(gain.mean()), "interval": [float(low), float(high)]}


def table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as Markdown."""
    head = "set | rows | GPT | loss | seconds | TF-IDF words | characters | GPT − rival, points"
    lines = [f"| {head} |", "|---" * 8 + "|"]
    for row in rows:
        low, high = (100 * bound for bound in row["interval"])
        lines.append(
            f"| {row['set']} | {row['rows']:,} | {row['gpt']['accuracy']:.4f} "
            f"| {row['gpt']['loss']:.3f} | {row['gpt']['seconds']:.0f} "
            f"| {row['words']['accuracy']:.4f} | {row['characters']['accuracy']:.4f} "
            f"| {100 * row['gain']:+.1f} ({low:+.1f} to {high:+.1f}) |"
        )
    if rows:
        mean = sum(row["gain"] for row in rows) / len(rows)
        lines.append(f"| mean | | | | | | | {100 * mean:+.2f} |")
    return "\n".join(lines)


def main() -> None:
    """Run the cells that have no row yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("finetuning"))
    parser.add_argument("--sets", nargs="*", choices=SETS, default=list(SETS))
    parser.add_argument("--sizes", nargs="*", type=int, default=[*SIZES, 0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--table", action="store_true", help="Only print what is there.")
    asked = parser.parse_args()
    out = asked.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    file = out / "rows.json"
    rows: list[dict[str, Any]] = json.loads(file.read_text()) if file.exists() else []
    done = {(row["set"], row["size"], row["seed"]) for row in rows}
    for name, size in [] if asked.table else cells():
        wanted = name in asked.sets and size in asked.sizes
        if wanted and (name, size, asked.seed) not in done:
            rows.append(cell(name, size, out, asked.seed))
            atomic_files.write_json(file, rows)
            print(table(rows[-1:]).splitlines()[2], flush=True)
    print(table(rows))


if __name__ == "__main__":
    main()
