"""The processes of one training and their collectives; a single process sends nothing."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from wafergpt.errors import ProcessLost

LEADER = 0


@dataclass(frozen=True)
class ProcessGroup:
    """A process' rank and its collectives; in a group of one they return at once.

    Attributes:
        rank: of this process; rank 0 is the leader.
        size: number of processes.
    """

    rank: int = 0
    size: int = 1

    @property
    def on_this_machine(self) -> int:
        """Number of these processes on this machine."""
        return int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if self.size > 1 else 1

    @property
    def is_worker(self) -> bool:
        """Whether another process is the leader."""
        return self.rank != LEADER

    def share(self, first: int, n: int) -> tuple[int, int]:
        """Return (first sample, count) of this process' part of ``n`` samples from ``first`` on."""
        begin, end = (n * rank // self.size for rank in (self.rank, self.rank + 1))
        return first + begin, end - begin

    def largest_share(self, n: int) -> int:
        """Return the size of the largest share of ``n`` samples."""
        return -(-n // self.size)

    def broadcast(self, value: Any = None) -> Any:
        """Return the leader's ``value``, sent as JSON."""
        if self.size == 1:
            return value
        data = b"" if self.is_worker else json.dumps(value).encode()
        length = torch.tensor([len(data)])
        self.broadcast_into(length)
        message = torch.frombuffer(bytearray(data or bytes(int(length))), dtype=torch.uint8)
        self.broadcast_into(message)
        return json.loads(bytes(message.numpy()))

    def sum(self, *values: float) -> list[float]:
        """Add up numbers over all processes."""
        if self.size == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64)
        with explained():
            dist.all_reduce(total)
        return total.tolist()

    def all_gather(self, value: int) -> list[int]:
        """Return every process' ``value``, by rank."""
        if self.size == 1:
            return [value]
        values = torch.zeros(self.size, dtype=torch.int64)
        values[self.rank] = value
        with explained():
            dist.all_reduce(values)
        return values.tolist()

    def all_gather_rows(self, rows: Tensor) -> Tensor:
        """Return the rows of all processes, by rank; their numbers may differ."""
        if self.size == 1:
            return rows
        counts = self.all_gather(len(rows))
        padded = rows.new_zeros(max(counts), *rows.shape[1:])
        padded[: len(rows)] = rows
        found = [torch.empty_like(padded) for _ in counts]
        with explained():
            dist.all_gather(found, padded)
        return torch.cat([part[:count] for part, count in zip(found, counts, strict=True)])

    def broadcast_tensors(
        self, tensors: Mapping[str, Tensor], device: torch.device
    ) -> dict[str, Tensor]:
        """Return the leader's ``tensors``, on ``device``."""
        shapes = self.broadcast({k: [list(v.shape), str(v.dtype)[6:]] for k, v in tensors.items()})
        result = {}
        for name, (shape, dtype) in shapes.items():
            own = tensors[name].detach() if not self.is_worker else torch.empty(shape)
            tensor = own.to(device, getattr(torch, dtype)).contiguous()
            self.broadcast_into(tensor)
            result[name] = tensor
        return result

    def broadcast_into(self, tensor: Tensor) -> None:
        """Fill ``tensor`` with the leader's values, in place."""
        if self.size > 1:
            with explained():
                dist.broadcast(tensor, LEADER)


SINGLE = ProcessGroup()


@contextmanager
def explained(own: Callable[[BaseException], bool] = lambda error: False) -> Iterator[None]:
    """Raise ``ProcessLost`` in place of the socket errors of a broken connection.

    Args:
        own: whether an error is this process' own, and stays what it is.
    """
    try:
        yield
    except RuntimeError as error:
        if own(error):
            raise
        raise ProcessLost(
            f"another process of this training is gone or does not answer: {_reason(error)}"
        ) from None


def _reason(error: BaseException) -> str:
    """Return the first sentence of an error, without the place in torch's source it begins with."""
    line = next(iter(str(error).splitlines()), type(error).__name__)
    return re.sub(r"^\[\S+:\d+\] ", "", line).partition(". ")[0]
