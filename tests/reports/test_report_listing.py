"""The rows of a folder of runs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from wafergpt.config import recipe_from
from wafergpt.reports import list_runs
from wafergpt.reports.formatting import count, size
from wafergpt.reports.sections import Chapter
from wafergpt.runs.run import Run


def make(root: Path, name: str, when: float, task: bool = False) -> Run:
    run = Run.create(recipe_from({"name": name} | ({"task": {}} if task else {})), root)
    os.utime(run.path / "recipe.yaml", (when, when))
    return run


def test_newest_first_with_what_is_known(tmp_path: Path) -> None:
    make(tmp_path, "old", 1e9)
    half = make(tmp_path, "half", 2e9)
    half.log({"step": 3, "tokens": 30, "seconds": 1.5, "loss": 2.5, "val_loss": 2.7})
    half.log({"step": 4, "tokens": 40, "seconds": 2.0, "loss": 2.4})
    os.utime(half.path / "metrics.jsonl", (3e9, 3e9))
    done = make(tmp_path, "done", 1.5e9, task=True)
    done.write("result", {"step": 9, "tokens": 90, "parameters": 7, "test": {"accuracy": 0.5}})
    os.utime(done.path / "result.json", (1.6e9, 1.6e9))
    (tmp_path / "no-run").mkdir()

    runs = list_runs(tmp_path)
    assert [run["name"] for run in runs] == ["half", "done", "old"]
    assert runs[0] == {
        "name": "half",
        "path": str(half.path),
        "bytes": sum(file.stat().st_size for file in half.path.iterdir() if file.is_file()),
        "kind": "pretrain",
        "parameters": None,
        "step": 4,
        "tokens": 40,
        "loss": 2.4,
        "val_loss": 2.7,
        "seconds": 2.0,
        "elapsed": None,
        "planned_seconds": None,
        "best_step": 3,
        "best_val_loss": 2.7,
        "accuracy": None,
        "accuracy_of": None,
        "state": "unfinished",
    }
    assert (runs[1]["kind"], runs[1]["accuracy"], runs[1]["state"]) == ("finetune", 0.5, "finished")


LOOKS = [
    {"step": 10, "val_loss": 0.50, "val_accuracy": 0.70},
    {"step": 20, "val_loss": 0.60, "val_accuracy": 0.80},
    {"step": 30, "val_loss": 0.70, "val_accuracy": 0.80},
    {"step": 40, "val_loss": 0.90, "val_accuracy": 0.75},
]


@pytest.mark.parametrize(
    ("metric", "best"), [("loss", (10, 0.5, 0.7, "val")), ("accuracy", (20, 0.6, 0.8, "val"))]
)
def test_the_best_checkpoint_stands_together(
    tmp_path: Path, metric: str, best: tuple[object, ...]
) -> None:
    """Also of a run that is not finished; the final metrics have priority."""
    keys = ("best_step", "best_val_loss", "accuracy", "accuracy_of")
    values = {"name": "clf", "task": {}, "evaluate": {"metric": metric}}
    run = Run.create(recipe_from(values), tmp_path)
    for look in LOOKS:
        run.log(look)
    (row,) = list_runs(tmp_path)
    assert tuple(row[key] for key in keys) == best
    assert (row["step"], row["val_loss"]) == (40, 0.9)
    run.write("result", {"metrics": {"loss": 0.55, "accuracy": 0.7}, "test": {"accuracy": 0.65}})
    (row,) = list_runs(tmp_path)
    assert tuple(row[key] for key in keys) == (best[0], 0.55, 0.65, "test")


def test_a_damaged_run_does_not_hide_the_others(tmp_path: Path) -> None:
    make(tmp_path, "good", 1e9)
    bad = make(tmp_path, "bad", 2e9)
    (bad.path / "recipe.yaml").write_text("model: {n_layrs: 3}")
    runs = {run["name"]: run for run in list_runs(tmp_path)}
    assert runs["good"]["state"] == "unfinished"
    assert runs["bad"]["state"] == "damaged"
    assert "n_layers" in runs["bad"]["error"]
    assert runs["bad"].keys() > runs["good"].keys()


def test_no_runs(tmp_path: Path) -> None:
    assert list_runs(tmp_path) == []


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "–"),
        (0, "0"),
        (9_999, "9,999"),
        (12_345, "12.3k"),
        (999_999, "1.00M"),
        (3_397_824, "3.40M"),
        (26e9, "26.0B"),
        (2.6e12, "2.60T"),
    ],
)
def test_counts(value: float | None, shown: str) -> None:
    assert count(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"), [(None, "–"), (5e3, "5 kB"), (860e6, "860 MB"), (1.44e9, "1.4 GB")]
)
def test_sizes(value: float | None, shown: str) -> None:
    assert size(value) == shown


def test_a_run_that_may_not_be_read_hides_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path, "mine", 1e9)
    make(tmp_path, "theirs", 2e9)
    of = Chapter.of

    def forbidden(run: Run) -> Chapter:
        if run.name == "theirs":
            raise PermissionError(13, os.strerror(13), str(run.path / "recipe.yaml"))
        return of(run)

    monkeypatch.setattr(Chapter, "of", forbidden)
    theirs, mine = list_runs(tmp_path)
    assert (mine["name"], mine["state"]) == ("mine", "unfinished")
    assert theirs["state"] == "unreadable"
    assert "Permission denied" in theirs["error"]
