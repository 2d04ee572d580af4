"""The worked example on the official IMDB split: a GPT, the BiLSTM and TF-IDF, judged on test once.

The tokenizer and the language model see training text only; the best checkpoint is chosen on a part
of the training rows.

    python benchmarks/imdb.py --seeds 0 1 2 --out runs-imdb
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import statistics
import time
from pathlib import Path

from wafergpt import atomic_files
from wafergpt.api import finetune, pretrain
from wafergpt.baselines.bilstm import train_bilstm
from wafergpt.baselines.tfidf import train_tfidf
from wafergpt.config import load_recipe
from wafergpt.data.labelled_rows import Table
from wafergpt.data.labelled_split import hold_out_of_each_class
from wafergpt.data.prepare import prepare
from wafergpt.tasks.tables import VALIDATION_SHARE

DATA = Path(os.environ.get("WAFERGPT_DATA", "../shared/data")) / "imdb"
LABELS = ("negative", "positive")


def read(split: str) -> Table:
    """Read one official split; line breaks were markup."""
    with gzip.open(DATA / f"{split}.jsonl.gz", "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    texts = [row["text"].replace("<br />", "\n") for row in rows]
    return Table(texts, [LABELS[row["label"]] for row in rows])


def write(path: Path, table: Table) -> Path:
    """Write rows as jsonl."""
    with atomic_files.replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for text, label in zip(table.texts, table.labels, strict=True):
            file.write(json.dumps({"text": text, "label": label}) + "\n")
    return path


def gpt(out: Path, train: Path, test: Path, seed: int) -> None:
    """Train and judge the GPT of one seed."""
    start = time.perf_counter()
    corpus = prepare(train, out / "corpus", vocab_size=16384, lowercase=True)
    name = [f"seed={seed}", f"name=pretrained-{seed}", f"data.corpus={corpus.path}"]
    pretrained = pretrain(load_recipe("imdb", name), root=out)
    rows = [f"task.train={train}", f"task.test={test}", f"seed={seed}", f"name=gpt-{seed}"]
    run = finetune(pretrained, "imdb-classify", rows, root=out).run
    scores = run.read("result")["test"]
    seconds = time.perf_counter() - start
    print(f"| GPT, seed {seed} | {scores['accuracy']:.4f} | {scores['loss']:.4f} | {seconds:.0f} |")


def main() -> None:
    """Print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("runs-imdb"))
    parser.add_argument("--baselines", action="store_true", help="Train the baselines too.")
    choice = parser.parse_args()
    tables = {split: read(split) for split in ("train", "test")}
    paths = {k: write((choice.out / f"{k}.jsonl").resolve(), t) for k, t in tables.items()}
    print("| model | test accuracy | test loss | seconds |\n|---|---|---|---|")
    if choice.baselines:
        kept, held, _ = hold_out_of_each_class(tables["train"], VALIDATION_SHARE)
        bilstm = train_bilstm(kept, held, tables["test"], labels=LABELS)
        tfidf = train_tfidf(tables["train"], tables["test"], labels=LABELS)
        assert bilstm.last is not None
        for name, scores, seconds in (
            ("BiLSTM after 10 epochs", bilstm.last, bilstm.seconds),
            ("BiLSTM, best on validation", bilstm.test, bilstm.seconds),
            ("TF-IDF + logistic regression", tfidf.test, tfidf.seconds),
        ):
            print(f"| {name} | {scores.accuracy:.4f} | {scores.loss:.4f} | {seconds:.0f} |")
    for seed in choice.seeds:
        gpt(choice.out, paths["train"], paths["test"], seed)
    runs = [choice.out / f"gpt-{seed}" / "result.json" for seed in choice.seeds]
    accuracies = [json.loads(path.read_text())["test"]["accuracy"] for path in runs]
    if len(accuracies) > 1:
        spread = statistics.stdev(accuracies)
        print(
            f"\nmean of {len(accuracies)} seeds: {statistics.fmean(accuracies):.4f} ± {spread:.4f}"
        )


if __name__ == "__main__":
    main()
