"""Rows of files that a run is judged on, with the labels that the run has."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.tasks.test_finetune import SMALL
from wafergpt.api import finetune
from wafergpt.errors import InputError
from wafergpt.inference.predictor import Predictor
from wafergpt.runs.run import Run
from wafergpt.suites.cost import cost
from wafergpt.suites.rows import on_files, rows_of_file, told_apart

TEXTS = ["cold and loud", "it was cold", "it was loud", "red it was", "nothing of it", "cold, red"]
SETS = [["cold", "loud"], ["cold"], ["loud"], ["red"], [], ["cold", "red"]]


def jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def tiny(home: Path, train: Path, *asked: str) -> Predictor:
    given = [*SMALL, f"task.train={train}", "model.vocab_size=270", "train.steps=2",
             "train.batch_size=4", *asked]  # fmt: skip
    return finetune("scratch", None, given, refit=False, root=home)


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    home = tmp_path_factory.mktemp("home")
    both = list(zip(TEXTS * 8, SETS * 8, strict=True))
    train = [{"text": f"{text} {n}", "label": "|".join(of)} for n, (text, of) in enumerate(both)]
    return tiny(home, jsonl(home / "train.jsonl", train), "task.multi=true")


@pytest.mark.parametrize("kind", ["lists", "cells"])
def test_sets_of_labels_are_read_as_the_runs_own(
    several: Predictor, tmp_path: Path, kind: str
) -> None:
    found = [of if kind == "lists" else "|".join(of) for of in SETS]
    rows = [{"text": text, "label": of} for text, of in zip(TEXTS, found, strict=True)]
    path = jsonl(tmp_path / "more.jsonl", rows)
    measured = on_files(several, [path], {}, {})["sets"][str(path)]
    assert measured["rows"] == len(TEXTS)
    answers = [one and set(one["labels"]) for one in several.predict(TEXTS)]
    right = [given == set(of) for given, of in zip(answers, SETS, strict=True)]
    assert measured["metrics"]["accuracy"] == pytest.approx(sum(right) / len(right))
    assert rows_of_file(several, path, {}, {}).labels == ["\x1f".join(of) for of in SETS]


def test_labels_of_sets_are_mapped_or_refused(several: Predictor, tmp_path: Path) -> None:
    path = tmp_path / "more.csv"
    path.write_text("text,label\nit froze,icy;wet\nnoise,Loud;wet\nnothing,\nrain,wet\n")
    with pytest.raises(InputError, match="differ only in spelling: 'loud'"):
        rows_of_file(several, path, {}, {})
    named = {"icy": "cold", "Loud": "loud"}
    assert rows_of_file(several, path, {}, named).labels == ["cold", "loud", "", ""]
    with pytest.raises(InputError, match="no label 'cool'; did you mean 'cold'"):
        rows_of_file(several, path, {}, {"icy": "cool"})
    with pytest.raises(InputError, match="no row with a label of --labels"):
        rows_of_file(several, path, {}, {"dry": "cold"})
    path.write_text("text,label\nit froze,icy;loud\nnoise,loud\n")
    with pytest.raises(InputError, match="has the label 'icy', which the run lacks"):
        rows_of_file(several, path, {"separator": ";"}, {})


def test_entities_of_other_labels_are_mapped_or_refused(tmp_path: Path) -> None:
    train = tmp_path / "train.conll"
    train.write_text("\n".join(f"Ann{n} B-PER\nsaw O\nRome{n} B-LOC\n" for n in range(40)))
    tagger = tiny(tmp_path, train, "task.name=tag")
    path = tmp_path / "more.conll"
    path.write_text("Bob B-MAN\nleft O\nAcme B-ORG\nInc I-ORG\n\nAnn B-PER\nslept O\n")
    with pytest.raises(InputError, match=r"'MAN', which the run lacks \(it has 'LOC, PER'\)"):
        on_files(tagger, [path], {}, {})
    found = rows_of_file(tagger, path, {}, {"MAN": "PER", "PER": "PER"})
    assert found.entities == [((0, 1, "PER"),), ((0, 1, "PER"),)]
    assert on_files(tagger, [path], {}, {"MAN": "PER"})["sets"][str(path)]["rows"] == 2


def test_runs_of_one_name_are_told_apart(
    several: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another folder's run, a checkpoint, or a file that is called as the run's own rows are."""
    home = several.run.path
    for name in ("a", "b"):
        shutil.copytree(home, tmp_path / name / home.name)
    others = [Run(tmp_path / name / home.name) for name in ("a", "b")]
    names = [name for name, _ in told_apart([several.run, *others])]
    assert names == [str(home), *(str(run.path) for run in others)]
    assert [name for name, _ in told_apart([several.run])] == [several.run.name]
    models = cost(several, others[:1])["models"]
    assert list(models) == [str(home), str(others[0].path)]
    (part,) = [part for part in ("test", "validation") if several.run.outputs_of(part)][:1]
    jsonl(tmp_path / part, [{"text": "it was cold", "label": "cold"}] * 3)
    monkeypatch.chdir(tmp_path)
    sets = on_files(several, [Path(part)], {}, {})["sets"]
    assert set(sets) == {part, f"./{part}"}
