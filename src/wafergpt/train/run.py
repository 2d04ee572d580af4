"""From a recipe to a trained run: the same steps for every task and engine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from wafergpt.checkpoint import store
from wafergpt.config import Recipe
from wafergpt.data.tokenizer import Tokenizer
from wafergpt.distributed.collectives import ProcessGroup
from wafergpt.distributed.rendezvous import joined
from wafergpt.engines.base import Engine, engine_for
from wafergpt.engines.outputs import evaluate
from wafergpt.errors import InputError, nearest
from wafergpt.planning.hardware import Machine
from wafergpt.planning.intervals import horizon, with_intervals
from wafergpt.planning.plan import plan
from wafergpt.planning.schedule_check import require_possible_warmup, schedule_warning
from wafergpt.progress import progress, say, working
from wafergpt.runs.moved import require_sources
from wafergpt.runs.run import RUNS, Run
from wafergpt.tasks.base import Splits, Task, task_of
from wafergpt.train.resume import asked_for, run_to_resume
from wafergpt.train.signals import Signals
from wafergpt.train.trainer import Trainer


def train(
    recipe: Recipe,
    *,
    start: Run | None = None,
    run: Run | None = None,
    auto_resume: bool = False,
    root: Path = RUNS,
) -> Run:
    """Train by a recipe.

    Args:
        recipe: as asked for; for a resume, the run's own with what may change.
        start: a language model to initialize the weights from.
        run: the run to resume.
        auto_resume: resume the run that this recipe started under its name, if there is one.
        root: the folder that holds runs.

    Returns:
        The trained run; in a worker process, the leader's.

    Raises:
        InputError: if the recipe is impossible, the data unusable, or the run exists.
        RunFailed: if the run diverges, or has no good checkpoint to resume from.
        Interrupted: after saving, when a signal asked for a stop.
    """
    _require_metric(task_of(recipe))
    if run is None:
        require_possible_warmup(recipe.schedule)
    else:
        require_sources(recipe, run.path)
    if run is None and not auto_resume:
        Run.require_new(recipe.name, root)
    asked = asked_for(recipe)
    with joined(recipe.system.timeout) as group:
        if auto_resume and (before := run_to_resume(recipe, root, group)):
            (run, recipe), start = before, None
        make_engine = engine_for(recipe.system.device)
        make_engine.require(recipe)
        task = task_of(recipe)
        tokenizer = task.tokenizer(_tokenizer_of(run or start))
        recipe, splits = task.prepare(tokenizer)
        recipe, machine = make_engine.settle(recipe, group)
        _require_whole_weights(recipe, group)
        task = task_of(recipe)
        weights = None if start is None else store.weights(start)
        with working("making the network"):
            engine = make_engine(recipe, machine, task, splits, group, weights)
        if group.is_worker:
            return Run(Path(engine.run_commands()))
        with Signals() as signals:
            recipe = _settled(recipe, engine, splits, signals)
            task.recipe = recipe
            resumed = run is not None
            if run is None:
                run = _new_run(recipe, machine, tokenizer, splits, root, asked)
            trainer = Trainer(recipe, run, task, engine, splits, tokenizer, machine, signals, group)
            trainer.train(resumed)
    if recipe.task is not None:
        _write_final_metrics(run, task, splits)
    return run


def _require_metric(task: Task) -> None:
    metric = task.recipe.evaluate.metric
    if metric not in task.metrics:
        own = task.recipe.task
        what = "a language model" if own is None else f"task.name={own.name}"
        raise InputError(
            f"evaluate.metric={metric} is no metric of {what}{nearest(metric, task.metrics)} "
            f"(there are {', '.join(task.metrics)})"
        )


def _tokenizer_of(source: Run | None) -> Tokenizer | None:
    if source is None or not source.tokenizer.is_file():
        return None
    return Tokenizer.load(source.tokenizer)


def _require_whole_weights(recipe: Recipe, group: ProcessGroup) -> None:
    if group.size == 1 or recipe.system.shard == 1:
        return
    if recipe.task is not None:
        raise InputError("fine-tuning needs the whole weights in each process: system.shard=1")
    if recipe.evaluate.prompts:
        raise InputError(
            "no process has the whole weights to sample from evaluate.prompts: "
            "set evaluate.prompts=[] or system.shard=1"
        )


def _settled(recipe: Recipe, engine: Engine, splits: Splits, signals: Signals) -> Recipe:
    """Settle the horizon, the intervals and whether to compile."""
    train, epoch = recipe.train, splits.train.samples_per_epoch
    if not train.seconds:
        # The horizon is known before anything is timed.
        _warn_about_schedule(recipe, horizon(recipe, epoch))
    seconds = 0.0
    if train.seconds or recipe.system.compile == "auto":
        with working("timing updates"):
            seconds = engine.seconds_per_update(signals.stop_asked)
    steps = horizon(recipe, epoch, seconds)
    if train.seconds:
        _warn_about_schedule(recipe, steps)
    updates = train.seconds / seconds if train.seconds else train.samples(steps) / train.batch_size
    compiled = engine.choose_compilation(updates, seconds, signals.stop_asked)
    recipe = recipe.replace(system={"compile": "on" if compiled else "off"})
    return with_intervals(recipe, steps)


def _warn_about_schedule(recipe: Recipe, steps: int) -> None:
    if warning := schedule_warning(recipe, steps):
        say(f"WARNING: {warning}")


def _new_run(
    recipe: Recipe,
    machine: Machine,
    tokenizer: Tokenizer,
    splits: Splits,
    root: Path,
    asked: Mapping[str, Any],
) -> Run:
    """Make a run's folder, with its tokenizer and its plan."""
    run = Run.create(recipe, root, asked)
    tokenizer.save(run.tokenizer)
    if recipe.system.device != "cerebras" or recipe.system.cerebras.mode == "cpu":
        # Measurements of this machine do not hold for a cluster.
        run.write("plan", plan(recipe, machine, splits.tokens).to_dict())
    return run


def _write_final_metrics(run: Run, task: Task, splits: Splits) -> None:
    """Evaluate the best checkpoint on validation and test data."""
    device = torch.device(task.recipe.system.host)
    network = store.restored(task.network, store.weights(run)).to(device)

    def metrics(part: str) -> dict[str, Any] | None:
        evaluated = getattr(splits, part)
        if evaluated is None:
            return None
        samples = evaluated.batches.samples_per_epoch
        with progress("evaluating", samples, "texts") as bar:
            outputs = evaluate(task, network, evaluated, task.recipe, device, bar.advance)
        return task.compute_metrics(outputs, evaluated.references)

    start = task.recipe.start
    found = {
        "metrics": metrics("validation"),
        "test": metrics("test"),
        "init": "scratch" if start is None else start.name,
        "pretrained": None if start is None else str(start),
    }
    run.write("result", run.read("result") | found)
