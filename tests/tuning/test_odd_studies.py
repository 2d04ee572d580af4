"""What studies do that go wrong on the way, or are asked for in unusual forms."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.tuning.films import LR, SMALL, TASK, failing, tune
from wafergpt import api
from wafergpt.config.files import flat
from wafergpt.data.prepare import prepare
from wafergpt.errors import InputError, Interrupted
from wafergpt.reports.tuning import trials_card, tuning_charts
from wafergpt.runs.run import Run
from wafergpt.train.trainer import Trainer
from wafergpt.tuning import tune as tune_module
from wafergpt.tuning.making import IN_A_ROW
from wafergpt.tuning.storage import without_password
from wafergpt.tuning.study import MAX_DEATHS, Study
from wafergpt.tuning.study_spec import StudySpec
from wafergpt.tuning.summary import TRIALS

pytestmark = pytest.mark.usefixtures("any_gain")

DYING = """
import os, signal
from pathlib import Path
from wafergpt.tuning.storage import without_password
from wafergpt.tuning.study import Study
study = Study(Path({folder!r}), "s", {{}}, {{}}, ["minimize"])
with study.taken(3) as trial:
    print(trial.run, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def died(folder: Path) -> str:
    """Let a process die in a trial; return its name."""
    code = DYING.format(folder=str(folder)).replace("Study('", "Study(__import__('pathlib').Path('")
    code = code.replace('\', "s"', '\'), "s"')
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.returncode == -signal.SIGKILL, found.stderr
    return found.stdout.strip()


@pytest.mark.slow
def test_a_trial_that_kills_its_processes_is_not_taken_up_for_ever(tmp_path: Path) -> None:
    assert {died(tmp_path) for _ in range(MAX_DEATHS)} == {"trial-000"}
    study = Study(tmp_path, "s", {}, {}, ["minimize"])
    with study.taken(3) as trial:
        assert trial is not None
        assert trial.run == "trial-001"
        study.settle(trial, [1.0], 1.0)
    first, second = sorted(study.outcomes(), key=lambda one: one.run)
    assert first.values is None
    assert first.why == f"{MAX_DEATHS} processes died in it"
    assert second.values == (1.0,)


@pytest.mark.slow
def test_deaths_count_from_where_the_one_before_got_to(tmp_path: Path) -> None:
    metrics = tmp_path / "trial-000" / "metrics.jsonl"
    metrics.parent.mkdir()
    for step in (*range(1, MAX_DEATHS + 2), None):
        # Damaged by a loss of power, in the end: it is as far as before.
        metrics.write_text(f'{{"step": {step or "null"}}}\n')
        assert died(tmp_path) == "trial-000"
    assert died(tmp_path) == "trial-001"


def test_a_trial_that_is_left_on_purpose_has_killed_nobody(tmp_path: Path) -> None:
    for _ in range(2 * MAX_DEATHS):
        study = Study(tmp_path, "s", {}, {}, ["minimize"])
        with pytest.raises(Interrupted), study.taken(3) as trial:
            assert trial is not None
            assert trial.run == "trial-000"
            raise Interrupted("by a signal")


@pytest.mark.slow
def test_an_interrupt_at_the_end_of_a_trial_ends_the_study(
    rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained, calls = Trainer.train, []

    def interrupted(self: Trainer, *arguments: Any) -> None:
        trained(self, *arguments)
        calls.append(1)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Trainer, "train", interrupted)
    with pytest.raises(Interrupted, match="the trials are saved"):
        tune(rows, LR, trials=4)
    assert len(calls) == 1


@pytest.mark.slow
def test_impossible_trials_do_not_cost_what_has_ended(
    rows: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    failing(monkeypatch, [None, *[InputError("cannot be")] * IN_A_ROW])
    caplog.set_level("INFO")
    run = tune(rows, LR, trials=12)
    result = run.read("result")
    assert result["trials"] == 1 + IN_A_ROW
    assert result["chosen_trial"] == "trial-000"
    assert "trials in a row cannot be trained, no other one is made: cannot be" in caplog.text
    assert Run(rows / "runs" / "film").read("result")["test"]


def test_adapters_need_a_start(rows: Path) -> None:
    with pytest.raises(InputError, match="lora"):
        tune(rows, "lora.rank=2..8")
    assert not (rows / "runs").exists()


@pytest.mark.slow
def test_the_recipe_says_what_it_gained_and_how_it_was_chosen(rows: Path) -> None:
    run = tune(rows, LR, "model.dropout=0.0,0.1", metric="accuracy", also=["size"], trials=3)
    result = run.read("result")
    text = (run.path / "best.yaml").read_text(encoding="utf-8")
    head = [line for line in text.splitlines() if line.startswith("#")]
    assert head[0].startswith(f"# chosen: {result['chosen_trial']} of 3 trials, ")
    assert head[1].startswith("# validation accuracy: ")
    assert head[2].startswith("# test accuracy: ")
    assert "# matters most: not told by fewer than 8 trials that ended" in head
    beside = [line for line in head if line.startswith("# not beaten: ")]
    assert len(beside) == len(result["not_beaten"]) > 0
    assert "accuracy " in beside[0]
    assert "size " in beside[0]
    assert yaml.safe_load(text)["evaluate"]["metric"] == "accuracy"
    assert Run(rows / "runs" / "film").recipe.evaluate.metric == "accuracy"
    # The page shows both objectives, with the names of people.
    shown = {chart.key: chart for chart in tuning_charts(result)}
    assert shown["against-size"].layout["xaxis"]["title"]["text"] == "Parameters"
    assert '<th scope="col">Parameters</th>' in trials_card(result)


@pytest.mark.slow
def test_a_study_that_has_not_ended_has_its_trials_on_its_page(
    rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, [None, None, Interrupted("by a signal")])
    with pytest.raises(Interrupted):
        tune(rows, LR, trials=4)
    run = Run(rows / "runs" / "film-tune")
    assert run.read("result") is None
    assert run.read(TRIALS)["trials"] == 2
    page = api.report(run).read_text(encoding="utf-8")
    assert "Trials, the best first" in page
    assert "Not finished: 2 trials so far; the best has a validation loss of" in page


@pytest.mark.slow
def test_the_recipe_is_there_whatever_the_test_rows_do(
    rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*arguments: Any) -> None:
        raise InputError("the test rows have changed")

    monkeypatch.setattr(tune_module, "judge", fails)
    with pytest.raises(InputError, match="have changed"):
        tune(rows, LR, trials=2)
    result = Run(rows / "runs" / "film-tune").read("result")
    assert Path(result["recipe"]).is_file()


@pytest.mark.slow
def test_another_start_of_the_same_name_is_another_study(rows: Path, tmp_path: Path) -> None:
    corpus = prepare(rows / "train.jsonl", tmp_path / "corpus", vocab_size=300)
    short = [*SMALL, f"data.corpus={corpus.path}", "train.steps=2"]

    def again(seed: int) -> Run:
        return api.pretrain(None, [*short, "name=gpt", f"seed={seed}"], root=rows / "runs")

    def study(trials: int) -> Run:
        changes = [*short, "name=further", LR]
        return api.tune("gpt", None, changes, trials=trials, root=rows / "runs", pruner="none")

    gpt = again(0)
    run = study(2)
    # With a corpus a language model is pretrained further.
    first = Run(run.path / "trial-000").recipe
    assert first.task is None
    assert first.start == gpt.path.resolve()
    gpt.path.rename(tmp_path / "gpt")
    again(1)
    with pytest.raises(InputError, match="weights of the start differ"):
        study(3)


@pytest.mark.parametrize(
    ("changes", "options", "said"),
    [
        (["optimizer.lr=1e-4...1e-2"], {}, "is no space"),
        (["model.n_layers=1.5..3.5"], {}, "its numbers are whole"),
        ([LR], {"steps": 4}, "steps are those of a proxy: add --width"),
        ([LR], {"also": ["size", "size"]}, "an objective is given twice: size, size"),
    ],
)
def test_what_means_nothing_is_refused(
    rows: Path, changes: list[str], options: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        tune(rows, *changes, **options)
    assert not (rows / "runs").exists()


@pytest.mark.slow
def test_spaces_that_are_possible_only_together(rows: Path) -> None:
    run = tune(rows, "model.d_model=24,48", "model.n_heads=3,6", trials=2)
    assert run.read("result")["trials"] == 2


@pytest.mark.slow
def test_a_teacher_takes_nothing_of_what_the_rows_choose(rows: Path) -> None:
    named = [*TASK, f"task.train={rows / 'train.jsonl'}"]
    api.finetune("scratch", None, [*named, "name=teacher"], root=rows / "runs")

    def plain(*more: str) -> dict[str, Any]:
        asked = StudySpec(None, (*named, *more), "scratch", root=rows / "runs")
        return flat(asked.plain.model_dump(mode="json"))

    found, usual = plain("train.teacher=teacher"), plain()
    assert {key for key in found if found[key] != usual[key]} == {"train.teacher"}
    # Of a relative path, as older studies have it, the study is the same.
    run = tune(rows, LR, "train.teacher=teacher", trials=1)
    about = run.read("asked")
    about["identity"]["train.teacher"] = os.path.relpath(rows / "runs" / "teacher")
    del about["identity"]["storage"]
    run.write("asked", about)
    assert tune(rows, LR, "train.teacher=teacher", trials=2).read("result")["trials"] == 2


def test_a_teacher_is_found_where_runs_are(rows: Path) -> None:
    with pytest.raises(InputError, match=r"no run 'nobody'.*looked in .*/runs/ too"):
        tune(rows, LR, "train.teacher=nobody")


def test_values_of_a_section_are_written_as_on_the_command_line(tmp_path: Path) -> None:
    from wafergpt.config import load_recipe

    recipe = tmp_path / "r.yaml"
    recipe.write_text("tune: {optimizer.lr: [1e-4, null], model.tied: [true, false]}\n")
    assert load_recipe(recipe).tune == {"optimizer.lr": "1e-4,null", "model.tied": "true,false"}


def test_an_address_is_shown_without_its_password() -> None:
    url = "postgresql+psycopg://user:se:cret@host:5432/name"
    assert without_password(url) == "postgresql+psycopg://user@host:5432/name"
    assert without_password("postgresql+psycopg://user@host/name").endswith("//user@host/name")
