"""Published laws: the loss of Cerebras-GPT by compute, and the learning rate by shape."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from wafergpt import files
from wafergpt.config import Model, Recipe, load_recipe
from wafergpt.config.files import flat
from wafergpt.errors import InputError
from wafergpt.shapes.counts import dense_parameters, published_flops

LOSSES: dict[str, tuple[float, float | None]] = {
    "111m": (2.608, 2.588), "256m": (2.349, 2.359), "590m": (2.181, 2.155), "1.3b": (1.997, 1.984),
    "2.7b": (1.834, 1.846), "6.7b": (1.704, None), "13b": (1.572, None),
}  # fmt: skip
"""On the Pile's test set, under the standard and the maximal update parametrization
(arXiv:2304.03208)."""

E, A, ALPHA, B, BETA = 2.0, 103.0, 0.34, 195.0, 0.28
"""The exponents of Hoffmann et al. (arXiv:2203.15556, appendix D.3); the rest fitted on six shapes
of 0.6M to 5.3M parameters that read 2M to 11M tokens (within 1%; docs/log.md)."""

REPEATS, EXCESS = 15.0, 5.31
"""Passes beyond the first that a text is worth at most, and parameters beyond those that are
compute-optimal for it, as a multiple of them (arXiv:2305.16264)."""

NO_LAW = "no scaling law has been fitted for this corpus, tokenizer and shape"
ANOTHER = "no loss is predicted: the published law is of Cerebras-GPT's recipes as they are, and "

KNOWN_TOKENS = {"!": 0, "\u0120the": 262, "\u0120world": 995, "Hello": 15496}
"""Tokens that distinguish GPT-2's vocabulary from others of its size."""

TOKENS_TOLERANCE = 0.01
"""Tolerance of the token budget, as a share: 2.22B stands for 2,220,933,120."""


@dataclass(frozen=True)
class Prediction:
    """A loss that a law predicts.

    Attributes:
        loss: in nats a token.
        low: the loss minus the largest distance between the law and a published result.
        high: the loss plus that distance.
        of: on which text, and by which law.
    """

    loss: float
    low: float
    high: float
    of: str


def published_loss(flops: float) -> float:
    """Return the law's loss on the Pile's test set (arXiv:2304.03208, equation 2).

    Args:
        flops: of the whole training, by ``published_flops``: no other count fits.
    """
    return float((flops / 5.984e22) ** -0.0737 + 0.5066)


def predicted(
    recipe: Recipe, resolved: Recipe, corpus_tokens: int | None = None
) -> Prediction | str:
    """Return the published law's prediction for a recipe, or in one line why there is none.

    Args:
        recipe: as asked for.
        resolved: with its vocabulary and its horizon in steps.
        corpus_tokens: of the training text, if there is one.
    """
    family = _published(resolved)
    if family is None:
        return NO_LAW
    differences = _differences(recipe, resolved, family)
    if differences:
        return f"{ANOTHER}this one has {', '.join(differences[:3])}"
    if corpus_tokens is not None and corpus_tokens < (1 - TOKENS_TOLERANCE) * _tokens(resolved):
        return f"{ANOTHER}this one reads a text of {corpus_tokens:,} tokens more than once"
    corpus = recipe.data.corpus
    if corpus is not None and not _reads_gpt2(corpus):
        return f"{ANOTHER}{corpus} was written with another tokenizer than GPT-2's"
    mup = resolved.model.parametrization == "mup"
    scatter = _scatter(mup)
    loss = published_loss(_flops(resolved))
    source = "fitted on the standard parametrization; " if mup else ""
    of = f"the Pile's test set, by the published law ({source}nothing fitted here)"
    if corpus is not None:
        of += f", if {corpus} is the Pile"
    return Prediction(loss, loss - scatter, loss + scatter, of)


def _published(recipe: Recipe) -> Recipe | None:
    """Return the shipped recipe of the family that has this shape."""
    shape = ("n_layers", "d_model", "n_heads", "d_head", "d_ffn", "seq_len")
    for size, (_, mup) in LOSSES.items():
        found = _shipped(size)
        if all(getattr(found.model, key) == getattr(recipe.model, key) for key in shape):
            tuned = mup is not None and recipe.model.parametrization == "mup"
            return _shipped(f"{size}-mup") if tuned else found
    return None


@cache
def _shipped(size: str) -> Recipe:
    return load_recipe(f"cerebras-gpt/{size}")


def _differences(recipe: Recipe, resolved: Recipe, family: Recipe) -> list[str]:
    """Return the differences that affect the loss, as ``key=ours, not theirs``."""
    found = []
    if recipe.task is not None:
        found.append("a task")
    if recipe.start is not None:
        found.append(f"the initial weights of {recipe.start.name}")
    budget = _samples(family)
    if abs(_samples(resolved) - budget) > TOKENS_TOLERANCE * budget:
        found.append(f"{_tokens(resolved):,} tokens, not {_tokens(family):,}")
    ours, theirs = _deciding(recipe, resolved), _deciding(family, family)
    found += [
        f"{key}={ours[key]}, not {value}" for key, value in theirs.items() if ours[key] != value
    ]
    return found


def _deciding(recipe: Recipe, resolved: Recipe) -> dict[str, Any]:
    """Return the keys that affect the loss, besides the horizon."""
    train = ("batch_size", "first_steps", "first_batch_size", "sampled_softmax", "teacher")
    return flat(
        {
            "model": resolved.model.model_dump(),
            "train": resolved.train.model_dump(include=set(train)),
            # Cerebras' SDK adds its eps before the bias correction.
            "optimizer": recipe.optimizer.model_dump(exclude={"eps_hat"}),
            "schedule": recipe.schedule.model_dump(),
            "sparsity": {"algorithm": recipe.sparsity.algorithm},
            "data": {"document_mask": recipe.data.document_mask},
        }
    )


def _samples(recipe: Recipe) -> int:
    return recipe.train.samples(recipe.train.steps or 0)


def _tokens(recipe: Recipe) -> int:
    return _samples(recipe) * recipe.model.seq_len


def _flops(recipe: Recipe) -> float:
    return published_flops(recipe.model) * _tokens(recipe)


@cache
def _scatter(mup: bool) -> float:
    """Return the largest distance between the law and the published results."""
    rows = ((size, losses[mup]) for size, losses in LOSSES.items())
    return max(
        abs(published_loss(_flops(_shipped(size))) - loss)
        for size, loss in rows
        if loss is not None
    )


def _reads_gpt2(corpus: Path) -> bool:
    """Return whether a corpus was written with GPT-2's BPE."""
    try:
        vocabulary = files.read_json(corpus / "tokenizer.json")["model"]["vocab"]
        return all(vocabulary.get(token) == number for token, number in KNOWN_TOKENS.items())
    except (InputError, KeyError, TypeError, AttributeError):
        return False


def expected_loss(model: Model, tokens: float, text_tokens: float) -> float:
    """Return a loss to compare shapes of one budget by; it predicts none.

    The form of Hoffmann et al. (arXiv:2203.15556), E + A/N^α + B/D^β; text that is read again, and
    parameters that are too many for it, count less (Muennighoff et al., arXiv:2305.16264).

    Args:
        model: the shape.
        tokens: that it reads.
        text_tokens: of the text; more than these are read again.
    """
    text = max(1.0, min(tokens, text_tokens))
    n = _worth(dense_parameters(model), max(1.0, text_tokens) / 20, EXCESS)
    return float(E + A / n**ALPHA + B / _worth(tokens, text, REPEATS) ** BETA)


def _worth(amount: float, enough: float, most: float) -> float:
    """Return what an amount is worth if beyond ``enough`` it saturates at ``most`` times that."""
    if amount <= enough:
        return max(amount, 1.0)
    return enough * (1 + most * (1 - math.exp(-(amount / enough - 1) / most)))


def learning_rate(model: Model) -> float:
    """Return a peak learning rate of AdamW for a shape under the standard parametrization.

    0.4 / d_model, and never less than 1.2e-4: within a factor of 1.7 of what all seven of
    Cerebras-GPT took (arXiv:2304.03208, table 1), and at widths 64 to 192 the best of those that
    were tried in runs of two minutes (docs/log.md).
    """
    return max(1.2e-4, float(f"{0.4 / model.d_model:.3g}"))
