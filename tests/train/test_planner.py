"""A plan that is measured, beside the run that it is a plan of."""

from __future__ import annotations

import json
import random
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import soak
from tests.planning.test_plan import MACHINE
from wafergpt.api import finetune, plan, pretrain
from wafergpt.config import load_recipe
from wafergpt.devices import load
from wafergpt.devices.load import OtherLoad
from wafergpt.distributed.collectives import SINGLE, ProcessGroup
from wafergpt.errors import InputError, RunFailed
from wafergpt.planning.duration import Duration
from wafergpt.planning.measurement import Measurement
from wafergpt.runs.run import Run
from wafergpt.train import measure_process, planner, workload
from wafergpt.train.plan_check import compare_with_plan
from wafergpt.train.setup import Setup, set_up, settled
from wafergpt.train.timing import plan_of_start
from wafergpt.train.workload import spread, total_tokens

pytestmark = pytest.mark.usefixtures("preloaded")

SMALL = [
    "model.n_layers=1", "model.d_model=32", "model.n_heads=2", "model.seq_len=48",
    "system.threads=1", "system.compile=off", "system.precision=fp32",
]  # fmt: skip


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write texts of one to thirty words."""
    rng, path = random.Random(0), tmp_path_factory.mktemp("rows") / "rows.jsonl"
    words = ["good", "bad", "film", "plot", "scene", "music"]
    texts = [" ".join(rng.choices(words, k=rng.randint(1, 30))) for _ in range(150)]
    lines = [json.dumps({"text": f"{t} {i}", "label": t[0]}) for i, t in enumerate(texts)]
    path.write_text("\n".join(lines))
    return path


def ready(rows: Path, *overrides: str) -> Setup:
    task = [f"task.train={rows}", "task.name=classify", "model.vocab_size=300"]
    recipe = load_recipe(None, [*SMALL, *task, *overrides])
    return settled(set_up(recipe, SINGLE, None), lambda: False)


@pytest.mark.slow
@pytest.mark.parametrize("micro", [4, 16])
def test_a_fine_tuning_reads_the_tokens_of_its_plan(rows: Path, tmp_path: Path, micro: int) -> None:
    task = [f"task.train={rows}", "model.vocab_size=300", "train.epochs=2"]
    settings = [*SMALL, *task, f"train.micro_batch_size={micro}", "name=clf"]
    run = finetune("scratch", None, settings, task="classify", root=tmp_path).run
    planned, result = run.read("plan"), run.read("result")
    assert planned["tokens"] == result["tokens"]
    assert planned["steps"] == result["step"]
    assert planned["flops"] == pytest.approx(run.metrics()[-1]["flops"], rel=0.02)
    assert sum(result["time"].values()) == pytest.approx(result["elapsed"], rel=0.01)


def test_several_processes_read_other_padding(rows: Path) -> None:
    setup = ready(rows, "train.epochs=1", "train.micro_batch_size=4")
    one, two = (total_tokens(setup, ProcessGroup(0, size)) for size in (1, 2))
    epoch = setup.splits.train
    halves = sum(
        4 * epoch.length(first + place, 4)
        for first in range(0, 16 * (setup.recipe.train.steps or 0), 16)
        for place in (0, 4, 8, 12)
    )
    assert one == two == halves


def test_the_start_of_a_run_knows_most_of_its_time(rows: Path) -> None:
    setup = replace(ready(rows, "train.epochs=2"), update_seconds=0.5, compile_seconds=2.0)
    found = plan_of_start(setup, SINGLE, startup=5.0)
    steps = setup.recipe.train.steps or 0
    assert found.time.compiling == 2.0
    assert found.time.startup > 3.0
    assert found.time.updates == pytest.approx(0.5 * steps, rel=0.1)
    assert 0 < found.time.evaluation < found.time.updates
    assert found.memory_bytes > 100 << 20
    assert Measurement.from_dict(json.loads(json.dumps(found.to_dict()))) == found


@pytest.mark.slow
def test_a_measured_plan_is_what_then_happens(tmp_path: Path) -> None:
    corpus = soak.corpus(tmp_path)
    recipe = load_recipe(None, [*SMALL, f"data.corpus={corpus}", "train.steps=40"])
    found = plan(recipe)
    assert found.measured
    run = pretrain(recipe.replace(name="run"), root=tmp_path)
    assert found.tokens == run.read("result")["tokens"]
    assert found.flops == pytest.approx(run.metrics()[-1]["flops"], rel=1e-6)
    assert found.resolved.evaluate.every == run.recipe.evaluate.every
    parts = found.to_dict()["time"]
    assert found.seconds == pytest.approx(sum(parts.values()))
    assert min(parts[part] for part in ("startup", "updates", "evaluation", "saving")) > 0
    assert not plan(recipe, quick=True).measured


def test_what_the_time_cuts_from_a_horizon_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = soak.corpus(tmp_path)
    both = [f"data.corpus={corpus}", "train.steps=1000000", "train.seconds=0.3", "name=run"]
    run = pretrain(None, [*SMALL, *both], root=tmp_path)
    steps = run.recipe.train.steps
    assert steps is not None
    assert 1 <= steps < 1000000
    assert f"in train.seconds=0.3 it makes {steps:,} of 1,000,000" in capsys.readouterr().err


def test_what_the_measuring_process_refuses_is_refused_here(tmp_path: Path) -> None:
    corpus = soak.corpus(tmp_path)
    with pytest.raises(InputError, match="less than one batch of 20000"):
        plan(None, [*SMALL, f"data.corpus={corpus}", "train.steps=4", "train.batch_size=20000"])


@pytest.mark.parametrize(("code", "what"), [(-9, "found no memory"), (137, "found no memory")])
def test_a_killed_process_leaves_an_estimate_that_does_not_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, what: str
) -> None:
    recipe = load_recipe(None, [*SMALL, f"data.corpus={soak.corpus(tmp_path)}", "train.steps=4"])
    monkeypatch.setattr(subprocess, "run", ends_with(code))
    found = planner.plan_training(recipe, MACHINE, None, quick=False)
    assert not found.measured
    assert not found.fits
    assert any(what in note for note in found.notes)


def test_a_process_that_fails_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = load_recipe(None, [*SMALL, f"data.corpus={soak.corpus(tmp_path)}", "train.steps=4"])
    monkeypatch.setattr(subprocess, "run", ends_with(1))
    with pytest.raises(RunFailed, match=r"it broke.*--quick"):
        planner.plan_training(recipe, MACHINE, None, quick=False)


def ends_with(code: int) -> Callable[..., subprocess.CompletedProcess[bytes]]:
    return lambda *_, **__: subprocess.CompletedProcess([], code, stderr="Boom: it broke")


@pytest.mark.parametrize("why", ["no data", "no memory"])
def test_what_cannot_be_run_here_is_estimated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("a process was started"))
    corpus = [] if why == "no data" else [f"data.corpus={soak.corpus(tmp_path)}"]
    shape = [*SMALL, "train.steps=4", *([] if corpus else ["model.vocab_size=300"])]
    machine = MACHINE if why == "no data" else replace(MACHINE, memory_available=1 << 20)
    found = planner.plan_training(load_recipe(None, [*shape, *corpus]), machine, None, False)
    assert not found.measured
    assert found.fits == (why == "no data")


def test_a_quick_plan_of_a_task_goes_by_its_rows(rows: Path) -> None:
    recipe = load_recipe(None, [*SMALL, f"task.train={rows}", "task.name=classify"])
    found = planner.plan_training(recipe, MACHINE, None, quick=True)
    exact = total_tokens(ready(rows), SINGLE)
    assert found.tokens == pytest.approx(exact, rel=0.6)
    assert found.resolved.model.vocab_size == 8192
    assert found.time.final > 0


@pytest.mark.slow
def test_a_budget_buys_a_shape_whose_speed_was_measured(tmp_path: Path) -> None:
    found = plan(None, [*SMALL[3:], f"data.corpus={soak.corpus(tmp_path)}"], budget="15s")
    assert found.measured
    assert all(candidate.measured for candidate in found.candidates)
    assert 1 <= len(found.candidates) <= 7
    # What is chosen stands first, and none that may be read so often has a lower loss.
    chosen, *others = found.candidates
    assert found.resolved.model == chosen.recipe.model
    read_as_often = [c for c in others if c.tokens_per_parameter <= 25]
    assert all(chosen.loss <= 1.001 * one.loss for one in read_as_often)
    assert found.seconds <= 15 or any("too small" in note for note in found.notes)


def test_a_budget_is_for_a_language_model_that_is_trained_afresh(rows: Path) -> None:
    with pytest.raises(InputError, match="trained afresh"):
        plan(None, ["task.name=classify", f"task.train={rows}"], budget="1m")


@pytest.mark.slow  # Four processes start, and meet.
def test_a_plan_of_two_processes_on_top_of_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = soak.corpus(tmp_path)
    settings = [*SMALL, f"data.corpus={corpus}", "train.steps=20"]
    pretrain(None, [*settings, "name=first"], root=tmp_path)
    # As left over from another program.
    monkeypatch.setenv("MASTER_PORT", "1")
    found = plan(None, [*settings, "system.nproc=2"], start="first", root=tmp_path)
    assert found.measured
    assert found.resolved.system.nproc == found.to_dict()["processes"] == 2
    assert found.resolved.start == (tmp_path / "first").resolve()


def test_a_first_batch_size_counts_in_the_time(rows: Path) -> None:
    ramp = ["train.steps=8", "train.first_steps=4", "train.first_batch_size=8"]
    micro = "train.micro_batch_size=8"
    whole, ramped = (
        replace(ready(rows, micro, *more), update_seconds=1.0) for more in (ramp[:1], ramp)
    )
    times = [plan_of_start(setup, SINGLE, 0.0).time.updates for setup in (whole, ramped)]
    assert times == pytest.approx([8, 6], rel=0.01)


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: no memory")])
def test_a_process_without_memory_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fails(*_: object) -> None:
        raise error

    (tmp_path / "0.yaml").write_text(load_recipe(None, SMALL).to_yaml())
    job: dict[str, Any] = {
        "kind": "training",
        "recipes": 1,
        "start": None,
        "began": 0.0,
        "said": [],
        "tasks": {},
        "engines": {},
    }
    (tmp_path / "job.json").write_text(json.dumps(job))
    monkeypatch.setattr("wafergpt.train.timing.time_training", fails)
    monkeypatch.setattr(Path, "write_text", lambda *_, **__: 0)
    with pytest.raises(SystemExit):
        measure_process.work(tmp_path)
    assert json.loads((tmp_path / "error.json").read_text())["kind"] == "memory"


@pytest.mark.parametrize("what", ["folder", "disk"])
def test_a_folder_that_cannot_be_written_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    root = tmp_path / "not" / "there"
    if what == "disk":

        def full(*, prefix: str, dir: Path | None = None) -> Any:  # noqa: A002
            if dir is not None:
                raise OSError(28, "No space left on device")
            return TemporaryDirectory(prefix=prefix)

        monkeypatch.setattr("wafergpt.train.measure_process.TemporaryDirectory", full)
    with measure_process._work_folder(root) as name:
        assert (Path(name).parent == tmp_path) == (what == "folder")
    assert list(tmp_path.iterdir()) == []


@given(st.integers(2, 64))
def test_any_first_places_are_spread_evenly(n: int) -> None:
    places = sorted(spread(64)[:n])
    gaps = [b - a for a, b in zip([*places, 1.0], [*places[1:], 1.0, 1.0], strict=True)][:-1]
    assert places[0] == 0
    assert max(gaps) <= 2 / n


@pytest.mark.parametrize(
    ("took", "others", "said"),
    [
        (110.0, 0.0, ""),
        (150.0, 0.6, "planned 1m40s, took 2m30s (1.5 times): other programs used 60% of the cores"),
        (150.0, 0.0, "updates took 2m20s, not 1m30s"),
        (60.0, 0.6, "(0.6 times): updates took 50s, not 1m30s"),
    ],
)
def test_a_run_far_from_its_plan_says_why(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, took: float, others: float, said: str
) -> None:
    run = Run.create(load_recipe(None, ["name=run"]), tmp_path)
    run.write(
        "plan", {"device": "cpu", "seconds": 100.0, "time": Duration(10.0, updates=90.0).to_dict()}
    )
    time = Duration(10.0, updates=took - 10).to_dict()
    run.write("result", {"elapsed": took, "time": time, "stopped_early": False})
    load: Any = type("Load", (), {"share": lambda self, processes: others})()
    compare_with_plan(run, load, 1)
    assert said in caplog.text
    assert bool(caplog.text) == bool(said)


def test_the_load_of_others_is_a_share(monkeypatch: pytest.MonkeyPatch) -> None:
    now = {"time": 100.0, "busy": 50.0, "own": 5.0}
    monkeypatch.setattr(load, "_own_cores", lambda: {0, 1})
    monkeypatch.setattr(load, "_busy_seconds", lambda cores: now["busy"])
    monkeypatch.setattr(load, "_own_seconds", lambda: now["own"])
    monkeypatch.setattr("wafergpt.devices.load.time.monotonic", lambda: now["time"])
    others = OtherLoad()
    now.update(time=110.0, busy=64.0, own=9.0)
    # Of 20 seconds of two cores 14 were used, 4 of them by this process.
    assert others.share() == pytest.approx(0.5)
    assert others.share(processes=2) == pytest.approx(0.3)
    assert others.share(processes=4) == 0


def test_the_answers_to_test_rows_are_all_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = []
    for name, n in (("train", 64), ("validation", 64), ("test", 640)):
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(f'{{"source": "one {i}", "target": "two"}}\n' for i in range(n)))
        files.append(f"task.{name}={path}")
    asked = ["task.name=translate", "task.written=1", "train.steps=1", "model.vocab_size=270"]
    recipe = load_recipe(None, [*SMALL, *files, *asked])
    setup = settled(set_up(recipe, SINGLE, None), lambda: False)
    written: list[int] = []

    def slow(*args: Any, samples: range) -> None:
        written.append(len(samples))
        time.sleep(0.1)

    monkeypatch.setattr(workload, "evaluate", slow)
    # A training of so few updates is not timed.
    final = plan_of_start(replace(setup, update_seconds=1e-3), SINGLE, 0.0).time.final
    (rows,) = written
    assert 640 / rows * 0.1 <= final < 640 / rows * 1.0


def test_a_horizon_in_seconds_counts_compiled_updates(
    rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = load_recipe(None, [*SMALL, f"task.train={rows}", "train.seconds=40"])
    setup = set_up(recipe, SINGLE, None)
    monkeypatch.setattr(setup.engine, "seconds_per_update", lambda *a, **k: 2.0)
    for compiled, steps in (((False, 2.0), 20), ((True, 0.5), 80)):
        monkeypatch.setattr(setup.engine, "choose_compilation", lambda *a, c=compiled: c)
        assert settled(setup, lambda: False).recipe.train.steps == steps


def test_rows_are_counted_once(rows: Path, capfd: pytest.CaptureFixture[str]) -> None:
    asked = ["model.n_layers=1", "model.d_model=16", "model.n_heads=1", "train.steps=2"]
    assert plan(None, [*asked, f"task.train={rows}", "system.threads=1"]).measured
    assert capfd.readouterr().err.count(f"{rows}: ") == 1
