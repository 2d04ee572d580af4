"""``wafergpt check``, and what a fine-tuning says of its rows by itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from wafergpt.cli import check, finetune
from wafergpt.config import load_recipe
from wafergpt.errors import InputError
from wafergpt.tasks.base import task_of
from wafergpt.tasks.labelled_task import LabelledTask


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    rows = "".join(f"text {n},{'ab'[n % 2]}\n" for n in range(40))
    Path("train.csv").write_text("text,label\n" + rows)
    Path("clean.csv").write_text("text,label\nnew,a\nnewer,b\n")
    Path("leaky.csv").write_text("text,label\nnew,a\nTEXT  2,a\ntext 3,a\n")
    return tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(check.command, arguments)


def test_a_table_and_what_is_wrong() -> None:
    done = run("task.train=train.csv", "task.test=leaky.csv")
    lines = [line.split() for line in done.stdout.splitlines()]
    assert lines[0] == ["train", "test"]
    assert ["rows", "40", "3"] in lines
    assert ["texts", "that", "train", "has", "too", "–", "2"] in lines
    assert ["–", "b", "20", "0"] in lines
    wrong = [line for line in done.stdout.splitlines() if line.startswith("wrong: ")]
    assert wrong == [
        "wrong: 2 of 3 test texts are also in train (first: leaky.csv, line 3, and train.csv, "
        "line 4)",
        "wrong: 1 text has several labels (first: 'b' in train.csv, line 5 and 'a' in leaky.csv, "
        "line 4)",
    ]
    assert done.exit_code == 0


def test_strict_and_json() -> None:
    done = run("task.train=train.csv", "task.test=leaky.csv", "--strict", "--json")
    assert isinstance(done.exception, InputError)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert found["splits"]["test"]["in_train"] == 2
    assert (found["serious"], found["findings"][0]["kind"]) == (2, "across")
    done = run("task.train=train.csv", "task.test=clean.csv", "--strict")
    assert done.exception is None
    assert "nothing here would make a metric wrong" in done.stdout


def test_labels_that_training_lacks_are_shown_with_the_rest() -> None:
    Path("other.csv").write_text("text,label\nnew,a\nnewer,c\nTEXT 0,a\n")
    done = run("task.train=train.csv", "task.test=other.csv")
    assert "wrong: the test rows have the label 'c', which no training row has" in done.stdout
    assert "wrong: 1 of 3 test texts are also in train" in done.stdout


def test_a_run_counts_tokens() -> None:
    Path("long.csv").write_text("text,label\n" + "word " * 1500 + ",a\nshort,b\n")
    assert "1 of 2 train texts are longer than" in run("base", "task.train=long.csv").stdout


def test_tagged_and_translated_rows() -> None:
    Path("a.conll").write_text("Ann B-PER\nleft O\n\nOslo B-LOC\n")
    Path("b.conll").write_text("ann B-LOC\nleft O\n\nBob B-PER\n")
    done = run("task.name=tag", "task.train=a.conll", "task.test=b.conll")
    assert "wrong: 1 of 2 test texts are also in train" in done.stdout
    assert "wrong: 1 text has several labels" in done.stdout
    Path("a.csv").write_text("source,target\nhello,hallo\nhello,guten Tag\n")
    done = run("task.name=translate", "task.train=a.csv", "task.test=a.csv")
    assert "wrong: 2 of 2 test texts are also in train" in done.stdout
    assert "several labels" not in done.stdout


def test_finetune_says_it_in_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    def said(test: str) -> str:
        task = task_of(load_recipe(None, ["task.train=train.csv", f"task.test={test}"]))
        assert isinstance(task, LabelledTask)
        assert task.tables.test is not None
        return capfd.readouterr().err

    (line,) = [line for line in said("leaky.csv").splitlines() if "warning" in line]
    assert line.startswith("warning: 2 of 3 test texts are also in train (first: ")
    assert line.endswith(": wafergpt check says more")
    assert "warning" not in said("clean.csv")


def test_finetune_can_refuse() -> None:
    arguments = ["scratch", "task.train=train.csv", "task.test=leaky.csv", "--strict"]
    done = CliRunner().invoke(finetune.command, arguments)
    assert isinstance(done.exception, InputError)
    assert "2 of 3 test texts are also in train" in str(done.exception)
    assert not Path("runs").exists()


def test_a_recipe_alone_names_the_rows(tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    rows = tmp_path / "rows.csv"
    rows.write_text("text,label\n" + "".join(f"text {n},{n % 2}\n" for n in range(20)))
    recipe.write_text(f"task: {{train: {rows}}}\n")
    done = CliRunner().invoke(check.command, [str(recipe), "--json"], catch_exceptions=False)
    splits = json.loads(done.stdout.splitlines()[-1])["splits"]
    assert sum(split["rows"] for split in splits.values()) == 20


def test_strict_is_not_for_a_resume() -> None:
    done = CliRunner().invoke(finetune.command, ["--resume", "base", "--strict"])
    assert done.exit_code == 2
    assert "omit it with --resume" in done.output


def test_without_rows() -> None:
    assert "task.train=FILE" in run().output
    assert "task.train=FILE" in run("task.name=tag").output or isinstance(
        run("task.name=tag").exception, InputError
    )
