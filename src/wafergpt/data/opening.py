"""Open text files: unpack, decode and cut them into lines, or refuse them with one message.

Compression and encoding are detected from the content, not from the name.
"""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import re
import shlex
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple, cast

from wafergpt.errors import InputError

Errors = Literal["strict", "replace"]

LINE_CHARACTERS = 64 << 20
"""The longest line that is read; a longer one is not text."""

HEAD = 4096
"""Bytes from which compression and encoding are detected."""

COMPRESSED = {".gz", ".xz", ".bz2"}

UTF16_SHARE = 0.3
"""In UTF-16 without a byte order mark, at least this share of characters is below U+0100."""


class NotTextError(InputError):
    """Bytes that cannot be decoded; a reader that may replace them can continue."""


class _Packing(NamedTuple):
    magic: re.Pattern[bytes]
    unpack: Callable[[Any], Any]
    command: str


_PACKINGS = [
    _Packing(re.compile(rb"\x1f\x8b"), gzip.open, "gzip -dc"),
    _Packing(re.compile(rb"\xfd7zXZ\0"), lzma.open, "xz -dc"),
    _Packing(re.compile(rb"BZh[1-9](1AY&SY|\x17rE8P\x90)"), bz2.open, "bzip2 -dc"),
]

_OLD_OFFICE = "an old Office file: save it as .xlsx, as CSV (UTF-8), or as plain text"
_PROTECTED = "protected by a password: open it, and save it without one"
_FOREIGN = [
    (b"PAR1", "a damaged Parquet file"),
    (b"ARROW1", "an Arrow file: save it as csv or jsonl"),
    (b"%PDF", "a PDF: pdftotext '{name}' makes a .txt of it"),
    (b"\x28\xb5\x2f\xfd", "compressed by Zstandard: zstd -d '{name}' unpacks it"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive: 7z x '{name}' unpacks it"),
    (b"Rar!", "a RAR archive: unpack it"),
    (b"SQLite format 3\0", "an SQLite database: save the table as csv"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", _OLD_OFFICE),
    (b"\x93NUMPY", "a NumPy array: save its texts as csv or jsonl"),
]
_ZIP = "a zip archive: unzip '{name}' unpacks it"
_ZIPPED = {
    **dict.fromkeys((".xlsx", ".xlsm"), "a damaged spreadsheet"),
    ".ods": "a spreadsheet of OpenDocument: save it as .xlsx, or as CSV (UTF-8)",
    **dict.fromkeys((".docx", ".odt", ".pptx", ".epub"), "a document: save it as plain text"),
}

_MARKS = [
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
]


def lines(
    path: Path, errors: Errors = "strict", data: bytes | None = None
) -> Iterator[tuple[int, str]]:
    r"""Yield the number (from 1) and text of each line, its end included, in bounded memory.

    A line ends only at ``\n``, ``\r\n``, ``\r``, or ``\r\r\n``, which is ``\r\n`` converted twice.

    Args:
        path: the file.
        errors: ``replace`` reads invalid bytes as U+FFFD instead of refusing them.
        data: bytes to read instead of the file; ``path`` is then only a name for errors.

    Raises:
        NotTextError: on bytes that cannot be decoded.
        InputError: on a broken archive, an endless line, or a file of another format.
    """
    with open_text(path, errors, data) as file:
        number, ahead = 0, None
        while line := ahead or file.readline(LINE_CHARACTERS + 1):
            number, ahead = number + 1, None
            if line.endswith("\r"):
                ahead = file.readline(LINE_CHARACTERS + 1)
                if ahead == "\r\n":
                    line, ahead = line + ahead, None
            if len(line) > LINE_CHARACTERS:
                raise InputError(f"{path}, line {number}: longer than {LINE_CHARACTERS >> 20} MiB")
            yield number, without_nul(line, path, number, errors)


def without_nul(text: str, path: Path, number: int, errors: Errors) -> str:
    """Return a text unchanged, or with its NULs replaced.

    Raises:
        NotTextError: if it has any and ``errors`` is not ``replace``.
    """
    if "\0" not in text:
        return text
    if errors == "replace":
        return text.replace("\0", "\N{REPLACEMENT CHARACTER}")
    number += len(re.findall("\r\n?|\n", text[: text.index("\0")]))
    name = shlex.quote(str(path))
    raise NotTextError(
        f"{path}, line {number}: a NUL byte, which is not text; if the rest is text, remove them: "
        f"tr -d '\\000' < {name} > {shlex.quote(_beside(path))}"
    )


@contextmanager
def open_text(
    path: Path,
    errors: Errors = "strict",
    data: bytes | None = None,
    newline: Literal[""] | None = "",
) -> Iterator[io.TextIOWrapper]:
    r"""Open a file as ``lines`` does; with ``newline=None`` every line end becomes ``\n``.

    Errors while the block reads are raised as InputError too.
    """
    encoding = "utf-8"
    try:
        with _open(path, data) as raw, _unpacked(raw) as file:
            mark, encoding = _encoding(file, path)
            file.read(mark)
            yield io.TextIOWrapper(file, encoding, errors, newline)
    except UnicodeDecodeError:
        raise NotTextError(_undecodable(path, data, encoding)) from None
    except (lzma.LZMAError, zlib.error, EOFError, MemoryError) as error:
        # An .xz may require a dictionary of gigabytes.
        raise InputError(f"{path}: a broken archive: {error}") from None
    except OSError as error:
        # The errors of gzip and bz2 for broken archives have no errno.
        if error.errno is not None:
            raise
        raise InputError(f"{path}: a broken archive: {error}") from None


def encoding_of(path: Path) -> str:
    """Return the encoding that a file is read in: ``utf-8``, ``utf-16-le`` …"""
    with open_text(path) as file:
        return file.encoding


def _open(path: Path, data: bytes | None) -> IO[bytes]:
    return path.open("rb") if data is None else io.BytesIO(data)


@contextmanager
def _unpacked(raw: IO[bytes]) -> Iterator[io.BufferedReader]:
    packing = _packing(raw)
    file = cast(Any, packing.unpack(raw) if packing else raw)
    with io.BufferedReader(file, 1 << 16) as reader:
        yield reader


def _packing(raw: IO[bytes]) -> _Packing | None:
    head = raw.read(16)
    raw.seek(0)
    return next((packing for packing in _PACKINGS if packing.magic.match(head)), None)


def _encoding(file: io.BufferedReader, path: Path) -> tuple[int, str]:
    """Return the length of the byte order mark, and the encoding."""
    head = file.peek(HEAD)[:HEAD]
    advice = next((advice for magic, advice in _FOREIGN if head.startswith(magic)), None)
    if head.startswith(b"PK\x03\x04"):
        advice = _ZIPPED.get(path.suffix.lower(), _ZIP)
    elif advice == _OLD_OFFICE and path.suffix.lower() in (".xlsx", ".xlsm", ".docx"):
        # What is encrypted is inside the container of the old format.
        advice = _PROTECTED
    elif head[257:262] == b"ustar":
        advice = "a tar archive: tar xf '{name}' unpacks it"
    if advice:
        raise InputError(f"{path} is {advice.format(name=path, stem=path.stem)}")
    for mark, encoding in _MARKS:
        if head.startswith(mark):
            return len(mark), encoding
    return 0, _without_mark(head)


def _without_mark(head: bytes) -> str:
    """Detect UTF-16 by its zeros: many among every other byte, none among the rest."""
    even, odd = head[::2].count(0), head[1::2].count(0)
    enough = max(1, UTF16_SHARE * (len(head) // 2))
    for encoding, zeros, others in (("utf-16-le", odd, even), ("utf-16-be", even, odd)):
        if not others and zeros >= enough and len(head) > 3:
            return encoding
    return "utf-8"


def _undecodable(path: Path, data: bytes | None, encoding: str) -> str:
    """Return a message with the place of the first bytes that cannot be decoded, and advice."""
    with _open(path, data) as raw:
        packing = _packing(raw)
        with _unpacked(raw) as file:
            binary = b"\0" in file.peek(HEAD)[:HEAD] and encoding == "utf-8"
            number, byte = _first_bad(file, encoding)
    if binary or (path.suffix.lower() in COMPRESSED and packing is None and data is None):
        archive = ", nor the archive that its name says" if packing is None and not binary else ""
        return f"{path}, line {number}: not text (byte 0x{byte:02x}){archive}"
    place = f"{path}, line {number}: not {encoding.removesuffix('-le').removesuffix('-be').upper()}"
    place += f" (byte 0x{byte:02x})"
    if encoding != "utf-8":
        return f"{place}: the file is damaged or cut short"
    source, name = shlex.quote(str(path)), shlex.quote(_beside(path))
    convert = "iconv -f WINDOWS-1252 -t UTF-8"
    convert = f"{packing.command} {source} | {convert}" if packing else f"{convert} {source}"
    convert = f"{convert} > {name}" if data is None else f"… | {convert.removesuffix(source)}| …"
    return (
        f"{place}; convert it: {convert} (Chinese: -f GB18030, Japanese: SHIFT_JIS, "
        "Korean: CP949, Russian: WINDOWS-1251)"
    )


def _first_bad(file: io.BufferedReader, encoding: str) -> tuple[int, int]:
    """Return the line and the byte at which decoding fails."""
    decoder = codecs.getincrementaldecoder(encoding)()
    number, ended = 1, ""
    while True:
        chunk = file.read(1 << 16)
        try:
            text = decoder.decode(chunk, final=not chunk)
        except UnicodeDecodeError as error:
            text = error.object[: error.start].decode(encoding)
            return number + _ends(ended + text) - _ends(ended), error.object[error.start]
        if not chunk:
            return number, 0
        number += _ends(ended + text) - _ends(ended)
        ended = text[-1:]


def _ends(text: str) -> int:
    return len(re.findall("\r\n?|\n", text))


def _beside(path: Path) -> str:
    """Return a name for the repaired copy of a file."""
    plain = path.with_suffix("") if path.suffix.lower() in COMPRESSED else path
    return f"{plain.stem}.utf-8{plain.suffix}"
