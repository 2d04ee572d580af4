"""Held-out rows, chosen by a hash of their text so that no text is on both sides.

Texts are the same if they differ in case, white space and Unicode normalization alone.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from wafergpt.data.labelled_rows import Table
from wafergpt.errors import InputError
from wafergpt.files import short


class Rows(Protocol):
    """Labelled rows: a text and a label of each, as strings."""

    @property
    def texts(self) -> list[str]:
        """What a row is known by."""

    @property
    def labels(self) -> list[str]:
        """What is to be learned of each."""

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes for people, a line each."""

    def place(self, row: int) -> str:
        """Return the place of a row, for people."""

    def take(self: R, rows: Sequence[int] | NDArray[np.int64]) -> R:
        """Return the rows at these places."""


R = TypeVar("R", bound=Rows)


def normalized(text: str) -> str:
    """Return a text without what makes no difference: case, white space, Unicode's forms."""
    if not text.isascii():
        text = unicodedata.normalize("NFC", text)
    return " ".join(text.casefold().split())


def text_keys(texts: Sequence[str]) -> NDArray[np.int64]:
    """Return 64 bits ``[n]`` of this process that are equal for the same texts."""
    return np.fromiter((hash(normalized(text)) for text in texts), np.int64, len(texts))


def same_texts(texts: Sequence[str]) -> list[str]:
    """Return for each text the least of those that are the same.

    Where no two differ in what makes no difference alone, these are the texts themselves.
    """
    least: dict[int, str] = {}
    keys = text_keys(texts).tolist()
    for key, text in zip(keys, texts, strict=True):
        least[key] = min(text, least.get(key, text))
    return [least[key] for key in keys]


def hold_out(table: R, share: float, seed: int = 0, by: Sequence[str] | None = None) -> tuple[R, R]:
    """Split a table into (kept, held) by a hash of each text, or of what is named by ``by``.

    The same text always falls on the same side, whatever its place and however often it occurs.

    Raises:
        InputError: if one side would be empty.
    """
    limit = int(share * 2**64)
    held: list[int] = []
    kept: list[int] = []
    for row, text in enumerate(by or table.texts):
        (held if text_hash(text, seed) < limit else kept).append(row)
    if not held or not kept:
        raise _too_few(table, share)
    return table.take(kept), table.take(held)


def hold_out_of_each_class(
    table: Table, share: float, by: Sequence[str] | None = None
) -> tuple[Table, Table, list[str]]:
    """Split a table into (kept, held), stratified by class; name the classes with no held row.

    The texts of a class with the smallest hashes are held out: the order of the rows does not
    matter, and all rows of a text are on one side. Shares are of distinct texts, rounded so that
    they add up; every label keeps a row. ``by`` names each text, if it is not itself that counts.

    Returns:
        Kept, held, and the names of the classes without a held row, the smallest first.

    Raises:
        InputError: if no class has two different texts.
    """
    rows: dict[str, list[int]] = {}
    for row, text in enumerate(by or table.texts):
        rows.setdefault(text, []).append(row)
    # A text with several labels counts for only one of them.
    classes: dict[str, list[str]] = {}
    for text, places in rows.items():
        classes.setdefault(min(table.labels[row] for row in places), []).append(text)
    left = Counter(label for places in rows.values() for label in {table.labels[i] for i in places})
    hashes = {text: text_hash(text, 0) for text in rows}
    for texts in classes.values():
        # A text in more rows than are to be held out comes last.
        most = max(1.0, share * sum(len(rows[text]) for text in texts))
        texts.sort(key=lambda text: (len(rows[text]) > most, hashes[text], text))
    held: set[int] = set()
    for label, wanted in sorted(_shares(classes, share, hashes).items()):
        for text in classes[label]:
            labels = {table.labels[row] for row in rows[text]}
            if wanted and all(left[name] > 1 for name in labels):
                left.subtract(labels)
                held.update(rows[text])
                wanted -= 1
    if not held:
        raise _too_few(table, share)
    kept = [row for row in range(len(table.texts)) if row not in held]
    counts = Counter(table.labels)
    without = counts.keys() - {table.labels[row] for row in held}
    names = sorted(without, key=lambda name: (counts[name], name))
    return table.take(kept), table.take(sorted(held)), names


def classes_kept(names: Sequence[str], table: Table) -> str:
    """Return one line that names the classes without a validation row."""
    counts = Counter(table.labels)
    shown = ", ".join(f"{short(n)} ({counts[n]:,} row{'s' * (counts[n] > 1)})" for n in names[:5])
    more = f" and {len(names) - 5:,} more" if len(names) > 5 else ""
    one = len(names) == 1
    return (
        f"{len(names):,} class{'' if one else 'es'} with too few different texts to hold one out "
        f"for validation stay{'s' * one} in training: {shown}{more}"
    )


def _shares(
    classes: Mapping[str, Sequence[str]], share: float, hashes: Mapping[str, int]
) -> dict[str, int]:
    """Return how many texts of each class to hold out; the largest remainders are rounded up."""
    sizes = {label: len(texts) for label, texts in classes.items() if len(texts) > 1}
    wanted = {label: int(share * n) for label, n in sizes.items()}
    more = max(1, round(share * sum(sizes.values()))) - sum(wanted.values())
    by_remainder = sorted(sizes, key=lambda x: (-(share * sizes[x] % 1), hashes[classes[x][0]], x))
    for label in by_remainder[:more]:
        wanted[label] += 1
    return wanted


def text_hash(text: str, seed: int) -> int:
    """Return 64 bits that a text and a seed decide."""
    data = text.encode("utf-8", "surrogatepass")
    digest = hashlib.blake2b(data, digest_size=8, key=seed.to_bytes(8, "little")).digest()
    return int.from_bytes(digest, "little")


def _too_few(table: Rows, share: float) -> InputError:
    rows, texts, labels = (len(n) for n in (table.texts, set(table.texts), set(table.labels)))
    counts = f"{texts:,} different texts" + (f", {labels:,} labels" if labels < rows else "")
    return InputError(
        f"{rows:,} row{'s' * (rows != 1)} ({counts}) are too few to hold out {share:.0%} of them: "
        "name a validation file (task.validation=FILE), or add more rows"
    )
