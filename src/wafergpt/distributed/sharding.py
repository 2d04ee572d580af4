"""Weights, gradients and moments sharded over all processes, or over groups of them (FSDP2).

Torch's ``fully_shard`` splits every tensor along its first dimension, as ``torch.chunk`` does, and
all-gathers each block when it runs. This module reads and writes those parts.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from dataclasses import dataclass
from types import EllipsisType
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from wafergpt import files
from wafergpt.distributed.collectives import ProcessGroup


def shard(
    network: nn.Module, blocks: nn.ModuleList, group: ProcessGroup, shards: int, device: str
) -> None:
    """Shard a network over groups of ``shards`` processes; several groups hold copies (HSDP).

    The backward pass then sums gradients over all processes.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    copies = group.size // shards
    sizes, names = (
        ((copies, shards), ("copies", "shard")) if copies > 1 else ((shards,), ("shard",))
    )
    mesh = init_device_mesh(device, sizes, mesh_dim_names=names)
    for module in (*blocks, network):
        sharded = fully_shard(module, mesh=mesh)
        # The loop's loss is a share of the batch's mean: gradients are summed, not averaged.
        sharded.set_gradient_divide_factor(1.0)
        sharded.set_force_sum_reduction_for_comms(True)


@torch.no_grad()
def fill(network: nn.Module, values: Iterable[tuple[str, Rows]], kept: Container[str] = ()) -> None:
    """Copy values into the weights, one after the other; of sharded weights, this process' part.

    Args:
        network: to copy into.
        values: by name.
        kept: names of weights that stay as they are, and have no value.

    Raises:
        ValueError: if names or shapes differ.
    """
    own = {name: value for name, value in network.state_dict().items() if name not in kept}
    for name, value in values:
        if name not in own:
            raise ValueError(f"there is no {files.short(name)}")
        part = Part.of(own.pop(name))
        try:
            part.values.copy_(part.cut(value))
        except ValueError as error:
            raise ValueError(f"{name} is {error}") from None
    if own:
        raise ValueError(f"{min(own)} has no value")


def sums_in(network: nn.Module, this_pass: bool) -> None:
    """Set whether the next backward pass sums gradients over processes, where FSDP does it."""
    from torch.distributed.fsdp import FSDPModule

    if isinstance(network, FSDPModule):
        network.set_requires_gradient_sync(this_pass)


def whole(tensor: Tensor) -> Tensor:
    """Return the whole tensor; for a sharded one, every process must call this."""
    gather: Any = getattr(tensor, "full_tensor", None)
    result: Tensor = tensor if gather is None else gather()
    return result


class Rows(Protocol):
    """A tensor in memory, or one in files that is read by rows."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the whole tensor."""

    def __getitem__(self, rows: slice | EllipsisType) -> Tensor:
        """Return some rows, or all."""


@dataclass(frozen=True)
class Part:
    """A process' part of a tensor.

    Attributes:
        values: ``[rows, …]``, a view of the tensor's memory.
        start: its first row in the whole tensor.
        shape: of the whole tensor.
        first_copy: whether no process of an earlier group holds the same rows.
    """

    values: Tensor
    start: int
    shape: tuple[int, ...]
    first_copy: bool

    @classmethod
    def of(cls, tensor: Tensor) -> Part:
        """Return this process' part of a tensor; all of it if it is not sharded."""
        tensor = tensor.detach()
        mesh: Any = getattr(tensor, "device_mesh", None)
        if mesh is None:
            return cls(tensor, 0, tuple(tensor.shape), True)
        local: Tensor = tensor.to_local()  # type: ignore[attr-defined]
        rows, processes = tensor.shape[0], mesh.size(mesh.ndim - 1)
        start = min(mesh.get_local_rank(mesh.ndim - 1) * -(-rows // processes), rows)
        copy = mesh.get_local_rank(0) if mesh.ndim > 1 else 0
        return cls(local, start, tuple(tensor.shape), copy == 0)

    def cut(self, values: Rows) -> Tensor:
        """Return this process' rows of a whole tensor.

        Raises:
            ValueError: if the whole has another shape.
        """
        if tuple(values.shape) != self.shape:
            raise ValueError(f"{tuple(values.shape)} there, not {self.shape}")
        return self.rows_of(values) if self.shape else values[...]

    def rows_of(self, values: Rows) -> Tensor:
        """Return this process' rows of a whole tensor of as many rows."""
        return values[self.start : self.start + len(self.values)]


def like(tensor: Tensor, values: Tensor) -> Tensor:
    """Return this process' rows ``values`` as a tensor whose rows are sharded like ``tensor``'s."""
    if not hasattr(tensor, "device_mesh"):
        return values
    from torch.distributed.tensor import DTensor

    return DTensor.from_local(
        values,
        tensor.device_mesh,
        tensor.placements,  # type: ignore[attr-defined]
        run_check=False,
        shape=torch.Size((len(tensor), *values.shape[1:])),
        stride=values.stride(),
    )
