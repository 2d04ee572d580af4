"""Texts scored by their n-grams beside the GPT."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch import Tensor

from tests.tasks.test_finetune import SMALL, sentences, write
from wafergpt.api import export, finetune
from wafergpt.checkpoint import store
from wafergpt.config import recipe_from
from wafergpt.errors import InputError
from wafergpt.inference.predictor import Predictor
from wafergpt.runs.run import OUTPUTS, Run
from wafergpt.tasks.classify_settings import ClassifySettings
from wafergpt.tasks.ngram_scores import EXPECTED, START, fitted_factors, mixed
from wafergpt.tasks.regress import RegressSettings


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    write(home / "train.jsonl", sentences(300, 0))
    write(home / "test.jsonl", sentences(80, 1))
    return home


def trained(home: Path, kind: str) -> Predictor:
    """Return a classifier with n-grams; it is trained once in each process."""
    if (home / kind).exists():
        return Predictor.load(Run.find(kind, home))
    rows = [f"task.{name}={home / name}.jsonl" for name in ("train", "test")]
    overrides = [*SMALL, *rows, f"task.ngrams={kind}", "task.ngram_rows=4096", f"name={kind}",
                 "train.epochs=3", "model.vocab_size=280"]  # fmt: skip
    return finetune("scratch", None, overrides, root=home)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["words", "characters"])
def test_they_learn_beside_the_gpt(home: Path, kind: str) -> None:
    classifier = trained(home, kind)
    result = classifier.run.read("result")
    assert result["test"]["accuracy"] >= 0.95
    settings = classifier.run.recipe.task
    assert isinstance(settings, ClassifySettings)
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
    with pytest.raises(InputError, match=rf"task.ngrams={kind} has no form.*--format onnx"):
        export(Run.find(kind, home), home / "hf")


@pytest.mark.parametrize("loss", ["cross_entropy", "binary"])
def test_ratios_are_learned_from_and_kept(home: Path, loss: str) -> None:
    rows = [f"task.{name}={home / name}.jsonl" for name in ("train", "test")]
    asked = [*SMALL, *rows, "task.ngrams=words", "task.ngram_rows=4096", f"name=ratios-{loss}",
             "task.ngram_ratios=true", "train.epochs=1", f"task.loss={loss}",
             "model.vocab_size=280"]  # fmt: skip
    classifier = finetune("scratch", None, asked, root=home)
    ratios = store.weights(classifier.run)["head_ngrams.ratios"]
    assert 0 < int((ratios > 0).sum()) < 4096
    first = store.StoredState(store.every(classifier.run)[0]).weights
    outputs = load_file(classifier.run.path / OUTPUTS)
    by_ngrams = outputs["test/scores"][:, 1]
    found = by_ngrams.argmax(1) if by_ngrams.shape[1] > 1 else by_ngrams[:, 0] > 0
    answers = [["bad", "good"].index(label) for _, label in sentences(80, 1)]
    assert (found == answers).mean() >= 0.95
    assert first["head_ngrams.weight"].abs().max() > 0
    again = Predictor.load(Run.find(f"ratios-{loss}", home)).predict(["verygood"])
    assert again == classifier.predict(["verygood"])


def test_a_text_is_the_same_in_any_batch(home: Path) -> None:
    classifier = trained(home, "words")
    texts = ["verygood", "the plot was verybad and it was long " * 3]
    together, alone = classifier.predict(texts), [classifier.predict(text) for text in texts]
    for one, other in zip(together, alone, strict=True):
        assert one is not None
        assert other is not None
        assert one["scores"]["bad"] == pytest.approx(other["scores"]["bad"], abs=1e-5)


def drawn(rows: int) -> tuple[Tensor, Tensor]:
    """Return scores and answers that come from twice the first ones and half the second ones."""
    generator = np.random.default_rng(0)
    scores = torch.from_numpy(generator.normal(size=(2, rows, 3)))
    noise = torch.from_numpy(generator.gumbel(size=(rows, 3)))
    return scores, (2.0 * scores[0] + 0.5 * scores[1] + noise).argmax(1)


def cross_entropy(scores: Tensor, targets: Tensor) -> Tensor:
    return torch.nn.functional.cross_entropy(scores, targets, reduction="sum")


def test_no_other_factors_have_a_lower_loss() -> None:
    scores, targets = drawn(2000)
    found = fitted_factors(scores, targets, cross_entropy)
    lowest = cross_entropy(mixed(scores, found), targets)
    for of_gpt in (0.7, 0.9, 1.1, 1.4):
        for of_ngrams in (0.7, 0.9, 1.1, 1.4):
            other = found[0] * of_gpt, found[1] * of_ngrams
            assert cross_entropy(mixed(scores, other), targets) > lowest
    assert found[0] == pytest.approx(2.0, rel=0.15)


def test_few_rows_leave_the_factors_near_the_expected_ones() -> None:
    scores, targets = drawn(2000)
    distance = [
        max(abs(math.log(f / s)) for f, s in zip(
            fitted_factors(scores[:, :n], targets[:n], cross_entropy), EXPECTED, strict=True))
        for n in (3, 2000)
    ]  # fmt: skip
    assert distance[0] < 0.7 < distance[1]


def test_scores_that_are_not_finite_change_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    scores, targets = drawn(20)
    scores[0, 3, 1] = math.nan
    assert fitted_factors(scores, targets, cross_entropy) == START
    assert "not finite" in capsys.readouterr().err


def test_a_resume_of_a_finished_run_changes_nothing(home: Path) -> None:
    run = trained(home, "words").run
    before = {n: (run.path / n).read_bytes() for n in ("recipe.yaml", OUTPUTS)}
    metrics = run.read("result")["metrics"]
    finetune(resume="words", root=home)
    assert {n: (run.path / n).read_bytes() for n in before} == before
    assert run.read("result")["metrics"] == metrics


@pytest.mark.slow
@pytest.mark.usefixtures("preloaded")
def test_two_processes_learn_what_one_does(home: Path) -> None:
    """A text without words leaves a process whose share it is without a row of the table."""
    rows = [row for text, label in sentences(40, 0) for row in ((text, label), ("…", label))]
    overrides = [*SMALL, f"task.train={write(home / 'half.jsonl', rows)}", "task.ngrams=words",
                 "task.ngram_rows=512", "model.vocab_size=280", "train.steps=8",
                 "task.ngram_ratios=true", "train.batch_size=2", "model.dropout=0"]  # fmt: skip
    one = finetune("scratch", None, [*overrides, "name=one"], root=home).run
    command = ["finetune", "scratch", *overrides, "name=two", "--runs", str(home), "--nproc", "2"]
    code = "from wafergpt.cli import main; main()"
    subprocess.run([sys.executable, "-c", code, *command], check=True, capture_output=True)
    single, double = store.weights(one), store.weights(Run.find("two", home))
    assert single["head_ngrams.weight"].any()
    for name, values in single.items():
        torch.testing.assert_close(double[name], values, atol=2e-4, rtol=1e-3)


def test_numbers_are_the_mean_of_both(tmp_path: Path) -> None:
    rows = [(text, str(float(label == "good"))) for text, label in sentences(200, 0)]
    overrides = [*SMALL, f"task.train={write(tmp_path / 'train.jsonl', rows)}",
                 "task.name=regress", "model.vocab_size=280", "task.ngrams=words",
                 "train.epochs=4"]  # fmt: skip
    run = finetune("scratch", None, overrides, root=tmp_path).run
    assert run.read("result")["metrics"]["mean_absolute_error"] < 0.2
    outputs = load_file(run.path / OUTPUTS)
    both = outputs["validation/scores"][..., 0]
    task = run.recipe.task
    assert isinstance(task, RegressSettings)
    numbers = both.mean(1) * task.scale + task.center
    assert np.allclose(outputs["validation/value"], numbers, atol=1e-6)


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
