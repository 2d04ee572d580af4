"""What programs give to the Python face, in the forms that they have it in."""

from __future__ import annotations

import copy
import json
import pickle
import threading
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import wafergpt as wg
from wafergpt.train import run as run_module

SHORT = {
    "model": {"n_layers": 1, "d_model": 32, "seq_len": 32, "vocab_size": 300},
    "train.steps": 2, "system.compile": "off", "system.threads": 1, "name": "clf",
}  # fmt: skip

ROWS = [{"text": f"{['bad', 'good'][n % 2]} film {n}", "label": n % 2 == 1} for n in range(60)]

verbs: Any = wg
"""For calls that a type checker would refuse."""


@pytest.fixture(scope="module")
def clf(tmp_path_factory: pytest.TempPathFactory) -> wg.Predictor:
    return wg.finetune("scratch", data=ROWS, overrides=SHORT, root=tmp_path_factory.mktemp("runs"))


def test_rows_from_memory_are_kept_as_a_file(clf: wg.Predictor) -> None:
    task = clf.run.recipe.task
    assert task is not None
    assert task.train is not None
    assert task.train.parent == clf.run.path.parent / ".rows"
    rows = [json.loads(line) for line in task.train.read_text(encoding="utf-8").splitlines()]
    assert rows == ROWS
    assert clf.run.recipe.model.d_model == 32
    again = wg.finetune("scratch", data=ROWS, overrides=SHORT | {"name": "again"},
                        root=str(clf.run.path.parent))  # fmt: skip
    assert again.run.recipe.task is not None
    assert again.run.recipe.task.train == task.train


def test_a_data_frame_gives_the_same_rows(clf: wg.Predictor, tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    frame = pandas.DataFrame(ROWS)
    frame["rating"] = np.arange(60, dtype=np.float32)
    frame["day"] = pandas.Timestamp(2026, 1, 2)
    frame["price"] = Decimal("1.50")
    frame.loc[3, "text"] = np.nan
    root = clf.run.path.parent
    found = wg.evaluate(clf, "rows", files=frame, root=root)
    assert found["rows"]
    # The labels are those that finetune has read.
    lines = max(root.glob(".rows/*.jsonl"), key=lambda path: path.stat().st_mtime).read_text()
    rows = [json.loads(line) for line in lines.splitlines()]
    assert rows[3] == {
        "text": None, "label": True, "rating": 3.0, "day": "2026-01-02T00:00:00", "price": 1.5,
    }  # fmt: skip
    # A list of rows is one table, not several files.
    assert wg.evaluate(clf, "rows", files=ROWS, root=root)["rows"]
    assert clf.predict(frame)[:3] == clf.predict([row["text"] for row in ROWS[:3]])
    assert clf.predict(frame)[3] is None


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([], "there are no rows"),
        (["a", "b"], "row 0 is .*a mapping such as"),
        ([{"text": "a", "label": b"x"}], "row 0, 'label': a value of type bytes"),
        ([{"text": "a", "label": float("inf")}], "row 0, 'label': inf is no number"),
        ([{1: "a", "1": "b"}], "row 0 has two columns of one name"),
        ({"text": ["a"]}, "rows are a file, a data frame or mappings, not"),
        (3, "rows are a file, a data frame or mappings, not a number"),
    ],
)
def test_what_is_no_rows_is_refused(rows: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(wg.InputError, match=said):
        wg.finetune("scratch", data=rows, root=tmp_path)
    assert not list(tmp_path.iterdir())


def test_what_was_loaded_from_a_run_stands_for_it(clf: wg.Predictor) -> None:
    root = clf.run.path.parent
    assert wg.Run.find(clf) == clf.run
    assert wg.predict(clf, "good film") == clf.predict("good film")
    name = wg.Predictor.load("clf", root=str(root))
    assert name.predict(["good film"]) == [clf.predict("good film")]
    assert wg.report(clf).is_file()
    with pytest.raises(wg.InputError, match="a run is wanted, or its name or path, not None"):
        verbs.Run.find(None)


def test_a_predictor_is_copied_and_pickled(clf: wg.Predictor) -> None:
    for other in (copy.deepcopy(clf), pickle.loads(pickle.dumps(clf))):
        assert other.predict("good film") == clf.predict("good film")


def test_a_home_folder_is_one_in_every_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    found = wg.finetune("scratch", data=ROWS, overrides=SHORT, root="~/mine")
    assert found.run.path == tmp_path / "mine" / "clf"
    (tmp_path / "text.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    assert wg.prepare("~/text.jsonl", "~/corpus", vocab_size=300).path == tmp_path / "corpus"
    assert found.predict_file("~/text.jsonl", "~/out.csv")["rows"] == 60
    assert not (tmp_path / "~").exists()


def test_a_run_that_is_elsewhere_is_not_an_empty_one(
    clf: wg.Predictor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(clf.run.path.parent)
    run = wg.Run.find("clf", Path())
    assert run.metrics()
    monkeypatch.chdir(tmp_path)
    for look in (run.metrics, lambda: run.read("result"), lambda: run.outputs_of("validation")):
        with pytest.raises(wg.InputError, match="the run clf is not there"):
            look()


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda clf: clf.with_coverage("a"), "coverage='a' is no number"),
        (lambda clf: verbs.prune(clf, "x", sparsity="50%"), "sparsity='50%' is no number"),
        (lambda clf: verbs.average(clf, "x", last="2"), "last='2' is no number"),
        (lambda clf: verbs.prepare("a", "b", vocab_size="400"), "vocab_size='400' is no number"),
        (lambda clf: verbs.tune(clf, trials="3"), "trials='3' is no number"),
        (lambda clf: verbs.evaluate(clf, labels=["good"]), "labels=.* is no mapping"),
        (lambda clf: verbs.evaluate(clf, "rows", files="t.csv"), "no such file: t.csv"),
        (lambda clf: verbs.evaluate(clf, "row"), "no suite 'row'; did you mean 'rows'"),
        (lambda clf: verbs.pretrain("demo", [("a", 1)]), "is no text such as 'train.steps=100'"),
        (lambda clf: verbs.pretrain("demo", root=3), "root=3 is no path"),
        (lambda clf: verbs.pretrain("demo", "system.nproc=2"), "system.nproc=2: several processes"),
        (lambda clf: verbs.plan(3), "a recipe or a corpus is wanted, .*, not 3"),
        (lambda clf: verbs.finetune("scratch", 3), "no recipe named '3'"),
    ],
)
def test_what_is_of_another_type_is_refused_in_one_line(
    clf: wg.Predictor, call: Any, said: str
) -> None:
    with pytest.raises(wg.InputError, match=said) as caught:
        call(clf)
    assert "\n" not in str(caught.value)


def test_a_study_takes_rows_from_memory_too(tmp_path: Path) -> None:
    pytest.importorskip("optuna", reason="optuna is not installed")
    spaces = {"name": "s", "optimizer.lr": "1e-4,1e-3"}
    study = wg.tune("scratch", data=ROWS, overrides=SHORT | spaces, trials=2, root=tmp_path)
    assert study.read("result")["trials"] == 2
    assert wg.Predictor.load("s", root=tmp_path).predict("good film")


def test_a_process_trains_once_at_a_time_and_keeps_the_callers_seed(tmp_path: Path) -> None:
    drawn = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        wg.finetune("scratch", data=ROWS, overrides=SHORT | {"name": f"r{seed}"}, root=tmp_path)
        drawn.append(float(torch.rand(1)))
        torch.manual_seed(seed)
        assert drawn[-1] == float(torch.rand(1))
    assert drawn[0] != drawn[1]
    found = []

    def another() -> None:
        with pytest.raises(wg.InputError, match="trains already") as caught:
            wg.finetune("scratch", data=ROWS, overrides=SHORT, root=tmp_path)
        found.append(caught.value)

    with run_module._alone():
        thread = threading.Thread(target=another)
        thread.start()
        thread.join()
    assert len(found) == 1
    assert not (tmp_path / "clf").exists()


def test_all_failures_have_one_base() -> None:
    for kind in (wg.InputError, wg.RunFailed, wg.Interrupted):
        assert issubclass(kind, wg.Failure)
