"""The best model that a budget of time buys."""

from __future__ import annotations

import math
import re

from wafergpt.config import Model, Optimizer, Recipe, System
from wafergpt.errors import InputError
from wafergpt.planning.estimate import GPT2_VOCAB_SIZE, estimate
from wafergpt.planning.hardware import Machine
from wafergpt.planning.laws import learning_rate
from wafergpt.planning.memory import HEADROOM, training_memory
from wafergpt.planning.plan import TOKENS_PER_PARAMETER, read_corpus
from wafergpt.planning.speed import (
    COMPILE_SECONDS,
    best_precision,
    compile_pays,
    tokens_per_second,
)
from wafergpt.shapes.counts import parameters

LADDER = (
    (2, 128, 2), (4, 128, 2), (4, 192, 3), (4, 256, 4), (6, 256, 4), (6, 320, 5),
    (6, 384, 6), (8, 448, 7), (8, 512, 8), (8, 640, 10), (10, 768, 12), (12, 896, 14),
    (14, 1088, 17), (18, 1280, 20), (18, 1536, 12), (24, 2048, 16), (32, 2560, 32),
    (32, 4096, 32), (40, 5120, 40),
)  # fmt: skip
"""Layers, d_model, heads: the Cerebras-GPT family from (10, 768, 12) on, with steps between, and
its proportions carried down to what a laptop trains in a minute."""

STEPS = 2000
"""Updates that the batch size aims at: few large ones waste tokens, many small ones are noisy."""

MAX_BATCH_TOKENS = 1 << 18
"""Cerebras-GPT 111M's batch, rounded; larger ones only pay on larger machines."""


def seconds_of(budget: str | float) -> float:
    """Read a budget: ``"90s"``, ``"30m"``, ``"2h"``, ``"1h30m"``, or a number of seconds.

    Raises:
        InputError: if it is not a time above zero.
    """
    text = str(budget).strip()
    number = r"(\d+(?:\.\d+)?)"
    match = re.fullmatch(rf"(?:{number}h)?(?:{number}m)?(?:{number}s?)?", text)
    hours, minutes, rest = (float(part or 0) for part in match.groups()) if match else (0, 0, 0)
    seconds = 3600.0 * hours + 60.0 * minutes + rest
    if not 0 < seconds < math.inf:
        raise InputError(f"'{text}' is not a budget of time: write 90s, 30m or 2h")
    return seconds


def best_shape(seconds: float, machine: Machine, vocab_size: int, seq_len: int = 256) -> Model:
    """Return the largest shape of the ladder that is compute-optimal within the time.

    That is: it reads 20 tokens for each of its parameters in ``seconds``, and training with one
    sequence fits into the free memory. If no shape does, the smallest is returned, which reads
    fewer tokens.
    """
    best = None
    for n_layers, d_model, n_heads in LADDER:
        model = Model(
            n_layers=n_layers,
            d_model=d_model,
            n_heads=n_heads,
            seq_len=seq_len,
            vocab_size=vocab_size,
            d_ffn=4 * d_model,
        )
        wanted = TOKENS_PER_PARAMETER * parameters(model)
        if best is not None and (
            tokens_within(seconds, model, machine) < wanted or not _fits(model, machine)
        ):
            break
        best = model
    assert best is not None
    return best


def tokens_within(seconds: float, model: Model, machine: Machine) -> float:
    """Return the tokens that training reads in ``seconds``, compiled where that pays."""
    precision = best_precision(machine, model.d_model)
    compiled = machine.compiler and compile_pays(seconds, machine.device, precision)
    if compiled:
        seconds -= COMPILE_SECONDS[machine.device]
    batch_tokens = MAX_BATCH_TOKENS // 8
    return seconds * tokens_per_second(model, machine, precision, compiled, batch_tokens)


def recipe_for(recipe: Recipe, seconds: float, machine: Machine) -> Recipe:
    """Return the recipe with shape, horizon, batch and learning rate for a budget of time.

    The shape is ``best_shape``'s; all tokens that the time buys are read, in about 2,000 updates of
    at most 256k tokens, with Cerebras-GPT's linear decay to a tenth. The rest of the recipe (data,
    optimizer, sequence length, dropout) stays; under µP also the learning rate, which holds at any
    width.
    """
    training = seconds
    for _ in range(3):
        result = _trained_for(recipe, training, machine)
        price = estimate(result, machine).seconds
        if price <= seconds:
            break
        # Validation and compiling take a part; a margin is left for checkpoints.
        training *= 0.98 * seconds / price
    return result


def _trained_for(recipe: Recipe, seconds: float, machine: Machine) -> Recipe:
    vocab_size = recipe.model.vocab_size or GPT2_VOCAB_SIZE
    if recipe.data.corpus is not None:
        vocab_size = read_corpus(recipe.data.corpus).vocab_size
    seq_len = recipe.model.seq_len
    shape = best_shape(seconds, machine, vocab_size, seq_len)
    tokens = max(1, round(tokens_within(seconds, shape, machine)))
    batch_size = _batch_size(tokens, seq_len)
    steps = math.ceil(tokens / (batch_size * seq_len))
    mup = recipe.model.parametrization == "mup"
    one_batch = {"first_steps": 0, "first_batch_size": 0}
    train = {"steps": None, "epochs": None, "seconds": None, "tokens": tokens}
    return recipe.replace(
        model={name: getattr(shape, name) for name in ("n_layers", "d_model", "n_heads", "d_ffn")},
        train={**train, **one_batch, "batch_size": batch_size, "micro_batch_size": 0},
        optimizer={"lr": recipe.optimizer.lr if mup else learning_rate(shape)},
        schedule={"name": "linear", "warmup": max(1, steps // 20), "final": 0.1},
    )


def _batch_size(tokens: int, seq_len: int) -> int:
    """Return a power of two of sequences: at least 8, at most what the family's 111M took."""
    wanted = min(tokens / STEPS, MAX_BATCH_TOKENS) / seq_len
    return max(8, 1 << max(0, math.floor(math.log2(max(wanted, 1)))))


def _fits(model: Model, machine: Machine) -> bool:
    precision = best_precision(machine, model.d_model)
    system = System.model_validate({"precision": precision, "device": machine.device})
    need = training_memory(model, 1, Optimizer.model_validate({}), system).total
    return need <= HEADROOM * machine.memory_available
