"""Tuning: a real small training, from the command to the run that is kept."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from click.testing import CliRunner

from wafergpt import api
from wafergpt.cli.tune import command
from wafergpt.config import load_recipe
from wafergpt.data.prepare import prepare
from wafergpt.errors import Diverged, InputError, Interrupted, RunFailed
from wafergpt.runs.run import Run
from wafergpt.train import run as run_module
from wafergpt.train.callbacks import Callback
from wafergpt.train.run import train
from wafergpt.tuning import judging
from wafergpt.tuning.gpus import gpus_of
from wafergpt.tuning.making import join

SMALL = [
    "model.n_layers=1", "model.d_model=16", "model.n_heads=2", "model.seq_len=32",
    "model.vocab_size=300", "system.device=cpu", "system.compile=off", "system.threads=1",
]  # fmt: skip
TASK = [*SMALL, "train.steps=8", "train.batch_size=8", "evaluate.every=2", "name=film"]


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Write rows to train on, and others as a test."""
    for name, first in (("train", 0), ("test", 200)):
        lines = [
            {"text": f"{'good' if n % 2 else 'bad'} film number {n}", "label": f"l{n % 2}"}
            for n in range(first, first + 120)
        ]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (tmp_path / f"{name}.jsonl").write_text(text)
    return tmp_path


def tune(rows: Path, *changes: str, **options: Any) -> Run:
    files = [f"task.{name}={rows / name}.jsonl" for name in ("train", "test")]
    options = {"trials": 3, "pruner": "none", **options}
    return api.tune("scratch", None, [*TASK, *files, *changes], root=rows / "runs", **options)


LR = "optimizer.lr=1e-4..1e-1:log"


@pytest.fixture(autouse=True)
def _any_gain(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Take the best trial however little it gains, where a test is not about that."""
    if "chance" not in request.node.name:
        monkeypatch.setattr(judging, "CHANCE", 1.0)


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
    alone = api.finetune("scratch", None, [*TASK, *named, "name=alone"], root=rows / "runs").run
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
    # Weights are kept of the best and the default alone.
    kept = {p.parent.name for p in folder.glob("trial-*/checkpoints")}
    assert kept == {"trial-000", result["best_trial"]}


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


def failing(monkeypatch: pytest.MonkeyPatch, errors: Sequence[Exception | None]) -> None:
    """Let the first trainings fail, as far as they have an error."""
    left = list(errors)

    def sometimes(*arguments: Any, callbacks: Sequence[Callback] = (), **named: Any) -> Run:
        error = left.pop(0) if left else None
        if error is not None:
            raise error
        return train(*arguments, callbacks=callbacks, **named)

    monkeypatch.setattr(run_module, "train", sometimes)


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
    ],
)
def test_mistakes_are_named_and_nothing_is_written(
    rows: Path, changes: list[str], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        tune(rows, *changes, **options)
    assert not (rows / "runs" / "film-tune" / "trial-000").exists()


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
    run = tune(rows, lists, "task.ngrams=none", sampler="grid", trials=None)
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
        tune(rows, LR, "name=large", trials=None, budget=0.001)
    assert not (rows / "runs" / "large-tune").exists()


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
    assert result.keys() >= {"study", "metric", "best", "value", "default_value", "trials",
                             "recipe", "test"}  # fmt: skip
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
