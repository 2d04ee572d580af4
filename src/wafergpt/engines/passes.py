"""Forward and backward passes of batches: one by one, or as CUDA graphs that are replayed."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from wafergpt.config import Recipe
from wafergpt.data.batches import Batch
from wafergpt.devices.compiler import reason
from wafergpt.engines.base import autocast
from wafergpt.logs import say_once
from wafergpt.planning.memory import optimizer_bytes

Shapes = tuple[tuple[str, torch.Size], ...]

WARM_UPS = 3
"""Passes before one is captured, in which kernels are compiled and chosen."""

MAX_SHAPES = 4
"""Shapes of batches that are captured: whole batches, the rest of one, and those of a ramp."""

ROOM = 2
"""A graph keeps its activations, and evaluations and other shapes need their own: so many times
must be free, with what the optimizer has yet to allocate."""


@dataclass(frozen=True)
class _Captured:
    graph: torch.cuda.CUDAGraph
    batch: Batch
    share: Tensor
    weight: Tensor
    loss: Tensor


class Passes:
    """Computes losses, and adds to the gradients.

    A GPU computes a small network faster than Python launches its kernels, so a pass of a language
    model on one GPU is captured once for each shape of batch, and then replayed in one launch. Its
    gradients stay in the same memory. What a replay computes is what the pass computes.

    Args:
        program: from a batch to its summed loss.
        recipe: resolved.
        device: of the program.
        copies: processes whose gradients are averaged and not summed.
        processes: of the training.
    """

    def __init__(
        self, program: nn.Module, recipe: Recipe, device: torch.device, copies: int, processes: int
    ) -> None:
        self._program, self._recipe, self._device = program, recipe, device
        self._copies = copies
        # A sampled softmax has other shapes in each pass, as have the rows of a task; recomputed
        # activations restore random numbers, which a capture cannot.
        self._captures = (
            device.type == "cuda"
            and processes == 1
            and recipe.task is None
            and not recipe.train.sampled_softmax
            and not recipe.system.activation_checkpointing
        )
        self._moments = optimizer_bytes(recipe.model, recipe.optimizer, recipe.lora)
        self._gradients: list[tuple[nn.Parameter, Tensor]] = []
        if self._captures:
            self._stream = torch.cuda.Stream()
            trained = [p for p in program.parameters() if p.requires_grad]
            self._gradients = [(p, torch.zeros_like(p)) for p in trained]
        self.forget()

    def forget(self) -> None:
        """Drop what was captured: the network's code has changed."""
        self._captured: dict[Shapes, _Captured] = {}
        self._failed = False
        self._seen: Counter[Shapes] = Counter()

    def begin(self) -> None:
        """Start with gradients of zero."""
        if self._gradients:
            torch._foreach_zero_([gradient for _, gradient in self._gradients])
        for parameter, gradient in self._gradients:
            parameter.grad = gradient

    def run(self, batch: Batch, share: float, weight: float) -> Tensor:
        """Add the gradient of a batch's part of the mean loss, and return that part.

        Args:
            batch: on the host.
            share: factor of its loss: 1, or 0 for padding.
            weight: of the global batch, which divides the loss.

        Returns:
            A scalar on the device, valid until the next pass.
        """
        if not self._captures or self._failed:
            return self._pass(batch.to(self._device), self._number(share), self._number(weight))
        shapes = tuple((name, value.shape) for name, value in batch.items())
        captured = self._captured.get(shapes)
        if captured is None:
            return self._warm_up(batch, shapes, self._number(share), self._number(weight))
        for name, value in batch.items():
            captured.batch[name].copy_(value, non_blocking=True)
        captured.share.fill_(share)
        captured.weight.fill_(weight)
        captured.graph.replay()
        return captured.loss

    def _number(self, value: float) -> Tensor:
        # A GPU divides by a Python number in another way than by a tensor.
        return torch.full((), value, device=self._device)

    def _pass(self, batch: Batch, share: Tensor, weight: Tensor) -> Tensor:
        with autocast(self._recipe, self._device):
            summed: Tensor = self._program(batch)
        loss = summed * share / weight
        # Copies average their gradients.
        (loss * self._copies).backward()
        return loss.detach()

    def _warm_up(self, batch: Batch, shapes: Shapes, share: Tensor, weight: Tensor) -> Tensor:
        """Run a pass as it is, on the stream of captures; capture it after the last warm-up."""
        here = torch.cuda.current_stream()
        self._stream.wait_stream(here)
        before = torch.cuda.memory_allocated()
        with torch.cuda.stream(self._stream):
            moved = batch.to(self._device)
            loss = self._pass(moved, share, weight)
        here.wait_stream(self._stream)
        self._seen[shapes] += 1
        if self._seen[shapes] == WARM_UPS and len(self._captured) < MAX_SHAPES:
            needed = torch.cuda.max_memory_allocated() - before + self._moments
            torch.cuda.empty_cache()
            if torch.cuda.mem_get_info()[0] >= ROOM * needed:
                self._capture(moved, shapes)
        return loss

    def _capture(self, batch: Batch, shapes: Shapes) -> None:
        share, weight = self._number(1.0), self._number(1.0)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, stream=self._stream):
                loss = self._pass(batch, share, weight)
        except RuntimeError as error:
            self._failed = True
            say_once(
                "graphs",
                f"warning: a pass cannot be captured as a CUDA graph ({reason(error)}); "
                "its kernels are launched one by one",
            )
            return
        self._captured[shapes] = _Captured(graph, batch, share, weight, loss)


def recompute_activations(blocks: nn.ModuleList) -> None:
    """Have the backward pass compute the activations of blocks anew instead of keeping them."""
    from torch.utils.checkpoint import checkpoint as recomputed

    for block in blocks:
        block.forward = partial(recomputed, block.forward, use_reentrant=False)
