"""All that changes during a run; a checkpoint is this and only this."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from wafergpt.files import short
from wafergpt.parallel.sharding import Part
from wafergpt.train.optimizers import Optimizer

Row = dict[str, Any]

_KINDS: dict[str, tuple[type, ...]] = {
    "step": (int,), "samples": (int,), "tokens": (int,), "flops": (float, int),
    "seconds": (float, int), "best": (float, int, type(None)), "best_step": (int,),
    "pending": (dict, type(None)), "finished": (bool,), "skipped": (list,), "recent": (list,),
    "callbacks": (dict,),
}  # fmt: skip
"""Of the scalars in a checkpoint."""


@dataclass
class TrainState:
    """The mutable state of a run.

    Attributes:
        model: the network, with its weights.
        optimizer: the optimizer, with its moments.
        step: updates done.
        samples: the cursor: samples consumed.
        tokens: tokens read, padding included.
        flops: of all forward and backward passes of the training.
        seconds: time spent training, over all resumes.
        best: the best validation score so far, and ``best_step`` where it was.
        pending: the row of a step whose callbacks an interruption cut short, to run on resume.
        finished: set when the run is over before its last step.
        skipped: updates left out: first sample, sample after the last, reason.
        recent: the last losses, where the recipe watches for leaps.
        callbacks: what callbacks keep, as JSON.
    """

    model: nn.Module
    optimizer: Optimizer
    step: int = 0
    samples: int = 0
    tokens: int = 0
    flops: float = 0.0
    seconds: float = 0.0
    best: float | None = None
    best_step: int = 0
    pending: Row | None = None
    finished: bool = False
    skipped: list[list[Any]] = field(default_factory=list)
    recent: list[float] = field(default_factory=list)
    callbacks: dict[str, Any] = field(default_factory=dict)

    SCALARS = tuple(_KINDS)

    def scalars(self) -> dict[str, Any]:
        """Return everything but the tensors, as JSON."""
        return {name: getattr(self, name) for name in self.SCALARS}

    def take_scalars(self, values: Mapping[str, Any]) -> None:
        """Take over what ``scalars`` gave, and was read from a file.

        Raises:
            ValueError: if a value is not what could have been written.
        """
        for name in self.SCALARS:
            if name not in values:
                continue
            value = values[name]
            possible = type(value) in _KINDS[name]
            if type(value) is int:
                possible = possible and 0 <= value < 1 << 63
            elif type(value) is float:
                possible = possible and math.isfinite(value) and (value >= 0 or name == "best")
            if not possible:
                raise ValueError(f"{name}={short(value)} was never written")
            setattr(self, name, value)

    def weights_sha256(self) -> str:
        """Return a hash of all weights."""
        return weights_sha256(self.model.state_dict())


def weights_checksum(weights: Mapping[str, Tensor]) -> int:
    """Return the sum of all bits of the weights that this process holds, as whole numbers."""
    sums = [Part.of(t).values.view(torch.int32).sum(dtype=torch.int64) for t in weights.values()]
    return int(torch.stack(sums).sum()) if sums else 0


def weights_sha256(weights: Mapping[str, Tensor]) -> str:
    """Return a hash of weights: names, types, shapes and bytes, in the order of names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        tensor = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
