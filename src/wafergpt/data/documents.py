"""Where documents come from."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from wafergpt.data.file_formats import (
    KINDS,
    FileFormat,
    column,
    require_file,
    require_kind,
    rows,
    suffix,
    whole,
)
from wafergpt.data.opening import Errors, NotTextError, lines
from wafergpt.errors import InputError
from wafergpt.files import from_home, many
from wafergpt.logs import say

DOCUMENT_CHARACTERS = 16 << 10
"""A text file is cut into documents at the first blank line after so many characters."""

LONGEST_DOCUMENT = 1 << 20
"""If no blank line follows, it is cut at the first line end after this many."""

COLLECTED = KINDS.keys() - {".json", ".xlsx", ".xlsm"}
"""Endings that are read from a folder; a .json is as often a configuration as text, and a
spreadsheet a calculation."""


DUMPS = {"<mediawiki": "a MediaWiki dump in XML", "WARC/1.": "a WARC file"}
"""Beginnings of files that hold texts among much else."""


@dataclass(frozen=True)
class Document:
    """One text, and its place for error messages."""

    text: str
    origin: str


def find_files(sources: Sequence[str | Path], file_format: FileFormat | None = None) -> list[Path]:
    """Return the files that files, folders (searched through) and globs name, each once.

    A folder gives the files with a known ending, or all that are not hidden if a format is given.

    Raises:
        InputError: if nothing readable is found at a source.
    """
    # By where it is: two names of one file would read it twice.
    found: dict[Path, Path] = {}
    for source in sources:
        path = from_home(source)
        if path.is_dir():
            matches = _collected(path, file_format)
        elif path.exists():
            matches = [path]
        else:
            matches = _matching(str(path))
        if not matches:
            raise InputError(
                f"nothing to read at '{source}': no such file, or no "
                f"{', '.join(sorted(COLLECTED))} in it (--format sets the type of other files)"
            )
        for match in matches:
            found.setdefault(match.resolve(), match)
    for path in found.values():
        require_file(path)
    return list(found.values())


def _collected(folder: Path, file_format: FileFormat | None) -> list[Path]:
    """Return the readable files in a folder; log how many are skipped."""
    files = sorted(path for path in _below(folder) if path.is_file())
    seen = [p for p in files if not any(map(_hides, p.relative_to(folder).parts))]
    if file_format:
        return seen
    found = [p for p in files if suffix(p) in COLLECTED]
    others = Counter(suffix(p) or "without ending" for p in seen if suffix(p) not in COLLECTED)
    if found and others:
        kinds = [f"{count:,} {ending}" for ending, count in others.most_common(5)]
        kinds += ["…"] if len(others) > len(kinds) else []
        say(
            f"{folder}: {len(found):,} file{'s' * (len(found) != 1)} read, "
            f"{others.total():,} skipped "
            f"({', '.join(kinds)}); --format reads all files"
        )
    return found


def _below(folder: Path) -> list[Path]:
    """Return all files in a folder and its folders.

    Raises:
        InputError: if one that is not hidden may not be read.
    """
    closed: list[OSError] = []
    found: list[Path] = []
    linked: list[Path] = []
    for top, folders, names in os.walk(folder, onerror=closed.append):
        found += [Path(top, name) for name in names]
        linked += [one for name in folders if (one := Path(top, name)).is_symlink()]
    if linked:
        say(
            f"warning: {folder}: {many(len(linked), 'linked folder')} not followed, such as "
            f"{linked[0]}: name them as sources too"
        )
    for error in closed:
        place = Path(error.filename)
        if not any(map(_hides, place.relative_to(folder).parts)):
            raise InputError(f"{place} cannot be read: {error.strerror}")
    return found


def _matching(pattern: str) -> list[Path]:
    """Return the files that match a glob, without hidden ones as in a shell.

    Its ``**`` does not follow links to folders, because a cycle of links would never end.
    """
    path = Path(f"{pattern}/*" if pattern.endswith("**") else pattern)
    try:
        found = list(Path(path.anchor).glob(str(path.relative_to(path.anchor))))
    except (ValueError, OSError) as error:
        raise InputError(f"'{pattern}' cannot be searched for: {error}") from None
    if "**" in path.parts and (top := Path(*path.parts[: path.parts.index("**")])).is_dir():
        # glob leaves out what may not be read.
        _below(top)
    # A pattern part that starts with a dot matches hidden files.
    asks = any(part[0] == "." and part != ".." for part in path.parts)
    hidden = [p for p in found if not asks and any(_hides(part) for part in p.parts)]
    return sorted(p for p in set(found).difference(hidden) if p.is_file())


def _hides(part: str) -> bool:
    return part.startswith(".") and part != ".."


def documents(
    files: Sequence[Path],
    text: str = "text",
    errors: Errors = "strict",
    file_format: FileFormat | None = None,
    option: str = "--text COLUMN",
    may_be_empty: bool = False,
) -> Iterator[Document]:
    """Yield the documents of files one by one, in bounded memory.

    A file with columns has one in each row's ``text`` column. A txt file is cut at blank
    lines into documents of about 16 thousand characters; together they are the whole file.
    Documents of white space alone are skipped.

    Args:
        files: the files, as ``find_files`` returns them.
        text: the column of texts.
        errors: ``replace`` reads invalid bytes as U+FFFD instead of refusing them.
        file_format: overrides the kind that the files' names stand for.
        option: what names another column, for errors.
        may_be_empty: whether a file may have none.

    Raises:
        InputError: on a file that is empty, or whose content cannot be read.
    """
    for path in files:
        empty = True
        try:
            for document in _of_file(path, text, errors, file_format, option):
                if document.text.strip():
                    empty = False
                    yield document
        except NotTextError as error:
            raise InputError(f"{error}; or add --errors replace") from None
        if empty and not may_be_empty:
            raise InputError(f"{path} contains no text")


def _of_file(
    path: Path, text: str, errors: Errors, file_format: FileFormat | None, option: str
) -> Iterator[Document]:
    if require_kind(path, file_format, (text,)) == "txt":
        yield from _text_documents(path, errors)
        return
    for number, row in rows(path, errors, file_format=file_format, names=(text,)):
        value = column(row, text, path, number, option)
        if value is None:
            continue
        if not isinstance(value, str):
            raise InputError(f"{path}, line {number}: column '{text}' is not text")
        # A lone surrogate, which JSON can escape, cannot be encoded.
        if errors == "replace":
            value = value.encode("utf-8", "replace").decode()
        yield Document(whole(value, path, number), f"{path}, line {number}")


def _text_documents(path: Path, errors: Errors) -> Iterator[Document]:
    held: list[str] = []
    size, first = 0, 1
    for number, line in lines(path, errors):
        if number == 1:
            _require_no_dump(path, line)
        held.append(line)
        size += len(line)
        blank = not line.strip()
        if (blank and size >= DOCUMENT_CHARACTERS) or size >= LONGEST_DOCUMENT:
            yield Document("".join(held), f"{path}, line {first}")
            held, size, first = [], 0, number + 1
    if held:
        yield Document("".join(held), f"{path}, line {first}")


def _require_no_dump(path: Path, first: str) -> None:
    """Refuse a file, by its first line, that holds texts among much else."""
    for start, what in DUMPS.items():
        if first.lstrip("\ufeff").startswith(start):
            raise InputError(f"{path} is {what}: extract its texts first, as .txt or .jsonl")
