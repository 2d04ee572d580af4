"""Named entities found and missed: an entity counts if its words and its label are all right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wafergpt.data.word_splitting import joined
from wafergpt.evaluation.intervals import Bootstrap

Found = tuple[int, int, str]
"""An entity: its first word, the word after its last one, and its label."""

Counts = NDArray[np.int64]
"""``[…, 3]``: right ones, those that were found, and those that are there."""

SHOWN = 8
"""Sentences with their entities that are kept for the report."""


def entity_metrics(
    predicted: Sequence[Sequence[Found]], true: Sequence[Sequence[Found]], labels: Sequence[str]
) -> dict[str, Any]:
    """Compare entities as conlleval does, which is nervaluate's ``strict``.

    Args:
        predicted: of each sentence.
        true: of each sentence.
        labels: of the table, in its order.

    Returns:
        ``precision``, ``recall`` and ``f1`` over all entities, which are 0 where nothing is to be
        divided; ``f1_interval``, which holds 95% of resamples of the sentences; ``per_class``, the
        same for each label, with its number of entities as ``support``; and ``entities``.
    """
    counts = _all_counts(predicted, true, labels)
    of_labels = counts.sum(0)
    interval = _resampled(counts).interval("f1") if len(counts) else (0.0, 0.0)
    return {
        **_scores(of_labels.sum(0)),
        "f1_interval": list(interval),
        "entities": int(of_labels[:, 2].sum()),
        "per_class": [
            {"label": label, **_scores(row), "support": int(row[2])}
            for label, row in zip(labels, of_labels, strict=True)
        ],
    }


def resampled_scores(
    predicted: Sequence[Sequence[Found]], true: Sequence[Sequence[Found]], labels: Sequence[str]
) -> Bootstrap:
    """Compute precision, recall and F1 on resamples of the sentences; there must be one.

    Args:
        predicted: of each sentence.
        true: of each sentence.
        labels: that count.
    """
    return _resampled(_all_counts(predicted, true, labels))


def _resampled(counts: Counts) -> Bootstrap:
    of_sentences = counts.sum(1)

    def scores(rows: NDArray[np.int64]) -> Mapping[str, float]:
        return _scores(of_sentences[rows].sum(0))

    return Bootstrap.of(scores, len(of_sentences))


def entity_examples(
    sentences: Sequence[Sequence[str]],
    true: Sequence[Sequence[Found]],
    predicted: Sequence[Sequence[Found]],
) -> list[dict[str, Any]]:
    """Return the first sentences with mistakes and with none, half of each where there are.

    Args:
        sentences: the words of each.
        true: entities of each.
        predicted: entities of each.

    Returns:
        ``words``, ``true`` and ``predicted`` of at most ``SHOWN`` sentences, in their order.
    """
    right = [set(ours) == set(theirs) for ours, theirs in zip(predicted, true, strict=True)]
    wrong = [i for i, fits in enumerate(right) if not fits]
    found = [i for i, fits in enumerate(right) if fits and predicted[i]][:SHOWN]
    of_wrong = wrong[: max(SHOWN // 2, SHOWN - len(found))]
    return [
        {
            "words": list(sentences[i]),
            "true": [list(entity) for entity in true[i]],
            "predicted": [list(entity) for entity in predicted[i]],
        }
        for i in sorted([*of_wrong, *found[: SHOWN - len(of_wrong)]])
    ]


def entity_mistakes(
    sentences: Sequence[Sequence[str]],
    true: Sequence[Sequence[Found]],
    predicted: Sequence[Sequence[Found]],
) -> list[dict[str, Any]]:
    """Return the sentences with missed or wrong entities, those with the most of them first.

    Args:
        sentences: the words of each.
        true: entities of each.
        predicted: entities of each.

    Returns:
        The ``text`` of each, and its ``missed`` and ``wrong`` entities with their labels.
    """
    found = []
    for words, theirs, ours in zip(sentences, true, predicted, strict=True):
        missed, wrong = set(theirs) - set(ours), set(ours) - set(theirs)
        if not (count := len(missed) + len(wrong)):
            continue
        text, placed = joined(words)
        shown = [
            ", ".join(
                f"{text[placed[start].start : placed[end - 1].end]} ({label})"
                for start, end, label in sorted(some)
            )
            for some in (missed, wrong)
        ]
        found.append((count, {"text": text, "missed": shown[0], "wrong": shown[1]}))
    return [row for _, row in sorted(found, key=lambda one: -one[0])]


def _all_counts(
    predicted: Sequence[Sequence[Found]], true: Sequence[Sequence[Found]], labels: Sequence[str]
) -> Counts:
    """Return the counts of each sentence and label."""
    counts = [_counts(ours, theirs, labels) for ours, theirs in zip(predicted, true, strict=True)]
    return np.array(counts, dtype=np.int64).reshape(-1, len(labels), 3)


def _counts(
    predicted: Sequence[Found], true: Sequence[Found], labels: Sequence[str]
) -> list[list[int]]:
    ours, theirs = set(predicted), set(true)
    return [
        [sum(one[2] == label for one in found) for found in (ours & theirs, ours, theirs)]
        for label in labels
    ]


def _scores(counts: Counts) -> dict[str, float]:
    right, found, there = map(int, counts)
    return {
        "precision": right / max(1, found),
        "recall": right / max(1, there),
        "f1": 2 * right / max(1, found + there),
    }
