"""Standard streams that never stop the work: letters they cannot show, a full disk, no reader."""

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
from wafergpt.progress import FAILURES

PLAIN = {
    "…": "...", "·": "*", "→": "->", "←": "<-", "−": "-", "–": "-", "—": "-", "×": "x",
    "±": "+-", "√": "sqrt", "‖": "|", "“": '"', "”": '"', "‘": "'", "’": "'", "σ": "sigma",
    "µ": "u", "β": "beta", "█": "#", "░": ".", "─": "-", "━": "-", "•": "*",
}  # fmt: skip
"""What stands for a letter of ours that a terminal or a pipe cannot show."""


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
    """Say whether stdout's encoding has every letter of a text."""
    try:
        text.encode(_encoding(sys.stdout))
    except UnicodeEncodeError:
        return False
    return True


def legible(text: str, stream: TextIO | None = None) -> str:
    """Return a text with what a stream's encoding lacks (stdout's, by default) replaced."""
    encoding = _encoding(stream or sys.stdout)
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        if "\x1b" in text:
            # A line that is drawn over and over must not get longer than the terminal is wide.
            text = text.replace("…", ".")
        return text.encode(encoding, "wafergpt.plainer").decode(encoding)
    return text


def _encoding(stream: TextIO | None) -> str:
    return getattr(stream, "encoding", None) or "utf-8"


class _Stream:
    """A text stream that replaces what it cannot show; the rest is left to the stream behind it."""

    failures: tuple[type[Exception], ...] = (OSError,)

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        if name == "buffer":
            # Click would write UTF-8 there, whatever the encoding, and past all care taken here.
            raise AttributeError(name)
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write a text, whatever letters it has; return its length."""
        # Click tells text from binary streams by writing nothing to them, and hears no failure.
        if not isinstance(text, str):
            raise TypeError("this is a stream of text")
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
        """Hand on what was written."""
        try:
            self._stream.flush()
        except self.failures as error:
            self._broken(error)

    def _broken(self, error: Exception) -> None:
        """Let the interpreter, too, find a stream at its end that it can flush."""
        try:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)
        except (OSError, ValueError):
            pass


class _Messages(_Stream):
    """Stderr: what it cannot take is dropped, for no training ends because nobody listens."""

    failures = FAILURES


class _Results(_Stream):
    """Stdout: a result that nobody gets is a failure, but not of the work."""

    def _broken(self, error: Exception) -> None:
        super()._broken(error)
        assert isinstance(error, OSError)
        if isinstance(error, BrokenPipeError):
            raise error
        raise RunFailed(
            f"the output cannot be written to stdout: {error.strerror}; "
            "what was saved in files before is intact"
        ) from None


@contextmanager
def steady_streams() -> Iterator[None]:
    """Give the command streams that replace what they cannot show, and never end the work.

    Raises:
        RunFailed: out of a write to stdout, if it fails.
        BrokenPipeError: out of a write to stdout, if its reader left.
    """
    _open_closed_descriptors()
    before = sys.stdin, sys.stdout, sys.stderr
    sys.stdin = before[0] or io.StringIO()
    sys.stdout = cast(TextIO, _Results(before[1] or _nowhere()))
    sys.stderr = cast(TextIO, _Messages(before[2] or _nowhere()))
    if _encoding(sys.stdin).lower() in {"ascii", "us-ascii", "ansi_x3.4-1968"}:
        # Whatever is ASCII is UTF-8 too, and whatever is not would be an error.
        cast(io.TextIOWrapper, sys.stdin).reconfigure(encoding="utf-8")
    try:
        yield
    finally:
        sys.stdin, sys.stdout, sys.stderr = before


def _nowhere() -> TextIO:
    return Path(os.devnull).open("w", encoding="utf-8")


def _open_closed_descriptors() -> None:
    """Take the places of closed standard streams, so that no file of ours gets their numbers.

    A checkpoint that is opened as number 2 would receive what libraries write to stderr.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
