"""Tuning: a real small training, from the command to the run that is kept."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from click.testing import CliRunner

from tests.tuning.films import LR, SMALL, TASK, tune
from wafergpt import api
from wafergpt.cli.tune import command
from wafergpt.config import load_recipe
from wafergpt.data.prepare import prepare
from wafergpt.errors import InputError, Interrupted
from wafergpt.locks import Lock
from wafergpt.progress import Bar
from wafergpt.runs.run import Run
from wafergpt.tuning.gpus import gpus_of
from wafergpt.tuning.making import IN_A_ROW, TOO_LONG, TrialMaker
from wafergpt.tuning.records import Outcome
from wafergpt.tuning.spending import Spending
from wafergpt.tuning.study import STUDY_LOCK
from wafergpt.tuning.tune import Tuning

pytestmark = pytest.mark.usefixtures("any_gain")


@pytest.mark.slow
def test_a_study_from_the_default_to_the_run_that_is_kept(rows: Path) -> None:
    run = tune(rows, LR, "model.dropout=0.0,0.1")
    result, folder = run.read("result"), run.path
    assert result["trials"] == 3
    values = [one["values"][0] for one in result["outcomes"]]
    assert result["value"] == min(values)
    assert result["default_value"] == values[0]
    # The default is what finetune would have made.
    named = [f"task.{part}={rows / part}.jsonl" for part in ("train", "test")]
    asked = [*TASK, *named, "name=alone"]
    alone = api.finetune("scratch", None, asked, refit=False, root=rows / "runs").run
    assert values[0] == alone.read("result")["metrics"]["loss"]
    assert alone.read("result")["test"] == result["default_test"]
    # The best is a run of its own, and the test was judged once.
    best = Run(rows / "runs" / "film")
    assert best.recipe.name == "film"
    assert best.read("result")["metrics"]["loss"] == result["value"]
    assert best.read("result")["test"] == result["test"]
    assert result["judged"] == 1
    assert result["difference"]["low"] <= result["difference"]["value"]
    assert result["difference"]["value"] == pytest.approx(
        result["test"]["loss"] - result["default_test"]["loss"]
    )
    assert (best.path / "mistakes.csv").exists() == (result["test"]["accuracy"] < 1)
    assert api.predict(best, ["good film"], root=rows / "runs")[0] is not None
    # The recipe makes the same run again.
    again = api.finetune("scratch", result["recipe"], ["name=again"], root=rows / "runs").run
    assert again.read("result")["metrics"]["loss"] == result["value"]
    # A run that was removed is made again, with the same figures.
    shutil.rmtree(best.path)
    assert tune(rows, LR, "model.dropout=0.0,0.1").read("result")["judged"] == 1
    assert best.read("result")["test"] == result["test"]
    # Weights are kept of the best and the default alone.
    kept = {p.parent.name for p in folder.glob("trial-*/checkpoints")}
    assert kept == {"trial-000", result["best_trial"]}


@pytest.mark.slow
def test_the_same_call_goes_on_and_another_one_is_refused(rows: Path) -> None:
    first = tune(rows, LR, trials=2).read("result")
    assert tune(rows, LR, trials=2).read("result")["outcomes"] == first["outcomes"]
    more = tune(rows, LR, trials=4).read("result")
    assert more["outcomes"][:2] == first["outcomes"]
    assert more["trials"] == 4
    for changes, differs in (
        ([LR, "train.batch_size=16"], "train.batch_size"),
        (["optimizer.lr=1e-4..1e-2:log"], "space of optimizer.lr"),
    ):
        with pytest.raises(InputError, match=f"a study of another command .{differs}"):
            tune(rows, *changes)
    with (rows / "train.jsonl").open("a") as file:
        file.write(json.dumps({"text": "one more", "label": "l0"}) + "\n")
    with pytest.raises(InputError, match=r"data\.fingerprint"):
        tune(rows, LR)


@pytest.mark.slow
def test_an_interrupted_trial_is_finished_first(
    rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = Run.log

    def interrupt(run: Run, row: dict[str, object]) -> None:
        log(run, row)
        if run.name == "trial-001" and row["step"] == 3:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Run, "log", interrupt)
    with pytest.raises(Interrupted, match=r"trial-001: .*the same command goes on"):
        tune(rows, LR)
    monkeypatch.setattr(Run, "log", log)
    found = tune(rows, LR).read("result")
    whole = api.tune(
        "scratch", None,
        [*TASK, f"task.train={rows / 'train.jsonl'}", f"task.test={rows / 'test.jsonl'}", LR],
        trials=3, pruner="none", root=rows / "whole",
    ).read("result")  # fmt: skip
    assert [one["run"] for one in found["outcomes"]] == ["trial-000", "trial-001", "trial-002"]
    for one, other in zip(found["outcomes"][:2], whole["outcomes"][:2], strict=True):
        assert (one["params"], one["values"]) == (other["params"], other["values"])
    steps = [row["step"] for row in Run(rows / "runs" / "film-tune" / "trial-001").metrics()]
    assert steps == list(range(1, 9))


@pytest.mark.slow
def test_a_signal_between_trials_ends_the_study(
    rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    follow = TrialMaker.follow

    def signalled(maker: TrialMaker, bar: Bar) -> list[Outcome]:
        os.kill(os.getpid(), signal.SIGTERM)
        return follow(maker, bar)

    with monkeypatch.context() as patch:
        patch.setattr(TrialMaker, "follow", signalled)
        with pytest.raises(Interrupted, match="the same command goes on"):
            tune(rows, LR)
    assert len(list((rows / "runs" / "film-tune").glob("trial-*/result.json"))) == 1
    # Nobody frees the space of what is chosen while it is copied.
    held: list[bool] = []
    chosen = Tuning._chosen

    def watched(tuning: Tuning, *outcomes: Any) -> Outcome:
        held.append(not Lock(tuning.folder / STUDY_LOCK).acquire())
        return chosen(tuning, *outcomes)

    monkeypatch.setattr(Tuning, "_chosen", watched)
    assert tune(rows, LR).read("result")["trials"] == 3
    assert held == [True]


@pytest.mark.slow
def test_hopeless_trials_stop_early_and_keep_no_weights(rows: Path) -> None:
    rates = "optimizer.lr=0.03,1e-9,1.1e-9,1.2e-9,1.3e-9,1.4e-9"
    own = "optimizer.lr=0.03"
    found = tune(rows, own, rates, sampler="grid", trials=None, pruner="asha")
    result = found.read("result")
    stopped = [one for one in result["outcomes"] if one["why"] == "stopped early"]
    assert result["trials"] == 6
    assert stopped
    assert result["best"] == {"optimizer.lr": "0.03"}
    for one in stopped:
        run = Run(found.path / one["run"])
        assert one["values"] is None
        assert run.metrics()[-1]["step"] < 8
        assert not run.checkpoints.exists()


@pytest.mark.slow
def test_several_objectives_run_to_the_end(rows: Path) -> None:
    result = tune(rows, LR, "model.dropout=0.0,0.1", also=("size", "latency")).read("result")
    assert result["objectives"] == ["loss", "size", "latency"]
    assert all(len(one["values"]) == 3 for one in result["outcomes"])
    assert result["not_beaten"]


@pytest.mark.slow
def test_a_metric_that_is_better_when_larger(rows: Path) -> None:
    result = tune(rows, LR, metric="accuracy").read("result")
    assert result["value"] == max(one["values"][0] for one in result["outcomes"])


@pytest.mark.slow
def test_what_was_made_can_be_trained_on(rows: Path) -> None:
    tune(rows, LR)
    found = api.finetune(resume="film", overrides=["train.steps=10"], root=rows / "runs")
    result = found.run.read("result")
    assert result["step"] == 10
    assert result["test"]


@pytest.mark.slow
def test_test_rows_of_a_folder_are_judged_once(rows: Path) -> None:
    folder = rows / "folder"
    folder.mkdir()
    for part in ("train", "test"):
        (rows / f"{part}.jsonl").rename(folder / f"{part}.jsonl")
    run = api.tune(
        "scratch", None, [*TASK, f"task.train={folder}", LR], trials=3, pruner="none",
        root=rows / "runs",
    )  # fmt: skip
    result = run.read("result")
    assert result["test"]["loss"]
    assert result["difference"]
    judged = [p.parent.name for p in run.path.glob("trial-*/mistakes.csv")]
    others = {"trial-001", "trial-002"}
    assert not others & set(judged)
    for name in others - {result["best_trial"]}:
        assert Run(run.path / name).read("result")["test"] is None


@pytest.mark.slow
def test_studies_of_one_name_share_a_database(rows: Path) -> None:
    storage = f"sqlite:///{rows / 'studies.db'}"
    first = tune(rows, LR, trials=2, storage=storage).read("result")
    named = [f"task.{part}={rows / part}.jsonl" for part in ("train", "test")]
    other = api.tune(
        "scratch", None, [*TASK, *named, LR], trials=3, pruner="none", storage=storage,
        root=rows / "other",
    ).read("result")  # fmt: skip
    assert [one["run"] for one in other["outcomes"]] == ["trial-000", "trial-001", "trial-002"]
    assert tune(rows, LR, trials=2, storage=storage).read("result")["outcomes"] == first["outcomes"]
    with pytest.raises(InputError, match="storage differ"):
        tune(rows, LR, trials=2)


@pytest.mark.slow
def test_a_recipe_may_have_its_spaces(rows: Path) -> None:
    named = [f"task.{part}={rows / part}.jsonl" for part in ("train", "test")]
    recipe = rows / "recipe.yaml"
    recipe.write_text(
        load_recipe(None, [*TASK, *named]).to_yaml() + "tune: {optimizer.lr: 1e-4..1e-2:log}\n"
    )
    for given, root in ((recipe, rows / "one"), (load_recipe(recipe), rows / "other")):
        run = api.tune("scratch", given, trials=2, root=root)
        assert run.path.name == "film-tune"
        assert run.read("result")["spaces"] == {"optimizer.lr": "1e-4..1e-2:log"}
        for path in (run.path / "trial-001" / "recipe.yaml", run.path / "best.yaml"):
            assert "tune:" not in path.read_text()


@pytest.mark.slow
def test_lists_are_tried(rows: Path) -> None:
    lists = "model.ngrams=[],[2],[2,3]"
    # Each once: there is room for all.
    run = tune(rows, lists, "task.ngrams=none", trials=3)
    result = run.read("result")
    assert result["spaces"] == {"model.ngrams": "[],[2],[2,3]"}
    assert [one["params"]["model.ngrams"] for one in result["outcomes"]] == ["[]", "[2]", "[2,3]"]
    best = yaml.safe_load(result["best"]["model.ngrams"])
    assert list(load_recipe(result["recipe"]).model.ngrams) == best
    for one in result["outcomes"]:
        shape = Run(run.path / one["run"]).recipe.model
        assert list(shape.ngrams) == yaml.safe_load(one["params"]["model.ngrams"])
    page = api.report(run).read_text()
    assert "<td>[2,3]</td>" in page
    assert "slice-model-ngrams" in page


@pytest.mark.parametrize(
    ("visible", "found"), [("4,5,6,7", "6"), (None, "2"), ("GPU-a,GPU-b,GPU-c,GPU-d", "GPU-c")]
)
def test_a_worker_gets_one_of_our_gpus(
    visible: str | None, found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert gpus_of(2, 1) == {"CUDA_VISIBLE_DEVICES": found}


@pytest.mark.slow
def test_a_budget_of_time_ends_the_study(rows: Path) -> None:
    result = tune(rows, LR, trials=None, budget=3).read("result")
    assert result["trials"] < 100
    last = result["outcomes"][-1]["seconds"]
    assert result["elapsed"] < 3 + max(last, 3)
    with pytest.raises(InputError, match=r"one trial takes about .*, more than the budget of"):
        tune(rows, LR, "name=large", "train.steps=999", trials=None, budget=0.001)
    assert not (rows / "runs" / "large-tune").exists()


def test_a_trial_that_is_longer_than_what_is_left_is_not_made(
    rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The default takes a third of the budget, and others have a hundred times its steps.
    monkeypatch.setattr(Spending, "_cost", lambda self, outcome: 0.0 if outcome.why else 3.0)
    run = tune(rows, "train.steps=800..900", trials=None, budget=10)
    outcomes = run.read("result")["outcomes"]
    assert [one["why"] for one in outcomes] == ["", *[TOO_LONG] * IN_A_ROW]
    assert {path.name for path in run.path.glob("trial-*") if path.is_dir()} == {"trial-000"}
    # What is as long as the default fits twice more.
    found = tune(rows, LR, "name=others", trials=None, budget=10).read("result")
    assert len(found["outcomes"]) == 3
    assert not any(one["why"] for one in found["outcomes"])


@pytest.mark.slow
def test_several_workers_make_each_trial_once(rows: Path, preloaded: None) -> None:
    result = tune(rows, LR, trials=5, workers=2).read("result")
    runs = [one["run"] for one in result["outcomes"]]
    assert sorted(runs) == [f"trial-{number:03}" for number in range(5)]


@pytest.mark.slow
def test_the_command(rows: Path) -> None:
    named = [f"task.train={rows / 'train.jsonl'}", f"task.test={rows / 'test.jsonl'}"]
    line = ["scratch", *TASK, *named, LR, "--trials", "2", "--runs", str(rows / "runs")]
    found = CliRunner().invoke(command, line, catch_exceptions=False)
    assert "next: wafergpt predict film" in found.stdout
    again = CliRunner().invoke(command, [*line, "--json"], catch_exceptions=False)
    result = json.loads(again.stdout.splitlines()[-1])
    assert {result["best_trial"], result["chosen_trial"]} <= {"trial-000", "trial-001"}
    assert result.keys() >= {"study", "metric", "best", "not_beaten", "value", "default_value",
                             "trials", "recipe", "test"}  # fmt: skip
    assert Path(result["recipe"]).is_file()


@pytest.mark.slow
def test_a_pretraining(tmp_path: Path) -> None:
    text = tmp_path / "text.jsonl"
    lines = [{"text": f"{n} sheep went over the hill and {n * 7} came back"} for n in range(300)]
    text.write_text("".join(json.dumps(line) + "\n" for line in lines))
    corpus = prepare(text, tmp_path / "corpus", vocab_size=300)
    asked = [*SMALL, "train.steps=6", "train.batch_size=4", f"data.corpus={corpus.path}", "name=lm"]
    run = api.tune(None, None, asked, trials=3, root=tmp_path)
    result = run.read("result")
    assert result["spaces"].keys() >= {"optimizer.lr", "schedule.warmup"}
    assert Run(tmp_path / "lm").read("result")["best_val_loss"] == result["value"]
    assert api.generate("lm", "sheep", root=tmp_path)
    bits = api.tune(
        None, None, [*asked[:-1], "name=bits"], trials=2, metric="bits_per_byte", root=tmp_path
    ).read("result")
    rows = Run(tmp_path / "bits").metrics()
    assert bits["value"] == min(r["val_bits_per_byte"] for r in rows if "val_loss" in r)
    with pytest.raises(InputError, match="which model is fine-tuned"):
        api.tune(None, None, [*SMALL, "task.train=x.csv"], trials=1, root=tmp_path)
