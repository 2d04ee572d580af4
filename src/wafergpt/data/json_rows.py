"""Rows as JSON: an object per line, objects over several lines, or one list of objects."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wafergpt.data.opening import LINE_CHARACTERS as LONGEST
from wafergpt.data.opening import Errors, lines, open_text, without_nul
from wafergpt.errors import InputError

CHUNK = 1 << 20
MARGIN = 16
"""An error this close to the end may come from the cut itself: ``tru``, ``\\u12``."""

TWICE = object()
"""The value of a name that occurs twice in its row."""

_GAP = re.compile(r"[\s,]*")


def json_rows(path: Path, errors: Errors) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the line number and the object of each row, in bounded memory.

    Raises:
        InputError: on what is not JSON, or not an object.
    """
    if _begins_with_row(path, errors):
        yield from _a_line_each(path, errors)
    else:
        yield from _one_after_another(path, errors)


def json_object(line: str) -> dict[str, Any] | None:
    """Return the JSON object on a line, with or without a trailing comma, or None."""
    try:
        row = _DECODER.decode(line.strip().removesuffix(","))
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def begins_list(line: str) -> bool:
    """Return whether a text starts with a JSON list of objects."""
    return re.match(r"\s*\[\s*(\{|$)", line) is not None


def _begins_with_row(path: Path, errors: Errors) -> bool:
    with open_text(path, errors) as file:
        while (character := file.read(1)).isspace():
            pass
    if character != "{":
        # A list may be one line of any length.
        return False
    for _, line in lines(path, errors):
        if line.strip():
            return json_object(line) is not None
    return False


def _a_line_each(path: Path, errors: Errors) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in lines(path, errors):
        if not line.strip():
            continue
        try:
            row = _DECODER.decode(line)
        except (ValueError, RecursionError) as error:
            row = json_object(line)
            if row is None:
                raise _not_json(path, number, error) from None
        yield number, _object(row, path, number)


def _one_after_another(path: Path, errors: Errors) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the objects of a list, or of a sequence, however they are split into lines."""
    text, place, number = "", 0, 1
    listed: bool | None = None
    ended = False
    # A line end between the tokens of JSON is white space.
    with open_text(path, errors, newline=None) as file:

        def read(characters: int) -> str:
            line = number + text.count("\n", place)
            return without_nul(file.read(characters), path, line, errors)

        while True:
            gap = _GAP.match(text, place)
            assert gap is not None
            number += text.count("\n", place, gap.end())
            place = gap.end()
            if place == len(text):
                text, place = read(CHUNK), 0
                if text:
                    continue
                if listed and not ended:
                    raise InputError(f"{path}, line {number}: not JSON: the list is not closed")
                return
            if ended:
                raise InputError(f"{path}, line {number}: not JSON: more after the list")
            if (listed is None and text[place] == "[") or (listed and text[place] == "]"):
                listed, ended = True, text[place] == "]"
                place += 1
                continue
            listed = bool(listed)
            try:
                row, end = _DECODER.raw_decode(text, place)
            except (ValueError, RecursionError) as error:
                size = len(text) - place
                more = read(max(CHUNK, size)) if _cut(error, text) and size < LONGEST else ""
                if not more:
                    line = number + text.count("\n", place, getattr(error, "pos", place))
                    raise _not_json(path, line, error) from None
                text, place = text[place:] + more, 0
                continue
            yield number, _object(row, path, number)
            number += text.count("\n", place, end)
            place = end


def _cut(error: Exception, text: str) -> bool:
    """Return whether the only fault may be that the text ends too early."""
    if not isinstance(error, json.JSONDecodeError):
        return False
    return len(text) - error.pos < MARGIN or error.msg.startswith("Unterminated string")


def _object(row: object, path: Path, number: int) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise InputError(f"{path}, line {number}: not a JSON object with named columns")
    return row


def _not_json(path: Path, number: int, error: Exception) -> InputError:
    reason = "too deep" if isinstance(error, RecursionError) else getattr(error, "msg", error)
    return InputError(f"{path}, line {number}: not JSON: {reason}")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        counts = Counter(name for name, _ in pairs)
        row.update((name, TWICE) for name, count in counts.items() if count > 1)
    return row


_DECODER = json.JSONDecoder(object_pairs_hook=_once)
