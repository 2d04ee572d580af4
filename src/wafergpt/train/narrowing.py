"""Narrowing a trained run: a smaller dense one with fewer layers, heads and channels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from wafergpt.checkpoint.imported_run import require_new
from wafergpt.config import Model, Recipe
from wafergpt.errors import InputError
from wafergpt.model.gpt import Attention, FeedForward
from wafergpt.progress import say, working
from wafergpt.runs.run import Run
from wafergpt.sparsity.structured import cut_channels, cut_heads
from wafergpt.tasks.base import gpt_of, task_of
from wafergpt.train.calibrated import Calibrated, hooked
from wafergpt.train.pruning import NOTABLE, pruned_run


@dataclass(frozen=True)
class Narrowing:
    """The shape to narrow to; None leaves a number as it is.

    Attributes:
        layers: blocks.
        heads: of each block.
        channels: of each block's feed-forward, ``model.d_ffn``.
        samples: sequences or rows of the training data to measure importance on.
    """

    layers: int | None = None
    heads: int | None = None
    channels: int | None = None
    samples: int = 128

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise InputError("at least one sample is needed to measure importance on")

    @property
    def asked(self) -> bool:
        """Whether any number is given."""
        return any(n is not None for n in (self.layers, self.heads, self.channels))

    def of(self, model: Model) -> dict[str, int]:
        """Return the three numbers for a model, by its keys.

        Raises:
            InputError: if one is not between 1 and what is there, or nothing would change.
        """
        wanted = {"n_layers": self.layers, "n_heads": self.heads, "d_ffn": self.channels}
        there = {key: getattr(model, key) for key in wanted}
        for (key, n), word in zip(wanted.items(), ("layers", "heads", "channels"), strict=True):
            if n is not None and not 1 <= n <= there[key]:
                raise InputError(f"{n} {word} are not between 1 and the {there[key]} there are")
        found = {key: there[key] if n is None else n for key, n in wanted.items()}
        if found == there:
            raise InputError("these are the numbers that it has: nothing to take out")
        return found


def narrow(run: Run, recipe: Recipe, name: str, to: Narrowing, root: Path) -> Run:
    """Make a smaller run from another one's weights.

    Layers are taken out one by one, each time that without which the training loss is lowest. Heads
    and channels are kept by what the loss would change without them, estimated to first order
    (arXiv:1905.10650, arXiv:1906.10771); what reads them is refitted to its outputs by least
    squares, block by block.

    Args:
        run: a language model or a task's, with its data.
        recipe: the run's, with its data where that is now.
        name: of the new run.
        to: the shape.
        root: the folder that holds runs.

    Returns:
        The new run; its result has loss, time and sizes before and after.

    Raises:
        InputError: if the name is taken, the data is gone, or the shape impossible.
        DamagedCheckpointError: if the checkpoint is not what was written.
    """
    require_new(recipe.replace(name=name).name, root)
    shape = to.of(recipe.model)
    network = Calibrated.of(run, recipe)
    model = network.recipe.model
    before = network.facts("before", network.first(run.name))
    if (zeros := network.zeros()) > NOTABLE:
        say(f"{run.name} has {zeros:.0%} zeros in its blocks: what is refitted has none")
    work = _Work(network, to.samples)
    work.keep_layers(shape["n_layers"])
    work.keep_parts(shape["n_heads"], shape["d_ffn"])
    smaller = network.recipe.replace(model={**shape, "d_head": model.head_width})
    network.recipe, network.task = smaller, task_of(smaller)
    facts = {
        "pruned": str(run.path.resolve()),
        "how": asdict(to),
        "method": "structure",
        "pattern": None,
        "sparsity": network.zeros(),
        "shape_before": {key: getattr(model, key) for key in shape},
        "shape_after": shape,
    }
    return pruned_run(network, name, root, network.evaluated(), {**facts, **before})


class _Work:
    """A network that loses parts."""

    def __init__(self, network: Calibrated, samples: int) -> None:
        self._network, self._samples = network, samples
        self._gpt = gpt_of(network.network)

    @torch.no_grad()
    def _loss(self) -> float:
        """Return the loss on training samples."""
        network, loss, weight = self._network, 0.0, 0.0
        for batch in network.samples(self._samples):
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
                    kept = _largest(importance[attention.out], heads)
                    cut_heads(attention, kept, self._gram(attention.out))
                if fewer_channels:
                    kept = _largest(importance[ffn.out], channels)
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
            for batch in network.samples(self._samples):
                network.task.loss(network.network, batch).backward()
                for linear in linears:
                    x = inputs[linear]
                    assert x.grad is not None
                    change = (x.detach() * x.grad).flatten(0, -2).sum(0)
                    change = change.view(heads.get(linear, len(change)), -1).sum(1).abs()
                    found[linear] = change if linear not in found else found[linear] + change
                network.network.zero_grad()
        return found


def _largest(importance: Tensor, n: int) -> Tensor:
    """Return the numbers of the ``n`` largest, ascending."""
    return importance.argsort(descending=True, stable=True)[:n].sort().values.cpu()
