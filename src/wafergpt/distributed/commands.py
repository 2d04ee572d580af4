"""The commands that the leader broadcasts to the worker processes.

Only the leader has a run, a progress bar and signals, and decides which updates are skipped. It
broadcasts commands of a few numbers each; a worker keeps the same weights by making the same
updates. So no two processes can decide differently.
"""

from __future__ import annotations

from enum import IntEnum

import torch

from wafergpt.distributed.collectives import ProcessGroup


class Command(IntEnum):
    """A command, and the numbers it takes."""

    GRADIENTS = 0
    """Compute the gradients of an update: its step, first sample, number of samples, and the last
    step of the training."""
    APPLY = 1
    """Move the weights with this learning rate; the step, and the last one."""
    DISCARD = 2
    """Clear the gradients."""
    STATE = 3
    """Load the leader's weights and moments."""
    COMPILE = 4
    OUTPUTS = 5
    """Compute the outputs of validation samples: the first one, and how many."""
    SAVE = 6
    """Write this process' part of a checkpoint."""
    CHECKSUM = 7
    """All-gather the checksums of the weights."""
    END = 8


NUMBERS = 4
"""Maximum per command."""


def send(group: ProcessGroup, command: Command, *numbers: float) -> None:
    """Broadcast a command to the workers."""
    if group.size > 1:
        message = torch.zeros(NUMBERS + 1, dtype=torch.float64)
        message[: len(numbers) + 1] = torch.tensor([command, *numbers], dtype=torch.float64)
        group.broadcast_into(message)


def receive(group: ProcessGroup) -> tuple[Command, list[float]]:
    """Wait for the leader's next command."""
    message = torch.zeros(NUMBERS + 1, dtype=torch.float64)
    group.broadcast_into(message)
    command, *numbers = message.tolist()
    return Command(int(command)), numbers
