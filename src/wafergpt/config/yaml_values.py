"""YAML whose values are read by the kinds of their keys.

YAML 1.1 reads ``2024-05-01`` as a date, ``no`` as a boolean and ``010`` as eight. Here the value of
a text or a path is taken as written, and a number is decimal, as in YAML 1.2.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml

from wafergpt.config.keys import Key

MAX_VALUES = 100_000
"""Maximum values, counted at each alias: aliases of aliases expand without bound."""

MAX_DIGITS = 100
"""Maximum digits of a number: long ones take Python long to read or to write."""

MAX_NESTING = 500
"""Maximum marks that may open a level, in a text that libyaml reads."""

UNUSUAL = re.compile(r"[!&*|>?]|(?:^|[\r\n\x85\u2028\u2029])%")
"""Tags, anchors, blocks of text, complex keys and directives, at a line's start."""

_TAG = "tag:yaml.org,2002:"
_WORDS = {_TAG + kind for kind in ("bool", "int", "float", "timestamp", "value", "merge")}
_ZEROS = re.compile(r"^([-+]?)0+(?=[0-9])")
_DECIMAL = re.compile(r"[-+]?[0-9_]+")
_SCIENTIFIC = re.compile(r"[-+]?[0-9][0-9_]*(\.[0-9]*)?[eE][-+]?[0-9]{1,4}")


class RepeatedKeyError(ValueError):
    """A key appears twice in one section.

    Attributes:
        key: its name in the section.
        line: of its second place.
    """

    def __init__(self, message: str, key: str, line: int) -> None:
        super().__init__(message)
        self.key, self.line = key, line


def parsed(text: str, keys: Mapping[str, Key] | None = None, key: str = "") -> Any:
    """Read YAML.

    Args:
        text: a whole recipe, or the value of one key.
        keys: the kinds of the keys; if omitted, all is read by the rules of YAML.
        key: that ``text`` is the value of; "" for a recipe.

    Raises:
        RepeatedKeyError: if a key appears twice; both lines are named.
        ValueError: if it cannot be read, with one line.
    """
    try:
        loader, node = _composed(text)
        if node is None:
            return None
        _require_small(node)
        _prepare(node, keys or {}, key)
        return loader.construct_document(node)
    except RepeatedKeyError:
        raise
    except (yaml.YAMLError, RecursionError, ValueError, LookupError, AttributeError) as error:
        # For a tag that does not fit its value, such as !!int '', PyYAML raises other errors.
        raise ValueError(" ".join(str(error).split())) from None


def dumped(values: Mapping[str, Any]) -> str:
    """Write plain values as YAML, in their order."""
    return yaml.dump(values, Dumper=_DUMPER, sort_keys=False, allow_unicode=True)


_LOADER = getattr(yaml, "CSafeLoader", None)
_DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
"""libyaml's, ten times as fast, where PyYAML was built with it."""


def _composed(text: str) -> tuple[Any, yaml.Node | None]:
    """Return a loader, and what it reads as a tree."""
    # libyaml recurses without a limit, so it reads no text that could be nested deeply; and what
    # recipes do not use, such as tags, it reads otherwise in places.
    indented = max((len(line) - len(line.lstrip()) for line in text.splitlines()), default=0)
    shallow = indented + sum(map(text.count, "[{-")) < MAX_NESTING
    if _LOADER is not None and shallow and not UNUSUAL.search(text):
        try:
            loader = _LOADER(text)
            return loader, loader.get_single_node()
        except (yaml.YAMLError, ValueError):
            # PyYAML's own messages are those that people know.
            pass
    loader = yaml.SafeLoader(text)
    return loader, loader.get_single_node()


def _require_small(root: yaml.Node) -> None:
    waiting, count = [root], 1
    while waiting:
        node = waiting.pop()
        if isinstance(node, yaml.MappingNode):
            inner = [part for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            inner = node.value
        elif node.tag.endswith((":int", ":float")) and len(node.value) > MAX_DIGITS:
            raise ValueError(f"a number of more than {MAX_DIGITS} digits")
        else:
            # A lone surrogate, which YAML can escape, cannot be encoded.
            node.value.encode()
            inner = []
        count += len(inner)
        if count > MAX_VALUES:
            raise ValueError(f"more than {MAX_VALUES:,} values, where aliases are written out")
        waiting += inner


def _prepare(node: yaml.Node, keys: Mapping[str, Key], place: str) -> None:
    """Refuse repeated keys, and tag each value by the kind of its key."""
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
                    f"'{inner[:60]}' appears twice, in lines {lines[name.value]} and {line}: "
                    "remove one",
                    name.value,
                    line,
                )
            lines[name.value] = line
            # Of known keys, unknown ones and aliases of themselves are not searched.
            known = inner in keys or any(k.startswith(f"{inner}.") for k in keys)
            if wanted is None and (known or not keys):
                _prepare(value, keys, inner)
    elif isinstance(node, yaml.SequenceNode):
        if not keys:
            for item in node.value:
                _prepare(item, keys, place)
        elif wanted is not None and wanted.several:
            for item in node.value:
                _tag(item, Key(wanted.kind))
    elif wanted is not None:
        _tag(node, wanted)


def _tag(node: yaml.Node, wanted: Key) -> None:
    # A plain scalar has None, or from libyaml "".
    if not isinstance(node, yaml.ScalarNode) or node.style:
        return
    kind = node.tag.removeprefix(_TAG)
    if wanted.kind in ("text", "path"):
        # A key that cannot be unset is not null.
        if node.tag in _WORDS or (kind == "null" and node.value and not wanted.optional):
            node.tag = _TAG + "str"
    elif kind == "int" and _DECIMAL.fullmatch(node.value):
        node.value = _ZEROS.sub(r"\1", node.value)
    elif wanted.kind == "number" and (kind in ("int", "bool") or ":" in node.value):
        # YAML 1.1's yes, 0x10 and 1:30 are no numbers here.
        node.tag = _TAG + "str"
    elif kind == "str" and wanted.kind == "number" and _SCIENTIFIC.fullmatch(node.value):
        node.tag = _TAG + "float"


_QUOTES = {'"': '"', "'": "'", "“": "”", "‘": "’"}


def unquoted(text: str) -> str:
    """Remove quotes that a shell has left around the whole text."""
    if len(text) < 2 or _QUOTES.get(text[0]) != text[-1]:
        return text
    if text[0] == "“" or text[0] == "‘":
        return text[1:-1]
    try:
        value = parsed(text)
    except ValueError:
        # For example two quoted words.
        return text
    return value if isinstance(value, str) else text
