"""``section.key=value`` on the command line; each value is read by the kind of its key.

A text is taken as typed, a path is a path; only numbers, booleans and lists are YAML.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wafergpt.config.keys import Key
from wafergpt.config.paths import typed_path
from wafergpt.config.yaml_values import parsed, unquoted
from wafergpt.errors import InputError

UNSET = ("", "null", "none")
"""Values that unset an optional key."""


def apply_override(values: dict[str, Any], override: str, keys: Mapping[str, Key]) -> None:
    """Put ``section.key=value`` into ``values``.

    Args:
        values: sections of plain values.
        override: as it was typed.
        keys: the kind of each key.

    Raises:
        InputError: if it cannot be read.
    """
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise InputError(f"'{override}' is not an override; write section.key=value")
    # From a script with Windows line ends.
    text = text.rstrip("\r")
    if key != key.strip():
        # "key = value", in quotes.
        key, text = key.strip(), text.strip()
    if key == "extends":
        raise InputError(f"'{override}': a base recipe is given alone, as '{text}'")
    value = _value(key, text, keys)
    *sections, last = key.split(".")
    target = values
    for section in sections:
        inner = target.get(section)
        if inner is None:
            inner = target[section] = {}
        if not isinstance(inner, dict):
            raise InputError(f"unknown key '{key}': '{section}' holds a value, not a section")
        target = inner
    target[last] = value


def _value(key: str, text: str, keys: Mapping[str, Key]) -> Any:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InputError(f"{key}={text!a} is not UTF-8, and cannot be written") from None
    wanted = keys.get(key)
    is_section = any(name.startswith(f"{key}.") for name in keys)
    if wanted is None and not is_section:
        # An unknown key is refused later, whatever its value.
        return text
    if wanted is None or wanted.kind == "other":
        wanted = wanted or Key("other")
        value = None if wanted.optional and _unsets(text) else _yaml(key, text, keys)
        if value is None and is_section:
            raise InputError(f"{key}={text}: a section cannot be unset; leave it out")
        return value
    if wanted.several:
        if text.lstrip().startswith("["):
            return _yaml(key, text, keys)
        if not wanted.or_one:
            return [] if _unsets(text) else [_single(key, text, wanted)]
    if wanted.optional and _unsets(text):
        return None
    if wanted.kind == "number":
        return _yaml(key, text, keys)
    if not text:
        raise InputError(f"{key}= has no value: write {key}=VALUE")
    return _single(key, text, wanted)


def _unsets(text: str) -> bool:
    return text.strip().lower() in UNSET


def _yaml(key: str, text: str, keys: Mapping[str, Key]) -> Any:
    try:
        return parsed(text, keys, key)
    except ValueError:
        wanted = keys.get(key)
        hint = '; a list is written ["…", "…"]' if wanted and wanted.several else ""
        raise InputError(f"the value of '{key}' cannot be read: {text}{hint}") from None


def _single(key: str, text: str, wanted: Key) -> str:
    return typed_path(key, text) if wanted.kind == "path" else unquoted(text)
