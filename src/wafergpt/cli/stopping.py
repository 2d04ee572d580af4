"""Signals that end a command as Ctrl-C does, so that nothing half written is left."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

from wafergpt.distributed.launcher import HANGUP, hangs_up


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Let SIGTERM, and SIGHUP unless it is ignored, raise ``KeyboardInterrupt``."""
    numbers = (signal.SIGTERM, *([HANGUP] if HANGUP and hangs_up() else []))
    before = {number: signal.signal(number, signal.default_int_handler) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
