"""Signals and the time limit as requests that the loop polls where it can save."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

from wafergpt.distributed.launcher import HANGUP, SAME_SIGNAL_SECONDS, hangs_up
from wafergpt.logs import say

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
CONTINUE_SIGNALS = tuple(getattr(signal, name) for name in ("SIGCONT",) if hasattr(signal, name))
SAVE_SIGNALS = tuple(getattr(signal, name) for name in ("SIGUSR1",) if hasattr(signal, name))


class StopRequested(Exception):
    """A signal came, or the time limit is near, during a long operation."""


class Signals:
    """While entered, SIGINT, SIGTERM and SIGHUP ask for a stop, and SIGUSR1 for a checkpoint.

    A second SIGINT or SIGTERM stops at once, unless it comes with the first. An ignored SIGHUP, as
    under nohup, stays ignored.
    """

    def __init__(self) -> None:
        self.requested = False
        self._signalled: float | None = None
        self._save = False
        self._previous: dict[int, Any] = {}
        self._deadline: float | None = None
        self._last_poll = 0.0
        self._longest = 0.0
        self._saving: Callable[[], float] = float

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            for number in (*STOP_SIGNALS, *SAVE_SIGNALS):
                self._previous[number] = signal.signal(number, self._handle)
            if HANGUP is not None and hangs_up():
                self._previous[HANGUP] = signal.signal(HANGUP, self._handle)
            for number in CONTINUE_SIGNALS:
                self._previous[number] = signal.signal(number, self._continued)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        outer = getattr(self._previous.get(signal.SIGINT), "__self__", None)
        if self.requested and isinstance(outer, Signals):
            # Of several trainings, perhaps the last moment of one: no other one begins.
            outer.requested = True

    def _handle(self, number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if number in SAVE_SIGNALS:
            self._save = True
            say(f"{name}: saving after this step, then continuing", answers=True)
            return
        now = time.monotonic()
        if self._signalled is not None:
            # A closed terminal is not a second Ctrl-C.
            if number != HANGUP and now > self._signalled + SAME_SIGNAL_SECONDS:
                raise KeyboardInterrupt
            return
        self.requested, self._signalled = True, now
        say(f"{name}: saving, then stopping (again: stop at once)", answers=True)

    def _continued(self, number: int, frame: FrameType | None) -> None:
        # Suspended time does not count as a step.
        self._last_poll = time.time()

    def limit(self, seconds: float, saving: Callable[[], float]) -> None:
        """Request a stop before this process has run for so many seconds, in time to save.

        Args:
            seconds: since the process started.
            saving: returns the longest save so far, in seconds.
        """
        import psutil

        self._deadline = psutil.Process().create_time() + seconds
        self._last_poll = time.time()
        self._saving = saving

    def poll(self) -> None:
        """Raise ``StopRequested`` if a stop was requested, or the time limit is near.

        It is near when less is left than twice the longest time between two polls so far (a step
        or a batch of validation) and twice the longest save.
        """
        if self._deadline is not None:
            now = time.time()
            self._longest = max(self._longest, now - self._last_poll)
            self._last_poll = now
            if not self.requested and now + 2 * (self._longest + self._saving()) > self._deadline:
                self.requested = True
                say("the time limit is near: saving, then stopping")
        if self.requested:
            raise StopRequested

    def stop_asked(self) -> bool:
        """Return whether a stop was requested."""
        return self.requested

    def save_asked(self) -> bool:
        """Return whether a checkpoint was requested since the last call."""
        asked, self._save = self._save, False
        return asked
