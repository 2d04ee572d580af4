"""What launchers leave in the environment, whole or in part."""

from __future__ import annotations

import os

from wafergpt.errors import InputError
from wafergpt.progress import place, say

NEEDED = ("RANK", "MASTER_ADDR", "MASTER_PORT")
"""What a process must know of a training of WORLD_SIZE processes."""

OTHERS = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE")
"""How srun and mpirun tell a process that it is one of several, which may as well be a sweep."""

LARGEST_PORT = 65535


def required_place() -> tuple[int, int]:
    """Return (rank, number of processes) of this training.

    Raises:
        InputError: if the environment says so in part, or what cannot be; it names the variable.
    """
    text = os.environ.get("WORLD_SIZE", "").strip() or "1"
    size = _number("WORLD_SIZE", text, 1, None)
    if size == 1:
        _say_that_each_trains()
        return 0, 1
    for name in NEEDED:
        if not os.environ.get(name):
            raise InputError(
                f"WORLD_SIZE={size} processes, but {name} is not set: unset WORLD_SIZE to train "
                f"in one process, or start all with torchrun or --nproc {size}"
            )
    _number("RANK", os.environ["RANK"], 0, size - 1)
    _number("MASTER_PORT", os.environ["MASTER_PORT"], 0, LARGEST_PORT)
    for name, least in (("LOCAL_RANK", 0), ("LOCAL_WORLD_SIZE", 1)):
        if name in os.environ:
            _number(name, os.environ[name], least, None)
    return place()


def _number(name: str, text: str, least: int, most: int | None) -> int:
    try:
        number = int(text)
    except ValueError:
        number = least - 1
    if number < least or (most is not None and number > most):
        bounds = f"from {least} to {most}" if most is not None else f"from {least} on"
        raise InputError(
            f"{name}={text} in the environment is no number {bounds}: "
            "unset WORLD_SIZE to train in one process, or start all with torchrun or --nproc"
        )
    return number


def _say_that_each_trains() -> None:
    for name in OTHERS:
        tasks = os.environ.get(name, "")
        if tasks.isdecimal() and int(tasks) > 1:
            say(
                f"note: {name}={tasks}, but WORLD_SIZE is not set: each of them trains for itself; "
                "for one training start them with torchrun (docs/clusters.md)"
            )
            return
