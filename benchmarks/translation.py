"""Translation of Multi30k from English to German, beside the German of the nearest English pair.

The network is trained from scratch on the 29,000 pairs; test_2016_flickr is judged once, with
sacreBLEU. Cells that have a row are not run again; an interrupted training goes on.

    python -m benchmarks.translation --out translation
    python -m benchmarks.translation --out translation --table
"""

from __future__ import annotations

import gzip
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from benchmarks.cells import Cell, Cells, parser
from benchmarks.labelled_sets import DATA
from wafergpt.api import finetune
from wafergpt.config import load_recipe

FOLDER = DATA / "multi30k"
FILES = {"train": "train", "validation": "val", "test": "test_2016_flickr"}
SETTINGS = [
    "task.name=translate", "task.source=en", "task.target=de",
    "model.n_layers=4", "model.d_model=256", "model.n_heads=4", "model.vocab_size=8192",
    "model.seq_len=128", "model.dropout=0.2", "train.epochs=8", "train.batch_size=64",
    "optimizer.name=muon", "optimizer.lr=3e-3", "schedule.name=linear", "schedule.warmup=5%",
    "schedule.final=0", "evaluate.metric=loss", "system.compile=off",
]  # fmt: skip
SEEDS = (0, 1, 2)


def ours(seed: int, out: Path) -> Cell:
    """Train one network; return its scores on test."""
    files = [f"task.{part}={FOLDER / f'{name}.en.txt.gz'}" for part, name in FILES.items()]
    recipe = load_recipe(None, [*SETTINGS, *files, f"seed={seed}", f"name=seed-{seed}"])
    run = finetune("scratch", recipe, auto_resume=True, root=out).run
    result = run.read("result")
    return {
        **{key: result["test"][key] for key in ("bleu", "bleu_signature", "chrf", "loss")},
        "validation": result["metrics"]["bleu"],
        "seconds": result["elapsed"],
        "parameters": result["parameters"],
    }


def nearest() -> Cell:
    """Give each sentence the translation of the training sentence nearest to it by TF-IDF."""
    from sacrebleu import corpus_bleu, corpus_chrf
    from sklearn.feature_extraction.text import TfidfVectorizer

    start = time.perf_counter()
    features = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2))
    known = features.fit_transform(_lines("train.en"))
    likeness = features.transform(_lines("test_2016_flickr.en")) @ known.T
    translations = _lines("train.de")
    found = [translations[row.toarray().argmax()] for row in likeness]
    references = [_lines("test_2016_flickr.de")]
    return {
        "bleu": corpus_bleu(found, references).score,
        "chrf": corpus_chrf(found, references).score,
        "seconds": time.perf_counter() - start,
    }


def _lines(name: str) -> list[str]:
    with gzip.open(FOLDER / f"{name}.txt.gz", "rt", encoding="utf-8") as file:
        return [line.rstrip("\n") for line in file]


def table(cells: Mapping[str, Cell]) -> str:
    """Return the scores as Markdown."""
    lines = ["| model | BLEU | chrF2 | loss | seconds |", "|---" * 5 + "|"]
    for name, cell in cells.items():
        loss = f"{cell['loss']:.3f}" if "loss" in cell else ""
        lines.append(
            f"| {name} | {cell['bleu']:.1f} | {cell['chrf']:.1f} | {loss} | {cell['seconds']:.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Run the cells that have no row yet, and print the table."""
    options = parser(__doc__, "translation")
    options.add_argument("--seeds", nargs="+", type=int, choices=SEEDS, default=list(SEEDS))
    asked = options.parse_args()
    cells = Cells(asked.out)
    for seed in [] if asked.table else [None, *asked.seeds]:
        if seed is None:
            cells.measure("nearest pair", nearest)
        else:
            cells.measure(f"seed {seed}", partial(ours, seed, cells.out))
    print(table(cells))


if __name__ == "__main__":
    main()
