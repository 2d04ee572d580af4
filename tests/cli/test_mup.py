from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from wafergpt.cli import main
from wafergpt.cli.mup import command
from wafergpt.errors import InputError


def run(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(command, list(arguments))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result.stdout


def check(out: Path, *arguments: str, code: int = 0) -> dict[str, Any]:
    quick = ("--widths", "64,256", "--out", str(out), "--json")
    values: dict[str, Any] = json.loads(
        run("check", *quick, *arguments, code=code).splitlines()[-1]
    )
    return values


@pytest.mark.slow
def test_check_draws_a_page_of_its_own(tmp_path: Path) -> None:
    out = tmp_path / "check.html"
    values = check(out)
    assert values["passed"] == (values["mup"]["broken"] == [])
    assert values["sp"]["broken"]
    page = out.read_text()
    for name in ("attention scores 1", "ffn out 2", "last norm", "logits"):
        assert name in values["mup"]["slopes"]
        assert name in page
    assert "chart-changes-mup" in page
    assert "http-equiv" in page


@pytest.mark.slow
def test_what_does_not_hold_is_reported_and_exits_with_1(tmp_path: Path) -> None:
    values = check(tmp_path / "check.html", "optimizer.lr=30", code=1)
    assert not values["passed"]
    assert "does not hold" in (tmp_path / "check.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["check", "cerebras-gpt/111m"], "add model.parametrization=mup"),
        (["check", "--widths", "64"], "a slope needs two widths"),
        (
            ["transfer", "cerebras-gpt/111m", "--width", "64", "--out", "x"],
            "only under µP: add",
        ),
    ],
)
def test_mistakes_are_named(arguments: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        run(*arguments)


def test_the_command_itself_exits_with_1(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    quick = [
        "mup",
        "check",
        "model.n_layers=1",
        "--widths",
        "64,128",
        "--steps",
        "1",
        "--seeds",
        "1",
    ]
    monkeypatch.setattr("sys.argv", ["wafergpt", *quick])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 1


def test_widths_that_are_no_numbers(tmp_path: Path) -> None:
    result = CliRunner().invoke(command, ["check", "--widths", "64,x"])
    assert result.exit_code == 2
    assert "is not a list such as 64,128,256" in result.output
