"""The mutable state of a run besides weights and moments; a checkpoint holds all of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from wafergpt.files import short

Row = dict[str, Any]

_KINDS: dict[str, tuple[type, ...]] = {
    "step": (int,), "samples": (int,), "tokens": (int,), "flops": (float, int),
    "sparse_flops": (float, int), "zeros": (float, int),
    "seconds": (float, int), "best": (float, int, type(None)), "best_step": (int,),
    "pending": (dict, type(None)), "finished": (bool,), "skipped": (list,), "recent": (list,),
    "callbacks": (dict,),
}  # fmt: skip
"""Types of the scalars in a checkpoint."""


@dataclass
class TrainState:
    """The mutable state of a run.

    Attributes:
        step: updates done.
        samples: the cursor: samples consumed.
        tokens: tokens read, padding included.
        flops: of all forward and backward passes of the training.
        sparse_flops: of these, without what multiplies masked weights; 0 where none are masked.
        zeros: share of masked weights, which never falls.
        seconds: time spent training, over all resumes.
        best: the best validation score so far, and ``best_step`` where it was.
        pending: the row of a step whose callbacks an interruption cut short, to run on resume.
        finished: set when the run is over before its last step.
        skipped: skipped updates: first sample, sample after the last, reason.
        recent: the last losses, if the recipe guards against spikes.
        callbacks: the callbacks' own state, as JSON.
    """

    step: int = 0
    samples: int = 0
    tokens: int = 0
    flops: float = 0.0
    sparse_flops: float = 0.0
    zeros: float = 0.0
    seconds: float = 0.0
    best: float | None = None
    best_step: int = 0
    pending: Row | None = None
    finished: bool = False
    skipped: list[list[Any]] = field(default_factory=list)
    recent: list[float] = field(default_factory=list)
    callbacks: dict[str, Any] = field(default_factory=dict)

    def scalars(self) -> dict[str, Any]:
        """Return everything as JSON."""
        return {name: getattr(self, name) for name in _KINDS}

    def take_scalars(self, values: Mapping[str, Any]) -> None:
        """Load the values of ``scalars`` that were read from a file.

        Raises:
            ValueError: if a value is not what could have been written.
        """
        for name, kinds in _KINDS.items():
            if name not in values:
                continue
            value = values[name]
            possible = type(value) in kinds
            if type(value) is int:
                possible = possible and 0 <= value < 1 << 63
            elif type(value) is float:
                possible = possible and math.isfinite(value) and (value >= 0 or name == "best")
            if not possible:
                raise ValueError(f"{name}={short(value)} was never written")
            setattr(self, name, value)
