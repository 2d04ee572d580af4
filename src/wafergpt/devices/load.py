"""How much of the machine other programs use while something runs."""

from __future__ import annotations

import os
import time


class OtherLoad:
    """The share of all cores that other programs use, from its creation on."""

    def __init__(self) -> None:
        self._start, self._busy, self._own = time.monotonic(), _busy_seconds(), _own_seconds()

    def share(self, processes: int = 1) -> float:
        """Return the share of all cores, from 0 to 1.

        Args:
            processes: how many like this one share the work, and are not others.
        """
        seconds = time.monotonic() - self._start
        own = (_own_seconds() - self._own) * processes
        others = _busy_seconds() - self._busy - own
        return min(1.0, max(0.0, others / (max(seconds, 1e-9) * (os.cpu_count() or 1))))


def _busy_seconds() -> float:
    import psutil

    times = psutil.cpu_times()
    idle = times.idle + getattr(times, "iowait", 0.0)
    # A guest's time is counted in user already.
    guests = getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)
    return float(sum(times) - idle - guests)


def _own_seconds() -> float:
    return sum(os.times()[:4])
