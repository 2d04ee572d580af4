"""Finding the answers to medical questions whose subject was never seen: words, vectors, and both.

MedQuAD's questions and answers, split by their focus, which is a disease, a gene or a drug: every
test question is on one that no training row has. The candidates are the answers of all splits.
BM25 is bm25s'; TF-IDF is of words and pairs of words. The GPT starts from the shipped ``base`` and
is fine-tuned without options, but on 128 tokens of each answer, which takes a quarter of the time
of 512. In the hybrids it is added to BM25, by ranks and by a weight that is chosen on validation
questions alone. Cells that have a row are not run again.

    python -m benchmarks.retrieval --data ../shared/data --out retrieval
    python -m benchmarks.retrieval --out retrieval --table
"""

from __future__ import annotations

import gzip
import json
import random
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.cells import Cell, Cells, parser
from wafergpt import atomic_files
from wafergpt.api import finetune
from wafergpt.evaluation.intervals import Bootstrap
from wafergpt.evaluation.ranking import first_ranks, search_metrics
from wafergpt.inference.predictor import Predictor
from wafergpt.inference.search import CHUNK, SearchIndex
from wafergpt.runs.run import Run

KINDS = ("BM25", "TF-IDF", "vectors", "hybrid by ranks", "hybrid by a weight")
HELD_OUT = 0.1
"""Share of the focuses for validation, and as many for the test."""

Rows = list[dict[str, str]]


def splits(data: Path, size: int) -> dict[str, Rows]:
    """Return rows by split; of ``size`` focuses, 0: all."""
    with gzip.open(data / "medquad" / "medquad.jsonl.gz", "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    for row in rows:
        row["focus"] = row["focus"].strip().lower()
    names = sorted({row["focus"] for row in rows})
    random.Random(0).shuffle(names)
    names = names[: size or None]
    held = round(HELD_OUT * len(names))
    of = {name: ("test", "validation", "train")[min(2, place // held)]
          for place, name in enumerate(names)}  # fmt: skip
    found: dict[str, Rows] = {name: [] for name in ("train", "validation", "test")}
    for row in rows:
        if row["focus"] in of:
            found[of[row["focus"]]].append(row)
    return found


class Questions:
    """The candidates of all splits, and the questions of one with their right answers."""

    def __init__(self, parts: dict[str, Rows], name: str) -> None:
        rows = [row for part in parts.values() for row in part]
        self.answers = list(dict.fromkeys(row["answer"] for row in rows))
        places = {answer: place for place, answer in enumerate(self.answers)}
        self.texts = list(dict.fromkeys(row["question"] for row in parts[name]))
        right: dict[str, list[int]] = {question: [] for question in self.texts}
        for row in rows:
            if row["question"] in right:
                right[row["question"]].append(places[row["answer"]])
        self.right = [np.unique(own) for own in right.values()]


def trained(parts: dict[str, Rows], out: Path, options: Sequence[str]) -> Run:
    """Fine-tune on the training split, or return the run that is there."""
    files = []
    for name in ("train", "validation"):
        lines = [
            json.dumps({"query": row["question"], "positive": row["answer"]}) for row in parts[name]
        ]
        atomic_files.write_text(out / f"{name}.jsonl", "\n".join(lines) + "\n")
        files.append(f"task.{name}={out / f'{name}.jsonl'}")
    asked = ["task.name=embed", *files, *options, "name=medquad"]
    return finetune("base", None, asked, auto_resume=True, root=out / "runs").run


def tfidf(answers: Sequence[str], questions: Sequence[str]) -> NDArray[np.float32]:
    """Return the cosines of TF-IDF."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True, dtype=np.float32)
    known = vectorizer.fit_transform(answers)
    found: NDArray[np.float32] = (vectorizer.transform(questions) @ known.T).toarray()
    return found


def ranks_of(kind: str, parts: dict[str, Rows], out: Path, options: Sequence[str]) -> Any:
    """Return the ranks of the right answers to the test questions, and the weight if there is."""
    asked, known = Questions(parts, "test"), Questions(parts, "validation")
    if kind == "TF-IDF":
        return first_ranks(tfidf(asked.answers, asked.texts), asked.right), None
    predictor = None if kind == "BM25" else Predictor.load(trained(parts, out, options))
    how: Any = {"BM25": "words", "vectors": "vectors"}.get(kind, "hybrid")
    index = SearchIndex(asked.answers, predictor, how)
    if kind == "hybrid by a weight":
        index.tune(known.texts, [own.tolist() for own in known.right])
    ranks = [
        first_ranks(index.scores(asked.texts[at : at + CHUNK]), asked.right[at : at + CHUNK])
        for at in range(0, len(asked.texts), CHUNK)
    ]
    return np.concatenate(ranks), index.weight


def cell(kind: str, parts: dict[str, Rows], out: Path, options: Sequence[str]) -> Cell:
    """Search by one method; return its metrics, their intervals, and the ranks."""
    start = time.perf_counter()
    ranks, weight = ranks_of(kind, parts, out, options)
    seconds = time.perf_counter() - start

    def recall(rows: NDArray[np.int64]) -> dict[str, float]:
        return {"recall_at_5": float((ranks[rows] <= 5).mean())}

    sampled = Bootstrap.of(recall, len(ranks)).resampled["recall_at_5"]
    interval = [float(end) for end in np.quantile(sampled, (0.025, 0.975))]
    return {
        **search_metrics(ranks), "interval": interval, "weight": weight, "seconds": seconds,
        "questions": len(ranks), "all_ranks": ranks.tolist(),
    }  # fmt: skip


def table(cells: Mapping[str, Cell]) -> str:
    """Return the metrics as Markdown."""
    lines = ["| | recall@1 | recall@5 (95%) | recall@10 | MRR |", "|---" * 5 + "|"]
    for kind, row in cells.items():
        low, high = row["interval"]
        weight = "" if row["weight"] is None else f", {row['weight']:g} of the cosine"
        lines.append(
            f"| {kind}{weight} | {row['recall_at_1']:.3f} | {row['recall_at_5']:.3f} "
            f"({low:.3f} to {high:.3f}) | {row['recall_at_10']:.3f} | {row['mrr']:.3f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Run the cells that have no row yet, and print the table."""
    options = parser(__doc__, "retrieval")
    options.add_argument("--data", type=Path, default=Path("../shared/data"))
    options.add_argument("--kinds", nargs="*", choices=KINDS, default=list(KINDS))
    options.add_argument("--size", type=int, default=0, help="Focuses; 0: all.")
    options.add_argument(
        "--options", nargs="*", default=["task.max_tokens=128"], help="Of the fine-tuning."
    )
    asked = options.parse_args()
    cells = Cells(asked.out)
    out = cells.out
    parts = {} if asked.table else splits(asked.data, asked.size)
    for kind in [] if asked.table else asked.kinds:
        cells.measure(kind, partial(cell, kind, parts, out, asked.options))
    print(table(cells))


if __name__ == "__main__":
    main()
