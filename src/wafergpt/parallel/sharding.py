"""Weights, gradients and moments that are spread over processes, whole or in groups (FSDP2).

Torch's ``fully_shard`` splits every tensor along its first dimension, as ``torch.chunk`` does, and
gathers a block when it is its turn. What is written and read here are those parts.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from types import EllipsisType
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from wafergpt import files
from wafergpt.parallel.team import Team


def spread(network: nn.Module, blocks: nn.ModuleList, team: Team, shard: int, device: str) -> None:
    """Spread a network over groups of ``shard`` processes; several groups hold copies (HSDP).

    Gradients are then added up over all processes by the backward pass.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    groups = team.size // shard
    sizes, names = ((groups, shard), ("copies", "shard")) if groups > 1 else ((shard,), ("shard",))
    mesh = init_device_mesh(device, sizes, mesh_dim_names=names)
    for module in (*blocks, network):
        spread_out = fully_shard(module, mesh=mesh)
        # The loop's loss is a share of the batch's mean: gradients are summed, not averaged.
        spread_out.set_gradient_divide_factor(1.0)
        spread_out.set_force_sum_reduction_for_comms(True)


@torch.no_grad()
def fill(network: nn.Module, values: Iterable[tuple[str, Rows]]) -> None:
    """Give every weight its value, or what this process holds of it, one after the other.

    Raises:
        ValueError: if names or shapes differ.
    """
    own = network.state_dict()
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
    """Say whether the next backward pass adds up gradients over processes, if it can."""
    from torch.distributed.fsdp import FSDPModule

    if isinstance(network, FSDPModule):
        network.set_requires_gradient_sync(this_pass)


def whole(tensor: Tensor) -> Tensor:
    """Return a tensor with all its parts; for a spread one every process must ask."""
    gather: Any = getattr(tensor, "full_tensor", None)
    result: Tensor = tensor if gather is None else gather()
    return result


class Rows(Protocol):
    """A tensor, or one that lies in files and is read by rows."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the whole."""

    def __getitem__(self, rows: slice | EllipsisType) -> Tensor:
        """Return some rows, or all."""


@dataclass(frozen=True)
class Part:
    """A process' part of a tensor.

    Attributes:
        values: ``[rows, …]``, in the memory of the tensor it is a part of.
        start: its first row in the whole.
        shape: of the whole.
        first_copy: whether no process of an earlier group holds the same.
    """

    values: Tensor
    start: int
    shape: tuple[int, ...]
    first_copy: bool

    @classmethod
    def of(cls, tensor: Tensor) -> Part:
        """Return this process' part: of a tensor that is not spread, all."""
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
        """Return of a whole tensor what this process holds.

        Raises:
            ValueError: if the whole has another shape.
        """
        if tuple(values.shape) != self.shape:
            raise ValueError(f"{tuple(values.shape)} there, not {self.shape}")
        return values[self.start : self.start + len(self.values)] if self.shape else values[...]


def like(tensor: Tensor, values: Tensor) -> Tensor:
    """Return this process' part ``values`` as a tensor that is spread as ``tensor`` is."""
    if not hasattr(tensor, "device_mesh"):
        return values
    from torch.distributed.tensor import DTensor

    return DTensor.from_local(
        values,
        tensor.device_mesh,
        tensor.placements,  # type: ignore[attr-defined]
        run_check=False,
        shape=tensor.shape,
        stride=tensor.stride(),
    )


class SpreadMuon(torch.optim.Optimizer):
    """Torch's Muon for matrices that are spread: each update is gathered, for it needs the whole.

    Momentum stays spread. Every process works out the whole update and keeps its rows.
    """

    def __init__(
        self, groups: Iterable[dict[str, Any]], lr: float, momentum: float, adjust_lr_fn: str
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "adjust_lr_fn": adjust_lr_fn}
        super().__init__(groups, {"weight_decay": 0.0, **defaults})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Move the weights."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._move(parameter, group)

    def _move(self, parameter: Tensor, group: dict[str, Any]) -> None:
        assert parameter.grad is not None
        momentum, state = group["momentum"], self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter.grad)
        average = state["momentum_buffer"].lerp_(parameter.grad, 1 - momentum)
        # A matrix of zeros that one update of torch's own moves becomes that update.
        change = nn.Parameter(torch.zeros(parameter.shape, device=parameter.device))
        change.grad = whole(parameter.grad.lerp(average, momentum))
        once: torch.optim.Optimizer = torch.optim.Muon(
            [change], lr=group["lr"], weight_decay=0.0, momentum=0.0, nesterov=False,
            adjust_lr_fn=group["adjust_lr_fn"],
        )  # fmt: skip
        once.step()
        part = Part.of(parameter)
        part.values.mul_(1 - group["lr"] * group["weight_decay"]).add_(part.cut(change.detach()))
