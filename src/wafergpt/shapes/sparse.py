"""How many weights of which matrices are zero, and when: numbers only."""

from __future__ import annotations

import math
from collections.abc import Mapping

from wafergpt.config import Lora, Model, Recipe, Sparsity
from wafergpt.config.sparsity import SparseRole

Shape = tuple[int, int]

PLACES = 1000
"""Of a training, at which its zeros are counted."""


def matrices(model: Model, settings: Sparsity | Lora) -> dict[tuple[int, SparseRole], Shape]:
    """Return the shapes ``(fan_out, fan_in)`` of the matrices in question, by layer and role."""
    d_model, d_ffn, heads = model.d_model, model.d_ffn, model.attention_width
    shapes: dict[SparseRole, Shape] = {
        "qkv": (3 * heads, d_model),
        "attention_out": (d_model, heads),
        "ffn_in": (d_ffn, d_model),
        "ffn_out": (d_model, d_ffn),
    }
    layers = range(model.n_layers)
    return {(layer, role): shapes[role] for layer in layers for role in settings.roles}


def densities(shapes: Mapping[SparseRole, Shape], settings: Sparsity) -> dict[SparseRole, float]:
    """Return the share of weights that are kept, by role; it is the same in each layer.

    With ``erk`` it is proportional to (fan_in + fan_out) / (fan_in · fan_out), but at most 1, and
    all together keep what the settings say.
    """
    kept = 1.0 - settings.sparsity
    if settings.distribution == "uniform":
        return dict.fromkeys(shapes, kept)
    sizes = {role: rows * columns for role, (rows, columns) in shapes.items()}
    raw = {role: sum(shape) / sizes[role] for role, shape in shapes.items()}
    dense: set[SparseRole] = set()
    while True:
        left = kept * sum(sizes.values()) - sum(sizes[role] for role in dense)
        sparse = [role for role in shapes if role not in dense]
        scale = left / sum(raw[role] * sizes[role] for role in sparse)
        full = {role for role in sparse if scale * raw[role] >= 1}
        if not full:
            return {role: 1.0 if role in dense else scale * raw[role] for role in shapes}
        dense |= full


def progress(settings: Sparsity, step: int, steps: int) -> float:
    """Return how far the schedule is after ``step`` of ``steps`` updates, from 0 to 1.

    Linear; cubic as in arXiv:1710.01878, 1 - (1 - t)³; or half a cosine.
    """
    place = min(1.0, step / max(1, round(settings.until * steps)))
    if settings.curve == "constant":
        return 1.0 if settings.algorithm == "gmp" else 0.0
    if settings.curve == "cubic":
        return 1.0 - (1.0 - place) ** 3
    if settings.curve == "cosine":
        return (1.0 - math.cos(math.pi * place)) / 2
    return place


def changes(settings: Sparsity, step: int, steps: int) -> bool:
    """Return whether the mask may change at the end of update ``step`` (from 1) of ``steps``.

    gmp's changes from its last step on until it has all its zeros, for an update may be skipped.
    """
    last, regular = round(settings.until * steps), step % settings.every == 0
    if settings.algorithm == "gmp":
        return regular or step >= last
    return settings.algorithm in ("set", "rigl") and regular and step < last


def mask_changes(settings: Sparsity, steps: int) -> int:
    """Return after how many of ``steps`` updates the mask changes."""
    if settings.algorithm in ("none", "static"):
        return 0
    last = max(1, round(settings.until * steps))
    # gmp has all its zeros after the last change.
    return (last - 1) // settings.every + (settings.algorithm == "gmp")


def mask_warning(settings: Sparsity, steps: int) -> str:
    """Return that a training is too short for its masks to change; "" if it is not."""
    exchanges = settings.algorithm in ("set", "rigl")
    if not exchanges or settings.every < round(settings.until * steps):
        return ""
    return (
        f"{settings.algorithm} never changes its mask in {steps:,} steps: lower sparsity.every "
        f"({settings.every})"
    )


def share_of_zeros(settings: Sparsity, step: int, steps: int) -> float:
    """Return the share of zeros during the update after ``step`` of ``steps``, of all together."""
    if settings.algorithm != "gmp":
        return settings.sparsity if settings.algorithm != "none" else 0.0
    last = max(1, round(settings.until * steps))
    changed = last if step >= last else step // settings.every * settings.every
    return settings.sparsity * progress(settings, changed, steps) if changed else 0.0


def spared_flops(recipe: Recipe, zeros: float) -> float:
    """Return the FLOPs of a token's forward and backward pass that only multiply zeros.

    No device here is faster by them; rigl's dense gradients at a change count as spared too.

    Args:
        recipe: with the shape.
        zeros: their share in the matrices that have some.
    """
    found = matrices(recipe.model, recipe.sparsity).values()
    return 6.0 * zeros * sum(rows * columns for rows, columns in found)


def mean_spared_flops(recipe: Recipe, steps: int) -> float:
    """Return ``spared_flops`` on average over a training."""
    if recipe.sparsity.algorithm == "none" or not steps:
        return 0.0
    seen = [int(steps * place / PLACES) for place in range(PLACES)]
    zeros = sum(share_of_zeros(recipe.sparsity, step, steps) for step in seen) / PLACES
    return spared_flops(recipe, zeros)
