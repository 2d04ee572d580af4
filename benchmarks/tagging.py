"""Named entities: the GPT without options beside a conditional random field with hand features.

Each cell is one set, one model and one seed. The field is CRFsuite's with the usual features of
words, their neighbours, prefixes, suffixes and shapes; its regularization is the library's usual
0.1. All train on the same sentences and are judged once on the test set. Cells that have a row are
not run again.

    python -m benchmarks.tagging --data ../shared/data --out tagging
    python -m benchmarks.tagging --out small --models scratch --options model.n_layers=1 \
        model.d_model=32 model.n_heads=2 model.vocab_size=4096
    python -m benchmarks.tagging --out tagging --table
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cells import Cell, Cells, parser
from wafergpt import atomic_files
from wafergpt.api import finetune, predict
from wafergpt.data.tag_schemes import entities, parsed
from wafergpt.data.tagged_rows import Sentences, read_sentences
from wafergpt.evaluation.entities import entity_metrics

SETS = {
    "conll2003": ("conll2003/eng.train", "conll2003/eng.testb"),
    "ncbi": ("ncbi_disease/train", "ncbi_disease/test"),
    "msra": ("zh_msra_ner/train", "zh_msra_ner/test"),
}
MODELS = ("crf", "scratch", "base")


def features(words: Sequence[str], place: int) -> dict[str, Any]:
    """Return the usual features of a word."""
    word = words[place]
    found: dict[str, Any] = {"bias": 1.0}
    for n in range(1, 5):
        found |= {f"prefix{n}": word[:n], f"suffix{n}": word[-n:]}
    for offset in (-2, -1, 0, 1, 2):
        beside = place + offset
        if not 0 <= beside < len(words):
            found[f"{offset}:end"] = True
            continue
        other = words[beside]
        found |= {
            f"{offset}:word": other.lower(), f"{offset}:title": other.istitle(),
            f"{offset}:upper": other.isupper(), f"{offset}:digit": other.isdigit(),
        }  # fmt: skip
        if offset < 2 and beside + 1 < len(words):
            found[f"{offset}:pair"] = f"{other.lower()} {words[beside + 1].lower()}"
    return found


def crf(train: Sentences, test: Sentences, labels: Sequence[str]) -> dict[str, Any]:
    """Train CRFsuite and return its metrics."""
    import sklearn_crfsuite

    model = sklearn_crfsuite.CRF(c1=0.1, c2=0.1, max_iterations=100)

    def rows(table: Sentences) -> list[list[dict[str, Any]]]:
        return [[features(words, i) for i in range(len(words))] for words in table.words]

    start = time.perf_counter()
    model.fit(rows(train), [tags.split() for tags in train.labels])
    seconds, start = time.perf_counter() - start, time.perf_counter()
    found = model.predict(rows(test))
    rate = len(test.words) / (time.perf_counter() - start)
    predicted = [entities([t for tag in tags if (t := parsed(tag))]) for tags in found]
    metrics = entity_metrics(predicted, test.entities, labels)
    return {"f1": metrics["f1"], "seconds": seconds, "rows_per_second": rate}


def gpt(model: str, asked: Sequence[str], words: Sequence[Any], out: Path) -> Any:
    """Fine-tune and return the metrics."""
    shutil.rmtree(out / "runs", ignore_errors=True)
    start = time.perf_counter()
    run = finetune(model, None, ["task.name=tag", *asked, "name=run"], root=out / "runs")
    seconds, start = time.perf_counter() - start, time.perf_counter()
    predict(run.run, [list(sentence) for sentence in words])
    rate = len(words) / (time.perf_counter() - start)
    return {"f1": run.run.read("result")["test"]["f1"], "seconds": seconds, "rows_per_second": rate}


def written(table: Sentences, path: Path) -> Path:
    """Write sentences as jsonl, so that all models read the same thinned rows."""
    lines = [
        json.dumps({"tokens": words, "tags": tags.split()})
        for words, tags in zip(table.words, table.labels, strict=True)
    ]
    atomic_files.write_text(path, "\n".join(lines) + "\n")
    return path


def cell(
    name: str, model: str, seed: int, data: Path, out: Path, size: int, options: Sequence[str]
) -> Cell:
    """Train one model on one set."""
    train, test = (read_sentences(data / f"{p}.conll.gz", repair=True) for p in SETS[name])
    if size:
        train = train.take(np.sort(np.random.default_rng(0).permutation(len(train.words))[:size]))
    labels = sorted({entity.label for row in train.entities for entity in row})
    asked = "" if model == "crf" else " ".join(options)
    row = {"set": name, "model": f"{model} {asked}".strip(), "seed": seed, "size": size,
           "rows": len(train.words)}  # fmt: skip
    if model == "crf":
        return {**row, **crf(train, test, labels)}
    files = [f"task.{part}={written(rows, out / f'{part}.jsonl')}"
             for part, rows in (("train", train), ("test", test))]  # fmt: skip
    return {**row, **gpt(model, [*files, f"seed={seed}", *options], test.words, out)}


def table(rows: Sequence[Cell]) -> str:
    """Return the rows as Markdown."""
    lines = ["| set | sentences | model | seed | F1 | seconds | sentences/s |", "|---" * 7 + "|"]
    lines += [
        f"| {row['set']} | {row['rows']:,} | {row['model']} | {row['seed']} | {row['f1']:.4f} "
        f"| {row['seconds']:.0f} | {row['rows_per_second']:.0f} |"
        for row in rows
    ]
    return "\n".join(lines)


def main() -> None:
    """Run the cells that have no row yet, and print the table."""
    options = parser(__doc__, "tagging")
    options.add_argument("--data", type=Path, default=Path("../shared/data"))
    options.add_argument("--sets", nargs="*", choices=SETS, default=list(SETS))
    options.add_argument("--models", nargs="*", choices=MODELS, default=list(MODELS))
    options.add_argument("--seeds", nargs="*", type=int, default=[0])
    options.add_argument("--size", type=int, default=0, help="Training sentences; 0: all.")
    options.add_argument("--options", nargs="*", default=[], help="Of the fine-tuning.")
    asked = options.parse_args()
    cells = Cells(asked.out)
    wanted = [(s, m, seed) for s in asked.sets for m in asked.models for seed in asked.seeds]
    for key in [] if asked.table else wanted:
        options_of = () if key[1] == "crf" else asked.options
        name = ", ".join(map(str, (*key, asked.size, *options_of)))
        measured = partial(cell, *key, asked.data, cells.out, asked.size, asked.options)
        cells.measure(name, measured)
    print(table(list(cells.values())))


if __name__ == "__main__":
    main()
