"""Which kind of value each key of a recipe wants, told from its types."""

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
    """What a key wants.

    Attributes:
        kind: ``number`` is one that no text could mean; ``other`` is what YAML makes of it.
        optional: whether it can be unset.
        several: whether it wants a list of that kind.
    """

    kind: Kind
    optional: bool = False
    several: bool = False


def keys_of(section: type[BaseModel], above: str = "") -> dict[str, Key]:
    """Return every key below a section by its whole name, such as ``train.steps``."""
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
        return Key(inner.kind, type(None) in parts, several=True)
    kind: Kind = "other"
    if Path in parts:
        kind = "path"
    elif str in parts:
        # A count or a text, such as a warm-up: YAML tells one from the other.
        kind = "other" if int in parts else "text"
    elif int in parts or float in parts:
        kind = "number"
    return Key(kind, type(None) in parts)


def _parts(annotation: Any) -> Iterator[Any]:
    """Yield the members of a union, and of a union in it, without what is annotated."""
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from _parts(get_args(annotation)[0])
    elif origin in (Union, types.UnionType):
        for part in get_args(annotation):
            yield from _parts(part)
    else:
        yield annotation
