"""A run opened to be exported: its network as it is, and the plain GPT-2 that equals it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from wafergpt.config import Model, Recipe
from wafergpt.data.tokenizer import Tokenizer
from wafergpt.interop.gpt2 import fold
from wafergpt.model.gpt import GPT
from wafergpt.model.heads import Classifier
from wafergpt.progress import working
from wafergpt.run import Run
from wafergpt.shapes.parametrization import parametrization
from wafergpt.train import checkpoint

CHECK_ROWS, CHECK_TOKENS = 3, 256
"""The random tokens on which an export is compared with the run."""

Network = Callable[[Tensor, Tensor], Tensor]
"""Maps tokens ``[batch, length]`` and lengths ``[batch]`` to logits."""


TOLERANCE = 1e-5
"""Of max |difference| / max |logit| in fp32."""


@dataclass(frozen=True)
class Checked:
    """How an export was compared with its run.

    Attributes:
        difference: max |difference| / max |logit|.
        by: the program that read the export.
        warnings: what is not the same in it.
    """

    difference: float
    by: str
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Source:
    """What is exported.

    Attributes:
        run: where it comes from.
        recipe: of the run.
        network: as it was trained; the truth that an export is compared with.
        model: the plain shape.
        body: the plain weights by our names, without a prefix.
        score: ``[n_outputs, d_model]`` of a classifier that has no multiplier; None otherwise.
        tokenizer: if the run has one.
    """

    run: Run
    recipe: Recipe
    network: Network
    model: Model
    body: dict[str, Tensor]
    score: Tensor | None
    tokenizer: Tokenizer | None

    @classmethod
    def open(cls, run: Run) -> Source:
        """Read a run's best weights, and fold its multipliers into them.

        Raises:
            InputError: if the run has no checkpoint yet.
        """
        recipe, weights = run.recipe, checkpoint.weights(run)
        tokenizer = Tokenizer.load(run.tokenizer) if run.tokenizer.is_file() else None
        build = partial(GPT, recipe.model)
        if recipe.task is None:
            gpt = checkpoint.restored(build, weights)
            model, body = fold(recipe.model, weights)
            return cls(run, recipe, language_model(gpt), model, body, None, tokenizer)
        score = weights["score.weight"]
        pooling = recipe.task.pooling
        classifier = checkpoint.restored(lambda: Classifier(build(), len(score), pooling), weights)
        body = {name.removeprefix("gpt."): tensor for name, tensor in weights.items()}
        del body["score.weight"]
        model, body = fold(recipe.model, body)
        # A classifier has no head for tokens.
        body.pop("lm_head.weight", None)
        model = model.model_copy(update={"tied": True})
        network = classifier_network(classifier)
        score = score * parametrization(recipe.model).task_multiplier
        if recipe.task.loss == "binary":
            # softmax([0, s]) is sigmoid(s).
            network = _two_outputs(network)
            score = torch.cat([torch.zeros_like(score), score])
        return cls(run, recipe, network, model, body, score, tokenizer)

    def end_of_text(self) -> int | None:
        """Return the token that ends a text, if the run has a tokenizer."""
        return None if self.tokenizer is None else self.tokenizer.end_of_text

    def difference(self, other: Network) -> float:
        """Return max |other − this| / max |this| of the logits on random tokens.

        The rows have several lengths and are padded with the end of text. NaN counts as infinite,
        and so do logits of another shape.
        """
        generator = torch.Generator().manual_seed(0)
        length = min(self.model.seq_len, CHECK_TOKENS)
        shape = (CHECK_ROWS, length)
        tokens = torch.randint(0, self.model.vocab_size, shape, generator=generator)
        lengths = torch.tensor([length, max(1, length // 2), max(1, length - 1)])
        end = self.end_of_text()
        if end is not None:
            # Only padding may be the end of text.
            tokens[tokens == end] = (end + 1) % self.model.vocab_size
            tokens[torch.arange(length) >= lengths[:, None]] = end
        with working("comparing the logits"), torch.no_grad():
            expected, given = self.network(tokens, lengths), other(tokens, lengths)
        if given.shape != expected.shape:
            return float("inf")
        value = float((given - expected).abs().max() / expected.abs().max().clamp(min=1e-30))
        return value if value == value else float("inf")


def language_model(gpt: GPT) -> Network:
    """Return what maps tokens to logits; lengths are not looked at."""
    gpt.eval()
    return lambda tokens, lengths: gpt.logits(gpt(tokens))


def classifier_network(classifier: Classifier) -> Network:
    """Return what maps texts to logits."""
    classifier.eval()
    return lambda tokens, lengths: classifier(tokens, lengths)


def _two_outputs(network: Network) -> Network:
    def both(tokens: Tensor, lengths: Tensor) -> Tensor:
        positive = network(tokens, lengths)
        return torch.cat([torch.zeros_like(positive), positive], 1)

    return both
