"""Narrowing the residual stream of a trained network: ``model.d_model`` gets smaller."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wafergpt.model.empty import empty
from wafergpt.model.gpt import Block
from wafergpt.progress import working
from wafergpt.pruning.calibration_network import Calibrated, hooked
from wafergpt.shapes.roles import role_of
from wafergpt.sparsity.structured import DAMPING, fitted, largest_ones, without_channels
from wafergpt.tasks.base import gpt_of


def keep_width(network: Calibrated, width: int, samples: int) -> None:
    """Keep so many channels of the residual stream, the same ones in the whole network.

    They are those that are largest behind the norms, which are all that is read of the stream, on
    average (arXiv:2407.14679).

    What reads the stream is refitted, one matrix after the other, to what it computed in the whole
    network from all channels: by least squares, on the stream as it is now. Of a head that is the
    token embedding too, it is scale and shift of the last norm.

    Args:
        network: which is changed, and its recipe with it.
        width: the number of channels.
        samples: of the training data that all of this is measured on.
    """
    with working("measuring importance"):
        kept = largest_ones(_importance(network, samples), width)
    whole, multiplier = network.network, _multiplier(network)
    # Heads keep their width, and feed-forward layers theirs.
    model = network.recipe.model
    network.settle(model={"d_model": width, "d_head": model.head_width, "d_ffn": model.d_ffn})
    narrow = empty(network.task.network)
    shapes = {name: tensor.shape for name, tensor in narrow.state_dict().items()}
    weights = without_channels(whole.state_dict(), shapes, kept)
    narrow.load_state_dict(weights, assign=True)
    network.network = narrow.requires_grad_(True).eval()
    refit = _Refit(network, whole, samples)
    blocks = len(gpt_of(narrow).blocks)
    for number in range(blocks):
        with working(f"refitting layer {number + 1} of {blocks}"):
            refit.block(number)
    with working("refitting the head"):
        refit.head(kept, multiplier / _multiplier(network))


def _multiplier(network: Calibrated) -> float:
    """Return what the parametrization multiplies all heads' inputs by, but for a constant."""
    model = network.recipe.model
    return model.base_d_model / model.d_model if model.parametrization == "mup" else 1.0


@torch.no_grad()
def _importance(network: Calibrated, samples: int) -> Tensor:
    """Return the mean size of each channel behind the norms, ``[d_model]``."""
    gpt = gpt_of(network.network)
    found = torch.zeros(gpt.config.d_model, device=network.device)

    def add(_: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> None:
        found.add_(output.flatten(0, -2).abs().mean(0))

    norms = [module for module in gpt.modules() if isinstance(module, nn.LayerNorm)]
    with hooked(norms, add, after=True):
        for batch in network.samples(samples):
            network.task.loss(network.network, batch)
    return found


class _Refit:
    """Fits a narrow network to the whole one that it was cut out of."""

    def __init__(self, network: Calibrated, whole: nn.Module, samples: int) -> None:
        self._network, self._whole, self._samples = network, whole, samples

    def block(self, number: int) -> None:
        """Fit what a block reads; its inputs are those behind the blocks that are fitted."""
        before, now = (gpt_of(net).blocks[number] for net in (self._whole, self._network.network))
        assert isinstance(before, Block)
        assert isinstance(now, Block)
        now.attention.qkv = self._fitted(before.attention.qkv, now.attention.qkv)
        now.ffn.up = self._fitted(before.ffn.up, now.ffn.up)

    def head(self, kept: Tensor, factor: float) -> None:
        """Fit what the head reads, and multiply it by a factor."""
        whole, now = (gpt_of(net) for net in (self._whole, self._network.network))
        d_model, width = whole.config.d_model, len(kept)
        # Of the norm's inputs without scale and shift, and of a 1; beside the outputs wanted.
        gram = torch.zeros(width + 1, width + 1).double()
        cross = torch.zeros(width + 1, d_model).double()
        for x, y in self._pairs(whole.norm, now.norm):
            x = F.pad(F.layer_norm(x, (width,), eps=now.norm.eps), (0, 1), value=1.0)
            gram += x.T @ x
            cross += x.T @ y
        tied = self._network.recipe.vocabulary_head and now.lm_head is None
        read = whole.head if tied else torch.eye(d_model)
        read = read.detach().cpu().double()
        # Softmax takes no notice of what all logits share.
        read = read - read.mean(0) if tied else read
        scale, shift = _scale_and_shift(gram, cross, read, kept)
        with torch.no_grad():
            now.norm.weight.copy_(factor * scale)
            now.norm.bias.copy_(factor * shift)
        if not tied:
            # All channels as they follow from those that are left.
            affine = torch.cat([torch.diag(scale), shift[None]])
            few = affine.T @ gram @ affine
            few.diagonal().add_(DAMPING * few.diagonal().mean())
            self._fit_heads(torch.linalg.solve(few, affine.T @ cross))

    @torch.no_grad()
    def _fit_heads(self, lost: Tensor) -> None:
        """Have heads read all channels as ``lost [width, d_model]`` gives them from those left."""
        d_model = lost.shape[1]
        before = dict(self._whole.named_parameters())
        for name, now in self._network.network.named_parameters():
            there = before[name].shape
            if (
                role_of(name) in ("head", "task_head")
                and now.shape[0] == there[0]
                and now.shape[1] < there[1]
            ):
                parts = before[name].detach().cpu().double().unflatten(1, (-1, d_model))
                now.copy_((parts @ lost.T).flatten(1))

    def _fitted(self, before: nn.Linear, now: nn.Linear) -> nn.Linear:
        gram = torch.zeros(now.in_features + 1, now.in_features + 1).double()
        cross = torch.zeros(now.in_features + 1, before.out_features).double()
        for x, y in self._pairs(before, now):
            x = F.pad(x, (0, 1), value=1.0)
            gram += x.T @ x
            cross += x.T @ y
        return fitted(now, gram, cross)

    @torch.no_grad()
    def _pairs(self, before: nn.Module, now: nn.Module) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield, sample by sample, the inputs of one module and the outputs of another.

        Args:
            before: of the whole network, whose outputs ``[tokens, …]`` they are.
            now: of the narrow one, whose inputs ``[tokens, …]`` they are.
        """
        seen: dict[nn.Module, Tensor] = {}

        def keep(module: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
            seen[module] = output if module is before else given[0]

        network = self._network
        with hooked((before, now), keep, after=True):
            for batch in network.samples(self._samples):
                for net in (self._whole, network.network):
                    network.task.loss(net, batch)
                # Apple's GPUs have no double precision.
                x, y = (seen[module].flatten(0, -2).cpu().double() for module in (now, before))
                yield x, y


def _scale_and_shift(
    gram: Tensor, cross: Tensor, head: Tensor, kept: Tensor
) -> tuple[Tensor, Tensor]:
    """Return scale and shift ``[width]`` by which a head comes closest to its outputs.

    They are the least-squares solution of Σ |H′(scale·x + shift) - H·y|².

    Args:
        gram: ``[width + 1, width + 1]`` sums of XXᵀ over x with a 1 after it.
        cross: ``[width + 1, d_model]`` sums of XYᵀ.
        head: H ``[outputs, d_model]``.
        kept: numbers of the columns of H′, which are of H.
    """
    few = head[:, kept]
    ours, theirs = few.T @ few, few.T @ head
    products, sums, n = gram[:-1, :-1], gram[-1, :-1], gram[-1, -1]
    upper = torch.cat([ours * products, ours * sums[:, None]], 1)
    lower = torch.cat([ours * sums, ours * n], 1)
    left = torch.cat([upper, lower])
    left.diagonal().add_(DAMPING * left.diagonal().mean())
    right = torch.cat([(theirs * cross[:-1]).sum(1), theirs @ cross[-1]])
    scale, shift = torch.linalg.solve(left, right).chunk(2)
    return scale, shift
