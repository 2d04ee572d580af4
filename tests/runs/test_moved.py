"""A project that was moved or copied: its runs find what they were made from, or ask for it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from wafergpt.config import Recipe, recipe_from
from wafergpt.errors import InputError
from wafergpt.runs.moved import located, require_sources
from wafergpt.runs.run import Run


def make_corpus(path: Path, fingerprint: str) -> None:
    path.mkdir(parents=True)
    (path / "corpus.json").write_text(json.dumps({"fingerprint": fingerprint}))


def recipe(corpus: Path | None = None, start: Path | None = None, **task: Path) -> Recipe:
    values = {"data": {"corpus": corpus, "fingerprint": "f" if corpus else None}, "start": start}
    return recipe_from({**values, "task": task or None, "name": "y"})


def test_a_corpus_is_found_beside_a_run_that_moved_with_it(tmp_path: Path) -> None:
    old, new = tmp_path / "old/project", tmp_path / "new/place/renamed"
    make_corpus(old / "corpora/x", "f")
    run = Run.create(recipe(old / "corpora/x"), old / "runs")
    assert run.recipe.data.corpus == old / "corpora/x"
    new.parent.mkdir(parents=True)
    old.rename(new)
    # A run of the corpus' name is none.
    Run.create(recipe_from({"name": "x"}), new / "runs")
    assert Run(new / "runs/y").recipe.data.corpus == new / "corpora/x"


def test_another_corpus_under_the_same_name_is_not_taken(tmp_path: Path) -> None:
    make_corpus(tmp_path / "corpora/x", "other")
    lost = recipe(Path("/gone/corpora/x"))
    assert located(lost, tmp_path / "runs/y").data.corpus == Path("/gone/corpora/x")
    make_corpus(tmp_path / "x", "f")
    assert located(lost, tmp_path / "runs/y").data.corpus == tmp_path / "x"


def test_rows_and_the_run_to_start_from_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/train.csv").touch()
    base = Run.create(recipe_from({"name": "base"}), tmp_path / "runs")
    names = {"train": Path("/gone/data/train.csv"), "test": Path("/gone/data/test.csv")}
    monkeypatch.chdir(tmp_path)
    found = located(recipe(start=Path("/gone/runs/base"), **names), Path("runs/y"))
    assert found.start == base.path
    assert found.task is not None
    assert found.task.train == tmp_path / "data/train.csv"
    assert found.task.test == Path("/gone/data/test.csv")
    with pytest.raises(InputError, match=r"reads /gone/data/test\.csv, .*add task\.test=PATH"):
        require_sources(found, Path("runs/y"))
    with pytest.raises(InputError, match=r"add data\.corpus=PATH"):
        require_sources(recipe(Path("/gone")), Path("runs/y"))


def test_a_path_without_an_end_is_searched_for_quickly(tmp_path: Path) -> None:
    endless = Path("/" + "/".join("a" * 50_000))
    assert located(recipe(endless), tmp_path / "runs/y").data.corpus == endless
    outside = Path("/gone/../../etc")
    assert located(recipe(outside), tmp_path / "runs/y").data.corpus == outside
