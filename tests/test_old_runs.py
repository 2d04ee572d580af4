"""Runs of version 0.1, made before tasks and engines had classes of their own, still work.

``tests/fixtures/version_0_1`` was written by that version: parameters were called ``score.weight``,
a regression was ``task.loss: squared_error``, and recipes had ``model.kind``.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import wafergpt as wg
from wafergpt.checkpoint.store import damage, every, weights
from wafergpt.config import load_recipe
from wafergpt.config.recipe import recipe_from

FIXTURE = Path(__file__).parent / "fixtures" / "version_0_1"


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    shutil.copytree(FIXTURE, tmp_path / "project")
    return tmp_path / "project" / "runs"


def test_they_answer_as_they_did(runs: Path) -> None:
    classes = wg.Predictor.load(wg.Run.find("classes", runs))
    (answer,) = classes.predict(["it was good"])
    assert answer is not None
    assert answer["label"] == "good"
    assert answer["score"] == pytest.approx(0.5050220556123062, abs=1e-6)
    assert "head.weight" in weights(classes.run)
    numbers = wg.Predictor.load(wg.Run.find("numbers", runs))
    assert numbers.recipe.task is not None
    assert numbers.recipe.task.name == "regress"
    (answer,) = numbers.predict(["it was good"])
    assert answer == {"value": pytest.approx(0.041080787777900696, abs=1e-6)}
    assert wg.generate("language", "it was", wg.Sampling(max_tokens=8, seed=3), root=runs)


@pytest.mark.parametrize("name", ["language", "classes", "numbers"])
def test_they_go_on(runs: Path, name: str) -> None:
    """Also where the project is now, and with the moments of renamed parameters."""
    run = wg.Run.find(name, runs)
    before = every(run)[-1]
    if name == "language":
        wg.pretrain(resume=name, overrides=["train.steps=4"], root=runs)
    else:
        wg.finetune(resume=name, overrides=["train.steps=4"], root=runs)
    assert [row["step"] for row in run.metrics()] == [1, 2, 3, 4]
    assert run.read("result")["step"] == 4
    assert before.name == "step-00000002"
    assert damage(every(run)[-1]) is None


def test_they_are_shown_and_started_from(runs: Path) -> None:
    assert wg.report("classes", root=runs).is_file()
    overrides = [f"task.train={runs.parent / 'rows.jsonl'}", "train.steps=1", "train.batch_size=4"]
    run = wg.finetune("language", None, [*overrides, "name=new"], root=runs).run
    assert run.read("result")["init"] == "language"


def test_old_keys_of_a_recipe_are_read_and_wrong_ones_named(tmp_path: Path) -> None:
    old = "model: {kind: gpt}\ntask: {name: classify, loss: squared_error, label_smoothing: 0.0}\n"
    (tmp_path / "old.yaml").write_text(old, encoding="utf-8")
    recipe = load_recipe(tmp_path / "old.yaml")
    assert recipe.task is not None
    assert recipe.task.name == "regress"
    assert "kind" not in recipe.to_yaml()
    assert recipe_from({"task": {"loss": "squared_error"}}).task == recipe.task
    with pytest.raises(wg.InputError, match=r"unknown key 'task\.lables'; did you mean"):
        recipe_from({"task": {"lables": ["a"]}})
    with pytest.raises(wg.InputError, match=r"task\.name='clasify' is no task; did you mean"):
        recipe_from({"task": {"name": "clasify"}})
