"""Limits of this process: cores and memory, by affinity and by control groups."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUPS = Path("/proc/self/cgroup")

THREADS = "OMP_NUM_THREADS"


def cores() -> int:
    """Return the CPU cores that this process may use, by affinity and by container quota."""
    count = _by_affinity()
    for folder in _groups("cpu"):
        # Version 2 has one file, version 1 two.
        numbers = [*_words(folder / "cpu.max"), *_words(folder / "cpu.cfs_quota_us")]
        numbers += _words(folder / "cpu.cfs_period_us")
        try:
            quota, period = map(int, numbers)
        except ValueError:
            continue  # no limit ("max"), or no such file in this group
        if quota > 0 and period > 0:
            count = min(count, max(1, quota // period))
    return count


def _by_affinity() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory(free: int, total: int) -> tuple[int, int]:
    """Return (free, total) bytes of a machine as its control groups limit them.

    The file cache counts as free: the kernel drops it when memory is needed.
    """
    for folder in _groups("memory"):
        for names in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            try:
                limit, used = (int(_words(folder / name)[0]) for name in names[:2])
            except (ValueError, IndexError):
                continue
            stat = _words(folder / "memory.stat")
            cached = dict(zip(stat[::2], stat[1::2], strict=False)).get(names[2], "0")
            free = min(free, max(0, limit - used + int(cached)))
            total = min(total, limit)
    limit, used = _address_space()
    return max(0, min(free, limit - used)), min(total, limit)


def _address_space() -> tuple[int, int]:
    """Return (limit, used) bytes of this process' address space, as ``ulimit -v`` limits it."""
    try:
        import resource

        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
        pages = int(_words(Path("/proc/self/statm"))[0])
    except (ImportError, IndexError, OSError, ValueError):
        return sys.maxsize, 0
    if limit == resource.RLIM_INFINITY:
        return sys.maxsize, 0
    return limit, pages * resource.getpagesize()


def limit_threads() -> None:
    """Limit the threads of libraries to the quota of cores.

    Libraries use only the affinity: 64 threads on one core all wait for each other.
    """
    if THREADS not in os.environ and cores() < _by_affinity():
        os.environ[THREADS] = str(cores())


def _groups(controller: str) -> Iterator[Path]:
    """Yield the folders of this process' control groups, and of those above them."""
    try:
        lines = OWN_CGROUPS.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if controllers and controller not in controllers.split(","):
            continue
        root = CGROUPS / controller if controllers else CGROUPS
        # In a container the path may be the host's, of which only the root is visible.
        folder = root / path.lstrip("/")
        yield from (f for f in (folder, *folder.parents) if f == root or root in f.parents)


def _words(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").split()
    except OSError:
        return []
