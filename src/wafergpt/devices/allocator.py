"""The C library's memory, kept once it was asked for."""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
LARGEST_HEAP_BLOCK = 32 << 20
"""Bytes: the highest that glibc accepts on 64 bits."""
NEVER = 2**31 - 1


def keep_freed_memory() -> bool:
    """Have glibc keep what is freed; return whether it is glibc and does.

    By default it gives a large block back to the kernel when it is freed, and the next one comes
    back as new pages, which the kernel clears one fault after the other, on one core. A training
    step frees and asks for the same blocks again and again: a third more of a small model's tokens
    a second, and no higher a peak.
    """
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, LARGEST_HEAP_BLOCK) and mallopt(M_TRIM_THRESHOLD, NEVER))
