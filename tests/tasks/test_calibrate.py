"""A temperature that a training fits to its validation rows, and what uses it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch.nn import functional as F

from tests.evaluation.test_calibration import best_loss
from tests.suites.test_evaluation import rows
from tests.tasks.test_finetune import SMALL, write
from wafergpt.api import finetune
from wafergpt.inference.predictor import Predictor
from wafergpt.tasks.base import task_of
from wafergpt.tasks.classify import Classify
from wafergpt.tasks.classify_settings import ClassifySettings

TEXTS = [text for text, _ in rows(30, 5)]


def trained(home: Path, name: str, *asked: str) -> Predictor:
    return finetune(
        "scratch", None,
        [*SMALL, f"task.train={home / 'train.jsonl'}", "model.vocab_size=280",
         "task.pooling=mean", "task.ngrams=none", "optimizer.lr=3e-2", f"name={name}", *asked],
        root=home,
    )  # fmt: skip


def settings_of(predictor: Predictor) -> ClassifySettings:
    settings = predictor.recipe.task
    assert isinstance(settings, ClassifySettings)
    return settings


def logits_of(predictor: Predictor, texts: list[str]) -> torch.Tensor:
    """Return what the bare network computes of each text, alone."""
    found = []
    predictor.network.eval()
    for text in texts:
        tokens = torch.tensor([predictor.tokenizer.encode(text)])
        with torch.no_grad():
            found.append(predictor.network(tokens, torch.tensor([tokens.shape[1]])))
    return torch.cat(found).double()


def scores_of(predictor: Predictor, texts: list[str]) -> np.ndarray:
    return np.array([list(a["scores"].values()) for a in predictor.predict(texts) if a])


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    noisy = [(text, label if n % 6 else "good") for n, (text, label) in enumerate(rows(240, 0))]
    write(home / "train.jsonl", noisy)
    return home


@pytest.fixture(scope="module")
def calibrated(home: Path) -> Predictor:
    return trained(home, "calibrated", "task.calibrate=true", "train.epochs=8",
                   "task.abstain=0.8", "task.thresholds=one",
                   "evaluate.metric=macro_f1")  # fmt: skip


def test_validation_has_the_lowest_loss_and_the_same_answers(calibrated: Predictor) -> None:
    kept = calibrated.run.outputs_of("validation")
    evaluated = calibrated.task.validation(calibrated.tokenizer)
    logits, targets = torch.from_numpy(kept["logits"]), torch.from_numpy(evaluated.references)
    temperature = settings_of(calibrated).temperature
    assert temperature != 1
    divided = (logits / temperature).softmax(1).numpy()
    assert kept["probabilities"] == pytest.approx(divided)
    assert (kept["probabilities"].argmax(1) == kept["logits"].argmax(1)).all()
    loss = F.cross_entropy(logits / temperature, targets).item()
    assert loss < F.cross_entropy(logits, targets).item()
    assert loss == pytest.approx(best_loss(logits, targets), abs=1e-6)
    result = calibrated.run.read("result")["metrics"]
    assert result["loss"] == pytest.approx(loss)


def test_what_abstains_is_fitted_after_it(calibrated: Predictor) -> None:
    kept, least = calibrated.run.outputs_of("validation"), settings_of(calibrated).abstain_below
    confidence = kept["probabilities"].max(1) if "decided" not in kept else np.take_along_axis(
        kept["probabilities"], kept["decided"][:, None], 1)[:, 0]  # fmt: skip
    assert (confidence >= least).mean() == pytest.approx(0.8, abs=0.03)
    answers = [a for a in calibrated.predict(TEXTS) if a]
    assert [a["label"] is None for a in answers] == [a["score"] < least for a in answers]


def test_predictions_are_the_softmax_of_divided_logits(calibrated: Predictor) -> None:
    wanted = (logits_of(calibrated, TEXTS) / settings_of(calibrated).temperature).softmax(1)
    assert scores_of(calibrated, TEXTS) == pytest.approx(wanted.numpy(), abs=1e-6)


def test_a_binary_loss_has_one_too(home: Path) -> None:
    binary = trained(home, "binary", "task.calibrate=true", "task.loss=binary", "train.epochs=4")
    temperature = settings_of(binary).temperature
    assert temperature != 1
    wanted = (logits_of(binary, TEXTS)[:, 0] / temperature).sigmoid()
    assert scores_of(binary, TEXTS)[:, 1] == pytest.approx(wanted.numpy(), abs=1e-6)
    kept = binary.run.outputs_of("validation")
    evaluated = binary.task.validation(binary.tokenizer)
    logits, targets = torch.from_numpy(kept["logits"]), torch.from_numpy(evaluated.references)
    loss = F.cross_entropy(logits / temperature, targets).item()
    assert loss == pytest.approx(best_loss(logits, targets), abs=1e-6)


def test_it_depends_on_no_temperature_before(calibrated: Predictor) -> None:
    """What is fitted again, as after pruning or to all folds, begins with undivided logits."""
    kept = calibrated.run.outputs_of("validation")
    evaluated = calibrated.task.validation(calibrated.tokenizer)
    task = task_of(calibrated.recipe.replace(task={"temperature": 7.0}))
    assert isinstance(task, Classify)
    again = {**task.answers(torch.from_numpy(kept["logits"]))}
    values, outputs = task.fit({k: v.numpy() for k, v in again.items()}, evaluated.references)
    assert values["temperature"] == pytest.approx(settings_of(calibrated).temperature)
    assert outputs["probabilities"] == pytest.approx(kept["probabilities"])


def test_the_factors_of_n_grams_come_first(home: Path) -> None:
    both = trained(home, "both", "task.calibrate=true", "task.ngrams=words",
                   "task.ngram_rows=4096", "train.epochs=3")  # fmt: skip
    kept, settings = both.run.outputs_of("validation"), settings_of(both)
    mixed = sum(factor * kept["scores"][:, place] for place, factor in enumerate(settings.factors))
    wanted = torch.from_numpy(np.asarray(mixed) / settings.temperature).double().softmax(1)
    assert kept["probabilities"] == pytest.approx(wanted.numpy(), abs=1e-6)
    texts = list(both.task.rows("validation").texts)  # type: ignore[attr-defined]
    assert scores_of(both, texts) == pytest.approx(kept["probabilities"], abs=1e-6)


def test_without_validation_rows_it_says_so(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    alone = trained(home, "alone", "task.calibrate=true", "task.held_out=0", "train.epochs=1")
    assert "no validation rows for task.calibrate" in capsys.readouterr().err
    assert settings_of(alone).temperature == 1


def test_an_older_run_has_none(calibrated: Predictor) -> None:
    path = calibrated.run.path / "recipe.yaml"
    values = yaml.safe_load(path.read_text())
    for key in ("calibrate", "temperature"):
        values["task"].pop(key, None)
    path.write_text(yaml.safe_dump(values))
    older = Predictor.load(calibrated.run, "cpu")
    assert settings_of(older).temperature == 1
    wanted = logits_of(older, TEXTS).softmax(1).numpy()
    assert scores_of(older, TEXTS) == pytest.approx(wanted, abs=1e-6)
