"""From a recipe to a trained run: the same steps for every task and engine."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import nn

from wafergpt import atomic_files
from wafergpt.checkpoint import store
from wafergpt.checkpoint.restored import restored
from wafergpt.config import Recipe
from wafergpt.data.table_writing import header_line, row_line
from wafergpt.data.tokenizer import Tokenizer
from wafergpt.devices.load import OtherLoad
from wafergpt.devices.peak_memory import is_out_of_memory, reset_peak_memory
from wafergpt.distributed.collectives import ProcessGroup
from wafergpt.distributed.rendezvous import joined
from wafergpt.engines.base import generators_kept
from wafergpt.engines.outputs import evaluate
from wafergpt.errors import Interrupted, RunFailed, TrainingAlready
from wafergpt.inference.devices import inference_device
from wafergpt.logs import say, silent
from wafergpt.planning.schedule_check import require_possible_warmup
from wafergpt.progress import progress
from wafergpt.runs.moved import require_sources
from wafergpt.runs.run import RUNS, Run
from wafergpt.runs.teacher import with_teacher
from wafergpt.tasks.base import EvaluationSet, Outputs, Task, task_of
from wafergpt.tasks.labelled_task import LabelledTask
from wafergpt.train.callbacks import Callback
from wafergpt.train.plan_check import compare_with_plan
from wafergpt.train.resume import asked_for, changes_since, run_to_resume
from wafergpt.train.setup import Setup, require_metric, set_up, settled
from wafergpt.train.signals import Signals
from wafergpt.train.timing import plan_of_start
from wafergpt.train.trainer import Trainer

_training = threading.RLock()

MOST_MISTAKES = 10_000
"""Rows of mistakes.csv at most."""


@contextmanager
def _out_of_memory_fails() -> Iterator[None]:
    """Turn an error of a device without memory into a failure that says what to do."""
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise RunFailed(
            "the device has too little memory: lower train.micro_batch_size (which keeps the "
            "batch), or set system.activation_checkpointing=true"
        ) from error


@contextmanager
def _alone() -> Iterator[None]:
    """Keep torch's generators, of which a process has one for each device, to one training."""
    if not _training.acquire(blocking=False):
        raise TrainingAlready("this process trains already: one at a time, or each in a process")
    try:
        with generators_kept():
            yield
    finally:
        _training.release()


@_out_of_memory_fails()
@_alone()
def train(
    recipe: Recipe,
    *,
    start: Run | None = None,
    run: Run | None = None,
    auto_resume: bool = False,
    root: Path = RUNS,
    began: float | None = None,
    callbacks: Sequence[Callback] = (),
    test: bool = True,
) -> Run:
    """Train by a recipe.

    Args:
        recipe: as asked for; for a resume, the run's own with what may change.
        start: a language model to initialize the weights from.
        run: the run to resume.
        auto_resume: resume the run that this recipe started under its name, if there is one.
        root: the folder that holds runs.
        began: ``time.monotonic()`` when the command started, if before this call.
        callbacks: further ones after each step, before it is saved.
        test: whether the test rows are evaluated at the end; ``write_test_metrics`` does it later.

    Returns:
        The trained run; in a worker process, the leader's.

    Raises:
        InputError: if the recipe is impossible, the data unusable, the run exists, or another
            thread is training.
        RunFailed: if the run diverges, has no good checkpoint to resume from, or too little memory.
        Interrupted: after saving, when a signal asked for a stop.
    """
    began = time.monotonic() if began is None else began
    load = OtherLoad()
    reset_peak_memory()
    recipe = _checked(recipe, run, auto_resume, root)
    asked = asked_for(recipe)
    with joined(recipe.system.timeout) as group:
        notes: dict[str, Any] = {}
        if auto_resume and (before := run_to_resume(recipe, root, group)):
            (run, recipe), start = before, None
            notes["asked"] = asked
        setup = set_up(recipe, group, start, run)
        if group.is_worker:
            return Run(Path(setup.engine.run_commands()))
        with Signals() as signals:
            setup = settled(setup, signals.stop_asked)
            resumed = run is not None
            if run is None or run.recipe.train.steps != setup.recipe.train.steps:
                notes["plan"] = _planned(recipe, setup, group, time.monotonic() - began)
                run = run or Run.create(setup.recipe, root, asked)
            if not run.tokenizer.is_file():
                setup.tokenizer.save(run.tokenizer)
            trainer = Trainer(setup, run, signals, group, began, callbacks)
            trainer.train(resumed, notes)
    if recipe.task is not None:
        _write_final_metrics(run, setup, test)
    if not resumed:
        compare_with_plan(run, load, group.size)
    return run


def _checked(recipe: Recipe, run: Run | None, auto_resume: bool, root: Path) -> Recipe:
    """Return a recipe with its teacher, after what can be checked before the data is read."""
    require_metric(task_of(recipe))
    recipe.lora.require_start(recipe.start)
    if run is not None:
        require_sources(recipe, run.path)
        return recipe
    recipe = with_teacher(recipe, root)
    require_possible_warmup(recipe.schedule)
    if not auto_resume:
        Run.require_new(recipe.name, root)
    return recipe


def _planned(asked: Recipe, setup: Setup, group: ProcessGroup, startup: float) -> dict[str, Any]:
    """Return the plan of a run from what its start has timed; {} for a Cerebras cluster."""
    system = setup.recipe.system
    if system.device == "cerebras" and system.cerebras.mode != "cpu":
        return {}
    return plan_of_start(setup, group, startup).plan(asked, setup.machine).to_dict()


def trained_once(
    recipe: Recipe,
    *,
    start: Run | None,
    root: Path,
    callbacks: Sequence[Callback] = (),
    test: bool = True,
) -> Run:
    """Train one of several runs of a command, or return the run if it has ended; resumable.

    Args:
        recipe: as asked for.
        start: a run to initialize the weights from.
        root: the folder of the runs.
        callbacks: as of ``train``.
        test: as of ``train``.

    Returns:
        The trained run.

    Raises:
        InputError: if the recipe is impossible, or the run was started by another one.
        RunFailed: if the run diverges.
        Interrupted: if a signal requested a stop; the same command goes on.
    """
    run = Run(root / recipe.name)
    result = run.read("result") if run.path.exists() else None
    ended = isinstance(result, dict) and (recipe.task is None or "metrics" in result)
    if ended and not changes_since(run, recipe):
        return run
    try:
        return train(
            recipe, start=start, auto_resume=True, root=root, callbacks=callbacks, test=test
        )
    except Interrupted as stop:
        raise Interrupted(f"{recipe.name}: {stop.reason}; the same command goes on") from None
    except KeyboardInterrupt:
        # Before its first step, or after its last.
        raise Interrupted(f"{recipe.name}: interrupted; the same command goes on") from None


def write_test_metrics(run: Run) -> EvaluationSet:
    """Evaluate a run of labelled rows, trained without ``test``, on its test rows.

    Args:
        run: whose result, outputs and mistakes are completed.

    Returns:
        The rows.

    Raises:
        InputError: if the rows are not those of the training.
    """
    task = task_of(run.recipe)
    assert isinstance(task, LabelledTask)
    with silent():
        evaluated = task.part("test", Tokenizer.load(run.tokenizer))
    outputs = _outputs(task, *_restored(task, run), evaluated)
    _write_mistakes(run, task.mistakes(outputs, evaluated))
    kept = {f"test/{name}": values for name, values in outputs.items()}
    run.write_outputs({**run.read_outputs(), **kept})
    metrics = task.compute_metrics(outputs, evaluated.references)
    run.write("result", run.read("result") | {"test": metrics})
    return evaluated


def _restored(task: Task, run: Run) -> tuple[nn.Module, torch.device]:
    device = torch.device(inference_device(task.recipe))
    return restored(task.network, store.weights(run)).to(device), device


def _outputs(
    task: Task, network: nn.Module, device: torch.device, evaluated: EvaluationSet
) -> Outputs:
    with progress("evaluating", evaluated.batches.samples_per_epoch, "texts") as bar:
        return evaluate(task, network, evaluated, task.recipe, device, bar.advance)


def _write_final_metrics(run: Run, setup: Setup, test: bool) -> None:
    """Evaluate the best checkpoint on validation data and, if ``test``, on test data."""
    task, splits, start = setup.task, setup.splits, time.monotonic()
    network, device = _restored(task, run)

    kept: dict[str, NDArray[Any]] = {}
    fitted: dict[str, Any] = {}

    def metrics(part: str) -> dict[str, Any] | None:
        nonlocal task, fitted
        evaluated = getattr(splits, part)
        if evaluated is None:
            return None
        outputs = _outputs(task, network, device, evaluated)
        if part == "validation":
            fitted, outputs = task.fit(outputs, evaluated.references)
            if fitted:
                task = task_of(task.recipe.replace(task=fitted))
                run.save_recipe(task.recipe)
        if part == "test":
            _write_mistakes(run, task.mistakes(outputs, evaluated))
        kept.update({f"{part}/{name}": values for name, values in outputs.items()})
        return task.compute_metrics(outputs, evaluated.references)

    source, result, before = task.recipe.start, run.read("result"), run.read("held_out")
    if before is not None:
        # Of rows that a refit has learned, what was measured before stays.
        kept |= {f"validation/{name}": v for name, v in run.outputs_of("validation").items()}
    found = {
        "metrics": metrics("validation") if before is None else before["metrics"],
        "test": metrics("test") if test else None,
        "fitted": fitted,
        "passes": _passes(task.recipe, splits.train.samples_per_epoch, result),
        "init": "scratch" if source is None else source.name,
        "pretrained": None if source is None else str(source),
    }
    run.write_outputs(kept)
    seconds = time.monotonic() - start
    parts = result["time"] and {**result["time"], "final": seconds}
    elapsed = result["elapsed"] + seconds
    run.write("result", result | found | {"elapsed": elapsed, "time": parts})


def _passes(recipe: Recipe, samples: int, result: Mapping[str, Any]) -> float:
    """Return the passes that the best checkpoint took; the last one, if none is known as such."""
    return recipe.train.samples(result["best_step"] or result["step"]) / samples


def _write_mistakes(run: Run, mistakes: Sequence[dict[str, Any]]) -> None:
    """Write the test rows with a wrong answer as a table, and say it."""
    if not mistakes:
        return
    shown, path = mistakes[:MOST_MISTAKES], run.path / "mistakes.csv"
    lines = [row_line("csv", shown[0], row) for row in shown]
    atomic_files.write_text(path, header_line("csv", shown[0]) + "".join(lines))
    say(f"{path}: {len(shown):,} test rows, the worst mistakes first")
