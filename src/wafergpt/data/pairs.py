"""Pairs of a text and what is to be written for it, such as its translation."""

from __future__ import annotations

from itertools import zip_longest
from pathlib import Path

from wafergpt.data.cells import cell_text
from wafergpt.data.file_formats import column, counted, require_kind, rows
from wafergpt.data.labelled_rows import Table, held
from wafergpt.data.opening import lines
from wafergpt.errors import InputError
from wafergpt.logs import say


def read_pairs(path: str | Path, source: str, target: str) -> Table:
    """Read pairs from two columns of a table, or from two files with a line for each.

    Pairs without a source or without a target are skipped, and counted in the table's notes.

    Args:
        path: a jsonl, csv or tsv file, plain or compressed; or a text file of sources whose name
            contains ``.source``: targets are then in the file with ``.target`` in its place.
        source: the column of sources, or that part of the name.
        target: the column of targets, or that part of the name.

    Returns:
        Sources as ``texts``, targets as ``labels``.

    Raises:
        InputError: if there is no such file or column, files of two lengths, or no pair.
    """
    if source == target:
        raise InputError(f"task.source and task.target are both {source}: a text is no translation")
    path = Path(path)
    pairs: list[tuple[int, str, str]] = []
    if require_kind(path, None, (source, target)) == "txt":
        other = _beside(path, source, target)
        pairs = _aligned(path, other)
    else:
        other = path
        names = (source, target)
        for number, row in held(path, rows(path, names=names), names):
            texts = (
                cell_text(column(row, name, path, number, f"task.{key}=COLUMN"), name, path, number)
                for key, name in (("source", source), ("target", target))
            )
            pairs.append((number, *texts))  # type: ignore[arg-type]
    whole = [pair for pair in pairs if pair[1].strip() and pair[2].strip()]
    if not whole:
        raise InputError(f"{path} has no pairs of a {source} and a {target}")
    say(counted(path, len(pairs), names=(source, target)))
    notes: tuple[str, ...] = ()
    if left_out := len(pairs) - len(whole):
        first = next(n for n, *texts in pairs if not all(text.strip() for text in texts))
        notes = (
            f"{path}: {left_out:,} of {len(pairs):,} pairs lack a text and are skipped (first: "
            f"line {first})",
        )
    numbers, sources, targets = (list(part) for part in zip(*whole, strict=True))
    return Table(sources, targets, path, numbers, notes=notes)


def _beside(path: Path, source: str, target: str) -> Path:
    """Return the file of the targets of a file of sources."""
    parts = path.name.split(".")
    if source not in parts[1:]:
        raise InputError(
            f"{path} has no columns, and no '.{source}' in its name: for two files with a line for "
            "each pair, such as train.en and train.de, add task.source=en task.target=de"
        )
    place = len(parts) - 1 - parts[::-1].index(source)
    other = path.with_name(".".join([*parts[:place], target, *parts[place + 1 :]]))
    if not other.exists():
        raise InputError(f"the targets of {path} are expected in {other}, which does not exist")
    return other


def _aligned(path: Path, other: Path) -> list[tuple[int, str, str]]:
    """Return the lines of two files side by side."""
    found = []
    for one, two in zip_longest(held(path, lines(path)), held(other, lines(other))):
        if one is None or two is None:
            counts = [sum(1 for _ in lines(file)) for file in (path, other)]
            raise InputError(
                f"{path} has {counts[0]:,} lines, {other} {counts[1]:,}: a pair is a line of each"
            )
        found.append((one[0], one[1].strip(), two[1].strip()))
    return found
