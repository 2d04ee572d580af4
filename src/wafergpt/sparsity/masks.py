"""Masks of the weights that are zero in training, beside the network and not in it.

A weight that is masked is zero, gets no gradient, and has no moments. So the network, its export
and its checkpoints are those of a dense one in which many weights are zero.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from wafergpt.config import Recipe
from wafergpt.distributed.sharding import Part, Rows, like, whole
from wafergpt.errors import InputError
from wafergpt.shapes import sparse
from wafergpt.shapes.roles import role_of

SUFFIX = "/mask"
"""Ends the name of a mask in a checkpoint, among the optimizer's tensors."""


TOLERANCE = 0.005
"""Difference of a run's share of zeros and the recipe's, up to which the run's own are meant."""


class Masks:
    """The masks of a training.

    All processes compute the same masks: weights and gradients are all-gathered for a change where
    they are sharded, and random numbers depend on seed, step and name alone.

    Args:
        named: the network's parameters, as initialized.
        recipe: resolved, with ``sparsity.algorithm``.
        from_run: whether the weights are those of a run: the largest of them are kept at first, or
            its own zeros if they are as many.
    """

    def __init__(
        self, named: Iterable[tuple[str, nn.Parameter]], recipe: Recipe, from_run: bool
    ) -> None:
        self._settings, self._seed = recipe.sparsity, recipe.seed
        self._weights = {n: p for n, p in named if role_of(n) in self._settings.roles}
        shapes = {role_of(name): tuple(p.shape) for name, p in self._weights.items()}
        by_role = sparse.densities(shapes, self._settings)  # type: ignore[arg-type]
        self._densities = {n: by_role[role_of(n)] for n in self._weights}  # type: ignore[index]
        if from_run and self._settings.supar:
            raise InputError("sparsity.supar is for a training from scratch: leave it out")
        self._dense: dict[str, Tensor] = {}
        zeros = self._zeros() if from_run else 0.0
        own = zeros > 0 and abs(zeros - self._settings.sparsity) <= TOLERANCE
        own = own or (from_run and self._settings.algorithm == "gmp")
        self._masks: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}
        for name, weights in self._weights.items():
            mask = whole(weights.detach()) != 0 if own else self._first(name, weights, from_run)
            self._set(name, mask)
        self.apply()
        if self._settings.supar and not from_run:
            self._widen()

    def _zeros(self) -> float:
        # One after the other: sharded weights are never whole together.
        zeros = sum(int((whole(w.detach()) == 0).sum()) for w in self._weights.values())
        return zeros / sum(w.numel() for w in self._weights.values())

    def _set(self, name: str, mask: Tensor) -> None:
        """Keep this process' rows of a whole mask, and how many weights it keeps."""
        self._masks[name] = Part.of(self._weights[name]).rows_of(mask)
        self._counts[name] = int(mask.sum())

    def _first(self, name: str, weights: nn.Parameter, from_run: bool) -> Tensor:
        random = self._random(name, 0, weights.shape)
        if self._settings.algorithm == "gmp":
            return torch.ones_like(random, dtype=torch.bool)
        if not from_run:
            return largest(random, self._kept(name, 1.0))
        sizes = whole(weights.detach()).abs()
        # Of a run with more zeros than asked for, random ones come back.
        return largest(torch.where(sizes == 0, random - 1, sizes), self._kept(name, 1.0))

    def _kept(self, name: str, progress: float) -> int:
        """Return the number of weights that are kept at a place in gmp's schedule."""
        density = 1.0 - (1.0 - self._densities[name]) * progress
        return max(1, round(density * self._weights[name].numel()))

    def _random(self, name: str, step: int, size: torch.Size) -> Tensor:
        digest = hashlib.blake2b(f"{self._seed}/{step}/{name}".encode(), digest_size=8).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
        return torch.rand(size, generator=generator).to(self._weights[name].device)

    @torch.no_grad()
    def _widen(self) -> None:
        for name, weights in self._weights.items():
            Part.of(weights).values.mul_(self._densities[name] ** -0.5)

    def lr_factor(self, name: str) -> float:
        """Return the factor of a parameter's learning rate."""
        return 1.0 / self._densities[name] if self._settings.supar and name in self._masks else 1.0

    # --- in an update ----------------------------------------------------------------------------

    @torch.no_grad()
    def mask_gradients(self, step: int, steps: int) -> None:
        """Drop the gradients of masked weights; those that rigl looks at are kept apart.

        Args:
            step: of the update, from 0.
            steps: of the training.
        """
        self.forget()
        looks = self._settings.algorithm == "rigl" and self._changes(step, steps)
        for name, weights in self._weights.items():
            if weights.grad is not None:
                gradient = Part.of(weights.grad).values
                if looks:
                    self._dense[name] = gradient.abs()
                gradient.mul_(self._masks[name])

    @torch.no_grad()
    def after_update(self, step: int, steps: int, moments: Mapping[Tensor, Iterable[Any]]) -> None:
        """Set masked weights to zero, and change the masks if it is time.

        Args:
            step: of the update, from 0.
            steps: of the training.
            moments: of each parameter; those of masked weights become zero.
        """
        # Muon moves them all.
        self.apply()
        if not self._changes(step, steps):
            return
        changed = [name for name in self._weights if self._change(name, step + 1, steps)]
        self.forget()
        for name in changed:
            weights = self._weights[name]
            Part.of(weights).values.mul_(self._masks[name])
            for moment in moments.get(weights, ()):
                if isinstance(moment, Tensor) and moment.shape == weights.shape:
                    Part.of(moment).values.mul_(self._masks[name])

    def _changes(self, step: int, steps: int) -> bool:
        return sparse.changes(self._settings, step + 1, steps)

    def _change(self, name: str, step: int, steps: int) -> bool:
        """Change a mask; return whether it has changed."""
        weights, kept = self._weights[name], self._counts[name]
        progress = sparse.progress(self._settings, step, steps)
        wanted = self._kept(name, progress)
        if self._settings.algorithm == "gmp" and wanted >= kept:
            # It has all its zeros already, and a horizon that has grown brings no weight back.
            return False
        mask = whole(like(weights, self._masks[name]))
        sizes = whole(weights.detach()).abs().masked_fill(~mask, -1.0)
        if self._settings.algorithm == "gmp":
            self._set(name, largest(sizes, wanted))
            return True
        exchanged = round(self._settings.drop_fraction * (1.0 - progress) * kept)
        exchanged = min(exchanged, mask.numel() - kept)
        survivors = largest(sizes, kept - exchanged)
        if self._settings.algorithm == "rigl":
            scores = whole(like(weights, self._dense[name]))
        else:
            scores = self._random(name, step, mask.shape)
        grown = largest(scores.masked_fill(survivors, -1.0), exchanged)
        self._set(name, survivors | grown)
        return True

    def forget(self) -> None:
        """Drop the gradients that were kept for a change."""
        self._dense.clear()

    @torch.no_grad()
    def apply(self) -> None:
        """Set masked weights to zero."""
        for name, weights in self._weights.items():
            Part.of(weights).values.mul_(self._masks[name])

    # --- in checkpoints --------------------------------------------------------------------------

    def tensors(self) -> dict[str, Tensor]:
        """Return the masks with eight weights a byte, rows as the weights'."""
        return {
            name + SUFFIX: like(self._weights[name], packed(mask))
            for name, mask in self._masks.items()
        }

    def load(self, tensors: Mapping[str, Rows]) -> None:
        """Load masks of ``tensors``.

        Raises:
            ValueError: if one is missing, or is another matrix'.
        """
        for name, weights in self._weights.items():
            with suppress(KeyError):
                stored = tensors[name + SUFFIX]
                rows, columns = weights.shape
                if tuple(stored.shape) not in ((rows, -(-columns // 8)), (rows, columns)):
                    raise ValueError(f"the mask of {name} fits no matrix of {rows} × {columns}")
                self._set(name, whole_mask(stored[...].to(weights.device), columns))
                continue
            raise ValueError(f"{name} has no mask")
        self.apply()


def largest(scores: Tensor, n: int) -> Tensor:
    """Return a mask of the ``n`` largest scores; of equal ones the first."""
    order = scores.flatten().argsort(descending=True, stable=True)
    mask = torch.zeros(scores.numel(), dtype=torch.bool, device=scores.device)
    mask[order[:n]] = True
    return mask.view(scores.shape)


def packed(mask: Tensor) -> Tensor:
    """Pack booleans ``[rows, columns]`` into bytes ``[rows, ⌈columns / 8⌉]``, the first lowest."""
    rows, columns = mask.shape
    bits = nn.functional.pad(mask.to(torch.uint8), (0, -columns % 8))
    bits = bits.view(rows, -(-columns // 8), 8)
    weights = 1 << torch.arange(8, dtype=torch.uint8, device=mask.device)
    return (bits * weights).sum(2, dtype=torch.uint8)


def unpacked(values: Tensor, columns: int) -> Tensor:
    """Return the booleans ``[rows, columns]`` of ``packed``."""
    bits = values[:, :, None] >> torch.arange(8, dtype=torch.uint8, device=values.device) & 1
    return bits.flatten(1)[:, :columns].bool()


def whole_mask(stored: Tensor, columns: int) -> Tensor:
    """Return the booleans of a stored mask ``[rows, …]``; those of Cerebras are not packed."""
    return stored.bool() if stored.shape[1] == columns else unpacked(stored, columns)


def with_whole_masks(
    moments: Mapping[str, Tensor], weights: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return the optimizer's tensors of a checkpoint with a byte for each weight of its masks."""
    return {
        name: whole_mask(value, weights[name.removesuffix(SUFFIX)].shape[1]).byte()
        if name.endswith(SUFFIX)
        else value
        for name, value in moments.items()
    }
