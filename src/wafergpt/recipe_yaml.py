"""YAML whose values are read as what their keys want.

YAML 1.1 takes ``2024-05-01`` for a date, ``no`` for a boolean and ``010`` for eight. A key that
wants a text or a path takes a value as it is written, and a number is decimal, as in YAML 1.2.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml

from wafergpt.recipe_keys import Key

MOST_VALUES = 100_000
"""More values, each counted wherever an alias repeats it, are no recipe: aliases of aliases expand
without bound."""

MOST_DIGITS = 100
"""A longer number is none of a recipe's, and takes Python long to read or to write."""

_TAG = "tag:yaml.org,2002:"
_WORDS = {_TAG + kind for kind in ("bool", "int", "float", "timestamp", "value", "merge")}
_ZEROS = re.compile(r"^([-+]?)0+(?=[0-9])")
_DECIMAL = re.compile(r"[-+]?[0-9_]+")
_SCIENTIFIC = re.compile(r"[-+]?[0-9][0-9_]*(\.[0-9]*)?[eE][-+]?[0-9]{1,4}")


class RepeatedKeyError(ValueError):
    """A key stands twice in one section."""


def parsed(text: str, keys: Mapping[str, Key] | None = None, key: str = "") -> Any:
    """Read YAML.

    Args:
        text: a whole recipe, or the value of one key.
        keys: what the keys want; left out, all is as YAML reads it.
        key: that ``text`` is the value of; "" if it is a recipe.

    Raises:
        RepeatedKeyError: if a key stands twice; it names both lines.
        ValueError: with one line that says why it cannot be read.
    """
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _require_small(node)
        _prepare(node, keys or {}, key)
        return loader.construct_document(node)
    except RepeatedKeyError:
        raise
    except (yaml.YAMLError, RecursionError, ValueError, LookupError, AttributeError) as error:
        # Of a tag that does not fit its value, !!int '' say, PyYAML lets other errors through.
        raise ValueError(" ".join(str(error).split())) from None


def _require_small(root: yaml.Node) -> None:
    waiting, count = [root], 1
    while waiting:
        node = waiting.pop()
        if isinstance(node, yaml.MappingNode):
            inner = [part for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            inner = node.value
        elif node.tag.endswith((":int", ":float")) and len(node.value) > MOST_DIGITS:
            raise ValueError(f"a number of more than {MOST_DIGITS} digits")
        else:
            # Half a character, which YAML can escape, has no bytes.
            node.value.encode()
            inner = []
        count += len(inner)
        if count > MOST_VALUES:
            raise ValueError(f"more than {MOST_VALUES:,} values, where aliases are written out")
        waiting += inner


def _prepare(node: yaml.Node, keys: Mapping[str, Key], place: str) -> None:
    """Refuse repeated keys, and tag each value as what its key wants."""
    wanted = keys.get(place)
    if isinstance(node, yaml.MappingNode):
        lines: dict[str, int] = {}
        for name, value in node.value:
            if not isinstance(name, yaml.ScalarNode):
                continue
            inner = f"{place}.{name.value}" if place else name.value
            line = name.start_mark.line + 1
            if name.value in lines:
                raise RepeatedKeyError(
                    f"'{inner[:60]}' stands twice, in lines {lines[name.value]} and {line}: "
                    "leave one out"
                )
            lines[name.value] = line
            # Below a key that is none, and below an alias of itself, there is nothing to look for.
            if wanted is None and (inner in keys or any(k.startswith(f"{inner}.") for k in keys)):
                _prepare(value, keys, inner)
    elif isinstance(node, yaml.SequenceNode):
        if wanted is not None and wanted.several:
            for item in node.value:
                _tag(item, Key(wanted.kind))
    elif wanted is not None:
        _tag(node, wanted)


def _tag(node: yaml.Node, wanted: Key) -> None:
    if not isinstance(node, yaml.ScalarNode) or node.style is not None:
        return
    kind = node.tag.removeprefix(_TAG)
    if wanted.kind in ("text", "path"):
        # What cannot be unset is not null.
        if node.tag in _WORDS or (kind == "null" and node.value and not wanted.optional):
            node.tag = _TAG + "str"
    elif kind == "int" and _DECIMAL.fullmatch(node.value):
        node.value = _ZEROS.sub(r"\1", node.value)
    elif kind == "str" and wanted.kind == "number" and _SCIENTIFIC.fullmatch(node.value):
        node.tag = _TAG + "float"
