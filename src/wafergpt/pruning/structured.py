"""Narrowing a trained run: a smaller dense one with fewer layers, heads, channels, less width."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from wafergpt.config import Model, Recipe
from wafergpt.errors import InputError
from wafergpt.logs import say
from wafergpt.model.gpt import Attention, FeedForward
from wafergpt.progress import working
from wafergpt.pruning.calibration_network import Calibrated, Evaluated, hooked
from wafergpt.pruning.removal import Removal, searched_shares
from wafergpt.pruning.unstructured import NOTABLE_ZEROS
from wafergpt.pruning.width import keep_width
from wafergpt.sparsity.structured import cut_channels, cut_heads, largest_ones
from wafergpt.tasks.base import gpt_of

PARTS = {
    "n_layers": "layers",
    "n_heads": "heads",
    "d_ffn": "channels",
    "d_model": "channels of the residual stream",
}
"""What a narrowing takes out, by the key of the recipe."""


@dataclass(frozen=True)
class Narrowing(Removal):
    """The shape to narrow to; None leaves a number as it is.

    Layers are taken out one by one, each time that without which the training loss is lowest. Heads
    and channels are kept by what the loss would change without them, estimated to first order
    (arXiv:1905.10650, arXiv:1906.10771); the width as ``keep_width`` says. What reads them is
    refitted to its outputs by least squares, block by block.

    Attributes:
        layers: blocks.
        heads: of each block.
        channels: of each block's feed-forward, ``model.d_ffn``.
        width: channels of the residual stream, ``model.d_model``.
        samples: sequences or rows of the training data to measure importance on.
    """

    layers: int | None = None
    heads: int | None = None
    channels: int | None = None
    width: int | None = None
    samples: int = 128

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise InputError("at least one sample is needed to measure importance on")

    @property
    def asked(self) -> bool:
        """Whether any number is given."""
        return any(n is not None for n in (self.layers, self.heads, self.channels, self.width))

    def of(self, model: Model) -> dict[str, int]:
        """Return the four numbers for a model, by its keys.

        Raises:
            InputError: if one is not between 1 and what is there, or nothing would change.
        """
        wanted = {
            "n_layers": self.layers, "n_heads": self.heads, "d_ffn": self.channels,
            "d_model": self.width,
        }  # fmt: skip
        there = {key: getattr(model, key) for key in wanted}
        for key, n in wanted.items():
            if n is not None and not 1 <= n <= there[key]:
                raise InputError(
                    f"{n} {PARTS[key]} are not between 1 and the {there[key]} there are"
                )
        found = {key: there[key] if n is None else n for key, n in wanted.items()}
        if found == there:
            raise InputError("these are the numbers that it has: nothing to take out")
        return found

    def require(self, name: str, recipe: Recipe) -> None:
        """Require that it has so many parts, and one more; see ``Removal``."""
        self.of(recipe.model)

    def take_out(self, network: Calibrated, name: str, before: Evaluated) -> dict[str, Any]:
        """Make a network smaller; see ``Removal``."""
        model = network.recipe.model
        shape = self.of(model)
        if (zeros := network.zeros()) > NOTABLE_ZEROS:
            say(f"{name} has {zeros:.0%} zeros in its blocks: what is refitted has none")
        work = _NarrowedNetwork(network, self.samples)
        work.keep_layers(shape["n_layers"])
        work.keep_parts(shape["n_heads"], shape["d_ffn"])
        parts = {key: n for key, n in shape.items() if key != "d_model"}
        network.settle(model={**parts, "d_head": model.head_width})
        if shape["d_model"] < model.d_model:
            keep_width(network, shape["d_model"], self.samples)
        return {
            "method": "structure",
            "pattern": None,
            "shape_before": {key: getattr(model, key) for key in shape},
            "shape_after": shape,
        }

    def sizes(self, recipe: Recipe, name: str) -> list[tuple[str, Removal]]:
        """Return shapes on the line to the run's own, named by their numbers; see ``Removal``."""
        model = recipe.model
        parts = {
            "layers": (model.n_layers, self.layers),
            "heads": (model.n_heads, self.heads),
            "channels": (model.d_ffn, self.channels),
            "width": (model.d_model, self.width),
        }
        asked = {part: (there, n) for part, (there, n) in parts.items() if n is not None}
        found: dict[str, Removal] = {}
        for share in searched_shares():
            numbers = {
                part: there - round((there - n) * share) for part, (there, n) in asked.items()
            }
            if any(numbers[part] < there for part, (there, _) in asked.items()):
                suffix = "".join(f"-{part[0]}{n}" for part, n in numbers.items())
                found.setdefault(name + suffix, replace(self, **numbers))
        return list(found.items())


class _NarrowedNetwork:
    """A network that loses parts."""

    def __init__(self, network: Calibrated, samples: int) -> None:
        self._network, self._samples = network, samples
        self._gpt = gpt_of(network.network)

    @torch.no_grad()
    def _loss(self) -> float:
        """Return the loss on training samples."""
        network, loss, weight = self._network, 0.0, 0.0
        for batch in network.samples(self._samples, for_loss=True):
            loss += float(network.task.loss(network.network, batch))
            weight += batch.weight
        return loss / weight

    def keep_layers(self, count: int) -> None:
        """Take out layers until so many are left."""
        while len(self._gpt.blocks) > count:
            blocks = list(self._gpt.blocks)
            losses = []
            with working(f"choosing one of {len(blocks)} layers"):
                for place in range(len(blocks)):
                    self._gpt.blocks = nn.ModuleList(blocks[:place] + blocks[place + 1 :])
                    losses.append(self._loss())
            place = losses.index(min(losses))
            say(f"without layer {place + 1} of {len(blocks)}: training loss {losses[place]:.4f}")
            self._gpt.blocks = nn.ModuleList(blocks[:place] + blocks[place + 1 :])

    def keep_parts(self, heads: int, channels: int) -> None:
        """Keep so many heads and channels of each block."""
        attentions, ffns = self._parts()
        fewer_heads = heads < attentions[0].n_heads
        fewer_channels = channels < ffns[0].out.in_features
        if not fewer_heads and not fewer_channels:
            return
        with working("measuring importance"):
            outputs = [part.out for part in attentions] + [part.out for part in ffns]
            importance = self._importance(outputs)
        for number, (attention, ffn) in enumerate(zip(attentions, ffns, strict=True)):
            with working(f"refitting layer {number + 1} of {len(ffns)}"):
                # Inputs are those of the narrower parts before it.
                if fewer_heads:
                    kept = largest_ones(importance[attention.out], heads)
                    cut_heads(attention, kept, self._gram(attention.out))
                if fewer_channels:
                    kept = largest_ones(importance[ffn.out], channels)
                    cut_channels(ffn, kept, self._gram(ffn.out))

    def _parts(self) -> tuple[list[Attention], list[FeedForward]]:
        modules = [module for block in self._gpt.blocks for module in block.children()]
        return (
            [module for module in modules if isinstance(module, Attention)],
            [module for module in modules if isinstance(module, FeedForward)],
        )

    def _gram(self, linear: nn.Linear) -> Tensor:
        return self._network.grams([linear], self._samples)[linear]

    def _importance(self, linears: Sequence[nn.Linear]) -> dict[nn.Linear, Tensor]:
        """Return the first-order change of the loss without each head or channel.

        Of each sample, |Σ x·∂L/∂x| over its tokens, and over a head's channels; summed up.
        """
        heads = {a.out: a.n_heads for a in self._parts()[0]}
        inputs: dict[nn.Module, Tensor] = {}
        found: dict[nn.Linear, Tensor] = {}

        def keep(module: nn.Module, given: tuple[Tensor, ...]) -> None:
            given[0].retain_grad()
            inputs[module] = given[0]

        network = self._network
        with hooked(linears, keep):
            for batch in network.samples(self._samples, for_loss=True):
                network.task.loss(network.network, batch).backward()
                for linear in linears:
                    x = inputs[linear]
                    assert x.grad is not None
                    change = (x.detach() * x.grad).flatten(0, -2).sum(0)
                    change = change.view(heads.get(linear, len(change)), -1).sum(1).abs()
                    found[linear] = change if linear not in found else found[linear] + change
                network.network.zero_grad()
        return found
