"""A run opened for export: its network, and the equivalent plain GPT-2."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from wafergpt.checkpoint import store
from wafergpt.config import Model, Recipe
from wafergpt.data.tokenizer import Tokenizer
from wafergpt.interop.gpt2 import fold
from wafergpt.model.gpt import GPT
from wafergpt.model.heads import Classifier
from wafergpt.progress import working
from wafergpt.runs.run import Run
from wafergpt.shapes.parametrization import parametrization
from wafergpt.tasks.base import task_of
from wafergpt.tasks.classify import ClassifySettings

CHECK_ROWS, CHECK_TOKENS = 3, 256
"""Shape of the random tokens on which an export is compared with the run."""

Network = Callable[[Tensor, Tensor], Tensor]
"""Maps tokens ``[batch, length]`` and lengths ``[batch]`` to logits."""


TOLERANCE = 1e-5
"""The largest accepted max |difference| / max |logit| in fp32."""


@dataclass(frozen=True)
class Checked:
    """The result of comparing an export with its run.

    Attributes:
        difference: max |difference| / max |logit|.
        by: the program that read the export.
        warnings: the known differences.
    """

    difference: float
    by: str
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Source:
    """A run to export.

    Attributes:
        run: the run.
        recipe: its recipe.
        network: the network as trained, the reference for an export.
        model: the plain shape.
        body: the plain weights by our names, without a prefix.
        score: ``[n_outputs, d_model]`` weights of a classifier's head, multiplier folded in; None
            for a language model.
        tokenizer: the run's tokenizer, if it has one.
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
        recipe, weights = run.recipe, store.weights(run)
        tokenizer = Tokenizer.load(run.tokenizer) if run.tokenizer.is_file() else None
        build = partial(GPT, recipe.model)
        if recipe.task is None:
            gpt = store.restored(build, weights)
            model, body = fold(recipe.model, weights)
            return cls(run, recipe, language_model(gpt), model, body, None, tokenizer)
        classifier = store.restored(task_of(recipe).network, weights)
        assert isinstance(classifier, Classifier)
        score = weights["head.weight"]
        body = {name.removeprefix("gpt."): tensor for name, tensor in weights.items()}
        del body["head.weight"]
        model, body = fold(recipe.model, body)
        # A classifier has no head for tokens.
        body.pop("lm_head.weight", None)
        model = model.model_copy(update={"tied": True})
        network = classifier_network(classifier)
        score = score * parametrization(recipe.model).task_multiplier
        if len(score) == 1 and isinstance(recipe.task, ClassifySettings):
            # softmax([0, s]) is sigmoid(s).
            network = _two_outputs(network)
            score = torch.cat([torch.zeros_like(score), score])
        return cls(run, recipe, network, model, body, score, tokenizer)

    def end_of_text(self) -> int | None:
        """Return the token that ends a text, if the run has a tokenizer."""
        return None if self.tokenizer is None else self.tokenizer.end_of_text

    def difference(self, other: Network) -> float:
        """Return max |other − this| / max |this| of the logits on random tokens.

        The rows have several lengths and are padded with the end of text. NaN and logits of another
        shape count as infinite.
        """
        generator = torch.Generator().manual_seed(0)
        length = min(self.model.seq_len, CHECK_TOKENS)
        shape = (CHECK_ROWS, length)
        tokens = torch.randint(0, self.model.vocab_size, shape, generator=generator)
        lengths = torch.tensor([length, max(1, length // 2), max(1, length - 1)])
        end = self.end_of_text()
        if end is not None:
            # The end of text may occur only as padding.
            tokens[tokens == end] = (end + 1) % self.model.vocab_size
            tokens[torch.arange(length) >= lengths[:, None]] = end
        with working("comparing the logits"), torch.no_grad():
            expected, given = self.network(tokens, lengths), other(tokens, lengths)
        if given.shape != expected.shape:
            return float("inf")
        value = float((given - expected).abs().max() / expected.abs().max().clamp(min=1e-30))
        return value if value == value else float("inf")


def language_model(gpt: GPT) -> Network:
    """Return a function from tokens to logits; lengths are ignored."""
    gpt.eval()
    return lambda tokens, lengths: gpt.logits(gpt(tokens))


def classifier_network(classifier: Classifier) -> Network:
    """Return a function from texts to logits."""
    classifier.eval()
    return lambda tokens, lengths: classifier(tokens, lengths)


def _two_outputs(network: Network) -> Network:
    def both(tokens: Tensor, lengths: Tensor) -> Tensor:
        positive = network(tokens, lengths)
        return torch.cat([torch.zeros_like(positive), positive], 1)

    return both
