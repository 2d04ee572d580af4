"""The weights that a classifier's training begins with: of labels, and of a table of n-grams."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
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

MOST_NUMBERS = 1 << 24
"""Of a table with ratios; those n-grams are left out that fewest texts have."""

TABLE, RATIOS, KEPT = (f"head_ngrams.{name}" for name in ("weight", "ratios", "kept.rows"))


def rows_to_keep(task: Classify, splits: Splits, before: Mapping[str, Rows] | None) -> Tensor:
    """Return the rows of n-grams that a table with ratios needs; all others have a ratio of 0.

    Args:
        task: that has the table.
        splits: the rows to learn from.
        before: the weights of a run that goes on, whose n-grams stay.

    Returns:
        ``[n]``, ascending, at least one.
    """
    assert isinstance(splits.train, LabelledBatches)
    rows = torch.from_numpy(splits.train.shared_ngrams(MOST_NUMBERS // task.n_outputs))
    if before is not None:
        rows = torch.cat([rows, _rows_of(before)]).unique()
    # A table of no row would be one of all rows.
    return rows if len(rows) else torch.ones(1, dtype=torch.int32)


def _rows_of(weights: Mapping[str, Rows]) -> Tensor:
    """Return the rows of n-grams that a run's table has, in its order."""
    if KEPT in weights:
        return weights[KEPT][...]
    return weights[RATIOS][...].nonzero()[:, 0].int()


def near_naive_bayes(
    task: Classify, weights: Iterable[tuple[str, Rows]], splits: Splits | None
) -> Iterator[tuple[str, Rows]]:
    """Yield weights, those of the table of n-grams near naive Bayes' and with their ratios.

    Args:
        task: that has the table.
        weights: by name.
        splits: the rows to learn from; without them all of that is 0.

    Yields:
        Names and weights.
    """
    kept = task.settings.ngram_kept
    for name, values in weights:
        if name != TABLE:
            yield name, values
            continue
        rows, ratios = torch.zeros(kept, dtype=torch.int32), torch.zeros(values.shape)
        # The rows of a resumed run that went on from another are in its checkpoint.
        if splits is not None and len(found := rows_to_keep(task, splits, None)) == kept:
            assert isinstance(splits.train, LabelledBatches)
            rows = found
            ratios[1:] = torch.from_numpy(splits.train.ngram_ratios(rows.numpy(), values.shape[1]))
        sizes = ratios.abs().amax(1)
        yield name, NAIVE_BAYES * ratios / sizes.clamp(min=1e-6)[:, None]
        yield RATIOS, sizes
        if kept:
            yield KEPT, rows


def with_new_labels(
    task: Classify,
    before: Classify,
    weights: Mapping[str, Rows],
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
    fresh, found = dict(drawn), dict(weights)
    for name, axis in (("head.weight", 0), (TABLE, 1)):
        if name in weights:
            # A table of n-grams adds nothing for a new label.
            old = weights[name][...]
            new = fresh[name] if axis == 0 else old.new_zeros(len(old), task.n_outputs)
            found[name] = relabelled(old, new, before.settings, task.settings, axis)
    grown = task.settings.ngram_kept != before.settings.ngram_kept
    if RATIOS in weights and grown and splits is not None:
        found |= _with_new_rows(task, weights, found[TABLE][...], splits)
    yield from found.items()


def _with_new_rows(
    task: Classify, weights: Mapping[str, Rows], table: Tensor, splits: Splits
) -> dict[str, Tensor]:
    """Return a table, its ratios and its rows, with those of n-grams that the run has not read."""
    assert isinstance(splits.train, LabelledBatches)
    old, rows = _rows_of(weights), rows_to_keep(task, splits, weights)
    found = splits.train.ngram_ratios(rows.numpy(), task.n_outputs)
    if task.n_outputs > 1:
        # Labels that only the run to start from has are on no row.
        found = found[:, task.rows_of(splits.train.targets) > 0]
    # What was never read has no score yet, so that no answer changes.
    moved, ratios = table.new_zeros(len(rows) + 1, table.shape[1]), torch.zeros(len(rows) + 1)
    ratios[1:] = torch.from_numpy(np.abs(found).max(1))
    here = torch.searchsorted(rows, old) + 1
    there = torch.arange(len(old)) + 1 if KEPT in weights else old.long()
    moved[here], known = table[there], weights[RATIOS][...][there]
    ratios[here] = torch.where(known > 0, known, ratios[here])
    return {TABLE: moved, RATIOS: ratios, KEPT: rows}
