"""The weights that a classifier's training begins with: of labels, and of a table of n-grams."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch

from wafergpt.data.labelled_batches import LabelledBatches
from wafergpt.tasks.carried import relabelled

if TYPE_CHECKING:
    from torch import Tensor

    from wafergpt.distributed.sharding import Rows
    from wafergpt.tasks.base import Splits
    from wafergpt.tasks.classify import Classify

NAIVE_BAYES = 0.1
"""Share of naive Bayes' scores that a table of n-grams with ratios starts from."""

TABLE, RATIOS = "head_ngrams.weight", "head_ngrams.ratios"


def near_naive_bayes(
    weights: Iterable[tuple[str, Rows]], splits: Splits | None
) -> Iterator[tuple[str, Rows]]:
    """Yield weights, those of the table of n-grams near naive Bayes' and with their ratios.

    Args:
        weights: by name.
        splits: the rows to learn from; without them all of that is 0.

    Yields:
        Names and weights.
    """
    for name, values in weights:
        if name != TABLE:
            yield name, values
            continue
        ratios = torch.zeros(values.shape)
        if splits is not None and isinstance(splits.train, LabelledBatches):
            ratios = torch.from_numpy(splits.train.ngram_ratios(*values.shape))
        sizes = ratios.abs().amax(1)
        yield name, NAIVE_BAYES * ratios / sizes.clamp(min=1e-6)[:, None]
        yield RATIOS, sizes


def with_new_labels(
    task: Classify,
    before: Classify,
    weights: Iterable[tuple[str, Rows]],
    drawn: Iterable[tuple[str, Tensor]],
    splits: Splits | None,
) -> Iterator[tuple[str, Rows]]:
    """Yield the weights of a run that goes on, those of its labels in their new places.

    Args:
        task: what is learned now.
        before: what the run has learned.
        weights: of the run, by name.
        drawn: those of a new head.
        splits: the rows to learn from.

    Yields:
        Names and weights.
    """
    fresh = dict(drawn)
    for name, values in weights:
        axis = {"head.weight": 0, TABLE: 1}.get(name)
        if axis is not None:
            # A table of n-grams adds nothing for a new label.
            new = fresh[name] if axis == 0 else torch.zeros_like(fresh[name])
            yield name, relabelled(values[...], new, before.settings, task.settings, axis)
        elif name == RATIOS and not task.settings.ngram_kept:
            old, ratios = values[...], _ratios(task, splits)
            # What was never read has no score yet, so that no answer changes.
            yield name, old if ratios is None else torch.where(old > 0, old, ratios)
        else:
            yield name, values


def _ratios(task: Classify, splits: Splits | None) -> Tensor | None:
    """Return how unevenly the labels of the training rows use each n-gram, ``[rows]``."""
    if splits is None or not isinstance(splits.train, LabelledBatches):
        return None
    found = splits.train.ngram_ratios(task.settings.ngram_rows, task.n_outputs)
    if task.n_outputs > 1:
        # Labels that only the run to start from has are on no row.
        found = found[:, task.rows_of(splits.train.targets) > 0]
    return torch.from_numpy(np.abs(found).max(1))
