"""The worked example on the official IMDB split: a GPT and its rivals, judged on test once.

The tokenizer and the language model see training text only; the best checkpoint is chosen on a part
of the training rows.

    python -m benchmarks.imdb --rivals --seeds 0 1 2 --out runs-imdb
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

from benchmarks.labelled_sets import imdb
from benchmarks.rivals import Found, Judged, bilstm, linear, of_run, write
from wafergpt.api import finetune, pretrain
from wafergpt.config import load_recipe
from wafergpt.data.prepare import prepare

RIVALS = ("words", "characters", "nb-svm", "bilstm")


def gpt(out: Path, train: Path, test: Path, seed: int) -> Found:
    """Train the GPT of one seed; return what it finds for test."""
    corpus = prepare(train, out / "corpus", vocab_size=16384, lowercase=True)
    name = [f"seed={seed}", f"name=pretrained-{seed}", f"data.corpus={corpus.path}"]
    pretrained = pretrain(load_recipe("imdb", name), root=out)
    rows = [f"task.train={train}", f"task.test={test}", f"seed={seed}", f"name=gpt-{seed}"]
    return of_run(finetune(pretrained, "imdb-classify", rows, root=out).run)


def main() -> None:
    """Print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("runs-imdb"))
    parser.add_argument("--rivals", action="store_true", help="Train the rivals too.")
    asked = parser.parse_args()
    train, test = imdb()
    out: Path = asked.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    files = write(out / "train.jsonl", train), write(out / "test.jsonl", test)
    print("| model | test accuracy | test loss | seconds |\n|---|---|---|---|")
    accuracies = []
    for what in (*(RIVALS if asked.rivals else ()), *asked.seeds):
        start = time.perf_counter()
        if what == "bilstm":
            found = bilstm(train, test, 0)
        elif isinstance(what, str):
            found = linear(what, train, test)
        else:
            found = gpt(out, *files, what)
        scores, seconds = Judged(found, test).metrics, time.perf_counter() - start
        name = what if isinstance(what, str) else f"GPT, seed {what}"
        print(
            f"| {name} | {scores['accuracy']:.4f} | {scores['loss']:.4f} | {seconds:.0f} |",
            flush=True,
        )
        if not isinstance(what, str):
            accuracies.append(scores["accuracy"])
    if len(accuracies) > 1:
        mean, spread = statistics.fmean(accuracies), statistics.stdev(accuracies)
        print(f"\nmean of {len(accuracies)} seeds: {mean:.4f} ± {spread:.4f}")


if __name__ == "__main__":
    main()
