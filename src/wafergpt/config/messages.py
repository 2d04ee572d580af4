"""One-line messages for errors in a recipe."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import ValidationError

from wafergpt.config.registry import TASKS, imported
from wafergpt.errors import nearest
from wafergpt.files import SHOWN, short


def one_line(error: ValidationError, keys: Mapping[str, list[str]], above: str = "") -> str:
    """Return the first error of a recipe in one line.

    Args:
        error: of the recipe's types.
        keys: by section; "" is the recipe's own.
        above: prefix of the places in the error, such as ``task.``.
    """
    first = error.errors()[0]
    place = (above + ".".join(map(_shown, first["loc"]))).rstrip(".")
    if first["type"] == "extra_forbidden":
        section, dot, key = _shown(first["loc"][-1]).rpartition(".")
        if dot and key in keys.get(section, ()):
            return f"the key '{place}' is of a section: write '{section}:', and '{key}:' under it"
        if tasks := _tasks_with(place):
            return f"'{place}' is a key of other tasks: task.name={' or '.join(tasks)}"
        return f"unknown key '{place}'{_nearest_key(place, keys)}"
    message = first["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    if first["type"] == "value_error":
        return f"{place}: {message}" if place else message
    if place == "name" and first["type"] == "string_pattern_mismatch":
        message = "write ASCII letters, digits, '.', '_' and '-', a letter or digit first"
    elif first["type"] == "tuple_type":
        message = 'write a list, as ["…", "…"]'
    return f"{place}={short(first['input'])} is impossible: {message}"


def _shown(part: int | str) -> str:
    """Return a part of a place; of a key with line breaks, in one line."""
    text = str(part)[:SHOWN]
    return text if text.isprintable() else repr(text)[1:-1]


def _tasks_with(place: str) -> list[str]:
    """Return the tasks that have a key of the section ``task``."""
    section, _, key = place.rpartition(".")
    if section != "task":
        return []
    return [name for name, where in TASKS.items() if key in imported(where).Settings.model_fields]


def _nearest_key(place: str, keys: Mapping[str, list[str]]) -> str:
    section_name, _, key = place.rpartition(".")
    full_names = [f"{s}.{k}" if s else k for s, ks in keys.items() for k in ks]
    here = [f"{section_name}.{k}" if section_name else k for k in keys.get(section_name, [])]
    by_last = [f for f in full_names if f.rpartition(".")[2] == key]
    if by_last:
        return f"; did you mean '{by_last[0]}'?"
    return nearest(place, here) or nearest(place, full_names)
