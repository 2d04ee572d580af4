"""Recipes, runs and overrides told from one another, and what looks like one and is none."""

from __future__ import annotations

import shlex
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from wafergpt.cli import cli
from wafergpt.cli.recipe import names_and_overrides


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("runs/a=b", "corpus", "old=new"):
        Path(name).mkdir(parents=True)
    for name in ("x=y.yaml", "rows.csv", "r.yaml", "corpus/corpus.json"):
        Path(name).touch()
    return tmp_path


@pytest.mark.parametrize(
    ("typed", "names"),
    [
        ("runs/a=b task.train=x.csv", ["runs/a=b"]),
        ("a=b demo name=x", ["a=b", "demo"]),
        ("x=y.yaml", ["x=y.yaml"]),
        ("./gone=new seed=1", ["./gone=new"]),
        ("data.corpus=old=new", []),
        ("optimiser.lr=3 foo=3", []),
        ("task.validation= reviews", ["reviews"]),
        ("data.corpus= r.yaml", ["r.yaml"]),
        ("'train.steps = 10'", []),
    ],
)
def test_a_path_with_an_equals_sign_is_a_path(typed: str, names: list[str]) -> None:
    arguments = shlex.split(typed)
    found, overrides = names_and_overrides(arguments)
    assert found == names
    assert overrides == [a for a in arguments if a not in names]


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("task.train = x.csv", "no space is allowed beside '=': write task.train=x.csv"),
        ("task.train =x.csv", "write task.train=x.csv"),
        ("task.train= rows.csv", "write task.train=rows.csv"),
        ("data.corpus= corpus", "write data.corpus=corpus"),
        ("optimizer.lr= 3", "write optimizer.lr=3"),
        ("train.steps:10", "as train.steps=10"),
        ("train.steps", "as train.steps=VALUE"),
    ],
)
def test_what_looks_like_an_override(typed: str, message: str) -> None:
    with pytest.raises(click.UsageError) as refused:
        names_and_overrides(shlex.split(typed))
    assert message in refused.value.format_message()


def test_two_values_for_one_key_are_reported(capfd: pytest.CaptureFixture[str]) -> None:
    typed = ["train.steps=1", "seed=1", "train.steps=2", "seed=1"]
    assert names_and_overrides(typed) == ([], typed)
    assert capfd.readouterr().err == (
        "train.steps is given twice: 'train.steps=2' is used, not 'train.steps=1'\n"
    )


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("pretrain --train.steps=10", "write train.steps=VALUE"),
        ("plan --batch-size 32", "write train.batch_size=VALUE"),
        ("finetune scratch --lr 0.1", "write optimizer.lr=VALUE"),
        ("mup check --name=x", "write name=VALUE"),
        ("pretrain --seeed 3", "No such option"),
    ],
)
def test_a_key_as_an_option(typed: str, message: str) -> None:
    with pytest.raises(click.UsageError) as refused:
        cli.main(shlex.split(typed), standalone_mode=False)
    assert message in refused.value.format_message()


def test_home_behind_an_equals_sign(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder))
    result = CliRunner().invoke(cli, ["runs", "--runs=~/nowhere"])
    assert f"no folder {folder}/nowhere" in str(result.exception)
