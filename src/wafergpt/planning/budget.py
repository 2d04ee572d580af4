"""The best model that a budget buys: shape, batch, horizon and learning rate."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from wafergpt.config import Recipe
from wafergpt.config.files import HORIZONS
from wafergpt.config.quantities import NUMBER, time_in_seconds, token_count
from wafergpt.config.training import MAX_COUNT
from wafergpt.errors import InputError
from wafergpt.files import short
from wafergpt.planning.estimate import GPT2_VOCAB_SIZE, estimate, sample_flops
from wafergpt.planning.hardware import Machine
from wafergpt.planning.laws import expected_loss, learning_rate
from wafergpt.planning.plan import Candidate, read_corpus
from wafergpt.shapes.counts import training_flops

LADDER = (
    (2, 64, 1), (2, 96, 2), (2, 128, 2), (4, 128, 2), (4, 192, 3), (4, 256, 4), (6, 256, 4),
    (6, 320, 5), (6, 384, 6), (8, 448, 7), (8, 512, 8), (8, 640, 10), (10, 768, 12),
    (12, 896, 14), (14, 1088, 17), (18, 1280, 20), (18, 1536, 12), (24, 2048, 16),
    (32, 2560, 32), (32, 4096, 32), (40, 5120, 40),
)  # fmt: skip
"""Layers, d_model, heads: the Cerebras-GPT family from (10, 768, 12) on, with steps between, and
its proportions carried down to what a laptop trains in a minute."""

BATCH_TOKENS, BATCH_HORIZON, BATCH_POWER = 4096, 9.5e6, 0.75
"""The best batch measured for a horizon, both in tokens, and the power by which batches grow with
horizons: it leads to Cerebras-GPT 111M's 246k tokens at its 2.2 billion."""

MAX_BATCH_TOKENS = 1 << 18
"""Cerebras-GPT 111M's batch, rounded; larger ones only pay on larger machines."""

NEIGHBOURS = 3
"""Shapes on each side of the estimated best one that are measured."""

MAX_TOKENS_PER_PARAMETER = 25.0
"""Compute-optimal are 20."""

TIE = 5e-4
"""Share by which expected losses must differ to be told apart; of equal ones the smallest shape."""

CHOSEN: Mapping[str, tuple[str, ...]] = {
    "model": ("n_layers", "d_model", "n_heads", "d_head", "d_ffn"),
    "train": ("tokens", "batch_size"), "optimizer": ("lr",),
    "schedule": ("name", "warmup", "final"),
}  # fmt: skip
"""The keys that a budget chooses, by section."""

UNSET = ("first_steps", "first_batch_size", "micro_batch_size")
"""Keys of ``train`` that belong to another batch than the one that a budget chooses."""

TARGET = 0.97
"""Share of a budget of time that a plan aims at; the rest is for what was not foreseen."""

Kind = Literal["seconds", "tokens", "flops"]


@dataclass(frozen=True)
class Budget:
    """How much a training may cost.

    Attributes:
        kind: of what.
        amount: in seconds, tokens or FLOPs.
    """

    kind: Kind
    amount: float


def budget_of(text: str | float) -> Budget:
    """Read a budget: ``"30m"``, ``"1h30m"``, seconds, ``"50M tokens"`` or ``"1e15 FLOPs"``.

    Raises:
        InputError: if it is none of them, or not above zero.
    """
    words = str(text).strip()
    flops = _FLOPS.fullmatch(words)
    try:
        if flops:
            power = int(flops[2] or 0) + 3 * ("kMGTPEZ".index(flops[3]) + 1 if flops[3] else 0)
            found = Budget("flops", float(flops[1]) * 10.0**power)
        elif words.endswith("tokens"):
            found = Budget("tokens", token_count(words))
        else:
            found = Budget("seconds", time_in_seconds(words))
    except ValueError:
        raise _unreadable(text) from None
    if not 0 < found.amount < math.inf:
        raise _unreadable(text)
    return found


_FLOPS = re.compile(rf"{NUMBER}(?:e\+?(\d{{1,2}}))?\s*([kMGTPEZ]?)(?i:flops?)")


def _unreadable(text: object) -> InputError:
    return InputError(
        f"{short(text)} is not a budget: write a time (90s, 30m, 2h), '50M tokens' or '1e15 FLOPs'"
    )


def candidates(recipe: Recipe, budget: Budget, machine: Machine) -> list[Candidate]:
    """Return shapes around the one that is estimated to be best, the smallest first.

    Args:
        recipe: whose shape, batch, horizon, schedule and learning rate are chosen; the rest stays.
        budget: how much it may cost.
        machine: as measured.

    Raises:
        InputError: if the recipe's corpus is not one, or not even the smallest shape fits.
    """
    found = []
    for layers, width, heads in LADDER:
        shaped = _shaped(recipe, layers, width, heads)
        plan = estimate(shaped, machine)
        if not plan.fits:
            break
        found.append(bought(shaped, budget, plan.tokens_per_second))
    if not found:
        raise InputError("not even the smallest shape fits into the free memory")
    place = found.index(best(found))
    return found[max(0, place - NEIGHBOURS) : place + NEIGHBOURS + 1]


def bought(
    recipe: Recipe,
    budget: Budget,
    tokens_per_second: float,
    overhead: float = 0.0,
    measured: bool = False,
) -> Candidate:
    """Return what a budget buys of a recipe's shape.

    The batch grows with the horizon, to at most 256k tokens; the learning rate decays linearly to a
    tenth, as Cerebras-GPT's. Under µP its peak stays, for it holds at any width; that of SGD does
    too.

    Args:
        recipe: with the shape.
        budget: how much it may cost.
        tokens_per_second: of training.
        overhead: seconds of the budget that are not training.
        measured: whether that speed was measured.
    """
    model, seq_len, wanted = recipe.model, recipe.model.seq_len, 0
    if budget.kind == "seconds":
        tokens = tokens_per_second * max(TARGET * budget.amount - overhead, 0.0)
    elif budget.kind == "tokens":
        tokens = budget.amount
    else:
        tokens, wanted = _tokens_and_batch(budget.amount, recipe)
    if tokens > MAX_COUNT:
        raise InputError(f"a budget of {budget.amount:.3g} {budget.kind} is above any training")
    corpus = recipe.data.corpus
    text = tokens if corpus is None else read_corpus(corpus).tokens_train
    if budget.kind == "tokens":
        # Nothing else keeps a shape from being too large for what it reads of a large corpus.
        text = min(text, tokens)
    wanted = wanted or _batch_size(tokens, recipe)
    batch_size = min(wanted, max(recipe.system.nproc, (int(text) - 1) // seq_len))
    steps = max(1, math.floor(tokens / (batch_size * seq_len)))
    tokens = steps * batch_size * seq_len
    # The rule for rates was fitted on AdamW.
    keeps = model.parametrization == "mup" or recipe.optimizer.name == "sgd"
    horizon = {"steps": None, "epochs": None, "seconds": None, "tokens": tokens}
    chosen = recipe.replace(
        train={**horizon, **dict.fromkeys(UNSET, 0), "batch_size": batch_size},
        optimizer={"lr": recipe.optimizer.lr if keeps else learning_rate(model)},
        schedule={"name": "linear", "warmup": max(1, steps // 20), "final": 0.1},
    )
    loss = expected_loss(model, tokens, text)
    return Candidate(chosen, tokens, tokens_per_second, loss, measured)


def best(found: Sequence[Candidate]) -> Candidate:
    """Return the candidate with the lowest expected loss, of equal ones the smallest.

    The law was fitted on short runs: where there is a choice, no shape may read many more tokens
    for each of its parameters than are compute-optimal.

    Args:
        found: the smallest first.
    """
    small = [c for c in found if c.tokens_per_parameter <= MAX_TOKENS_PER_PARAMETER]
    small = small or list(found[-1:])
    lowest = min(candidate.loss for candidate in small)
    return next(candidate for candidate in small if candidate.loss <= (1 + TIE) * lowest)


def not_taken(asked: Recipe, chosen: Recipe) -> list[str]:
    """Return what a recipe sets, as ``section.key=value``, where a budget chose another value."""
    default, keys = Recipe(), {**CHOSEN, "train": (*HORIZONS, "batch_size", *UNSET)}
    found = []
    for section, names in keys.items():
        own, usual, new = (getattr(one, section) for one in (asked, default, chosen))
        for name in names:
            value = getattr(own, name)
            follows = name == "d_ffn" and value == 4 * asked.model.d_model
            if not follows and value not in (None, getattr(usual, name), getattr(new, name)):
                found.append(f"{section}.{name}={value}")
    return found


def _shaped(recipe: Recipe, n_layers: int, d_model: int, n_heads: int) -> Recipe:
    vocab_size = recipe.model.vocab_size or GPT2_VOCAB_SIZE
    if recipe.data.corpus is not None:
        vocab_size = read_corpus(recipe.data.corpus).vocab_size
    shape = {
        "n_layers": n_layers, "d_model": d_model, "n_heads": n_heads, "d_head": 0,
        "d_ffn": 4 * d_model,
    }  # fmt: skip
    # Some horizon, until it is known what the budget buys.
    return recipe.replace(
        model={**shape, "vocab_size": vocab_size},
        train={"steps": 2000, "tokens": None, "epochs": None, "seconds": None},
        schedule={"warmup": 0},
    )


def _tokens_and_batch(flops: float, recipe: Recipe) -> tuple[float, int]:
    """Return the tokens that so many FLOPs train on, and the batch.

    A sampled softmax depends on the batch, and that on the tokens: they are computed in turns.
    """
    seq_len, batch = recipe.model.seq_len, 0
    tokens = flops / training_flops(recipe.model) * seq_len
    for _ in range(2):
        batch = _batch_size(tokens, recipe)
        sized = {**dict.fromkeys(UNSET, 0), "batch_size": batch, "micro_batch_size": batch}
        tokens = flops / sample_flops(recipe.replace(train=sized), seq_len) * seq_len
    return tokens, batch


def _batch_size(tokens: float, recipe: Recipe) -> int:
    """Return the nearest power of two of sequences: at least 8, at most what the 111M took.

    Each process has one at least.
    """
    wanted = BATCH_TOKENS * (tokens / BATCH_HORIZON) ** BATCH_POWER
    wanted = min(wanted, MAX_BATCH_TOKENS) / recipe.model.seq_len
    nearest = 1 << max(0, round(math.log2(max(wanted, 1))))
    return max(8, nearest, 1 << (recipe.system.nproc - 1).bit_length())
