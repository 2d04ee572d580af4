"""Numbers for texts: metrics against scikit-learn's and SciPy's, and units of any size."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.interop.test_onnx import run_readme
from tests.tasks.test_finetune import SMALL, write
from wafergpt.api import export, finetune
from wafergpt.config import recipe_from
from wafergpt.errors import InputError
from wafergpt.evaluation.regression import regression_metrics
from wafergpt.inference.predictor import Predictor
from wafergpt.reports.page import write_report
from wafergpt.runs.run import Run
from wafergpt.tasks.base import task_of
from wafergpt.tasks.regress import Regress, RegressSettings

WORTH = {"bad": 1, "weak": 2, "fine": 3, "good": 4, "great": 5}


@given(st.integers(0, 2**32 - 1), st.integers(3, 50))
def test_metrics_are_sklearns_and_scipys(seed: int, n: int) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(seed)
    targets = rng.integers(1, 6, size=n).astype(float)
    targets[:2] = 1.0, 5.0
    predictions = np.clip(np.round(targets + rng.normal(size=n), 1), 1, 5)
    predictions[:2] = 1.0, 4.9
    ours = regression_metrics(predictions, targets, scale=2.0)
    assert ours.loss == pytest.approx(metrics.mean_squared_error(targets, predictions) / 4)
    assert ours.rmse == pytest.approx(metrics.root_mean_squared_error(targets, predictions))
    error = metrics.mean_absolute_error(targets, predictions)
    assert ours.mean_absolute_error == pytest.approx(error)
    assert ours.r2 == pytest.approx(metrics.r2_score(targets, predictions))
    assert ours.pearson == pytest.approx(stats.pearsonr(targets, predictions).statistic)
    assert ours.spearman == pytest.approx(stats.spearmanr(targets, predictions).statistic)
    kappa = metrics.cohen_kappa_score(
        targets.astype(int),
        predictions.round().astype(int),
        weights="quadratic",
        labels=range(1, 6),
    )
    assert ours.quadratic_kappa == pytest.approx(kappa)


def test_what_has_no_spread_has_no_correlation() -> None:
    found = regression_metrics(np.ones(3), np.array([1.0, 2.0, 3.5]))
    assert (found.pearson, found.spearman, found.quadratic_kappa) == (0.0, 0.0, None)
    assert "quadratic_kappa" not in found.to_dict()
    assert regression_metrics(np.ones(3), np.ones(3)).quadratic_kappa == 1.0


def rows(n: int, seed: int, unit: float = 1.0, start: float = 0.0) -> list[tuple[str, str]]:
    rng = random.Random(seed)
    found = []
    for _ in range(n):
        word = rng.choice([*WORTH])
        filler = rng.choices(["the", "film", "was", "plot", "it"], k=rng.randint(2, 8))
        text = " ".join([*filler, f"very{word}"])
        found.append((text, f"{start + unit * WORTH[word]:g}"))
    return found


def trained(home: Path, name: str, *more: str, unit: float = 1.0, start: float = 0.0) -> Predictor:
    if (home / name).exists():
        return Predictor.load(Run.find(name, home))
    files = {part: write(home / f"{name}-{part}.jsonl", rows(n, n, unit, start))
             for part, n in (("train", 300), ("test", 100))}  # fmt: skip
    asked = [*SMALL, *(f"task.{part}={path}" for part, path in files.items()), f"name={name}",
             "task.name=regress", "model.vocab_size=290", "train.epochs=8", *more]  # fmt: skip
    return finetune("scratch", None, asked, root=home)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.mark.slow
def test_ratings_are_learned_and_the_kappa_chooses(home: Path) -> None:
    classifier = trained(home, "stars", "evaluate.metric=quadratic_kappa", "task.ngrams=words")
    test = classifier.run.read("result")["test"]
    assert test["quadratic_kappa"] > 0.8
    assert test["spearman"] > 0.8
    page = write_report(classifier.run).read_text()
    assert "off by" in page
    assert "Spearman" in page
    # Ratings with halves have no kappa.
    with pytest.raises(InputError, match=r"jsonl, line \d+: the label '3.5' is no whole number"):
        trained(home, "halves", "evaluate.metric=quadratic_kappa", unit=0.5, start=1.0)


@pytest.mark.slow
def test_a_unit_changes_nothing(home: Path) -> None:
    """Cents or thousands: the losses of the training are the same, the errors scale."""
    results = []
    for name, unit, start in (("ones", 1.0, 0.0), ("thousands", 1000.0, 1e6)):
        run = trained(home, name, "task.ngrams=none", "train.epochs=3", unit=unit, start=start).run
        results.append(run.read("result"))
    ones, thousands = results
    assert thousands["loss"] == pytest.approx(ones["loss"], rel=1e-3)
    assert thousands["test"]["loss"] == pytest.approx(ones["test"]["loss"], rel=1e-3)
    assert thousands["test"]["rmse"] == pytest.approx(1000 * ones["test"]["rmse"], rel=1e-3)
    assert thousands["test"]["r2"] > 0.1


@pytest.mark.slow
@pytest.mark.parametrize("pooling", ["last", "mean_max_last"])
def test_an_export_gives_numbers_in_their_unit(home: Path, tmp_path: Path, pooling: str) -> None:
    pytest.importorskip("transformers", reason="an export to transformers is compared")
    name = f"cents-{pooling}"
    more = ("task.ngrams=none", f"task.pooling={pooling}")
    run = trained(home, name, *more, unit=100.0, start=1000.0).run
    assert export(run, tmp_path / "hf")["max_relative_logit_difference"] < 1e-4
    from wafergpt.api import import_model

    again = import_model(tmp_path / "hf", name="again", root=tmp_path)
    text = "the film was verygood"
    ours, theirs = (Predictor.load(r).predict(text) for r in (run, Run.find("again", tmp_path)))
    assert ours is not None
    assert theirs is not None
    assert again is not None
    assert theirs["value"] == pytest.approx(ours["value"], rel=1e-4)
    if pooling == "last":
        pytest.importorskip("onnxruntime", reason="an export to ONNX is run")
        pytest.importorskip("onnxscript", reason="a graph is written by onnxscript")
        export(run, tmp_path / "onnx", "onnx")
        old = 'texts = ["A warm and funny film.", "It was dull."]'
        printed = run_readme(tmp_path / "onnx", (old, f'texts = ["{text}"]'))
        assert float(printed.split()[0]) == pytest.approx(ours["value"], rel=1e-4)


def test_a_teacher_of_another_unit_is_understood() -> None:
    def task(**units: float) -> Regress:
        found = task_of(recipe_from({"task": {"name": "regress", **units}}))
        assert isinstance(found, Regress)
        return found

    ours, theirs = task(center=10.0, scale=2.0), task()
    numbers = torch.tensor([[12.0], [8.0]])
    scores = (numbers - 10.0) / 2.0
    assert ours.divergence(scores, theirs.absolute(numbers), None).item() == pytest.approx(0.0)
    assert ours.loss_of(scores, numbers[:, 0]).item() == pytest.approx(0.0)


def test_intervals_have_the_units_of_their_metrics() -> None:
    units = {"name": "regress", "center": 10.0, "scale": 4.0}
    task = task_of(recipe_from({"task": units}))
    assert isinstance(task, Regress)
    draw = np.random.default_rng(0)
    wanted = draw.normal(10, 4, 200)
    outputs = {"value": wanted + draw.normal(0, 2, 200)}
    found, intervals = task.compute_metrics(outputs, wanted), task.intervals(outputs, wanted)
    assert found["loss"] == pytest.approx(0.25, rel=0.2)
    for name, (low, high) in intervals.items():
        assert low < found[name] < high, name


def test_an_older_run_keeps_its_unit(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", rows(60, 0))
    new = task_of(recipe_from({"task": {"name": "regress", "train": path}}))
    assert isinstance(new, Regress)
    fingerprint = new.tables.fingerprint()
    assert new.from_rows(new.tables)["scale"] > 1
    old = task_of(new.recipe.replace(data={"fingerprint": fingerprint}))
    assert isinstance(old, Regress)
    assert old.from_rows(old.tables) == {}
    assert isinstance(old.settings, RegressSettings)
    assert (old.settings.center, old.settings.scale) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["3", "3", "3"], "all training rows have the number 3: nothing to learn"),
        (["3", "inf", "4"], r"line 2: the label 'inf' is not a number"),
        (["3", "4", "NaN?"], r"line 3: the label 'NaN\?' is not a number"),
        (["3", "4", "five"], r"line 3: the label 'five' is not a number"),
        (["1e308", "-1e308", "0"], "are too far apart"),
    ],
)
def test_numbers_that_cannot_be_learned(tmp_path: Path, labels: list[str], message: str) -> None:
    path = write(tmp_path / "rows.jsonl", [(f"text {i}", y) for i, y in enumerate(labels)])
    asked = [*SMALL, "task.name=regress", f"task.train={path}", f"task.validation={path}",
             "name=none"]  # fmt: skip
    with pytest.raises(InputError, match=message):
        finetune("scratch", None, asked, root=tmp_path)
    assert not (tmp_path / "none").exists()
