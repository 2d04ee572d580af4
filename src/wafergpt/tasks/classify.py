"""A fine-tuned classifier at work, and how it is judged."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray

from wafergpt.config import Model, Recipe, Task
from wafergpt.data.labelled import LabelledBatches, cut_tokens
from wafergpt.data.tables import described, is_missing
from wafergpt.data.tokenizer import Tokenizer
from wafergpt.errors import InputError
from wafergpt.model.gpt import GPT
from wafergpt.model.heads import Classifier
from wafergpt.progress import progress, working
from wafergpt.run import Run
from wafergpt.shapes.parametrization import parametrization
from wafergpt.train import checkpoint
from wafergpt.train.loop import autocast

JUDGE_BATCH = 64
"""Texts of one forward pass when nothing has to be kept for a backward one."""


def build_classifier(model: Model, task: Task) -> Classifier:
    """Return the network of a resolved task."""
    n_outputs = 1 if task.loss in {"binary", "squared_error"} else len(task.labels)
    return Classifier(GPT(model), n_outputs, task.pooling)


def fresh_classifier(model: Model, task: Task, seed: int) -> Classifier:
    """Return the network of a resolved task with fresh weights."""
    classifier = build_classifier(model, task)
    classifier.gpt.initialize(seed)
    with torch.no_grad():
        generator = torch.Generator().manual_seed(seed)
        std = parametrization(model).rows["task_head"].init_std
        classifier.score.weight.normal_(0.0, std, generator=generator)
    return classifier


def encode_texts(
    texts: Sequence[str], tokenizer: Tokenizer, recipe: Recipe
) -> tuple[list[NDArray[np.int64]], int]:
    """Encode texts for a recipe's task; return their tokens and how many texts were cut.

    An empty text is the end-of-text token alone.
    """
    assert recipe.task is not None
    limit = recipe.task.max_tokens or recipe.model.seq_len
    encoded = [list(ids) or [tokenizer.end_of_text] for ids in tokenizer.encode_batch(texts)]
    cut = sum(len(ids) > limit for ids in encoded)
    return [cut_tokens(ids, limit, recipe.task.cut) for ids in encoded], cut


@torch.no_grad()
def scores(
    classifier: Classifier,
    texts: Sequence[NDArray[np.int64]],
    recipe: Recipe,
    what: str = "evaluating",
    poll: Callable[[], object] = lambda: None,
) -> NDArray[np.float64]:
    """Return ``[n_texts, n_labels]`` probabilities, or ``[n_texts, 1]`` numbers of a regression.

    ``what`` is what the bar calls it; ``poll`` is called before each batch, and may raise.
    """
    found = []
    poll()
    with progress(what, len(texts), "texts") as bar:
        for values in _batched_scores(classifier, texts, recipe):
            found.append(values)
            bar.advance(len(values))
            poll()
    return np.concatenate(found)[np.argsort(_by_length(texts), kind="stable")]


def _by_length(texts: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    nothing = np.zeros(len(texts), dtype=np.int64)
    return LabelledBatches(texts, nothing, JUDGE_BATCH, None).indices(0, len(texts))


def _batched_scores(
    classifier: Classifier, texts: Sequence[NDArray[np.int64]], recipe: Recipe
) -> Iterator[NDArray[np.float64]]:
    assert recipe.task is not None
    device = classifier.score.weight.device
    batches = LabelledBatches(texts, np.zeros(len(texts), dtype=np.int64), JUDGE_BATCH, None)
    classifier.eval()
    for first in range(0, len(texts), JUDGE_BATCH):
        batch = batches.batch(first, min(JUDGE_BATCH, len(texts) - first)).to(device)
        with autocast(recipe, device):
            values = classifier(batch.tokens, batch.lengths).double()
        if recipe.task.loss == "binary":
            positive = values.sigmoid()
            values = torch.cat([1 - positive, positive], 1)
        elif recipe.task.loss == "cross_entropy":
            values = values.softmax(1)
        yield values.cpu().numpy()


@dataclass(frozen=True)
class TextClassifier:
    """A fine-tuned run, ready to use.

    Attributes:
        run: where it comes from.
        recipe: of the run.
        network: with the best checkpoint's weights.
        tokenizer: that it reads with.
    """

    run: Run
    recipe: Recipe
    network: Classifier
    tokenizer: Tokenizer

    @classmethod
    def load(cls, run: Run) -> TextClassifier:
        """Open a fine-tuned run.

        Raises:
            InputError: if the run is a language model without a task.
        """
        recipe = run.recipe
        if recipe.task is None:
            raise InputError(f"{run.path} is a language model: wafergpt finetune gives it a task")
        build = partial(build_classifier, recipe.model, recipe.task)
        network = checkpoint.restored(build, checkpoint.weights(run))
        tokenizer = Tokenizer.load(run.tokenizer)
        tokenizer = tokenizer.require_at_most(recipe.model.vocab_size, run.path)
        return cls(run, recipe, network, tokenizer)

    @overload
    def predict(  # type: ignore[overload-overlap]
        self, texts: str
    ) -> dict[str, Any] | None: ...

    @overload
    def predict(self, texts: Iterable[str | None]) -> list[dict[str, Any] | None]: ...

    def predict(
        self, texts: str | Iterable[str | None]
    ) -> dict[str, Any] | list[dict[str, Any] | None] | None:
        """Return for each text its ``label``, the label's ``score`` and all ``scores``.

        A regression gives ``{"score": number}``. Several texts, of a list, an array, a column of a
        table or an iterator, give a list in their order; one string gives one answer. Where there
        is no text (blank, None, NaN) the answer is None.

        Raises:
            InputError: on what is no text, with its place.
        """
        if isinstance(texts, str):
            return self.predict([texts])[0]
        given = _strings(texts)
        answers: list[dict[str, Any] | None] = [None] * len(given)
        there = [place for place, text in enumerate(given) if text.strip()]
        for place, answer in zip(there, self._answers([given[i] for i in there]), strict=True):
            answers[place] = answer
        return answers

    def _answers(self, texts: Sequence[str]) -> list[dict[str, Any]]:
        assert self.recipe.task is not None
        if not texts:
            return []
        with working("encoding the texts"):
            encoded, _ = encode_texts(texts, self.tokenizer, self.recipe)
        values = scores(self.network, encoded, self.recipe, "predicting")
        if self.recipe.task.loss == "squared_error":
            return [{"score": float(value)} for value in values[:, 0]]
        labels = self.recipe.task.labels
        return [
            {
                "label": labels[int(row.argmax())],
                "score": float(row.max()),
                "scores": dict(zip(labels, row.tolist(), strict=True)),
            }
            for row in values
        ]


def _strings(texts: Iterable[str | None]) -> list[str]:
    """Return texts as a list; where there is none it is blank."""
    # What iterates over its columns or bytes is not meant so.
    if isinstance(texts, Mapping | bytes) or hasattr(texts, "columns"):
        raise InputError(
            f"predict() wants texts, not {type(texts).__name__}: give it a string, or a list or a "
            "column of strings"
        )
    try:
        values = list(texts)
    except TypeError:
        raise InputError(f"predict() wants a string or several, not {described(texts)}") from None
    return [_string(value, place) for place, value in enumerate(values)]


def _string(value: object, place: int) -> str:
    if is_missing(value):
        return ""
    if not isinstance(value, str):
        raise InputError(f"texts[{place}] is {described(value)}; texts are wanted")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InputError(f"texts[{place}] holds a lone surrogate, which is no character") from None
    return str(value)
