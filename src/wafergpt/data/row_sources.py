"""Where labelled rows come from: a file, several that match a pattern, or a folder of splits."""

from __future__ import annotations

import glob
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from itertools import chain
from pathlib import Path
from typing import Any

from wafergpt import files
from wafergpt.data.file_formats import KINDS, suffix
from wafergpt.data.labelled_split import R, Rows
from wafergpt.data.tagged_files import CONLL
from wafergpt.errors import InputError

SPLITS: Mapping[str, Sequence[str]] = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev", "devel"),
    "test": ("test",),
}
"""Parts of the names of a folder's files, which say what split they are of."""


def row_files(sources: Mapping[str, Path | None]) -> dict[str, list[Path]]:
    """Return the files of each split that is named, ``train`` first.

    Args:
        sources: a path for each of ``train``, ``validation`` and ``test``: a file, or a pattern; of
            ``train`` also a folder, whose files say in their names which split they are of. A split
            that is named itself is not taken from the folder.

    Raises:
        InputError: if a folder or a pattern has no such file.
    """
    train = sources.get("train")
    found: dict[str, list[Path]] = {}
    if train is not None and train.is_dir():
        found = _splits_in(train)
        kept = {n: found[n] for n in SPLITS if n in found and sources.get(n) in (None, train)}
        found, sources = kept, {**sources, "train": None}
    for name, path in sources.items():
        if path is not None and path.is_dir():
            raise InputError(f"task.{name}={path} is a folder: name a file, or '{path}/*.csv'")
        if path is not None:
            found[name] = _matching(path)
    return {name: found[name] for name in SPLITS if name in found}


def listed(found: Mapping[str, Sequence[Path]]) -> str:
    """Return the names of the files of each split, for people."""
    return "; ".join(f"{name}: {', '.join(one.name for one in found[name])}" for name in found)


def _matching(path: Path) -> list[Path]:
    if not files.is_pattern(path):
        return [path]
    matches = sorted(map(Path, glob.glob(str(path), recursive=True)))  # noqa: PTH207 - may be absolute
    if not (found := [one for one in matches if one.is_file()]):
        raise InputError(f"no file matches {path}")
    return found


def _splits_in(folder: Path) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    # Hugging Face's folders have their files in data/.
    for place in (folder, folder / "data"):
        for path in sorted(place.iterdir()) if place.is_dir() else ():
            parts = set(re.split(r"[.\-_ ]", path.name.lower()))
            splits = [name for name, words in SPLITS.items() if parts.intersection(words)]
            known = suffix(path) in KINDS or suffix(path) in CONLL
            if len(splits) == 1 and known and path.is_file() and not path.name.startswith("."):
                found.setdefault(splits[0], []).append(path)
        if "train" in found:
            return found
    raise InputError(
        f"no file of training rows in {folder}, such as train.csv (beside it may be validation.csv "
        f"and test.csv); 'task.train={folder}/*.csv' reads all of its files"
    )


def together(tables: Sequence[R], source: Path) -> R:
    """Return the rows of several files as those of one.

    Args:
        tables: a dataclass each, whose lists have an item for each row, and whose ``path`` is the
            file; with a field ``paths`` every row keeps its own.
        source: what they were found by.
    """
    if len(tables) == 1:
        return tables[0]
    values: dict[str, Any] = {}
    for name in (field.name for field in fields(tables[0])):  # type: ignore[arg-type]
        parts = [getattr(table, name) for table in tables]
        if name == "path":
            values[name] = source
        elif name == "paths":
            values[name] = [path for t in tables for path in _paths_of(t)]
        elif isinstance(parts[0], list | tuple):
            values[name] = type(parts[0])(chain.from_iterable(parts))
        else:
            values[name] = any(parts)
    merged: R = replace(tables[0], **values)  # type: ignore[type-var]
    return merged


def _paths_of(table: Rows) -> Sequence[Path | None]:
    own: Sequence[Path] = getattr(table, "paths", ())
    return own or [getattr(table, "path", None)] * len(table.texts)
