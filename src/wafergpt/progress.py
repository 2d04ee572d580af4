"""Progress for people: a live line on a terminal, occasional plain lines in a pipe.

Where messages are silenced (``wafergpt.logs``), nothing is drawn either. A thread draws; the worker
only counts. One line is live at a time; a nested activity is shown as a note of the outer one.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TextIO

from wafergpt.logs import is_worker, logger, say
from wafergpt.screen import Line, Screen

REFRESH_SECONDS = 0.25
PLAIN_LINE_SECONDS = 10.0
"""Seconds between the plain lines of a bar."""

LONG_SECONDS = 2.0
"""Seconds; a shorter activity needs no plain line, and leaves no bar behind."""

PLAIN_SIGN_SECONDS = 30.0
"""Seconds between the plain lines of an activity without a count."""

NOTE_SECONDS = 1.0
"""Seconds; a shorter activity is not shown as a note of another."""


class Bar(Protocol):
    """The progress bar that a worker reports to."""

    def advance(self, amount: float = 1, note: str = "") -> None:
        """Add ``amount`` units of finished work, with a ``note`` such as loss and rate.

        A note's numbers are separated by " · ", the most important first; an empty note keeps the
        previous one.
        """

    def say(self, line: str) -> None:
        """Print one line above the bar."""


@contextmanager
def progress(what: str, total: float | None, unit: str, done: float = 0) -> Iterator[Bar]:
    """Show how ``what`` advances towards ``total`` units, of which ``done`` are already done."""
    with _shown(_Activity(what, unit, total, done)) as activity:
        yield activity


@contextmanager
def working(what: str) -> Iterator[None]:
    """Show that ``what``, of unknown length, is in progress, and for how long.

    On a terminal it is shown while it lasts; in a pipe, as a line if it takes long, then rarely.
    """
    with _shown(_Activity(what)):
        yield


class _Activity:
    """Something in progress: a bar if it has a unit."""

    def __init__(
        self, what: str, unit: str = "", total: float | None = None, done: float = 0
    ) -> None:
        self.what, self.unit, self._total = what, unit, total
        self.done = self._first = done
        self._notes: tuple[str, ...] = ()
        self._start = time.monotonic()
        self._seen = deque([(self._start, done)])
        self.next_line = self._start + (PLAIN_LINE_SECONDS if unit else LONG_SECONDS)

    def advance(self, amount: float = 1, note: str = "") -> None:
        self.done += amount
        if note:
            self._notes = tuple(note.split(" · "))

    def say(self, line: str) -> None:
        say(line)

    def age(self) -> float:
        """Return the seconds since it started."""
        return time.monotonic() - self._start

    def count(self) -> str:
        """Return how much is done."""
        known = self._total or self.done
        digits = 0 if known >= 100 or float(known).is_integer() else 1
        of = f"/{self._total:,.{digits}f}" if self._total else ""
        return f"{self.done:,.{digits}f}{of} {self.unit}"

    def short(self) -> str:
        """Return it as the note of another activity."""
        return f"{self.what} {self.count() if self.unit else _seconds(self.age())}"

    def line(self, inner: _Activity | None) -> Line:
        """Return the live line, with the activity inside it."""
        if not self.unit:
            return Line(self.what, (), _seconds(self.age()))
        note = [inner.short()] if inner is not None else []
        rate = self._rate()
        numbers = [self.count(), *note, *self._notes]
        if rate > 0:
            numbers.append(_rate(rate, self.unit))
        return Line(self.what, numbers, self._time(rate), self._share())

    def end(self) -> Line:
        """Return the line that stays at the end."""
        numbers = [self.count(), *self._notes, _rate(self._mean_rate(), self.unit)]
        return Line(self.what, numbers, f"in {duration(self.age())}", self._share())

    def plain(self, inner: _Activity | None) -> str:
        """Return everything as a plain line."""
        self.next_line = time.monotonic() + (
            PLAIN_LINE_SECONDS if self.unit else PLAIN_SIGN_SECONDS
        )
        line = self.line(inner)
        if not self.unit:
            return f"{self.what} … {line.time} so far"
        count, *numbers = line.numbers
        share = "" if line.share is None else f" ({line.share:.0%})"
        return f"{self.what}: " + " · ".join([count + share, *numbers, line.time])

    def _share(self) -> float | None:
        return self.done / self._total if self._total else None

    def _time(self, rate: float) -> str:
        if self._total and rate > 0:
            return f"{_seconds(max(self._total - self.done, 0) / rate)} left"
        return _seconds(self.age())

    def _rate(self) -> float:
        """Return units per second over the later half of the time, which ignores a slow start.

        If nothing was done in that half, use the whole time.
        """
        now, seen = time.monotonic(), self._seen
        if now - seen[-1][0] > (now - self._start) / 32:
            seen.append((now, self.done))
        while len(seen) > 1 and seen[1][0] <= (now + self._start) / 2:
            seen.popleft()
        then, done = seen[0]
        return (self.done - done) / (now - then) if self.done > done else self._mean_rate()

    def _mean_rate(self) -> float:
        return (self.done - self._first) / max(self.age(), 1e-9)


def _rate(rate: float, unit: str) -> str:
    if 0 < rate < 1 and unit.endswith("s"):
        return f"{duration(1 / rate)}/{unit[:-1]}"
    return f"{rate:,.1f} {unit}/s"


def _seconds(seconds: float) -> str:
    return f"{seconds:.0f}s" if seconds < 10 else duration(seconds)


class _Session:
    """The activities in progress, and the thread that shows them while there are any."""

    def __init__(self) -> None:
        self.activities: list[_Activity] = []
        self.unfinished_line = False
        self._screen = Screen.of(sys.stderr)
        self._streams = {"stdout": sys.stdout, "stderr": sys.stderr}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="progress", daemon=True)

    def begin(self) -> None:
        """Show at once: what follows may block every other thread, as imports do."""
        if self._screen is not None:
            for name, stream in self._streams.items():
                if stream is not None and stream.isatty():
                    setattr(sys, name, _Above(stream, self))
            self._show()
        self._thread.start()

    def leave(self, activity: _Activity) -> None:
        """Stop showing an activity; only a bar that took long leaves a line."""
        self.activities.remove(activity)
        if self._screen is not None:
            within_bar = any(one.unit for one in self.activities)
            if activity.unit and activity.age() >= LONG_SECONDS and not within_bar:
                self._screen.keep(activity.end())
            elif not self.activities:
                self._screen.clear()
        if not self.activities:
            self._over.set()
            for name, stream in self._streams.items():
                if isinstance(getattr(sys, name), _Above):
                    setattr(sys, name, stream)

    def join(self) -> None:
        """Wait for the thread, after the last activity."""
        self._thread.join()

    def clear(self) -> None:
        """Clear the live line, so that something else can be written."""
        if self._screen is not None:
            self._screen.clear()

    def _run(self) -> None:
        while not self._over.wait(REFRESH_SECONDS):
            with _lock:
                if self.activities and not self.unfinished_line:
                    self._show()

    def _show(self) -> None:
        """Draw the live line again, or print a plain one if it is time."""
        # An activity that has just started may end at once.
        first, *rest = self.activities
        shown = [first, *(one for one in rest if one.unit or one.age() >= NOTE_SECONDS)]
        main = next((one for one in shown if one.unit), shown[-1])
        inner = shown[-1] if shown[-1] is not main else None
        if self._screen is not None:
            self._screen.draw(main.line(inner))
        elif time.monotonic() >= main.next_line:
            say(main.plain(inner))


class _Above:
    """A stream of the terminal while a line is live: writes to it appear above that line."""

    def __init__(self, stream: TextIO, session: _Session) -> None:
        self._stream, self._session = stream, session

    def write(self, text: str) -> int:
        with _lock:
            self._session.clear()
            written = self._stream.write(text)
            if text:
                self._session.unfinished_line = not text.endswith("\n")
            return written

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


_lock = threading.RLock()
"""Held while the terminal is written to; reentrant, for a signal handler in between."""

_session: _Session | None = None


@contextmanager
def _shown(activity: _Activity) -> Iterator[_Activity]:
    global _session
    if sys.stderr is None or is_worker() or not logger.isEnabledFor(logging.INFO):
        yield activity
        return
    with _lock:
        session = _session or _Session()
        session.activities.append(activity)
        if _session is None:
            _session = session
            session.begin()
    try:
        yield activity
    finally:
        with _lock:
            session.leave(activity)
            over = not session.activities
            if over:
                _session = None
        if over:
            session.join()


def duration(seconds: float) -> str:
    """Format seconds: ``8.1s``, ``2m05s``, ``3h20m``, ``4.5 days``, years."""
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
