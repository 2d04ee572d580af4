"""Messages for people, through ``logging`` under the name ``wafergpt``.

The command line shows them on stderr (``show``); a program that calls this package may silence or
redirect them.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager

from wafergpt.screen import write

logger = logging.getLogger("wafergpt")

FAILURES = (OSError, ValueError, RuntimeError)
"""Errors of writing messages, which must not stop the work: a closed terminal, pipe or stream, a
full disk, a signal in the middle of a line."""

_said: set[object] = set()
_lines: set[str] = set()
_said_before: set[str] = set()


def place() -> tuple[int, int]:
    """Return (rank, number of processes) of this training, as set by torchrun or our launcher."""
    try:
        rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    except (KeyError, ValueError):
        # Left over from another program; a training reports it.
        return 0, 1
    return (rank, size) if 0 <= rank < size else (0, 1)


def is_worker() -> bool:
    """Return whether this process is a worker rank: one of several, and not rank 0."""
    return place()[0] > 0


def say(line: str, answers: bool = False) -> None:
    """Log one line, a warning as such; of several processes, only rank 0 logs.

    Args:
        line: for people.
        answers: whether it answers what somebody did, and is shown where only warnings are.
    """
    if not is_worker() and line not in _said_before:
        _lines.add(line)
        warns = answers or line.lower().startswith("warning")
        logger.log(logging.WARNING if warns else logging.INFO, "%s", line)


def said() -> list[str]:
    """Return the lines that this process has logged."""
    return sorted(_lines)


def repeat_none(lines: Iterable[str]) -> None:
    """Never log these lines, which the process that started this one has logged."""
    _said_before.update(lines)


@contextmanager
def _logging_only(wanted: Callable[[logging.LogRecord], bool]) -> Iterator[None]:
    # What an inner one does not want was not logged: the outer one need not know of it.
    logger.filters.insert(0, wanted)
    try:
        yield
    finally:
        logger.removeFilter(wanted)


def silent() -> AbstractContextManager[None]:
    """Log nothing for a while."""
    return _logging_only(lambda record: False)


def only_warnings() -> AbstractContextManager[None]:
    """Log warnings alone for a while."""
    return _logging_only(lambda record: record.levelno >= logging.WARNING)


def each_kind_once(differs: str = r"\d[\d,.]*") -> AbstractContextManager[None]:
    """Log one line of each kind for a while; lines that differ in numbers alone are of one kind.

    This is for lines of this thread: those of a bar come from another.

    Args:
        differs: what differs in lines of one kind; if "", nothing does.
    """
    kinds: set[str] = set()
    thread = threading.get_ident()

    def is_first(record: logging.LogRecord) -> bool:
        kind = re.sub(differs, "0", record.getMessage())
        first = kind not in kinds or record.thread != thread
        kinds.add(kind)
        return first

    return _logging_only(is_first)


def show() -> None:
    """Show messages and progress on stderr, as the command line does.

    Without it they are records of the logger ``wafergpt``, of which Python shows warnings alone.
    """
    if not shown():
        logger.addHandler(_Terminal())
        logger.setLevel(logging.INFO)
        logger.propagate = False


def shown() -> bool:
    """Return whether this process shows its messages on stderr."""
    return any(isinstance(handler, _Terminal) for handler in logger.handlers)


class _Terminal(logging.Handler):
    """Writes to stderr; a closed one does not stop the work."""

    def emit(self, record: logging.LogRecord) -> None:
        if sys.stderr is not None:
            write(sys.stderr, f"{self.format(record)}\n")


def say_once(about: object, line: str) -> None:
    """Log one line, unless this process has already logged one about the same thing."""
    if about not in _said:
        _said.add(about)
        say(line)
