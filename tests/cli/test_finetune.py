"""``wafergpt finetune``: what it shows, before and after."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from rich.console import Console

from wafergpt import api
from wafergpt.apps import comparison
from wafergpt.cli import finetune, pretrain
from wafergpt.cli.tables import show
from wafergpt.config import recipe_from
from wafergpt.errors import InputError, Interrupted
from wafergpt.runs.run import Run

ROW = {"kind": "gpt", "accuracy": 0.9, "macro_f1": 0.8765, "loss": 0.3, "seconds": 125.0}
RESULT: dict[str, Any] = {
    "metrics": {"accuracy": 0.9, "loss": 0.25},
    "test": None,
    "comparison": [{**ROW, "name": "GPT"}, {**ROW, "name": "bidirectional LSTM"}],
}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create(recipe_from({"name": "clf", "task": {}}), tmp_path / "my runs")


def test_baselines_come_with_their_macro_f1(run: Run) -> None:
    text = finetune._text(run, RESULT)
    *_, lstm = [line.split() for line in text.splitlines() if "0.8765" in line]
    assert lstm[:5] == ["bidirectional", "LSTM", "0.9000", "0.8765", "0.3000"]
    assert f"wafergpt report clf --runs '{run.path.parent}'" in text


@pytest.mark.parametrize("width", [60, 80, 120])
def test_on_a_terminal_they_are_a_table(run: Run, width: int) -> None:
    out = io.StringIO()
    show(lambda cells: finetune._screen(run, RESULT, cells), Console(file=out, width=width))
    rows = [line.split() for line in out.getvalue().splitlines()]
    assert ["accuracy", "macro", "f1", "loss", "time"] in rows
    assert ["GPT", "0.9000", "0.8765", "0.3000", "2m05s"] in rows


def shown(command: Any, *arguments: str) -> dict[str, Any]:
    done = CliRunner().invoke(command, [*arguments, "--show"], catch_exceptions=False)
    values: dict[str, Any] = yaml.safe_load(done.stdout)
    return values


def test_show_has_the_task_and_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows = "".join(f"row {n},{'ab'[n % 2]}\n" for n in range(40))
    Path("rows.csv").write_text("text,label\n" + rows)
    values = shown(finetune.command, "scratch", "task.train=rows.csv")
    assert values["train"]["epochs"] == 15
    assert values["name"] == "scratch-classify"
    assert values["task"]["name"] == "classify"
    assert values["task"]["train"] == "rows.csv"
    assert shown(finetune.command, "scratch", "name=mine")["name"] == "mine"
    assert shown(finetune.command, "scratch", "name=run")["name"] == "run"


def test_show_has_the_shape_of_the_run_to_start_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shape = {"d_model": 96, "n_heads": 3}
    recipe = recipe_from({"name": "pre", "model": shape, "train": {"steps": 100}})
    run = Run.create(recipe, Path("runs"))
    (run.checkpoints / "step-00000000").mkdir()
    values = shown(finetune.command, "pre")
    assert (values["name"], values["model"]["d_model"]) == ("pre-classify", 96)
    assert shown(pretrain.command, "--from", "pre")["model"]["d_model"] == 96
    resumed = shown(pretrain.command, "--resume", "pre", "train.steps=200", "evaluate.patience=3")
    assert (resumed["name"], resumed["train"]["steps"]) == ("pre", 200)
    assert resumed["evaluate"]["patience"] == 3


def test_a_baseline_without_a_result_says_why(run: Run) -> None:
    failed = {"name": "TF-IDF", "kind": "tfidf", "failed": "no room"}
    result = RESULT | {"comparison": [{**ROW, "name": "GPT"}, failed]}
    assert "GPT  " in finetune._text(run, result)
    assert "TF-IDF: no result: no room\n" in finetune._text(run, result)
    out = io.StringIO()
    show(lambda cells: finetune._screen(run, result, cells), Console(file=out, width=80))
    assert ["GPT", "0.9000", "0.8765", "0.3000", "2m05s"] in [
        line.split() for line in out.getvalue().splitlines()
    ]
    assert "TF-IDF: no result: no room\n" in out.getvalue()


@pytest.mark.parametrize(
    ("override", "installed", "why"),
    [
        ("task.loss=squared_error", True, "the baselines are classifiers"),
        ("seed=1", False, "scikit-learn"),
    ],
)
def test_baselines_that_cannot_work_are_refused_before_training(
    override: str, installed: bool, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "finetune", lambda *a, **k: pytest.fail("it trains"))
    if not installed:
        monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(InputError, match=why):
        CliRunner().invoke(
            finetune.command, ["scratch", "--baselines", override], catch_exceptions=False
        )


@pytest.mark.parametrize("as_json", [True, False])
def test_an_interrupted_baseline_costs_no_result(
    run: Run, as_json: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(classifier: Any) -> None:
        classifier.run.write("comparison", [{**ROW, "name": "GPT"}])
        raise Interrupted("interrupted in the baseline")

    run.write("result", {key: RESULT[key] for key in ("metrics", "test")})
    monkeypatch.setattr(api, "finetune", lambda *a, **k: SimpleNamespace(run=run))
    monkeypatch.setattr(comparison, "compare", interrupted)
    more = ["--json"] if as_json else []
    done = CliRunner().invoke(finetune.command, ["scratch", "--baselines", *more])
    assert isinstance(done.exception, Interrupted)
    if as_json:
        assert json.loads(done.stdout)["comparison"] == [{**ROW, "name": "GPT"}]
    else:
        assert "0.9000    0.8765  0.3000" in done.stdout
