"""``wafergpt demo``: what it shows at its end."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from wafergpt.apps import demo
from wafergpt.cli.demo import command
from wafergpt.config import recipe_from
from wafergpt.errors import InputError, Interrupted
from wafergpt.runs.run import Run


@pytest.mark.parametrize(
    ("more", "text"), [([], "'What a film!'"), (["--data", "a.csv"], "'a text of yours'")]
)
def test_the_next_lines_name_the_folder_of_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: list[str], text: str
) -> None:
    root = tmp_path / "my runs"
    made = Run.create(recipe_from({"name": "demo", "task": {}}), root)
    Run.create(recipe_from({"name": "demo-pretrained"}), root)
    row = {"name": "GPT", "accuracy": 0.9, "loss": 0.3, "seconds": 61.0}
    result = {"run": str(made.path), "gpt": row, "bilstm": row, "tfidf": row, "report": "r.html"}
    monkeypatch.setattr(demo, "demo", lambda *a: result)
    done = CliRunner().invoke(command, ["--runs", str(root), *more], catch_exceptions=False)
    lines = done.stdout.splitlines()
    assert lines[1].split() == ["GPT", "0.9000", "0.3000", "1m01s"]
    assert lines[-3:] == [
        f"next: wafergpt predict demo --text {text} --runs '{root}'",
        f"      wafergpt generate demo-pretrained --prompt The --runs '{root}'",
        f"      wafergpt runs --runs '{root}'",
    ]


def test_a_folder_of_others_is_not_removed(tmp_path: Path) -> None:
    Run.create(recipe_from({"name": "demo-data"}), tmp_path)
    with pytest.raises(InputError, match="demo-data is not the demo's"):
        demo.demo(root=tmp_path)
    assert (tmp_path / "demo-data" / "recipe.yaml").exists()


def test_an_interrupted_baseline_costs_no_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Run.create(recipe_from({"name": "demo", "task": {}}), tmp_path)
    Run.create(recipe_from({"name": "demo-pretrained"}), tmp_path)
    row = {"name": "GPT", "accuracy": 0.9, "loss": 0.3, "seconds": 61.0}
    failed = {"name": "TF-IDF of characters + logistic regression", "failed": "no room"}
    result = {"run": str(made.path), "gpt": row, "tfidf": failed, "report": "r.html"}
    result["interrupted"] = "interrupted in a baseline"
    monkeypatch.setattr(demo, "demo", lambda *a: result)
    done = CliRunner().invoke(command, ["--runs", str(tmp_path)])
    assert isinstance(done.exception, Interrupted)
    assert ["GPT", "0.9000", "0.3000", "1m01s"] in [x.split() for x in done.stdout.splitlines()]
    assert "TF-IDF of characters + logistic regression: no result: no room" in done.stdout
