"""One live line at the bottom of a terminal, fitted to its width and its character set."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

USUAL_WIDTH = 80
"""Columns of a terminal that does not report its width."""

MIN_NAME, SHORT_NAME = 3, 8
SHORT_BAR, LONG_BAR = 8, 40
"""Cells."""

NUMBERS_BEFORE_BAR = 2
"""This many numbers are more important than the drawn bar."""

_BOLD, _CYAN, _DIM, _PLAIN = "\x1b[1m", "\x1b[36m", "\x1b[2m", "\x1b[0m"
_ERASE = "\r\x1b[K"
_NO_WRAP, _WRAP = "\x1b[?7l", "\x1b[?7h"


@dataclass(frozen=True)
class Glyphs:
    """Characters to draw with."""

    spinner: str
    done: str
    rest: str
    ellipsis: str
    separator: str


FINE = Glyphs("⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏", "━", "─", "…", " · ")
ASCII = Glyphs("|/-\\", "#", "-", "..", ", ")


@dataclass(frozen=True)
class Line:
    """The content of a live line.

    Attributes:
        name: of the activity; the first to be shortened.
        numbers: the most important first; the last ones are dropped if there is no room.
        time: left, or elapsed; always shown.
        share: of the work that is done, 0 to 1; None if the total is not known.
    """

    name: str
    numbers: Sequence[str]
    time: str
    share: float | None = None


class Screen:
    """The last line of a terminal, redrawn in place."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._glyphs = _glyphs(_encoding(stream))
        self._colour = not os.environ.get("NO_COLOR")
        self._turn = 0
        self._drawn = False

    @classmethod
    def of(cls, stream: TextIO | None) -> Screen | None:
        """Return the screen behind a stream; None if a line cannot be redrawn in place."""
        try:
            live = stream is not None and stream.isatty()
        except ValueError:  # it is closed
            return None
        # The logs of build servers keep every line that is drawn.
        kept = os.environ.get("CI", "").lower() not in ("", "0", "false")
        dumb = os.environ.get("TERM") in ("dumb", "unknown")
        return cls(stream) if live and stream is not None and not (kept or dumb) else None

    def draw(self, line: Line) -> None:
        """Draw a line in place of the previous one."""
        width = self._width()
        if width > 0 and self._in_front():
            spinner = self._glyphs.spinner[self._turn % len(self._glyphs.spinner)]
            self._write(_ERASE + self._text(line, width, spinner))
            self._turn += 1
            self._drawn = True

    def keep(self, line: Line) -> None:
        """Draw a line that stays."""
        if self._in_front():
            self._write(_ERASE + self._text(line, self._width(), "") + "\n")
            self._drawn = False

    def clear(self) -> None:
        """Clear the line, so that something else can be written."""
        if self._drawn:
            self._write(_ERASE)
            self._drawn = False

    def _text(self, line: Line, width: int, spinner: str) -> str:
        pieces = fit(line, width, self._glyphs, spinner)
        text = "".join(
            f"{style}{piece}{_PLAIN}" if style and self._colour else piece
            for style, piece in pieces
        )
        # The terminal may draw a letter wider than computed: it must not wrap into the next row.
        return _NO_WRAP + text + _WRAP

    def _width(self) -> int:
        """Return the columns to use: one is left free, because a full row may wrap."""
        try:
            columns = os.get_terminal_size(self._stream.fileno()).columns
        except (OSError, ValueError, AttributeError):
            columns = 0
        if not columns:
            said = os.environ.get("COLUMNS", "")
            columns = int(said) if said.isdecimal() else 0
        return (columns or USUAL_WIDTH) - 1

    def _in_front(self) -> bool:
        """Return whether this process is in the terminal's foreground group, and may draw."""
        try:
            return os.tcgetpgrp(self._stream.fileno()) == os.getpgrp()
        except (OSError, ValueError, AttributeError):
            return True  # it is not our controlling terminal

    def _write(self, text: str) -> None:
        write(self._stream, text)


def write(stream: TextIO, text: str) -> None:
    """Write a message at once; characters that the stream's encoding lacks are replaced.

    Errors are not raised: a closed reader must not stop the work.
    """
    encoding = _encoding(stream)
    try:
        stream.write(text.encode(encoding, "replace").decode(encoding))
        stream.flush()
    except ValueError:
        pass  # it is closed
    except OSError as error:
        if error.errno in (errno.EPIPE, errno.EIO):
            # Python would flush again at exit, fail, and exit with 120.
            with (
                suppress(OSError, ValueError, AttributeError),
                Path(os.devnull).open("w") as nothing,
            ):
                os.dup2(nothing.fileno(), stream.fileno())


def _encoding(stream: TextIO) -> str:
    return getattr(stream, "encoding", None) or "utf-8"


def _glyphs(encoding: str) -> Glyphs:
    if os.environ.get("TERM") == "linux":
        return ASCII  # the console's font has no such dots
    try:
        "".join((FINE.spinner, FINE.done, FINE.rest, FINE.ellipsis, FINE.separator)).encode(
            encoding
        )
    except (UnicodeEncodeError, LookupError):
        return ASCII
    return FINE


def fit(line: Line, width: int, glyphs: Glyphs, spinner: str) -> list[tuple[str, str]]:
    """Return the pieces of a line of at most ``width`` cells, each with its style.

    The time is always shown. The remaining room goes, in this order, to a short name, the first
    numbers, a short bar, the other numbers, the whole name, and a longer bar.
    """
    from rich.cells import cell_len

    time, name = printable(line.time), printable(line.name)
    head = f"{spinner} " if spinner else ""
    room = width - cell_len(f"{head} {time}")
    if room < MIN_NAME:
        return [("", shortened(time, width, glyphs.ellipsis))]
    short = min(cell_len(name), SHORT_NAME, room)
    room -= short
    bar = 0
    tail: list[str] = []
    for place, number in enumerate([*map(printable, line.numbers), ""]):
        last = place == len(line.numbers)
        if (last or place == NUMBERS_BEFORE_BAR) and line.share is not None and not bar:
            bar = SHORT_BAR if room > SHORT_BAR else 0
            room -= bar and bar + 1
        cost = cell_len(number + glyphs.separator)
        if last or cost > room:
            break
        tail.append(number)
        room -= cost
    name = shortened(name, short + room, glyphs.ellipsis)
    room -= cell_len(name) - short
    pieces = [(_CYAN, head), (_BOLD, name), ("", " ")]
    if bar:
        bar = min(bar + room, LONG_BAR)
        done = round(bar * min(max(line.share or 0.0, 0.0), 1.0))
        pieces += [(_CYAN, glyphs.done * done), (_DIM, glyphs.rest * (bar - done)), ("", " ")]
    return [*pieces, ("", glyphs.separator.join([*tail, time]))]


def shortened(text: str, width: int, ellipsis: str) -> str:
    """Return a text of at most ``width`` cells, with an ellipsis if it was cut."""
    from rich.cells import cell_len, set_cell_size

    if cell_len(text) <= width:
        return text
    if width <= cell_len(ellipsis):
        return set_cell_size(text, max(width, 0)).rstrip()
    return set_cell_size(text, width - cell_len(ellipsis)).rstrip() + ellipsis


def printable(text: str) -> str:
    """Return a text as one line, without terminal control characters."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)
