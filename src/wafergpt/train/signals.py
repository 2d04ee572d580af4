"""Ctrl-C and SIGTERM, turned into a flag that the loop looks at where it can save."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from wafergpt.progress import say


class StopRequested(Exception):
    """A signal came while something long was under way."""


class Signals:
    """While entered, a first SIGINT or SIGTERM asks for a stop; a second one stops at once."""

    def __init__(self) -> None:
        self.requested = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        say(f"{signal.Signals(number).name}: saving, then stopping (again: stop at once)")

    def poll(self) -> None:
        """Raise ``StopRequested`` if a stop was asked for."""
        if self.requested:
            raise StopRequested
