"""The environment variables that launchers set, all or some of them."""

from __future__ import annotations

import os

from wafergpt.errors import InputError
from wafergpt.logs import place, say

NEEDED = ("RANK", "MASTER_ADDR", "MASTER_PORT")
"""Variables that a training of WORLD_SIZE processes requires."""

OTHERS = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE")
"""Set by srun and mpirun for one of several processes, which may also be a sweep."""

LARGEST_PORT = 65535


def required_place() -> tuple[int, int]:
    """Return (rank, number of processes) of this training.

    Raises:
        InputError: if a variable is missing or impossible; it is named.
    """
    text = os.environ.get("WORLD_SIZE", "").strip() or "1"
    size = _number("WORLD_SIZE", text, 1, None)
    if size == 1:
        _warn_that_each_trains_alone()
        return 0, 1
    for name in NEEDED:
        if not os.environ.get(name):
            raise InputError(
                f"WORLD_SIZE={size} processes, but {name} is not set: unset WORLD_SIZE to train "
                f"in one process, or start all with torchrun or --nproc {size}"
            )
    _number("RANK", os.environ["RANK"], 0, size - 1)
    _number("MASTER_PORT", os.environ["MASTER_PORT"], 0, LARGEST_PORT)
    for name, min_value in (("LOCAL_RANK", 0), ("LOCAL_WORLD_SIZE", 1)):
        if name in os.environ:
            _number(name, os.environ[name], min_value, None)
    return place()


def _number(name: str, text: str, min_value: int, max_value: int | None) -> int:
    try:
        number = int(text)
    except ValueError:
        number = min_value - 1
    if number < min_value or (max_value is not None and number > max_value):
        upper = "on" if max_value is None else f"to {max_value}"
        raise InputError(
            f"{name}={text} in the environment is not a number from {min_value} {upper}: "
            "unset WORLD_SIZE to train in one process, or start all with torchrun or --nproc"
        )
    return number


def _warn_that_each_trains_alone() -> None:
    for name in OTHERS:
        tasks = os.environ.get(name, "")
        if tasks.isdecimal() and int(tasks) > 1:
            say(
                f"note: {name}={tasks}, but WORLD_SIZE is not set: each of them trains alone; "
                "for one training start them with torchrun (docs/clusters.md)"
            )
            return
