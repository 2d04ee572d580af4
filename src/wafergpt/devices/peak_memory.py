"""The most memory that this process has used at once, and whether it was too little."""

from __future__ import annotations

import resource
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

CPU_ALLOCATOR = "DefaultCPUAllocator"
"""Begins torch's error on CPUs, which has no class of its own."""


def reset_peak_memory() -> None:
    """Forget the peaks so far, where the system can: a notebook trains more than once."""
    if "torch" in sys.modules:
        import torch

        if torch.cuda.is_available() and torch.cuda.is_initialized():
            torch.cuda.reset_peak_memory_stats()
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory(device: torch.device) -> int:
    """Return the peak bytes of the GPU's memory, or of this process on its host."""
    if device.type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated(device)
    # Linux hands ru_maxrss on to a child, VmHWM not.
    with suppress(OSError, ValueError, IndexError):
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        return int(status.split("VmHWM:")[1].split()[0]) << 10
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether torch found no memory on its device."""
    import torch

    return isinstance(error, torch.OutOfMemoryError) or CPU_ALLOCATOR in str(error)
