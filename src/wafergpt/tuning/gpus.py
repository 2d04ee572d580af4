"""The GPUs of this machine, shared out among the workers of a study."""

from __future__ import annotations

import os

from wafergpt.config import System
from wafergpt.errors import InputError

VISIBLE = "CUDA_VISIBLE_DEVICES"


def require_gpus(system: System, workers: int) -> None:
    """Require a GPU for each process of trials that take several.

    Trials of one process each may share a GPU.

    Args:
        system: of the recipe.
        workers: trials at a time on this machine.

    Raises:
        InputError: if there are fewer GPUs than processes.
    """
    import torch

    if system.nproc == 1 or system.device not in ("auto", "cuda"):
        return
    count, wanted = torch.cuda.device_count(), workers * system.nproc
    if count < wanted and (count or system.device == "cuda"):
        raise InputError(
            f"{workers} trials at a time of {system.nproc} processes each take {wanted} GPUs, and "
            f"there are {count}: fewer --workers, or a smaller --nproc"
        )


def gpus_of(worker: int, nproc: int) -> dict[str, str]:
    """Return the environment that gives a worker its own GPUs, of those of this process.

    Args:
        worker: its number; 0 is this process.
        nproc: processes of a trial.

    Returns:
        ``CUDA_VISIBLE_DEVICES``, or nothing without several GPUs.
    """
    import torch

    count = torch.cuda.device_count()
    if count < 2:
        return {}
    names = (os.environ.get(VISIBLE) or ",".join(map(str, range(count)))).split(",")
    first = worker * nproc
    return {VISIBLE: ",".join(names[place % count] for place in range(first, first + nproc))}
