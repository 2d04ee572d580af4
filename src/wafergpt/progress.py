"""Progress for people: a live bar on a terminal, a plain line now and then when piped.

Everything goes to stderr; stdout belongs to results.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Protocol

PLAIN_LINE_SECONDS = 10.0

FAILURES = (OSError, ValueError, RuntimeError)
"""Of writing for people, which end no work: a terminal, pipe or stream that was closed, a full
disk, a signal in the middle of a line."""

_said: set[object] = set()


class Bar(Protocol):
    """What a worker reports to."""

    def advance(self, amount: float = 1, note: str = "") -> None:
        """Add ``amount`` units of finished work; ``note`` says how it goes (loss, rate)."""

    def say(self, line: str) -> None:
        """Print one line above the bar."""


def place() -> tuple[int, int]:
    """Return (rank, number of processes) of this training, as torchrun and our launcher say it."""
    try:
        rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    except (KeyError, ValueError):
        # Left over from something else; a training says so.
        return 0, 1
    return (rank, size) if 0 <= rank < size else (0, 1)


def follows() -> bool:
    """Say whether this process is one of several of a training, and not the first."""
    return place()[0] > 0


def say(line: str) -> None:
    """Print one line for people; of several processes of one training, only the first speaks."""
    if follows() or sys.stderr is None:
        return
    with suppress(*FAILURES):
        print(line, file=sys.stderr, flush=True)


def say_once(about: object, line: str) -> None:
    """Print one line for people, if this process has not printed one about the same thing."""
    if about not in _said:
        _said.add(about)
        say(line)


@contextmanager
def progress(what: str, total: float | None, unit: str, done: float = 0) -> Iterator[Bar]:
    """Show how ``what`` advances towards ``total`` units, of which ``done`` lie behind already."""
    if sys.stderr.isatty():
        with _rich_bar(what, total, unit, done) as bar:
            yield bar
    else:
        yield _PlainBar(what, total, unit, done)


class _PlainBar:
    def __init__(self, what: str, total: float | None, unit: str, done: float) -> None:
        self._what, self._total, self._unit = what, total, unit
        self._done = self._first = done
        self._start = time.monotonic()
        self._next_line = self._start + PLAIN_LINE_SECONDS

    def advance(self, amount: float = 1, note: str = "") -> None:
        self._done += amount
        now = time.monotonic()
        if now < self._next_line:
            return
        self._next_line = now + PLAIN_LINE_SECONDS
        rate = (self._done - self._first) / (now - self._start)
        parts = [f"{self._what}: {self._done:,.0f}"]
        if self._total:
            parts[0] += f"/{self._total:,.0f} {self._unit} ({self._done / self._total:.0%})"
        else:
            parts[0] += f" {self._unit}"
        parts.append(f"{rate:,.1f} {self._unit}/s")
        if note:
            parts.append(note)
        if self._total and rate > 0:
            parts.append(f"{duration((self._total - self._done) / rate)} left")
        say(" · ".join(parts))

    def say(self, line: str) -> None:
        say(line)


@contextmanager
def _rich_bar(what: str, total: float | None, unit: str, done: float) -> Iterator[Bar]:
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

    columns = (
        SpinnerColumn(),
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[count]}"),
        TextColumn("[cyan]{task.fields[note]}"),
        TimeRemainingColumn(compact=True),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=False) as live:
        task = live.add_task(what, total=total, completed=int(done), note="", count="")
        start = time.monotonic()

        class RichBar:
            def advance(self, amount: float = 1, note: str = "") -> None:
                finished = live.tasks[task].completed + amount
                elapsed = max(time.monotonic() - start, 1e-9)
                of = f"/{total:,.0f}" if total else ""
                count = f"{finished:,.0f}{of} {unit} · {(finished - done) / elapsed:,.1f} {unit}/s"
                # An empty note keeps the last one in sight.
                shown = escape(note) or live.tasks[task].fields["note"]
                live.update(task, advance=amount, note=shown, count=count)

            def say(self, line: str) -> None:
                live.console.print(line, markup=False, highlight=False)

        yield RichBar()


def duration(seconds: float) -> str:
    """Write seconds as people read them: ``8.1s``, ``2m05s``, ``3h20m``, ``4.5 days``, years."""
    if seconds < 60:
        return f"{seconds:.1f}s" if seconds < 10 else f"{seconds:.0f}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}m{rest:02d}s"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours}h{minutes:02d}m"
    days = hours / 24
    return f"{days:.1f} days" if days < 1000 else f"{days / 365.25:,.0f} years"
