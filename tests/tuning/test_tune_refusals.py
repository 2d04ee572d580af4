"""Tunings that cannot be, or that end badly: one line, and nothing lost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tests.tuning.films import LR, TASK, failing, tune
from wafergpt.cli.tune import command
from wafergpt.config import load_recipe
from wafergpt.errors import Diverged, InputError, Interrupted, RunFailed
from wafergpt.runs.run import Run
from wafergpt.tuning import judging
from wafergpt.tuning.making import join
from wafergpt.tuning.study_spec import StudySpec


@pytest.mark.slow
def test_a_trial_that_fails_does_not_end_the_study(
    rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, [None, Diverged("the loss is nan"), RunFailed("too little memory")])
    result = tune(rows, LR, trials=4).read("result")
    assert [one["why"] for one in result["outcomes"]] == [
        "", "the loss is nan", "too little memory", "",
    ]  # fmt: skip
    assert result["value"] < 10


def test_a_study_without_any_value_fails(rows: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, [Diverged("the loss is nan")] * 3)
    with pytest.raises(RunFailed, match="no trial could be trained: the loss is nan"):
        tune(rows, LR)


@pytest.mark.slow
def test_what_is_impossible_for_the_default_is_said(
    rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, [InputError("this cannot be")] * 2)
    for _ in range(2):
        with pytest.raises(InputError, match="this cannot be"):
            tune(rows, LR)
    # Nor is it a trial that was made.
    assert tune(rows, LR).read("result")["outcomes"][0]["values"]


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        (["optimizer.lrr=1..2"], {}, "no key 'optimizer.lrr'|unknown key"),
        (["model.n_layers=0..3"], {}, "model.n_layers=0..3 is impossible"),
        ([LR], {"metric": "f2"}, "f2 is no metric of this training"),
        ([LR], {"trials": None}, "how long"),
        ([LR], {"budget": "3 bananas"}, "is not a budget"),
        ([LR], {"budget": "1M tokens"}, "a budget of time or FLOPs"),
        ([LR], {"also": ("speed",)}, "no objective 'speed'"),
        ([LR, "task.held_out=0"], {}, "trials are compared on rows that are held out"),
        ([LR, "system.nproc=9"], {}, "a batch of 8 is less than a sequence for each of 9"),
        ([LR], {"ray": "127.0.0.1"}, "127.0.0.1 is no address: write HOST:PORT, auto, or local"),
        ([LR], {"ray": "127.0.0.1:1"}, "no Ray cluster at 127.0.0.1:1: .*refused"),
        ([LR], {"width": 8}, "a proxy is of a pretraining"),
        ([LR], {"sampler": "grid"}, "a grid needs lists of values"),
        ([LR], {"budget": "1FLOPs"}, "one trial takes about .* FLOPs, more than the budget of 1:"),
        ([LR], {"sampler": "TPE"}, "sampler"),
        ([LR], {"sampler": "cmaes", "also": ("size",)}, "CMA-ES knows one objective"),
        (["optimizer.lr=1e-4..1e-2:cubic"], {}, "':cubic' is no scale"),
        ([LR, "optimizer.name=adam", "optimizer.weight_decay=0.1"], {}, "weight_decay"),
        ([LR], {"pruner": "ASHA"}, "pruner"),
        ([LR], {"trials": 0}, "trials=0: 1 at least"),
        ([LR], {"workers": 0}, "workers=0: 1 at least"),
        ([LR], {"also": "lightness"}, "no objective 'lightness'"),
    ],
)
def test_mistakes_are_named_and_nothing_is_written(
    rows: Path, changes: list[str], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        tune(rows, *changes, **options)
    assert not (rows / "runs" / "film-tune" / "trial-000").exists()


def test_what_is_fine_tuned_needs_rows(rows: Path) -> None:
    for first in ("scratch", "film"):
        (rows / "runs" / "film").mkdir(parents=True, exist_ok=True)
        (rows / "runs" / "film" / "recipe.yaml").touch()
        line = [first, LR, "--trials", "1", "--runs", str(rows / "runs")]
        found = CliRunner().invoke(command, line)
        assert found.exit_code == 2
        assert f"{first} is fine-tuned on rows" in found.output
        assert "add task.train=FILE" in found.output


def test_a_value_beside_a_space_is_the_defaults(rows: Path) -> None:
    given = ["optimizer.lr=1e-3", LR, "optimizer.lr=2e-3"]
    asked = [*given, f"task.train={rows / 'train.jsonl'}", "task.test=none", "--trials", "1"]
    found = CliRunner().invoke(command, ["scratch", *asked])
    assert "optimizer.lr is given twice: 'optimizer.lr=2e-3' is used, not 'optimizer.lr=1e-3'" in (
        found.output
    )
    assert f"'{LR}' is used" not in found.output


def test_a_grid_has_room_for_the_default(rows: Path) -> None:
    texts = {"optimizer.lr": "1e-3,2e-3,3e-3"}
    named = (*TASK, f"task.train={rows / 'train.jsonl'}")
    for trials, lr, takes_all in ((3, "6e-4", False), (4, "6e-4", True), (3, "2e-3", True)):
        asked = StudySpec(None, (*named, f"optimizer.lr={lr}"), "scratch", texts, trials=trials)
        assert asked.takes_all is takes_all


def test_a_name_that_is_taken_is_refused_before_anything_is_trained(rows: Path) -> None:
    (rows / "runs" / "film").mkdir(parents=True)
    with pytest.raises(InputError, match="film exists"):
        tune(rows, LR)


def test_a_run_of_that_name_is_not_replaced(rows: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that was begun meanwhile has no result yet."""
    with monkeypatch.context() as patch:
        failing(patch, [None, Interrupted("stopped")])
        with pytest.raises(Interrupted):
            tune(rows, LR)
    named = rows / "runs" / "film"
    named.mkdir()
    (named / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="film exists, and is not of this study"):
        tune(rows, LR)
    assert (named / "mine.txt").read_text() == "mine"


def test_trials_that_cannot_be_trained_end_a_study(
    rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They cost no FLOPs, and a budget of FLOPs would never be used up."""
    failing(monkeypatch, [RunFailed("too little memory")] * 20)
    with pytest.raises(RunFailed, match="too little memory"):
        tune(rows, LR, trials=None, budget="1e15FLOPs")
    assert len(list((rows / "runs" / "film-tune").glob("trial-*.lock"))) == 5


@pytest.mark.slow
def test_a_call_that_is_refused_changes_nothing(rows: Path) -> None:
    run = tune(rows, LR)
    asked = (run.path / "asked.json").read_bytes()
    with run.held(), pytest.raises(InputError, match="is in use by"):
        tune(rows, LR, trials=500, workers=4)
    assert (run.path / "asked.json").read_bytes() == asked
    with (rows / "train.jsonl").open("a") as file:
        file.write(json.dumps({"text": "one more", "label": "l0"}) + "\n")
    with pytest.raises(InputError, match=r"data\.fingerprint"):
        join(run.path)


def test_joining_elsewhere_is_one_line(rows: Path) -> None:
    run = tune(rows, LR, trials=1)
    asked = run.read("asked")
    asked["asked"]["folder"] = str(rows / "nowhere")
    run.write("asked", asked)
    with pytest.raises(InputError, match="nowhere, which this machine does not see"):
        join(run.path)
    with pytest.raises(InputError, match="is no study"):
        join(rows)
    line = ["--join", str(run.path), "--trials", "9"]
    assert "nothing else" in CliRunner().invoke(command, line).output


@pytest.mark.slow
def test_what_may_be_chance_is_not_taken(rows: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clear = tune(rows, "optimizer.lr=1e-7", "optimizer.lr=0.01,0.03", "task.ngrams=none")
    result = clear.read("result")
    assert result["chosen_trial"] == result["best_trial"] != "trial-000"
    default = Run(clear.path / "trial-000")
    assert judging.is_better(Run(clear.path / result["best_trial"]), default, "loss")
    # A model is not better than itself.
    assert not judging.is_better(default, default, "loss")
    monkeypatch.setattr(judging, "CHANCE", -1.0)
    result = tune(rows, LR, "name=other").read("result")
    assert result["value"] < result["default_value"]
    assert result["chosen_trial"] == "trial-000"
    assert result["difference"] is None
    assert result["test"] == result["default_test"]
    other = Run(rows / "runs" / "other")
    assert other.read("result")["trial"] == "trial-000"
    assert load_recipe(result["recipe"]).optimizer.lr == other.recipe.optimizer.lr
