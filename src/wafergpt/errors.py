"""The failures a user can meet, one class for each exit code."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Wrong use or bad input: one line that says what is wrong and what to do. Exit code 2."""


class RunFailed(RuntimeError):
    """The work itself failed: disk full, no good checkpoint, diverged. Exit code 1."""


class TeamLost(RunFailed):
    """Another process of the same training is gone or does not answer. Exit code 1."""


class Interrupted(Exception):
    """Stopped by a signal after everything was saved. Exit code 130."""


def nearest(word: str, choices: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the choice closest to ``word``, or an empty string.

    Capital letters count for nothing.
    """
    by_letters = {choice.lower(): choice for choice in choices}
    matches = difflib.get_close_matches(word.lower(), by_letters, n=1)
    return f"; did you mean '{by_letters[matches[0]]}'?" if matches else ""
