"""Failures that users see, one class for each exit code."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from numbers import Real
from typing import Any, get_args


class Failure(Exception):
    """What this package raises: one line, and no traceback on the command line."""


class InputError(Failure, ValueError):
    """Wrong use or bad input: one line with the problem and the remedy. Exit code 2."""


class TrainingAlready(InputError):
    """Another thread of this process is training. Exit code 2."""


class RunFailed(Failure, RuntimeError):
    """The work itself failed: disk full, no valid checkpoint, diverged. Exit code 1."""


class Diverged(RunFailed):
    """The loss or the gradient was not finite, or rose, too often. Exit code 1."""


class ProcessLost(RunFailed):
    """Another process of the same training has ended or does not answer. Exit code 1."""


class Interrupted(Failure):
    """A signal stopped the work after everything was saved. Exit code 130.

    Attributes:
        reason: where it stopped, and what is kept.
        next_command: the command that goes on from there; "" if it is the same one.
    """

    def __init__(self, reason: str, next_command: str = "") -> None:
        super().__init__(reason, next_command)
        self.reason, self.next_command = reason, next_command

    def __str__(self) -> str:
        return f"{self.reason}; next: {self.next_command}" if self.next_command else self.reason


def require_one_of(literal: Any, name: str, value: object) -> None:
    """Require that an argument is one of the words of a ``Literal``, which Python does not check.

    Args:
        literal: the type.
        name: of the argument.
        value: that was given.

    Raises:
        InputError: if it is another.
    """
    words = get_args(literal)
    if value not in words:
        raise InputError(f"{name}={value!r:.60} is none of {', '.join(map(repr, words))}")


def require_numbers(**given: object) -> None:
    """Require that each argument is a number, or None.

    Args:
        **given: by name.

    Raises:
        InputError: naming the first that is not.
    """
    for name, value in given.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, Real)):
            raise InputError(f"{name}={value!r:.60} is no number")


def nearest(word: str, choices: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the choice closest to ``word``, or an empty string.

    Case is ignored.
    """
    by_letters = {choice.lower(): choice for choice in choices}
    matches = difflib.get_close_matches(word.lower(), by_letters, n=1)
    return f"; did you mean '{by_letters[matches[0]]}'?" if matches else ""
