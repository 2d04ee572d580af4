"""Texts of several columns: kept as one string each, and cut so that each column has room."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

from pydantic import BeforeValidator

from wafergpt.data.cells import is_missing
from wafergpt.data.json_rows import json_object
from wafergpt.errors import InputError
from wafergpt.files import short

BETWEEN = "\x1f"
"""ASCII's unit separator, between the columns of a text. Words end at it, as at a space."""

SEPARATOR = "\n"
"""Read in its place by a tokenizer and by people."""


def _one_or_several(value: Any) -> Any:
    """Return a name for a list of one; a list of several must be of different names."""
    if not isinstance(value, list | tuple):
        return value
    if not value or len({*map(str, value)}) < len(value):
        raise ValueError("a list of different columns is wanted")
    return value[0] if len(value) == 1 else tuple(value)


Columns = Annotated[str | tuple[str, ...], BeforeValidator(_one_or_several)]
"""The column of texts, or several that are read one after the other."""


def names_of(columns: str | Sequence[str]) -> tuple[str, ...]:
    """Return the names of one column or several."""
    return (columns,) if isinstance(columns, str) else tuple(columns)


def joined(parts: Sequence[str]) -> str:
    """Join the columns of a text; blank if all of them are."""
    if len(parts) == 1:
        return parts[0]
    return BETWEEN.join(part.replace(BETWEEN, " ") for part in parts)


def in_each(text: str, change: Callable[[str], str]) -> str:
    """Return a text with each of its columns changed."""
    return BETWEEN.join(change(part) for part in text.split(BETWEEN))


def shown(text: str) -> str:
    """Return a text as people and tokenizers read it."""
    return text.replace(BETWEEN, SEPARATOR)


def lengths_left(lengths: Sequence[int], room: int) -> list[int]:
    """Shorten the longest until all fit, as transformers' ``longest_first`` does.

    Of those that end alike, the shorter ones lose the odd token, and before them the first ones.

    Args:
        lengths: tokens of each column.
        room: tokens of all together.

    Returns:
        The tokens that are left of each.
    """
    if sum(lengths) <= room:
        return list(lengths)
    order = sorted(range(len(lengths)), key=lambda place: lengths[place])
    left = list(lengths)
    for done, place in enumerate(order):
        # What shorter ones do not need is shared by the others.
        level, more = divmod(room, len(lengths) - done)
        if lengths[place] > level:
            for rank, other in enumerate(reversed(order[done:])):
                left[other] = level + (rank < more)
            return left
        room -= lengths[place]
    return left


def text_of_columns(value: object, names: Sequence[str]) -> str:
    """Return the text of one input of several columns.

    Args:
        value: a mapping or a JSON object with the columns, a list of their texts, or a text that
            was joined.
        names: of the columns.

    Returns:
        The text, joined.

    Raises:
        InputError: if it is none of them, with a message that continues after its index.
    """
    wanted = ", ".join(names)
    if isinstance(value, str):
        if value.count(BETWEEN) == len(names) - 1:
            return value
        value = json_object(value)
        if value is None:
            raise InputError(f'is one text; the columns {wanted} are wanted: {{"{names[0]}": …}}')
    if isinstance(value, Mapping):
        missing = [name for name in names if name not in value]
        if missing:
            raise InputError(f"has no column '{missing[0]}' (wanted: {wanted})")
        value = [value[name] for name in names]
    if not isinstance(value, list | tuple) or len(value) != len(names):
        raise InputError(f"is {short(value)}; the columns {wanted} are wanted")
    texts = ["" if is_missing(part) else part for part in value]
    for name, part in zip(names, texts, strict=True):
        if not isinstance(part, str):
            raise InputError(f"has {short(part)} as '{name}', which is no text")
    return joined(texts)
