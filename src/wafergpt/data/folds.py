"""Rows dealt into folds, for cross-validation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from wafergpt.data.labelled_split import text_hash
from wafergpt.errors import InputError
from wafergpt.files import short


def dealt(
    texts: Sequence[str], folds: int, classes: Sequence[str] | None = None
) -> NDArray[np.int64]:
    """Deal rows into folds by a hash of their texts, the same whatever the order of the rows.

    All rows of a text are in one fold. Where each text is in one row, folds differ by at most one
    row, also in the rows of each class, as scikit-learn's ``StratifiedKFold``; otherwise as little
    as the texts allow.

    Args:
        texts: of the rows.
        folds: their number.
        classes: of the rows, of which every fold gets a share.

    Returns:
        The fold ``[n]`` of each row, from 0; the first one is the smallest.

    Raises:
        InputError: if there are more folds than different texts, or than those of a class.
    """
    rows: dict[str, list[int]] = {}
    for row, text in enumerate(texts):
        rows.setdefault(text, []).append(row)
    pools = _pools(rows, classes)
    _require_enough(pools, folds, classes is not None)
    fold_of = np.empty(len(texts), dtype=np.int64)
    sizes = [0] * folds
    for _, pool in sorted(pools.items()):
        of_class = [0] * folds
        # Those in many rows first, as long as there is much to even out.
        pool.sort(key=lambda text: (-len(rows[text]), text_hash(text, 0), text))
        for text in pool:
            fold = min(range(folds), key=lambda one: (of_class[one], sizes[one]))
            fold_of[rows[text]] = fold
            of_class[fold] += len(rows[text])
            sizes[fold] += len(rows[text])
    places = np.empty(folds, dtype=np.int64)
    places[np.argsort(sizes, kind="stable")] = np.arange(folds)
    return np.asarray(places[fold_of])


def _pools(rows: dict[str, list[int]], classes: Sequence[str] | None) -> dict[str, list[str]]:
    """Return the texts of each class; a text with several counts for the rarest one."""
    if classes is None:
        return {"": list(rows)}
    counts = Counter(classes)
    pools: dict[str, list[str]] = {name: [] for name in counts}
    for text, places in rows.items():
        rarest = min((classes[row] for row in places), key=lambda name: (counts[name], name))
        pools[rarest].append(text)
    return pools


def _require_enough(pools: dict[str, list[str]], folds: int, named: bool) -> None:
    name, texts = min(pools.items(), key=lambda pool: (len(pool[1]), pool[0]))
    if len(texts) >= folds:
        return
    of = f" of the class {short(name)}" if named else ""
    lower = "" if len(texts) < 2 else f": {len(texts)} folds at most"
    raise InputError(
        f"{folds} folds are more than the {len(texts):,} different text"
        f"{'s' * (len(texts) != 1)}{of}{lower}; or add rows{' of it' * named}"
    )
