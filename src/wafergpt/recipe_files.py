"""Recipes as files: those shipped and the user's own, one built on another.

What is read here is plain values; ``wafergpt.config`` says what they mean.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from wafergpt import files
from wafergpt.errors import InputError, nearest
from wafergpt.files import SHOWN, short
from wafergpt.recipe_keys import Key
from wafergpt.recipe_yaml import RepeatedKeyError, parsed

MOST_EXTENSIONS = 8
"""A recipe that extends one that extends one …: more is taken for a circle."""

HORIZONS = ("steps", "tokens", "epochs", "seconds")
"""The keys of the section train that say how long; a recipe has one of them."""

FIRST_BATCH = ("first_steps", "first_batch_size")

ROWS = {".csv", ".tsv", ".jsonl"}

RECIPE_BYTES = 1 << 20
"""A recipe larger than this is refused unread."""


def shipped_recipes() -> list[str]:
    """Return the names of the recipes that come with the package."""
    root = resources.files("wafergpt") / "recipes"
    with resources.as_file(root) as folder:
        return sorted(
            p.relative_to(folder).with_suffix("").as_posix() for p in folder.rglob("*.yaml")
        )


def read_values(name: str, keys: Mapping[str, Key], depth: int = 0) -> dict[str, Any]:
    """Read a recipe, and under it the one that its key ``extends`` names.

    Args:
        name: a YAML file, or a name from ``shipped_recipes``.
        keys: what each key of a recipe wants.
        depth: how many recipes have extended one another so far.

    Raises:
        InputError: if there is no such recipe, or it is not YAML with sections.
    """
    if depth > MOST_EXTENSIONS:
        raise InputError(f"{name}: recipes extend each other without an end")
    values = _read(name, keys)
    base = values.pop("extends", None)
    if base is None:
        return values
    if not isinstance(base, str) or not base:
        raise InputError(f"{name}: extends={short(base)} is no recipe: write a name or a path")
    path = files.from_home(base)
    if path.suffix in {".yaml", ".yml"} and not path.is_absolute():
        path = Path(name).parent / path
    return merged(read_values(str(path), keys, depth + 1), values)


def merged(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Lay one recipe's values over another's, section by section.

    What says how long to train replaces whatever said so before; a batch size, all of them.
    """
    result = dict(under)
    for section, change in over.items():
        below = result.get(section)
        if isinstance(below, dict) and change is None:
            continue
        if isinstance(below, dict) and isinstance(change, dict):
            if section == "train":
                gone: tuple[str, ...] = HORIZONS if any(change.get(key) for key in HORIZONS) else ()
                gone += FIRST_BATCH if "batch_size" in change else ()
                below = {key: value for key, value in below.items() if key not in gone}
            inner = {k: v for k, v in change.items() if isinstance(v, dict)}
            kept = {k: below[k] for k in inner if isinstance(below.get(k), dict)}
            change = {**below, **change, **{k: {**kept[k], **inner[k]} for k in kept}}
        result[section] = change
    return result


def _read(name: str, keys: Mapping[str, Key]) -> dict[str, Any]:
    path = files.from_home(name)
    _require_no_data(path)
    if path.suffix in {".yaml", ".yml"} or files.is_file(path):
        if not files.is_file(path):
            raise InputError(f"no such recipe file: {path}")
    else:
        shipped = shipped_recipes()
        if name not in shipped:
            ends = [known for known in shipped if known.endswith(f"/{name}")]
            hint = f"; did you mean '{ends[0]}'?" if ends else nearest(name[:SHOWN], shipped)
            hint = hint or "; give a path to a .yaml file"
            raise InputError(
                f"no recipe named '{name[:SHOWN]}'{hint} (shipped are {', '.join(shipped)})"
            )
        path = Path(str(resources.files("wafergpt") / "recipes" / f"{name}.yaml"))
    if path.stat().st_size > RECIPE_BYTES:
        raise InputError(f"{path} is too large for a recipe (limit 1 MiB)")
    try:
        values = parsed(path.read_text(encoding="utf-8"), keys)
    except RepeatedKeyError as error:
        raise InputError(f"{path}: {error}") from None
    except ValueError as error:
        raise InputError(f"{path} is not YAML: {error}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise InputError(f"{path} is not a recipe: it must hold sections such as 'model:'")
    return values


def _require_no_data(path: Path) -> None:
    """Say of a corpus, a run or labelled rows what they are, where a recipe is wanted."""
    if files.is_file(path / "corpus.json"):
        raise InputError(f"{path} is a corpus, not a recipe: write data.corpus={path}")
    if files.is_file(path / "recipe.yaml"):
        raise InputError(
            f"{path} is a run, not a recipe: its recipe is {path / 'recipe.yaml'}, and --resume "
            f"{path} goes on with it"
        )
    if ROWS & set(path.suffixes) and files.is_file(path):
        raise InputError(f"{path} is not a recipe; labelled rows are given as task.train={path}")


def flat(values: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Turn sections into ``section.key``."""
    result: dict[str, Any] = {}
    for key, value in values.items():
        inner = isinstance(value, Mapping)
        result |= flat(value, f"{above}{key}.") if inner else {f"{above}{key}": value}
    return result


def one_line(error: ValidationError, keys: Mapping[str, list[str]]) -> str:
    """Say in one line what is wrong first with a recipe's values.

    Args:
        error: of the recipe's types.
        keys: of each section, by its name; "" is the recipe's own.
    """
    first = error.errors()[0]
    place = ".".join(str(part)[:SHOWN] for part in first["loc"])
    if first["type"] == "extra_forbidden":
        section, dot, key = str(first["loc"][-1])[:SHOWN].rpartition(".")
        if dot and key in keys.get(section, ()):
            return f"the key '{place}' is of a section: write '{section}:', and '{key}:' under it"
        return f"unknown key '{place}'{_nearest_key(place, keys)}"
    message = first["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    if first["type"] == "value_error":
        return f"{place}: {message}" if place else message
    if place == "name" and first["type"] == "string_pattern_mismatch":
        message = "write letters, digits, '.', '_' and '-', a letter or digit first"
    elif first["type"] == "tuple_type":
        message = 'write a list, as ["…", "…"]'
    return f"{place}={short(first['input'])} is impossible: {message}"


def _nearest_key(place: str, keys: Mapping[str, list[str]]) -> str:
    section_name, _, key = place.rpartition(".")
    full_names = [f"{s}.{k}" if s else k for s, ks in keys.items() for k in ks]
    here = [f"{section_name}.{k}" if section_name else k for k in keys.get(section_name, [])]
    by_last = [f for f in full_names if f.rpartition(".")[2] == key]
    if by_last:
        return f"; did you mean '{by_last[0]}'?"
    return nearest(place, here) or nearest(place, full_names)
