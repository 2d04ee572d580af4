"""Changed copies of training rows, from which a classifier learns to read what people mistype."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from wafergpt.data.labelled_rows import Table
from wafergpt.data.text_columns import BETWEEN
from wafergpt.evaluation.perturbations import SEVERITIES, perturbed


def changed(text: str, kind: str, severity: int, seed: int) -> str:
    """Return a text with a kind of change, in each of its columns.

    Args:
        text: of one column, or several that are joined.
        kind: of change (see ``KINDS``).
        severity: from 1 to 5.
        seed: of the places that change.
    """
    return BETWEEN.join(perturbed(part, kind, severity, seed) for part in text.split(BETWEEN))


def with_changed_copies(table: Table, kinds: Sequence[str], copies: int, seed: int) -> Table:
    """Add changed copies of all rows, each with a kind and a severity of its own.

    Args:
        table: the training rows.
        kinds: of changes that are drawn from.
        copies: of each row.
        seed: of the draw.

    Returns:
        The rows, and after them their copies, ``copies + 1`` times as many.
    """
    # Seeded by a text, which every version of Python hashes alike.
    draw, texts = random.Random(f"augment {seed}"), list(table.texts)
    for copy in range(copies):
        for row, text in enumerate(table.texts):
            kind, severity = draw.choice(kinds), draw.choice(SEVERITIES)
            texts.append(changed(text, kind, severity, seed + copy * len(table.texts) + row))
    rows = list(range(len(table.texts)))
    return replace(table.take(rows * (copies + 1)), texts=texts)
