"""A task's network as a graph for other programs: named tensors in, named tensors out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

    from wafergpt.data.batches import Batch


def _unchanged(found: Mapping[str, Tensor], batch: Batch) -> Mapping[str, Tensor]:
    return found


@dataclass(frozen=True)
class Graph:
    """What ``export --format onnx`` makes of a task's network.

    Attributes:
        inputs: the tensors of a batch that the network reads, and the names of their axes, all of
            any size. ``tokens`` become ``input_ids`` there, and ``lengths [batch]`` an
            ``attention_mask [batch, length]``.
        outputs: what it computes by name, each with a line that says what that is.
        forward: computes the outputs from the network and a batch with those inputs.
        settings: what a program must know to prepare inputs and to read outputs, as JSON.
        answer: lines of Python that print an answer from arrays with the names of the outputs,
            ``texts`` and ``settings``.
        evaluated: computes ``Task.outputs`` from those of the graph and the batch that they are
            for, so that an export's metrics can be measured.
    """

    inputs: Mapping[str, tuple[str, ...]]
    outputs: Mapping[str, str]
    forward: Callable[[nn.Module, Batch], Mapping[str, Tensor]]
    settings: Mapping[str, Any]
    answer: str
    evaluated: Callable[[Mapping[str, Tensor], Batch], Mapping[str, Tensor]] = field(
        default=_unchanged
    )
