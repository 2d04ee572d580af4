"""``wafergpt report``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from wafergpt.cli.report import command
from wafergpt.config import recipe_from
from wafergpt.errors import InputError
from wafergpt.runs.run import Run


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)
    return Run.create(recipe_from({"name": "tiny"}), tmp_path / "runs")


def test_a_run_by_its_name(run: Run) -> None:
    done = CliRunner().invoke(command, ["tiny"], catch_exceptions=False)
    assert done.exit_code == 0
    assert done.stdout.startswith("runs/tiny/report.html (")
    assert (run.path / "report.html").stat().st_size < 1e5
    assert [path.name for path in run.path.parent.iterdir()] == ["tiny"]


def test_the_script_lies_once_beside_the_runs_or_in_the_page(run: Run) -> None:
    run.log({"step": 1, "tokens": 8, "seconds": 1.0, "loss": 2.0})
    page = run.path / "report.html"
    CliRunner().invoke(command, ["tiny"], catch_exceptions=False)
    (script,) = run.path.parent.glob("plotly-*.min.js")
    assert page.stat().st_size < 1e5 < 1e6 < script.stat().st_size
    CliRunner().invoke(command, ["tiny", "--self-contained"], catch_exceptions=False)
    assert page.stat().st_size > script.stat().st_size


def test_json_and_out(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "elsewhere" / "page.html"
    arguments = [str(run.path), "--out", str(out), "--json"]
    done = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert json.loads(done.stdout) == {
        "run": str(run.path),
        "report": str(out),
        "bytes": out.stat().st_size,
    }
    assert not (run.path / "report.html").exists()


def test_runs_that_lie_elsewhere(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    arguments = ["tiny", "--runs", str(run.path.parent), "--json"]
    done = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert json.loads(done.stdout)["run"] == str(run.path)


def test_an_unknown_run_names_the_nearest(run: Run) -> None:
    with pytest.raises(InputError, match="did you mean 'tiny'"):
        CliRunner().invoke(command, ["tinny"], catch_exceptions=False)


def test_out_may_not_be_a_folder(run: Run, tmp_path: Path) -> None:
    assert CliRunner().invoke(command, ["tiny", "--out", str(tmp_path)]).exit_code == 2
