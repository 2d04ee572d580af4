"""Labelled rows of several files, and of folders with a file for each split."""

from __future__ import annotations

from pathlib import Path

import pytest

from wafergpt.config import load_recipe
from wafergpt.data.row_sources import row_files
from wafergpt.errors import InputError
from wafergpt.runs.moved import require_sources
from wafergpt.tasks.base import task_of
from wafergpt.tasks.labelled_task import LabelledTask


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, rows in (
        ("two/a.csv", "a,x\nb,y\n"), ("two/b.csv", "c,x\n\n,x\nd,y\n"), ("two/c.txt", "no table"),
        ("set/train.csv", "a,x\nb,y\n"), ("set/my-dev.csv", "c,x\n"), ("set/test_1.csv", "d,y\n"),
        ("set/README.md", ""), ("set/.train.csv", ""), ("set/trainer.csv", "z,x\n"),
        ("hub/data/train-00000-of-00002.csv", "a,x\n"), ("hub/README.md", ""),
        ("hub/data/train-00001-of-00002.csv", "b,y\n"), ("hub/data/validation-0.csv", "c,x\n"),
    ):  # fmt: skip
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text("text,label\n" + rows)
    return tmp_path


def task(*overrides: str) -> LabelledTask[object]:  # type: ignore[type-var]
    found = task_of(load_recipe(None, [*overrides]))
    assert isinstance(found, LabelledTask)
    return found


def texts(*overrides: str) -> dict[str, list[str]]:
    return {name: table.texts for name, table in task(*overrides).read_named().items()}  # type: ignore[attr-defined]


def test_a_pattern_is_the_files_that_match(home: Path) -> None:
    assert texts("task.train=two/*.csv") == {"train": ["a", "b", "c", "d"]}
    assert texts(f"task.train={home}/*/a.csv", "task.test=two/?.csv") == {
        "train": ["a", "b"], "test": ["a", "b", "c", "d"],
    }  # fmt: skip
    (rows,) = task("task.train=two/*.csv").read_named().values()
    assert rows.place(3) == "two/b.csv, line 5"  # type: ignore[attr-defined]
    assert rows.take([3]).place(0) == "two/b.csv, line 5"  # type: ignore[attr-defined]
    assert "two/b.csv: 1 of 3 rows have no text" in rows.notes[0]  # type: ignore[attr-defined]
    with pytest.raises(InputError, match="no file matches"):
        texts("task.train=gone/*.csv")


def test_a_file_whose_name_looks_like_a_pattern() -> None:
    Path("two/a.csv").rename("x[1].csv")
    assert texts("task.train=x[1].csv") == {"train": ["a", "b"]}


def test_a_folder_has_its_splits(capfd: pytest.CaptureFixture[str]) -> None:
    assert texts("task.train=set") == {"train": ["a", "b"], "validation": ["c"], "test": ["d"]}
    assert (
        "set: train: train.csv; validation: my-dev.csv; test: test_1.csv" in capfd.readouterr().err
    )
    found = texts("task.train=set", "task.test=two/a.csv")
    assert list(found) == ["train", "validation", "test"]
    assert found["test"] == ["a", "b"]
    assert texts("task.train=hub") == {"train": ["a", "b"], "validation": ["c"]}


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ({"train": Path("two")}, "no file of training rows in two"),
        ({"train": Path("set"), "test": Path("two")}, "task.test=two is a folder"),
    ],
)
def test_folders_without_splits(sources: dict[str, Path], message: str) -> None:
    with pytest.raises(InputError, match=message):
        row_files(sources)


def test_a_run_of_a_pattern_can_be_resumed(home: Path) -> None:
    recipe = load_recipe(None, [f"task.train={home}/two/*.csv"])
    require_sources(recipe, home)
    assert recipe.task is not None
    assert recipe.task.train == home / "two/*.csv"


def test_words_of_several_files() -> None:
    for name in ("a", "b"):
        Path(f"two/{name}.conll").write_text(f"{name} B-PER\nleft O\n")
    (rows,) = task("task.name=tag", "task.train=two/*.conll").read_named().values()
    assert rows.words == [("a", "left"), ("b", "left")]  # type: ignore[attr-defined]
    assert rows.place(1) == "two/b.conll, line 1"  # type: ignore[attr-defined]
