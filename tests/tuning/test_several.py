"""Trials that several processes train together."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.tuning.films import SMALL, TASK, tune
from tests.tuning.test_study import made, study
from wafergpt import api
from wafergpt.config import System, load_recipe
from wafergpt.distributed.launcher import launch
from wafergpt.errors import Diverged, InputError, Interrupted, RunFailed
from wafergpt.runs.run import Run
from wafergpt.tuning import several
from wafergpt.tuning.gpus import gpus_of, require_gpus
from wafergpt.tuning.several import RESTARTS, trained_by_several
from wafergpt.tuning.trials import StoppedEarlyError


@pytest.mark.slow
@pytest.mark.usefixtures("any_gain")
def test_trials_of_two_processes(
    rows: Path, preloaded: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = []

    def lost_once(nproc: int, arguments: list[str], **named: Any) -> int:
        started.append(nproc)
        return 1 if len(started) == 1 else launch(nproc, arguments, **named)

    monkeypatch.setattr(several, "launch", lost_once)
    default = ["optimizer.lr=0.03", "model.dropout=0.0", "task.ngrams=none", "train.steps=6"]
    run = tune(rows, *default, "optimizer.lr=0.03,1e-9", "system.nproc=2", trials=2, pruner="asha")
    assert started == [2, 2, 2]
    result = run.read("result")
    assert result["best"] == {"optimizer.lr": "0.03"}
    first, second = (Run(run.path / one["run"]) for one in result["outcomes"])
    assert first.recipe.system.nproc == second.recipe.system.nproc == 2
    assert [row["step"] for row in second.metrics()] == list(range(1, 7))
    assert (run.path / "trial-001.log").is_file()
    assert not [*run.path.glob("*.job"), *run.path.glob("*.end")]
    # One process reaches the same, but for rounding.
    files = [f"task.{name}={rows / name}.jsonl" for name in ("train", "test")]
    asked = [*TASK, *files, *default]
    alone = api.finetune("scratch", None, asked, refit=False, root=rows / "alone").run
    assert alone.read("result")["metrics"]["loss"] == pytest.approx(
        result["default_value"], rel=1e-3
    )


def ends(kind: str, code: int = 0) -> Callable[..., int]:
    def launch(nproc: int, arguments: list[str], log: Path) -> int:
        job = Path(arguments[-1])
        assert json.loads(job.read_text())["number"] == 0
        if kind:
            job.with_suffix(".end").write_text(json.dumps({"kind": kind, "reason": "so it is"}))
        return code

    return launch


@pytest.mark.parametrize(
    ("launch", "error", "message"),
    [
        (ends("stopped"), StoppedEarlyError, "so it is"),
        (ends("input", 2), InputError, "so it is"),
        (ends("diverged", 1), Diverged, "so it is"),
        (ends("failed", 1), RunFailed, "so it is"),
        (ends("", 130), Interrupted, "the same command goes on"),
        (ends("", 1), RunFailed, f"a process was lost {1 + RESTARTS} times"),
    ],
)
def test_how_it_ended_is_passed_on(
    launch: Callable[..., int],
    error: type[Exception],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(several, "launch", launch)
    recipe = load_recipe(None, [*SMALL, "system.nproc=2", "name=trial-000"])
    (tmp_path / "trial-000.end").write_text('{"kind": "trained", "reason": "of an earlier start"}')
    with study(tmp_path).taken() as trial, pytest.raises(error, match=message) as found:
        assert trial is not None
        trained_by_several(trial, recipe, tmp_path, watched=False)
    assert type(found.value) is error


def test_a_trial_is_reported_by_another_process(tmp_path: Path) -> None:
    of = study(tmp_path, pruner="asha")
    made(of, 1)
    for value, stops in ((2.0, False), (3.0, True)):
        with of.taken() as trial:
            assert trial is not None
            beside = study(tmp_path, pruner="asha").beside(trial.number)
            assert (beside.run, beside.is_default) == (trial.run, False)
            assert beside.report(1 / 9, value) is stops
            of.settle(trial, None if stops else [value], 1.0)


@pytest.mark.parametrize(
    ("worker", "nproc", "found"), [(1, 2, "2,3"), (0, 2, "0,1"), (1, 1, "1"), (5, 1, "1")]
)
def test_each_worker_has_its_own_gpus(
    worker: int, nproc: int, found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert gpus_of(worker, nproc) == {"CUDA_VISIBLE_DEVICES": found}


@pytest.mark.parametrize(
    ("device", "count", "workers", "enough"),
    [("cuda", 4, 2, True), ("cuda", 4, 3, False), ("cuda", 0, 1, False), ("auto", 0, 9, True),
     ("auto", 3, 2, False), ("cpu", 1, 9, True)],
)  # fmt: skip
def test_processes_of_a_trial_share_no_gpu(
    device: str, count: int, workers: int, enough: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    require_gpus(System(device=device, nproc=1), workers)
    if enough:
        require_gpus(System(device=device, nproc=2), workers)
    else:
        with pytest.raises(InputError, match=f"take {2 * workers} GPUs, and there are {count}"):
            require_gpus(System(device=device, nproc=2), workers)
