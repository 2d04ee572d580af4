"""Pruning a trained run: a new run whose blocks have many zeros."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from wafergpt.config import Recipe
from wafergpt.errors import InputError, require_one_of
from wafergpt.logs import say
from wafergpt.progress import working
from wafergpt.pruning.calibration_network import Calibrated, Evaluated
from wafergpt.pruning.removal import Removal, searched_shares
from wafergpt.shapes.roles import role_of
from wafergpt.sparsity import criteria
from wafergpt.tasks.base import gpt_of

SEARCH_ROUNDS = 8
"""Sparsities that are tried for a limit of the loss: to within a hundredth."""

HIGHEST_SPARSITY = 0.99
"""The largest one that is tried for a limit of the loss."""

CURVE_SPARSITIES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Sparsities of a curve."""

SPARSITY_TOLERANCE = 0.001
"""Difference of two sparsities that are printed alike."""

NOTABLE_ZEROS = 0.02
"""Share of zeros from which on a run counts as pruned; rounding to int8 leaves some."""


@dataclass(frozen=True)
class Pruning(Removal):
    """How to prune.

    Attributes:
        method: which weights are zeros.
        sparsity: share of them; of the pattern 2:4 it is 0.5.
        pattern: two zeros of each four inputs.
        together: by magnitude, rank all matrices together.
        samples: sequences or rows of the training data that inputs are measured on.
        max_loss_increase: as a share: the largest sparsity that keeps to it is found, at most
            ``sparsity``; None for exactly that.
        curves: also measure the loss at several sparsities, and with each block alone pruned.
    """

    method: criteria.Method = "sparsegpt"
    sparsity: float = 0.5
    pattern: bool = False
    together: bool = False
    samples: int = 128
    max_loss_increase: float | None = None
    curves: bool = False

    def __post_init__(self) -> None:
        require_one_of(criteria.Method, "method", self.method)
        if not 0 < self.sparsity < 1:
            raise InputError(f"a sparsity of {self.sparsity:.4g} is not above 0 and below 1 (100%)")
        if self.samples < 1:
            raise InputError("at least one sample is needed to measure inputs on")
        if self.pattern and self.sparsity != criteria.KEPT / criteria.GROUP:
            raise InputError("the pattern 2:4 has a sparsity of 0.5: leave the sparsity out")
        if self.together and (self.pattern or self.method != "magnitude"):
            raise InputError("only magnitudes are ranked over all matrices, and without a pattern")
        if self.max_loss_increase is not None and (self.pattern or self.max_loss_increase <= 0):
            raise InputError("a limit of the loss is above 0, and finds a sparsity: no pattern")

    def require(self, name: str, recipe: Recipe) -> None:
        """Every run has weights that can be zero."""

    def take_out(self, network: Calibrated, name: str, before: Evaluated) -> dict[str, Any]:
        """Set weights of a network to zero; see ``Removal``."""
        if self.pattern and (odd := _odd(network)):
            raise InputError(
                f"2:4 takes inputs four by four, and {odd} has a width that is no multiple"
            )
        if (zeros := network.zeros()) > self.sparsity + SPARSITY_TOLERANCE:
            raise InputError(f"{name} has {zeros:.1%} zeros in its blocks: more than asked for")
        if zeros > NOTABLE_ZEROS:
            say(f"{name} has {zeros:.0%} zeros in its blocks already; these count")
        work = _ZeroedNetwork(network, self)
        alone = work.measure_curves() if self.curves else []
        if self.max_loss_increase is None:
            work.prune(self.sparsity)
        else:
            work.find_largest_within((1 + self.max_loss_increase) * before.loss)
        return {
            "method": self.method,
            "pattern": "2:4" if self.pattern else None,
            "densities": work.densities(),
            "curve": sorted(work.tried),
            "alone": alone,
        }

    def sizes(self, recipe: Recipe, name: str) -> list[tuple[str, Removal]]:
        """Return smaller sparsities, named in percents; see ``Removal``."""
        if self.pattern or self.curves:
            raise InputError("a pattern has one sparsity, and curves are of one: not with a search")
        shares = [self.sparsity * share for share in searched_shares()]
        return [(f"{name}-s{100 * share:.4g}", replace(self, sparsity=share)) for share in shares]

    def adds_to(self, zeros: float) -> bool:
        """Return whether it sets more weights to zero; see ``Removal``."""
        return self.sparsity > zeros + SPARSITY_TOLERANCE


def _odd(network: Calibrated) -> str:
    """Return the name of a matrix whose inputs are no multiple of four; "" if there is none."""
    found = network.matrices().items()
    return next((name for name, m in found if m.shape[1] % criteria.GROUP), "")


class _ZeroedNetwork:
    """A network that is pruned, each time from its first weights on."""

    def __init__(self, network: Calibrated, how: Pruning) -> None:
        self._network, self._how = network, how
        self._dense = {name: weights.clone() for name, weights in network.matrices().items()}
        self.tried: list[tuple[float, float]] = []

    def find_largest_within(self, limit: float) -> None:
        """Prune by the largest sparsity, at most that asked for, whose loss is within a limit.

        Raises:
            InputError: if none of those tried is.
        """
        low, high = 0.0, min(self._how.sparsity, HIGHEST_SPARSITY)
        for round_ in range(SEARCH_ROUNDS):
            tried = high if round_ == 0 else (low + high) / 2
            self.prune(tried)
            now = self._network.evaluated()
            self.tried.append((tried, now.loss))
            say(f"sparsity {tried:.1%}: validation loss {now.loss:.4f} (limit {limit:.4f})")
            if now.loss <= limit:
                low = tried
                if round_ == 0:
                    return
            else:
                high = tried
        if not low:
            raise InputError(f"no sparsity from {high:.1%} on keeps the loss within {limit:.4f}")
        self.prune(low)

    def measure_curves(self) -> list[float]:
        """Try several sparsities; return the loss with each block alone pruned."""
        if self._how.pattern:
            say("2:4 has one sparsity: no curve, each layer alone")
        zeros = self._network.zeros()
        for share in CURVE_SPARSITIES:
            if self._how.pattern or share < zeros:
                continue
            self.prune(share)
            self.tried.append((share, self._network.evaluated().loss))
            say(f"sparsity {share:.0%}: validation loss {self.tried[-1][1]:.4f}")
        losses = []
        for number in range(len(gpt_of(self._network.network).blocks)):
            self.prune(self._how.sparsity, only=number)
            losses.append(self._network.evaluated().loss)
            say(f"layer {number + 1} alone: validation loss {losses[-1]:.4f}")
        return losses

    def densities(self) -> list[dict[str, float]]:
        """Return the share of weights that are not zero, by block and role."""
        found: list[dict[str, float]] = []
        for name, matrix in self._network.matrices().items():
            number = int(name.split("blocks.")[1].split(".")[0])
            found += [{} for _ in range(number + 1 - len(found))]
            found[number][role_of(name)] = int((matrix != 0).sum()) / matrix.numel()
        return found

    @torch.no_grad()
    def prune(self, sparsity: float, only: int | None = None) -> None:
        """Set weights to zero; ``only`` those of one block."""
        how, matrices = self._how, self._network.matrices()
        for name, weights in self._dense.items():
            matrices[name].copy_(weights)
        if only is not None:
            matrices = {n: m for n, m in matrices.items() if f".blocks.{only}." in f".{n}"}
        if how.method == "magnitude":
            masks = (
                {name: criteria.two_of_four(m.abs()) for name, m in matrices.items()}
                if how.pattern
                else criteria.magnitude(matrices, sparsity, how.together)
            )
            for name, mask in masks.items():
                matrices[name].mul_(mask)
            return
        blocks = gpt_of(self._network.network).blocks
        for number, block in enumerate(blocks):
            if only not in (None, number):
                continue
            linears = [module for module in block.modules() if isinstance(module, nn.Linear)]
            with working(f"pruning layer {number + 1} of {len(blocks)}"):
                # Inputs are those of the pruned blocks before it.
                for module, gram in self._network.grams(linears, how.samples).items():
                    _prune_one(module.weight, gram[:-1, :-1], how, sparsity)


def _prune_one(weights: Tensor, gram: Tensor, how: Pruning, sparsity: float) -> None:
    matrix = weights.cpu()
    if how.method == "sparsegpt":
        try:
            matrix, _ = criteria.sparsegpt(matrix, gram, sparsity, pattern=how.pattern)
        except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
            raise InputError("the inputs of a matrix are not finite: this run is broken") from None
    elif how.pattern:
        matrix = matrix * criteria.two_of_four(matrix.abs() * gram.diagonal().sqrt().to(matrix))
    else:
        matrix = matrix * criteria.wanda(matrix, gram, sparsity)
    weights.copy_(matrix)
