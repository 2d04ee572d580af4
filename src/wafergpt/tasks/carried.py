"""What goes on from a run of the same task: labels by their names, and the weights that are theirs.

Labels of the run that no new row has stay, and new ones start afresh.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from wafergpt.files import short

if TYPE_CHECKING:
    from torch import Tensor

    from wafergpt.tasks.classify_settings import ClassifySettings

NAMED = 5
"""Labels that a note names."""


def placed(fresh: Tensor, old: Tensor, places: Sequence[int], axes: Sequence[int]) -> Tensor:
    """Return weights with old ones in their new places.

    Args:
        fresh: the weights of a new network.
        old: those of the run.
        places: the index in ``fresh`` of each index in ``old``.
        axes: along which they are counted; the others are as long in both.

    Returns:
        A new tensor of the shape of ``fresh``.
    """
    import torch

    index = torch.tensor(list(places))
    found = fresh.to(old.dtype).clone()
    if list(axes) == [0, 1]:
        found[index[:, None], index[None]] = old
    elif list(axes) == [0]:
        found[index] = old
    else:
        found[:, index] = old
    return found


def relabelled(
    old: Tensor, fresh: Tensor, theirs: ClassifySettings, ours: ClassifySettings, axis: int
) -> Tensor:
    """Return the weights of a classifier's scores with those of a run, label by label.

    Args:
        old: the run's.
        fresh: of a new network.
        theirs: the run's settings.
        ours: those of the new network, which has all of the run's labels.
        axis: along which labels are counted.

    Returns:
        A tensor of the shape of ``fresh``.
    """
    import torch

    if theirs.loss == ours.loss == "binary":
        return old
    if theirs.loss == "binary":
        # Log-odds are the scores of the second label above none of the first.
        old = torch.cat([torch.zeros_like(old), old], axis)
    if ours.loss == "binary":
        return old.diff(dim=axis)
    return placed(fresh, old, [ours.labels.index(label) for label in theirs.labels], [axis])


def notes_on(known: Collection[str], rows: Collection[str]) -> list[str]:
    """Return notes on the labels of a run that do not occur in new rows, and on new ones."""
    if not known:
        return []
    left, new = sorted(set(known) - set(rows)), sorted(set(rows) - set(known))
    notes = []
    if left:
        notes.append(f"no new row has {_listed(left)}, which the run to start from has: kept")
    if new:
        notes.append(f"new beside those of the run to start from: {_listed(new)}")
    return notes


def _listed(labels: Sequence[str]) -> str:
    shown = ", ".join(map(short, labels[:NAMED]))
    more = f" and {len(labels) - NAMED:,} more" if len(labels) > NAMED else ""
    return f"the label{'s' * (len(labels) > 1)} {shown}{more}"
