"""A run opened for export: its network, and the equivalent plain GPT-2."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from wafergpt.checkpoint import store
from wafergpt.checkpoint.restored import restored
from wafergpt.config import Model, Recipe
from wafergpt.data.tokenizer import Tokenizer
from wafergpt.errors import InputError
from wafergpt.interop.gpt2 import fold
from wafergpt.interop.logit_check import Network, logit_difference
from wafergpt.model.gpt import GPT
from wafergpt.model.heads import Classifier
from wafergpt.runs.run import Run
from wafergpt.shapes.parametrization import parametrization
from wafergpt.tasks.base import task_of
from wafergpt.tasks.classify_settings import ClassifySettings
from wafergpt.tasks.regress import RegressSettings
from wafergpt.tasks.text_settings import TextTaskSettings


@dataclass(frozen=True)
class Source:
    """A run to export.

    Attributes:
        run: the run.
        recipe: its recipe.
        network: the network as trained, the reference for an export.
        model: the plain shape.
        body: the plain weights by our names, without a prefix.
        score: ``[n_outputs, width]`` weights of a classifier's head, multiplier folded in; None
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
            InputError: if the run has no checkpoint yet, or heads that GPT-2 cannot express.
        """
        recipe, weights = run.recipe, store.weights(run)
        if recipe.vocabulary_head:
            # A task that writes its answer has a language model's network.
            recipe = recipe.replace(task=None)
        model = recipe.model
        if model.attention_width != model.d_model:
            raise InputError(
                f"the heads of {run.path} are {model.head_width} wide, together "
                f"{model.attention_width} of d_model={model.d_model}, but a GPT-2 has heads of "
                "d_model / n_heads: use --format onnx"
            )
        if not isinstance(recipe.task, TextTaskSettings | None):
            raise InputError(
                f"{run.path}: task.name={recipe.task.name} has no form in transformers or llama.cpp"
            )
        tokenizer = Tokenizer.load(run.tokenizer) if run.tokenizer.is_file() else None
        build = partial(GPT, recipe.model)
        if recipe.task is None:
            gpt = restored(build, weights)
            model, body = fold(recipe.model, weights)
            return cls(run, recipe, language_model(gpt), model, body, None, tokenizer)
        classifier = restored(task_of(recipe).network, weights)
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
        if isinstance(recipe.task, RegressSettings):
            network = _absolute(network, recipe.task)
            score = _fold_units(score, body, recipe.task)
        if isinstance(recipe.task, ClassifySettings):
            network, score = _divided(network, score, recipe.task.temperature)
        if len(score) == 1 and isinstance(recipe.task, ClassifySettings):
            # softmax([0, s]) is sigmoid(s).
            network = _two_outputs(network)
            score = torch.cat([torch.zeros_like(score), score])
        return cls(run, recipe, network, model, body, score, tokenizer)

    def end_of_text(self) -> int | None:
        """Return the token that ends a text, if the run has a tokenizer."""
        return None if self.tokenizer is None else self.tokenizer.end_of_text

    def difference(self, other: Network) -> float:
        """Return how far the logits of another network are from this one's; see there."""
        return logit_difference(
            self.network, other, self.model.vocab_size, self.model.seq_len, self.end_of_text()
        )


def language_model(gpt: GPT) -> Network:
    """Return a function from tokens to logits; lengths are ignored."""
    gpt.eval()
    return lambda tokens, lengths: gpt.logits(gpt(tokens))


def classifier_network(classifier: Classifier) -> Network:
    """Return a function from texts to logits."""
    classifier.eval()
    return lambda tokens, lengths: classifier(tokens, lengths)


def _divided(network: Network, score: Tensor, temperature: float) -> tuple[Network, Tensor]:
    """Put a temperature into the weights of a head."""
    if temperature == 1:
        return network, score
    return lambda tokens, lengths: network(tokens, lengths) / temperature, score / temperature


def _two_outputs(network: Network) -> Network:
    def both(tokens: Tensor, lengths: Tensor) -> Tensor:
        positive = network(tokens, lengths)
        return torch.cat([torch.zeros_like(positive), positive], 1)

    return both


def _absolute(network: Network, task: RegressSettings) -> Network:
    """Return a function to the numbers that a regression's scores stand for."""
    return lambda tokens, lengths: network(tokens, lengths) * task.scale + task.center


def _fold_units(score: Tensor, body: dict[str, Tensor], task: RegressSettings) -> Tensor:
    """Put a regression's units into its weights: a head without a bias reads shifted states.

    Args:
        score: ``[1, width]``, of the head.
        body: whose last norm's bias changes.
        task: with mean and standard deviation.

    Returns:
        The weights of the head.
    """
    score = score * task.scale
    bias = body["norm.bias"]
    # Whatever states are pooled to, each part of the head sees the same shift.
    seen = score.reshape(-1, len(bias)).sum(0)
    body["norm.bias"] = bias + task.center * seen / seen.square().sum().clamp(min=1e-30)
    return score
