"""The kind of value of each key of a recipe, derived from its types."""

from __future__ import annotations

import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

Kind = Literal["text", "path", "number", "other"]


@dataclass(frozen=True)
class Key:
    """The kind of a key's value.

    Attributes:
        kind: ``number`` is never a text; ``other`` is read by the rules of YAML.
        optional: whether it can be unset.
        several: whether it is a list of that kind.
        or_one: whether one alone is no list.
        whole: whether its numbers are whole.
    """

    kind: Kind
    optional: bool = False
    several: bool = False
    or_one: bool = False
    whole: bool = False


def keys_of(section: type[BaseModel], above: str = "") -> dict[str, Key]:
    """Return every key of a section by its full name, such as ``train.steps``."""
    keys: dict[str, Key] = {}
    for name, field in section.model_fields.items():
        parts = list(_parts(field.annotation))
        inner = [part for part in parts if isinstance(part, type) and issubclass(part, BaseModel)]
        if inner:
            keys |= keys_of(inner[0], f"{above}{name}.")
        else:
            keys[above + name] = _key(parts)
    return keys


def _key(parts: list[Any]) -> Key:
    lists = [part for part in parts if get_origin(part) is tuple]
    if lists:
        inner = _key(list(_parts(get_args(lists[0])[0])))
        return Key(inner.kind, type(None) in parts, several=True, or_one=str in parts)
    kind: Kind = "other"
    if Path in parts:
        kind = "path"
    elif str in parts:
        # A count or a text, such as a warm-up: YAML decides which.
        kind = "other" if int in parts else "text"
    elif int in parts or float in parts:
        kind = "number"
    return Key(kind, type(None) in parts, whole=kind == "number" and float not in parts)


def _parts(annotation: Any) -> Iterator[Any]:
    """Yield the members of a union, nested ones included, without annotations."""
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from _parts(get_args(annotation)[0])
    elif origin in (Union, types.UnionType):
        for part in get_args(annotation):
            yield from _parts(part)
    else:
        yield annotation
