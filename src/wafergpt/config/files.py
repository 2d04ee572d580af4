"""Recipes as files: those shipped and the user's own, one built on another.

This module reads plain values; ``wafergpt.config.recipe`` gives them types.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from wafergpt import files
from wafergpt.config.keys import Key
from wafergpt.config.yaml_values import RepeatedKeyError, parsed
from wafergpt.errors import InputError, nearest
from wafergpt.files import SHOWN, short

MAX_EXTENSIONS = 8
"""Recipes in one chain of ``extends``; more is taken for a cycle."""

HORIZONS = ("steps", "tokens", "epochs", "seconds")
"""The keys of the section train that set the horizon; a recipe has one of them."""

FIRST_BATCH = ("first_steps", "first_batch_size")

ROW_FILES = frozenset({".csv", ".tsv", ".jsonl", ".xlsx", ".parquet"})
"""Endings of files of labelled rows."""

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
    """Read a recipe, merged over the one that its key ``extends`` names.

    Args:
        name: a YAML file, or a name from ``shipped_recipes``.
        keys: the kind of each key of a recipe.
        depth: number of ``extends`` followed so far.

    Raises:
        InputError: if there is no such recipe, or it is not YAML with sections.
    """
    if depth > MAX_EXTENSIONS:
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
    """Merge one recipe's values over another's, section by section.

    A horizon replaces any other horizon; a batch size replaces all batch sizes.
    """
    result = dict(under)
    for section, change in over.items():
        below = result.get(section)
        if isinstance(below, dict) and change is None:
            continue
        if isinstance(change, dict) and not isinstance(below, dict | None):
            # What is no section stays, and is refused as such.
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
        raise InputError(f"{path} is too large for a recipe (limit 1 MiB){_raw(path)}")
    try:
        values = parsed(path.read_text(encoding="utf-8"), keys)
    except RepeatedKeyError as error:
        raise InputError(f"{path}: {error}") from None
    except ValueError as error:
        reason = _raw(path) or f": {error}"
        raise InputError(f"{path} is not YAML{reason}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        text = _raw(path) or ": it must hold sections such as 'model:'"
        raise InputError(f"{path} is not a recipe{text}")
    return values


def _raw(path: Path) -> str:
    """Return what to do with a file that is no recipe; "" if its name is one's."""
    if path.suffix in {".yaml", ".yml"}:
        return ""
    return "; if it is text to learn from: wafergpt prepare"


def _require_no_data(path: Path) -> None:
    """Refuse a corpus, a run or labelled rows in place of a recipe."""
    if files.is_corpus(path):
        raise InputError(f"{path} is a corpus, not a recipe: write data.corpus={path}")
    if files.is_file(path / "recipe.yaml"):
        raise InputError(
            f"{path} is a run, not a recipe: its recipe is {path / 'recipe.yaml'}, and --resume "
            f"{path} resumes it"
        )
    if ROW_FILES & set(path.suffixes) and files.is_file(path):
        raise InputError(f"{path} is not a recipe; labelled rows are given as task.train={path}")


OF_CLASSES = ("loss", "labels", "label_smoothing", "class_weights")
"""Keys of the task ``classify`` that ``regress`` does not have."""


def current(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recipe's values in the current format.

    Older versions had regression as a loss of ``classify``, and ``model.kind`` with one value.
    """
    values = dict(values)
    task, model = values.get("task"), values.get("model")
    if isinstance(task, Mapping) and task.get("loss") == "squared_error":
        kept = {key: value for key, value in task.items() if key not in OF_CLASSES}
        values["task"] = {**kept, "name": "regress"}
    if isinstance(model, Mapping) and model.get("kind") == "gpt":
        values["model"] = {key: value for key, value in model.items() if key != "kind"}
    return values


def flat(values: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Turn sections into ``section.key``."""
    result: dict[str, Any] = {}
    for key, value in values.items():
        inner = isinstance(value, Mapping)
        result |= flat(value, f"{above}{key}.") if inner else {f"{above}{key}": value}
    return result
