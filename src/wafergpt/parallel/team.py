"""The processes of one training: a leader that decides, and followers that compute along.

Only the leader has a run, a progress bar, validation, signals and a say in what is sick. It gives
orders, of a few numbers each; a follower keeps the same weights by doing the same updates. So no
two processes can ever decide differently.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from wafergpt.errors import TeamLost

LEADER = 0


class Order(IntEnum):
    """What the leader has everyone do."""

    GRADIENTS = 0
    """Of an update: its step, its first sample, its number of samples."""
    APPLY = 1
    """Move the weights with this learning rate."""
    DISCARD = 2
    """Drop the gradients."""
    STATE = 3
    """Take over the leader's weights and moments."""
    COMPILE = 4
    LOOK = 5
    """Work out the loss of validation samples: the first one, and how many."""
    SAVE = 6
    """Write what each one holds into a checkpoint."""
    CHECK = 7
    """Tell the checksum of the weights that each one holds."""
    END = 8


@dataclass(frozen=True)
class Team:
    """One process' view of the others; alone, it does nothing and costs nothing.

    Attributes:
        rank: this process, from 0, the leader.
        size: how many there are.
    """

    rank: int = 0
    size: int = 1

    @property
    def on_this_machine(self) -> int:
        """How many of them run here."""
        return int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if self.size > 1 else 1

    @property
    def follows(self) -> bool:
        """Whether another process decides."""
        return self.rank != LEADER

    def share(self, first: int, n: int) -> tuple[int, int]:
        """Return (first sample, count) of this process' part of ``n`` samples from ``first`` on."""
        begin, end = (n * rank // self.size for rank in (self.rank, self.rank + 1))
        return first + begin, end - begin

    def most(self, n: int) -> int:
        """Return how many of ``n`` samples the largest share has."""
        return -(-n // self.size)

    def order(self, order: Order, *numbers: float) -> None:
        """Tell the followers what to do now."""
        if self.size > 1:
            message = torch.zeros(4, dtype=torch.float64)
            message[: len(numbers) + 1] = torch.tensor([order, *numbers], dtype=torch.float64)
            self._broadcast(message)

    def next_order(self) -> tuple[Order, list[float]]:
        """Wait for the leader's next order."""
        message = torch.zeros(4, dtype=torch.float64)
        self._broadcast(message)
        order, *numbers = message.tolist()
        return Order(int(order)), numbers

    def told(self, value: Any = None) -> Any:
        """Return the leader's ``value``, which is JSON."""
        if self.size == 1:
            return value
        data = b"" if self.follows else json.dumps(value).encode()
        length = torch.tensor([len(data)])
        self._broadcast(length)
        message = torch.frombuffer(bytearray(data or bytes(int(length))), dtype=torch.uint8)
        self._broadcast(message)
        return json.loads(bytes(message.numpy()))

    def sum(self, *values: float) -> list[float]:
        """Add up numbers over all processes."""
        if self.size == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64)
        with explained():
            dist.all_reduce(total)
        return total.tolist()

    def of_each(self, value: int) -> list[int]:
        """Return every process' ``value``, by rank."""
        if self.size == 1:
            return [value]
        values = torch.zeros(self.size, dtype=torch.int64)
        values[self.rank] = value
        with explained():
            dist.all_reduce(values)
        return values.tolist()

    def sum_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Add up the gradients over all processes; who has none adds nothing."""
        if self.size == 1:
            return
        parameters = list(parameters)
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        gradients = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        with explained():
            dist.all_reduce(flat)
        parts = torch.split_with_sizes(flat, [gradient.numel() for gradient in gradients])
        views = [part.view_as(g) for part, g in zip(parts, gradients, strict=True)]
        torch._foreach_copy_(gradients, views)

    def given(self, tensors: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
        """Return the leader's ``tensors``, on ``device``."""
        shapes = self.told({k: [list(v.shape), str(v.dtype)[6:]] for k, v in tensors.items()})
        result = {}
        for name, (shape, dtype) in shapes.items():
            own = tensors[name].detach() if not self.follows else torch.empty(shape)
            tensor = own.to(device, getattr(torch, dtype)).contiguous()
            self._broadcast(tensor)
            result[name] = tensor
        return result

    def _broadcast(self, tensor: Tensor) -> None:
        if self.size > 1:
            with explained():
                dist.broadcast(tensor, LEADER)


ALONE = Team()


@contextmanager
def explained() -> Iterator[None]:
    """Say what a broken connection means, where gloo speaks of sockets."""
    try:
        yield
    except RuntimeError as error:
        raise TeamLost(
            f"another process of this training is gone or does not answer: {_reason(error)}"
        ) from None


def _reason(error: BaseException) -> str:
    """Return the first sentence of an error, without the place in torch's source it begins with."""
    line = next(iter(str(error).splitlines()), type(error).__name__)
    return re.sub(r"^\[\S+:\d+\] ", "", line).partition(". ")[0]
