"""Where documents come from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from wafergpt.data.reading import KINDS, Errors, column, kind, lines, require_kind, rows, whole
from wafergpt.errors import InputError

DOCUMENT_CHARACTERS = 16 << 10
"""A text file is cut into documents at the first blank line after so many characters."""

LONGEST_DOCUMENT = 1 << 20
"""Where no blank line comes, it is cut at the first line end after so many."""


@dataclass(frozen=True)
class Document:
    """One text, and where it stands."""

    text: str
    origin: str


def find_files(sources: Sequence[str | Path]) -> list[Path]:
    """Return the files that files, folders (searched through) and globs name, each once.

    Raises:
        InputError: if a source names nothing readable.
    """
    found: dict[Path, None] = {}
    for source in sources:
        path = Path(source)
        if path.is_dir():
            matches = sorted(p for p in path.rglob("*") if p.is_file() and kind(p))
        elif path.exists():
            matches = [path]
        else:
            matches = _matching(str(source))
        if not matches:
            raise InputError(
                f"nothing to read at '{source}': no such file, or no {', '.join(KINDS)} in it"
            )
        found.update(dict.fromkeys(matches))
    for path in found:
        require_kind(path)
    return list(found)


def _matching(pattern: str) -> list[Path]:
    """Return the files that a glob names, those hidden left out as in a shell.

    Its ``**`` follows no links to folders: two that lead back would be walked for ever.
    """
    path = Path(f"{pattern}/*" if pattern.endswith("**") else pattern)
    try:
        found = list(Path(path.anchor).glob(str(path.relative_to(path.anchor))))
    except (ValueError, OSError) as error:
        raise InputError(f"'{pattern}' cannot be looked for: {error}") from None
    # A pattern that begins a part with a dot asks for what is hidden.
    asks = any(part[0] == "." and part != ".." for part in path.parts)
    hidden = [p for p in found if not asks and any(_hides(part) for part in p.parts)]
    return sorted(p for p in set(found).difference(hidden) if p.is_file())


def _hides(part: str) -> bool:
    return part.startswith(".") and part != ".."


def documents(
    files: Sequence[Path], text: str = "text", errors: Errors = "strict"
) -> Iterator[Document]:
    """Yield the documents of files one by one, in bounded memory.

    A jsonl, csv or tsv file has one in each row's ``text`` column. A txt file is cut at blank
    lines into documents of about 16 thousand characters; together they are the whole file. What
    holds only white space is passed over.

    Raises:
        InputError: on a file that is empty, or whose content cannot be read.
    """
    for path in files:
        empty = True
        pieces = _text_documents(path, errors) if kind(path) == "txt" else _rows(path, text, errors)
        for document in pieces:
            if document.text.strip():
                empty = False
                yield document
        if empty:
            raise InputError(f"{path} holds no text")


def _rows(path: Path, text: str, errors: Errors) -> Iterator[Document]:
    for number, row in rows(path, errors):
        value = column(row, text, path, number)
        if value is None:
            continue
        if not isinstance(value, str):
            raise InputError(f"{path}, line {number}: column '{text}' is no text")
        # A lone surrogate escaped in JSON has no bytes.
        if errors == "replace":
            value = value.encode("utf-8", "replace").decode()
        yield Document(whole(value, path, number), f"{path}, line {number}")


def _text_documents(path: Path, errors: Errors) -> Iterator[Document]:
    held: list[str] = []
    size, first = 0, 1
    for number, line in lines(path, errors):
        held.append(line)
        size += len(line)
        blank = not line.strip()
        if (blank and size >= DOCUMENT_CHARACTERS) or size >= LONGEST_DOCUMENT:
            yield Document("".join(held), f"{path}, line {first}")
            held, size, first = [], 0, number + 1
    if held:
        yield Document("".join(held), f"{path}, line {first}")
