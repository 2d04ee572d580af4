"""Settings of a fine-tuning that follow from its rows, where no recipe is named.

Measured on labelled sets of 500 to 2,000 rows: benchmarks/finetuning.py.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from wafergpt.config import Recipe
from wafergpt.config.files import HORIZONS, flat
from wafergpt.data.text_ngrams import text_ngrams
from wafergpt.logs import say

ALWAYS: Mapping[str, Any] = {
    "task.pooling": "mean_max_last",
    "model.dropout": 0.1,
    "optimizer.lr": 6e-4,
    "optimizer.beta2": 0.98,
    "schedule.name": "linear",
    "schedule.warmup": "5%",
    "schedule.final": 0.0,
}

UNPOOLED = {key: value for key, value in ALWAYS.items() if key != "task.pooling"}
"""``ALWAYS`` without the pooling, which tasks that answer for words or with texts have not."""

MOST_EPOCHS, LEAST_EPOCHS = 15, 2

SCALE = 115_000
"""Rows over this, to the power of -1/2, are the passes: 8 for 1,800 rows."""

LORA_LR = 2e-3
"""Learning rate of adapters, and of the task's own head beside them: of this and 6e-3, that of the
lower loss on 500 rows of PhraseBank."""

ROWS_TO_CHOOSE_BY = 3000
"""With fewer rows, held-out ones are too few to choose a checkpoint by: the last one is taken."""

LARGE_BATCH_ROWS = 4000
"""From so many rows on, batches are twice as large."""

LONG = 400.0
"""Mean characters of a text from which on n-grams of words are enough."""


TAGGED_SCALE = 8_000_000
"""Characters of tagged words over this, to the power of -1/2, are the passes: 3 for 200,000 words
of English, also where they are contexts of answers. Words of one character each, as in Chinese,
tell less and want more passes."""

SMALL_TAGGER: Mapping[str, Any] = {
    "model.n_layers": 2, "model.d_model": 128, "model.d_ffn": 512,
}  # fmt: skip
"""The network of a tagger from fresh weights, whose table of features knows most: it makes three
times as many passes as the usual one in less time."""

SMALL_TAGGER_PASSES = 3

SHAPE = ("model.n_layers", "model.d_model", "model.d_ffn", "model.d_head", "model.n_heads")

TAGGED_FAST = 64.0
"""Learning rate of a tagger's table of features. Its loss is a mean over words, of which a batch
has hundreds, so that a row's gradient is small."""

WRITTEN_SCALE = 350_000_000
"""Characters of all prompts over this, to the power of -1/2, are the passes: 14 for 29,000
sentences, 5 for 12,000 dialogues."""

RETRIEVAL_SCALE, RETRIEVAL_SEQUENCES = 100_000_000, 64
"""Characters of all texts over the first, to the power of -1/2, are the passes; so many sequences
are in a batch: the others' texts are a query's wrong ones."""

ROWS_OF_A_CLASS = 50
"""Training rows of each class, on average, from which on counts say how unevenly classes use an
n-gram; with 13 and 26 rows they did not."""

WORD_ROWS, MANY_WORD_ROWS = 1 << 20, 1 << 22
"""Rows of a table without ratios for long texts, which have many n-grams of words, of few and of
many texts; as many numbers in all for more than four classes."""

MANY_NGRAMS, MANY_CHARACTER_ROWS = 1 << 17, 1 << 18
"""More different n-grams of characters than this, in SAMPLED texts at most, want so many rows
without ratios; half of them are in few texts, and share rows without harm."""

SAMPLED = 4000

MOST_ROWS = 1 << 26
"""So many that n-grams hardly share any; with ratios few of them are kept."""

RARE_COUNT = ("macro_f1", "balanced_accuracy", "mcc")
"""Metrics to which rare classes count more than their probabilities say."""

FAST = 16.0
"""Learning rate of that table, with ratios, where there are few passes."""


def with_choices(
    recipe: Recipe, asked: Collection[str], texts: Sequence[str], classes: int | None
) -> Recipe:
    """Set what was not asked for by the training rows, and say it.

    Args:
        recipe: with a task of one answer per text.
        asked: keys as in ``train.epochs``, which stay as they are.
        texts: of the training rows.
        classes: their number, if the answers are classes.

    Returns:
        The recipe with what was chosen.
    """
    values = {**ALWAYS, **_sizes(len(texts), SCALE / max(1, len(texts)))}
    mean = sum(map(len, texts)) / max(1, len(texts))
    values["task.ngrams"] = "words" if mean >= LONG else "characters"
    if classes is not None:
        values["task.ngram_ratios"] = len(texts) >= ROWS_OF_A_CLASS * classes
        if recipe.evaluate.metric in RARE_COUNT and not getattr(recipe.task, "hierarchy", None):
            values["task.thresholds"] = "one"
    ratios = values.get("task.ngram_ratios", False)
    if "task.ngram_ratios" in asked:
        ratios = getattr(recipe.task, "ngram_ratios", False)
    if ratios:
        values["task.ngram_rows"] = MOST_ROWS
    elif mean >= LONG:
        most = WORD_ROWS if len(texts) < LARGE_BATCH_ROWS else MANY_WORD_ROWS
        values["task.ngram_rows"] = 1 << (4 * most // max(4, classes or 1)).bit_length() - 1
    elif _distinct_ngrams(texts) > MANY_NGRAMS:
        values["task.ngram_rows"] = MANY_CHARACTER_ROWS
    if ratios and values["train.epochs"] <= 3:
        values["optimizer.task_ngram_lr"] = FAST
    closed = _closed(recipe, asked)
    if not _is_plain_adamw(recipe):
        closed.add("task.ngrams")
    if closed & {"task.ngrams"}:
        closed |= {"task.ngram_ratios", "task.ngram_rows", "optimizer.task_ngram_lr"}
    return _chosen(recipe, closed, values, len(texts))


def _distinct_ngrams(texts: Sequence[str]) -> int:
    """Return the number of different n-grams of characters in some of the texts."""
    some = texts[:: -(-len(texts) // SAMPLED)]
    rows = [text_ngrams(text, "characters", MOST_ROWS) for text in some]
    return len(np.unique(np.concatenate(rows))) if rows else 0


def with_choices_for_tagging(
    recipe: Recipe,
    asked: Collection[str],
    sentences: Sequence[Sequence[str]],
    table_lr: float | None = None,
) -> Recipe:
    """Set what was not asked for by the tagged training sentences, and say it.

    Args:
        recipe: of a tagging.
        asked: keys as in ``train.epochs``, which stay as they are.
        sentences: the training rows' words.
        table_lr: learning rate of the table of features; if omitted, that of the recipe stays.

    Returns:
        The recipe with what was chosen.
    """
    rows, characters = len(sentences), sum(len(word) for words in sentences for word in words)
    scale, values = TAGGED_SCALE, {**UNPOOLED, "evaluate.metric": "f1"}
    if table_lr is not None:
        values["optimizer.task_ngram_lr"] = table_lr
        if recipe.start is None and not {*SHAPE} & {*asked}:
            scale *= SMALL_TAGGER_PASSES**2
            values |= SMALL_TAGGER
    values |= _sizes(rows, scale / max(1, characters))
    return _chosen(recipe, _closed(recipe, asked), values, rows)


def with_choices_for_writing(
    recipe: Recipe, asked: Collection[str], texts: Sequence[str]
) -> Recipe:
    """Set what was not asked for by the rows of a task that writes answers, and say it.

    Args:
        recipe: of the task.
        asked: keys as in ``train.epochs``, which stay as they are.
        texts: prompts of the training rows.

    Returns:
        The recipe with what was chosen.
    """
    rows, characters = len(texts), sum(map(len, texts))
    values = {**UNPOOLED, **_sizes(rows, WRITTEN_SCALE / max(1, characters))}
    if recipe.start is None:
        values |= {"optimizer.lr": 1e-3, "model.dropout": 0.2}
    return _chosen(recipe, _closed(recipe, asked), values, rows)


def with_choices_for_retrieval(
    recipe: Recipe, asked: Collection[str], rows: int, characters: int, together: int, metric: str
) -> Recipe:
    """Set what was not asked for by the rows of a task that finds or ranks texts, and say it.

    Args:
        recipe: of the task.
        asked: keys as in ``train.epochs``, which stay as they are.
        rows: for training.
        characters: that are read in one pass over them.
        together: sequences of a row, on average.
        metric: that picks the checkpoint.

    Returns:
        The recipe with what was chosen.
    """
    epochs = _sizes(rows, RETRIEVAL_SCALE / max(1, characters))["train.epochs"]
    batch = max(2, min(RETRIEVAL_SEQUENCES // together, rows))
    values = {**UNPOOLED, "train.epochs": epochs, "train.batch_size": batch}
    return _chosen(recipe, _closed(recipe, asked), {**values, "evaluate.metric": metric}, rows)


def _is_plain_adamw(recipe: Recipe) -> bool:
    optimizer = recipe.optimizer
    return optimizer.name == "adamw" and not optimizer.l2 and recipe.system.device != "cerebras"


def _closed(recipe: Recipe, asked: Collection[str]) -> set[str]:
    """Return the keys that are not chosen: those that were asked for, and what follows."""
    closed = set(asked)
    if recipe.train.micro_batch_size:
        closed.add("train.batch_size")
    if closed & {f"train.{key}" for key in HORIZONS}:
        closed.add("train.epochs")
    if not _is_plain_adamw(recipe):
        closed |= {"optimizer.lr", "optimizer.beta2"}
    return closed


def _chosen(
    recipe: Recipe, closed: Collection[str], values: Mapping[str, Any], rows: int
) -> Recipe:
    """Set values but for closed keys, have few rows evaluated once, and say what was chosen."""
    if recipe.lora.rank:
        values = {**values, "optimizer.lr": LORA_LR}
    values = {key: value for key, value in values.items() if key not in closed}
    recipe, chosen = _replaced(recipe, values), set(values)
    steps = _steps(recipe, rows)
    few = rows < ROWS_TO_CHOOSE_BY and not recipe.evaluate.patience
    if few and steps and "evaluate.every" not in closed:
        recipe = recipe.replace(evaluate={"every": steps})
        chosen.add("evaluate.every")
    now = flat(recipe.model_dump(mode="json"))
    said = ", ".join(f"{key}={now[key]}" for key in sorted(chosen))
    say(f"chosen for {rows:,} training rows: {said}")
    return recipe


def _sizes(rows: int, squared_passes: float) -> dict[str, Any]:
    epochs = min(MOST_EPOCHS, max(LEAST_EPOCHS, round(squared_passes**0.5)))
    batch = min(32 if rows >= LARGE_BATCH_ROWS else 16, max(1, rows))
    return {"train.batch_size": batch, "train.epochs": float(epochs)}


def _steps(recipe: Recipe, rows: int) -> int | None:
    """Return the updates of the training; None if they depend on the machine's speed."""
    train, task = recipe.train, recipe.task
    assert task is not None
    if train.seconds:
        return None
    samples = rows * task.samples_per_row
    return train.steps or (
        math.ceil(train.epochs * samples / train.batch_size) if train.epochs else None
    )


def _replaced(recipe: Recipe, values: Mapping[str, Any]) -> Recipe:
    sections: dict[str, dict[str, Any]] = {}
    for key, value in values.items():
        section, _, name = key.partition(".")
        sections.setdefault(section, {})[name] = value
    return recipe.replace(**sections)
