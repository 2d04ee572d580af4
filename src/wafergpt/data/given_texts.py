"""Texts as programs give them: strings, and what stands for none."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from wafergpt.data.cells import described, is_missing
from wafergpt.errors import InputError


def text_or_none(value: object) -> str | None:
    """Return a text, or None where there is none: blank, None, NaN.

    Raises:
        InputError: if it is something else, with a message that continues after its place.
    """
    if is_missing(value):
        return None
    if not isinstance(value, str):
        raise InputError(f"is {described(value)}; texts are wanted")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InputError("holds a lone surrogate, which is no character") from None
    return str(value) if value.strip() else None


def given_texts(values: Iterable[object], what: str) -> list[str]:
    """Return several texts, "" where there is none; ``what`` they are stands in errors.

    Raises:
        InputError: if they are a single text, or one of them is something else.
    """
    if isinstance(values, str):
        raise InputError(f"a list of {what} is wanted: put a single one in brackets")
    # These iterate over keys, bytes or names of columns.
    if isinstance(values, Mapping | bytes) or hasattr(values, "columns"):
        raise InputError(f"a list or a column of {what} is wanted, not {type(values).__name__}")
    found = []
    for place, value in enumerate(values):
        try:
            found.append(text_or_none(value) or "")
        except InputError as error:
            raise InputError(f"{place} of the {what} {error}") from None
    return found
