"""Labelled rows by the name of a data set on Hugging Face's hub: ``task.train=hf:NAME``.

The splits are written once as a folder of .jsonl files in the user's cache, and read from there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from wafergpt import atomic_files
from wafergpt.config import Recipe
from wafergpt.data.row_sources import SPLITS
from wafergpt.devices.probe import cache_folder
from wafergpt.errors import InputError
from wafergpt.logs import say
from wafergpt.progress import progress, working

HUB = "hf:"


def with_hub_rows(recipe: Recipe) -> Recipe:
    """Return a recipe whose ``task.train`` is a folder, where it was a name on the hub.

    Args:
        recipe: whose ``task.train`` may be ``hf:NAME`` or ``hf:NAME:CONFIGURATION``.

    Returns:
        It, or a copy with the folder.

    Raises:
        InputError: if ``datasets`` is not installed, or the data set cannot be fetched.
    """
    train = None if recipe.task is None else recipe.task.train
    if train is None or not str(train).startswith(HUB):
        return recipe
    name, _, configuration = str(train).removeprefix(HUB).partition(":")
    return recipe.replace(task={"train": fetched(name, configuration or None)})


def fetched(name: str, configuration: str | None = None) -> Path:
    """Fetch a data set's labelled splits, once.

    Args:
        name: as ``load_dataset`` takes it.
        configuration: of the data set, if it has several.

    Returns:
        A folder with a .jsonl of each split.

    Raises:
        InputError: if ``datasets`` is not installed, or the data set cannot be fetched.
    """
    plain = re.sub(r"[^\w.-]+", "--", ":".join(filter(None, (name, configuration))))
    folder = cache_folder() / "datasets" / plain
    if folder.is_dir():
        return folder
    try:
        from datasets import load_dataset
    except ImportError:
        raise InputError(
            f"{HUB}{name} is fetched by datasets: pip install 'wafergpt[hub]'"
        ) from None
    try:
        with working(f"fetching {name}"):
            splits = load_dataset(name, configuration)
    except Exception as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise InputError(f"{HUB}{name} cannot be fetched: {reason}") from None
    with atomic_files.appearing(folder, replaces=True) as temporary:
        written = [split for split in SPLITS if split in splits]
        for split in written:
            _write(splits[split], temporary / f"{split}.jsonl", split)
        if "train" not in written:
            raise InputError(f"{HUB}{name} has no split 'train', but {', '.join(splits)}")
    say(f"{folder} has what was fetched; remove it to fetch {name} again")
    return folder


def _write(rows: Any, path: Path, split: str) -> None:
    """Write the rows of a split, with the names of their classes; none if they have none."""
    named = {key: find for key, kind in rows.features.items() if (find := _names(kind))}
    unlabelled = 0
    with (
        path.open("w", encoding="utf-8") as file,
        progress(f"writing {split}", len(rows), "rows") as bar,
    ):
        for row in rows:
            values: Mapping[str, Any] = {
                key: named[key](value) if key in named else value for key, value in row.items()
            }
            unlabelled += any(values[key] is None for key in named)
            file.write(json.dumps(values, ensure_ascii=False, default=str) + "\n")
            bar.advance()
    if unlabelled and unlabelled == len(rows):
        say(f"the split '{split}' has no labels, and is left out")
        path.unlink()


def _names(feature: Any) -> Callable[[Any], Any] | None:
    """Return what turns numbers of classes into names, of one or of a list; None for others."""
    inner = getattr(feature, "feature", None)
    if inner is not None and (of_one := _names(inner)):
        return lambda values: None if values is None else [of_one(value) for value in values]
    names = getattr(feature, "names", None)
    if not isinstance(names, list):
        return None
    # The hub has -1 for a label that is not known.
    return lambda value: names[value] if isinstance(value, int) and value >= 0 else None
