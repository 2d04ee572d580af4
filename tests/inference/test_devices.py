"""Runs of another machine on one without instructions for bf16."""

from __future__ import annotations

from typing import Any

import pytest

from tests.tasks.test_finetune import SMALL, write
from wafergpt import api
from wafergpt.devices import detect
from wafergpt.inference import devices
from wafergpt.inference.devices import on_device
from wafergpt.runs.run import Run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Return a classifier whose recipe says that it was trained in bf16."""
    home = tmp_path_factory.mktemp("home")
    rows = [(f"{word} {n}", label) for n in range(40)
            for word, label in (("fine", "yes"), ("bad", "no"))]  # fmt: skip
    asked = [*SMALL, f"task.train={write(home / 'rows.jsonl', rows)}", "train.steps=4",
             "model.vocab_size=290"]  # fmt: skip
    found = api.finetune("scratch", None, asked, root=home / "runs").run
    recipe = found.path / "recipe.yaml"
    assert "precision: fp32" in recipe.read_text()
    recipe.write_text(recipe.read_text().replace("precision: fp32", "precision: bf16"))
    return found


def scores(run: Run) -> Any:
    return [(one or {})["scores"] for one in api.predict(run, ["fine", "bad", "who knows"])]


def test_without_bf16_it_predicts_in_fp32(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    found = {}
    for there in (True, False):
        monkeypatch.setattr(devices, "multiplies_bf16", lambda device, there=there: there)
        assert on_device(run.recipe, "cpu").system.precision == ("bf16" if there else "fp32")
        found[there] = scores(run)
    recipe = run.path / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("precision: bf16", "precision: fp32"))
    assert scores(run) == found[False] != found[True]


def test_what_is_slow_is_said_and_done(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for there in (True, False):
        monkeypatch.setattr(detect, "multiplies_bf16", lambda device, there=there: there)
        assert detect.resolve_precision("bf16", "cpu", None) == "bf16"  # type: ignore[arg-type]
        assert ("many times as long as in fp32" in capsys.readouterr().err) != there
