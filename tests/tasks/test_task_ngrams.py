"""Texts scored by their n-grams beside the GPT."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from tests.tasks.test_finetune import SMALL, sentences, write
from wafergpt.api import export, finetune
from wafergpt.config import recipe_from
from wafergpt.errors import InputError
from wafergpt.inference.predictor import Predictor
from wafergpt.runs.run import OUTPUTS, Run
from wafergpt.tasks.classify import Classify, ClassifySettings
from wafergpt.tasks.ngram_scores import fitted_factors, mixed


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    write(home / "train.jsonl", sentences(300, 0))
    write(home / "test.jsonl", sentences(80, 1))
    return home


@pytest.mark.parametrize("kind", ["words", "characters"])
def test_they_learn_beside_the_gpt(home: Path, kind: str) -> None:
    rows = [f"task.{name}={home / name}.jsonl" for name in ("train", "test")]
    overrides = [*SMALL, *rows, f"task.ngrams={kind}", "task.ngram_rows=4096", f"name={kind}",
                 "train.epochs=3", "model.vocab_size=280"]  # fmt: skip
    classifier = finetune("scratch", None, overrides, root=home)
    result = classifier.run.read("result")
    assert result["test"]["accuracy"] >= 0.95
    settings = classifier.run.recipe.task
    assert isinstance(settings, ClassifySettings)
    assert settings.factors != ClassifySettings().factors
    outputs = load_file(classifier.run.path / OUTPUTS)
    both = torch.from_numpy(outputs["test/scores"]).transpose(0, 1).double()
    expected = mixed(both, settings.factors).softmax(1).numpy()
    assert np.allclose(outputs["test/probabilities"], expected, atol=1e-6)
    by_ngrams = both[1].argmax(1).numpy()
    answers = [settings.labels.index(label) for _, label in sentences(80, 1)]
    assert (by_ngrams == answers).mean() >= 0.95
    texts = [text for text, _ in sentences(20, 1)]
    again = Predictor.load(Run.find(kind, home)).predict(texts)
    assert again == classifier.predict(texts)
    with pytest.raises(InputError, match=f"task.ngrams={kind} has no form"):
        export(Run.find(kind, home), home / "hf")


def test_a_text_is_the_same_in_any_batch(home: Path) -> None:
    classifier = Predictor.load(Run.find("words", home))
    texts = ["verygood", "the plot was verybad and it was long " * 3]
    together, alone = classifier.predict(texts), [classifier.predict(text) for text in texts]
    for one, other in zip(together, alone, strict=True):
        assert one is not None
        assert other is not None
        assert one["scores"]["bad"] == pytest.approx(other["scores"]["bad"], abs=1e-5)


def test_the_factors_have_the_lowest_loss() -> None:
    generator = np.random.default_rng(0)
    scores = generator.normal(size=(400, 2, 3)).astype(np.float32)
    # The answers come from twice the first scores and half the second ones.
    logits = 2.0 * scores[:, 0] + 0.5 * scores[:, 1]
    noise = generator.gumbel(size=logits.shape)
    targets = (logits + noise).argmax(1)
    task = Classify(recipe_from({"task": {"labels": ["a", "b", "c"]}}))
    of_gpt, of_ngrams = fitted_factors(scores, targets, (0.4, 0.8), task.loss_of)
    assert of_gpt == pytest.approx(2.0, rel=0.2)
    assert of_ngrams == pytest.approx(0.5, rel=0.4)


def test_useless_scores_get_no_weight() -> None:
    generator = np.random.default_rng(0)
    scores = generator.normal(size=(400, 2, 2)).astype(np.float32)
    targets = scores[:, 1].argmax(1)
    task = Classify(recipe_from({"task": {"labels": ["a", "b"]}}))
    of_gpt, of_ngrams = fitted_factors(scores, targets, (0.4, 0.8), task.loss_of)
    assert of_ngrams > 20 * of_gpt


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"name": "sgd", "weight_decay": 0}, "task.ngrams has no rule for sgd"),
        ({"l2": 0.1}, "optimizer.l2 has no rule for task.ngrams"),
    ],
)
def test_optimizers_without_a_rule(more: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        recipe_from({"task": {"ngrams": "words"}, "optimizer": more})
