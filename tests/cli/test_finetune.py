"""``wafergpt finetune``: what it shows, before and after."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from rich.console import Console

from wafergpt.cli import finetune, pretrain
from wafergpt.cli.tables import show
from wafergpt.config import recipe_from
from wafergpt.run import Run

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
    assert "bidirectional LSTM: accuracy 0.9000, macro-F1 0.8765, loss 0.3000" in text
    assert f"wafergpt report clf --runs '{run.path.parent}'" in text


@pytest.mark.parametrize("width", [60, 80, 120])
def test_on_a_terminal_they_are_a_table(run: Run, width: int) -> None:
    out = io.StringIO()
    show(lambda cells: finetune._screen(run, RESULT, cells), Console(file=out, width=width))
    rows = [line.split() for line in out.getvalue().splitlines()]
    assert ["accuracy", "macro-F1", "loss", "time"] in rows
    assert ["GPT", "0.9000", "0.8765", "0.3000", "2m05s"] in rows


def shown(command: Any, *arguments: str) -> dict[str, Any]:
    done = CliRunner().invoke(command, [*arguments, "--show"], catch_exceptions=False)
    values: dict[str, Any] = yaml.safe_load(done.stdout)
    return values


def test_show_has_the_task_and_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    values = shown(finetune.command, "scratch", "task.train=rows.csv")
    assert values["name"] == "scratch-classify"
    assert values["task"]["name"] == "classify"
    assert values["task"]["train"] == "rows.csv"
    assert shown(finetune.command, "scratch", "name=mine")["name"] == "mine"


def test_show_has_the_shape_of_the_run_to_start_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shape = {"d_model": 96, "n_heads": 3}
    run = Run.create(recipe_from({"name": "pre", "model": shape}), Path("runs"))
    (run.checkpoints / "step-00000000").mkdir()
    values = shown(finetune.command, "pre")
    assert (values["name"], values["model"]["d_model"]) == ("pre-classify", 96)
    assert shown(pretrain.command, "--from", "pre")["model"]["d_model"] == 96
    assert shown(pretrain.command, "--resume", "pre")["name"] == "pre"
