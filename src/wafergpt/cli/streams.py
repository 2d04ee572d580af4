"""Standard streams that never stop the work: unknown characters, a full disk, no reader."""

from __future__ import annotations

import codecs
import io
import os
import sys
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO, cast

from wafergpt.errors import RunFailed
from wafergpt.logs import FAILURES

PLAIN = {
    "…": "...", "·": "*", "→": "->", "←": "<-", "−": "-", "–": "-", "—": "-", "×": "x",
    "±": "+-", "√": "sqrt", "‖": "|", "“": '"', "”": '"', "‘": "'", "’": "'", "σ": "sigma",
    "µ": "u", "β": "beta", "█": "#", "░": ".", "─": "-", "━": "-", "•": "*",
}  # fmt: skip
"""Replacements of our characters that a terminal or a pipe cannot encode."""


def _plainer(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    letters = error.object[error.start : error.end]
    return "".join(map(_plain_letter, letters)), error.end


def _plain_letter(letter: str) -> str:
    if letter in PLAIN:
        return PLAIN[letter]
    if "\u2800" <= letter <= "\u28ff":  # a spinner's dots
        return "*"
    bare = [c for c in unicodedata.normalize("NFKD", letter) if not unicodedata.combining(c)]
    return "".join(bare) if bare and all(map(str.isascii, bare)) else "?"


codecs.register_error("wafergpt.plainer", _plainer)


def shows(text: str) -> bool:
    """Return whether stdout's encoding has every character of a text."""
    try:
        text.encode(_encoding(sys.stdout))
    except UnicodeEncodeError:
        return False
    return True


def legible(text: str, stream: TextIO | None = None) -> str:
    """Return a text with characters replaced that a stream (stdout by default) cannot encode."""
    encoding = _encoding(stream or sys.stdout)
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        if "\x1b" in text:
            # A redrawn line must not become wider than the terminal.
            text = text.replace("…", ".")
        return text.encode(encoding, "wafergpt.plainer").decode(encoding)
    return text


def _encoding(stream: TextIO | None) -> str:
    return getattr(stream, "encoding", None) or "utf-8"


class _Stream:
    """A text stream that replaces characters it cannot encode, around another stream."""

    failures: tuple[type[Exception], ...] = (OSError,)

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        if name == "buffer":
            # Click would write UTF-8 there, whatever the encoding, bypassing this class.
            raise AttributeError(name)
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write a text, whatever its characters; return its length."""
        # Click writes an empty string to test for a text stream, and ignores any failure.
        if not isinstance(text, str):
            raise TypeError("this is a text stream")
        try:
            if text:
                self._stream.write(legible(text, self._stream))
        except self.failures as error:
            self._broken(error)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write several texts."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Flush the stream."""
        try:
            self._stream.flush()
        except self.failures as error:
            self._broken(error)

    def _broken(self, error: Exception) -> None:
        """Replace the stream by one that the interpreter can flush at exit."""
        try:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)
        except (OSError, ValueError):
            pass


class _Messages(_Stream):
    """Stderr: a message that cannot be written is dropped, and does not end a training."""

    failures = FAILURES


class _Results(_Stream):
    """Stdout: a result that cannot be written is a failure, but not of the work."""

    def _broken(self, error: Exception) -> None:
        super()._broken(error)
        assert isinstance(error, OSError)
        if isinstance(error, BrokenPipeError):
            raise error
        raise RunFailed(
            f"the output cannot be written to stdout: {error.strerror}; "
            "files that were saved before are intact"
        ) from None


@contextmanager
def steady_streams() -> Iterator[None]:
    """Replace the standard streams by ones that never stop the work.

    Raises:
        RunFailed: from a write to stdout that fails.
        BrokenPipeError: from a write to stdout whose reader has closed it.
    """
    _open_closed_descriptors()
    before = sys.stdin, sys.stdout, sys.stderr
    sys.stdin = before[0] or io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    sys.stdout = cast(TextIO, _Results(before[1] or _nowhere()))
    sys.stderr = cast(TextIO, _Messages(before[2] or _nowhere()))
    if _encoding(sys.stdin).lower() in {"ascii", "us-ascii", "ansi_x3.4-1968"}:
        # ASCII is a subset of UTF-8, and other bytes would be an error.
        cast(io.TextIOWrapper, sys.stdin).reconfigure(encoding="utf-8")
    try:
        yield
    finally:
        sys.stdin, sys.stdout, sys.stderr = before


def _nowhere() -> TextIO:
    return Path(os.devnull).open("w", encoding="utf-8")


def _open_closed_descriptors() -> None:
    """Open closed standard streams, so that no other file gets their descriptors.

    A checkpoint with descriptor 2 would receive what libraries write to stderr.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
