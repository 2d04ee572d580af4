"""How much of this process' cores other programs use while something runs."""

from __future__ import annotations

import os
import time
from collections.abc import Collection

import psutil


class OtherLoad:
    """The share of the cores that other programs use, from its creation on."""

    def __init__(self) -> None:
        self._cores = _own_cores()
        self._start = time.monotonic()
        self._busy, self._own = _busy_seconds(self._cores), _own_seconds()

    def share(self, processes: int = 1) -> float:
        """Return the share of the cores that this process may use, from 0 to 1.

        Args:
            processes: how many like this one share the work, and are not others.
        """
        seconds = max(time.monotonic() - self._start, 1e-9)
        own = (_own_seconds() - self._own) * processes
        others = _busy_seconds(self._cores) - self._busy - own
        return min(1.0, max(0.0, others / (seconds * len(self._cores))))


def _own_cores() -> Collection[int]:
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return range(os.cpu_count() or 1)


def _busy_seconds(cores: Collection[int]) -> float:
    total = 0.0
    for core, times in enumerate(psutil.cpu_times(percpu=True)):
        if core in cores:
            # A guest's time is counted in user already.
            idle = ("idle", "iowait", "guest", "guest_nice")
            total += sum(times) - sum(getattr(times, name, 0.0) for name in idle)
    return total


def _own_seconds() -> float:
    """Return the CPU time of this process, and of its children, dead or alive."""
    total = sum(os.times()[:4])
    for child in psutil.Process().children(recursive=True):
        try:
            total += sum(child.cpu_times()[:4])
        except psutil.Error:
            continue
    return float(total)
