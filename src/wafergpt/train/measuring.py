"""A plan that is measured: processes that begin the training, are timed, and end."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from wafergpt import atomic_files, files
from wafergpt.config import Recipe, load_recipe
from wafergpt.config.registry import ENGINES, TASKS
from wafergpt.devices.probe import cache_folder
from wafergpt.distributed.launcher import launch
from wafergpt.errors import InputError, RunFailed
from wafergpt.planning.budget import Budget, best, bought, candidates
from wafergpt.planning.estimate import RowFacts, estimate
from wafergpt.planning.hardware import Machine
from wafergpt.planning.measurement import Measurement
from wafergpt.planning.plan import Plan
from wafergpt.progress import is_worker, shown, working
from wafergpt.runs.run import Run
from wafergpt.tasks.base import task_of

ADJUSTMENTS = 3
"""How often a plan is fitted to its budget of time."""

LEAST_USED = 0.93
"""Share of a budget of time that a plan should use."""

BYTES_PER_TOKEN = 4

PADDING = 1.1
"""Tokens of a batch over those of its texts, which are of similar length."""

HELD_OUT = 0.1
"""Rows that an estimate takes to be evaluated, as a share of the training rows."""

KILLED = 137
"""Exit code that a shell gives a process that was killed."""


def plan_training(recipe: Recipe, machine: Machine, start: Run | None, quick: bool) -> Plan:
    """Plan a training by beginning it in processes of its own, which then end.

    Args:
        recipe: as asked for.
        machine: with the memory that is free.
        start: the language model to start from.
        quick: only estimate.

    Returns:
        A measured plan; an estimate if that is asked for, there is no data yet, or it would not
        fit into the memory.

    Raises:
        InputError: if the recipe is impossible or the data unusable.
        RunFailed: if the measuring process fails.
    """
    has_data = recipe.data.corpus is not None or recipe.task is not None
    if quick or not has_data or not _may_fit(recipe, machine):
        return estimate(recipe, machine, _rows(recipe))
    found = _measured(recipe, start)
    if found is None:
        plan = estimate(recipe, machine, _rows(recipe))
        note = "a process that began it was killed, as for lack of memory: this is an estimate"
        memory = max(plan.memory_bytes, machine.memory_available)
        return replace(plan, memory_bytes=memory, notes=(*plan.notes, note))
    if found.cold_compile_seconds is not None:
        cold = found.cold_compile_seconds
        _remember(found.recipe, cold)
        # What the run itself will do: what was compiled is in the cache now.
        found = replace(_measured(recipe, start) or found, cold_compile_seconds=cold)
    elif found.recipe.system.compile == "on":
        found = replace(found, cold_compile_seconds=_remembered(found.recipe))
    return found.plan(recipe, machine)


def plan_budget(
    recipe: Recipe, budget: Budget, machine: Machine, start: Run | None, quick: bool
) -> Plan:
    """Plan the best model that a budget buys, among shapes that are measured.

    Args:
        recipe: whose shape, batch, horizon, schedule and learning rate are chosen.
        budget: how much it may cost.
        machine: with the memory that is free.
        start: must be None: its shape could not change.
        quick: only estimate.

    Raises:
        InputError: if the recipe has a task or another run's shape, or the data is unusable.
        RunFailed: if the measuring process fails.
    """
    if recipe.task is not None or start is not None:
        raise InputError("--budget chooses the shape of a language model that is trained afresh")
    found = candidates(recipe, budget, machine)
    quick = quick or recipe.data.corpus is None
    if not quick:
        rates = _speeds([candidate.recipe for candidate in found])
        found = [
            bought(candidate.recipe, budget, rate or candidate.tokens_per_second)
            for candidate, rate in zip(found, rates, strict=True)
        ]
    chosen = best(found)
    plan = plan_training(chosen.recipe, machine, None, quick)
    for _ in range(ADJUSTMENTS if budget.kind == "seconds" else 0):
        if LEAST_USED <= plan.seconds / budget.amount <= 1:
            break
        overhead = plan.seconds - plan.time.updates
        chosen = bought(chosen.recipe, budget, plan.tokens_per_second, overhead)
        plan = plan_training(chosen.recipe, machine, None, quick)
    return replace(plan, candidates=tuple(found))


def _may_fit(recipe: Recipe, machine: Machine) -> bool:
    """Return whether a training is estimated to fit, without reading its rows."""
    horizon = {"steps": 1, "tokens": None, "epochs": None, "seconds": None}
    rows = RowFacts(1, recipe.model.seq_len, 1, 1) if recipe.task else None
    return estimate(recipe.replace(train=horizon, schedule={"warmup": 0}), machine, rows).fits


def _rows(recipe: Recipe) -> RowFacts | None:
    """Return about how many tokens a task's rows have: a token is about four bytes."""
    if recipe.task is None:
        return None
    task = task_of(recipe)
    limit = recipe.task.max_tokens or recipe.model.seq_len
    lengths = [min(limit, max(1, len(text.encode()) // BYTES_PER_TOKEN)) for text in task.texts()]
    n = len(lengths)
    held_out = round(n * HELD_OUT)
    return RowFacts(n, max(1.0, PADDING * sum(lengths) / max(n, 1)), held_out, 2 * held_out)


def work(folder: Path) -> None:
    """Measure in this process what ``folder`` describes, and write the result there."""
    with suppress(OSError):
        # If memory runs out, this process goes first.
        Path("/proc/self/oom_score_adj").write_text("1000")
    job = files.read_json(folder / "job.json")
    sys.path[:] = job["path"]
    TASKS.update(job["tasks"])
    ENGINES.update(job["engines"])
    try:
        from wafergpt.train.measurement import measure, tokens_per_second

        recipes = [load_recipe(str(folder / f"{index}.yaml")) for index in range(job["recipes"])]
        if job["speeds"]:
            rates = [tokens_per_second(recipe) for recipe in recipes]
            atomic_files.write_json(folder / "result.json", rates)
            return
        start = None if job["start"] is None else Run.find(job["start"])
        found = measure(recipes[0], start, _born())
    except InputError as error:
        if not is_worker():
            atomic_files.write_json(folder / "error.json", {"error": str(error)})
        raise
    if found is not None:
        atomic_files.write_json(folder / "result.json", found.to_dict())


def _measured(recipe: Recipe, start: Run | None) -> Measurement | None:
    """Measure a training; return None if a process was killed."""
    found = _worked([recipe], start, speeds=False)
    return None if found is None else Measurement.from_dict(found)


def _speeds(recipes: Sequence[Recipe]) -> list[float]:
    """Return the tokens/s of each recipe in one process; 0 where it was not measured."""
    with working(f"timing {len(recipes)} shapes"):
        found = _worked(recipes, None, speeds=True)
    return [0.0] * len(recipes) if found is None else found


def _worked(recipes: Sequence[Recipe], start: Run | None, speeds: bool) -> Any:
    """Run the measuring processes; return their result, None if one was killed."""
    with TemporaryDirectory(prefix="wafergpt-plan-") as name:
        folder = Path(name)
        for index, recipe in enumerate(recipes):
            (folder / f"{index}.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
        source = None if start is None else str((start.checkpoint or start.path).resolve())
        registry = {"path": sys.path, "tasks": TASKS, "engines": ENGINES}
        job = {"recipes": len(recipes), "start": source, "speeds": speeds}
        atomic_files.write_json(folder / "job.json", job | registry)
        code = _run(["plan", "--measure", str(folder)], recipes[0], quiet=speeds)
        if (folder / "error.json").exists():
            raise InputError(files.read_json(folder / "error.json")["error"])
        if code == 0:
            return files.read_json(folder / "result.json")
        if code < 0 or code == KILLED:
            return None
        raise RunFailed(
            f"measuring failed with exit code {code}; --quick estimates without running anything"
        )


def _run(arguments: list[str], recipe: Recipe, quiet: bool) -> int:
    """Run the command line in as many processes as the recipe wants; return the exit code."""
    nproc = recipe.system.nproc
    if nproc > 1:
        recipe.train.require_enough_for(nproc)
        return launch(nproc, arguments)
    command = [sys.executable, "-P", "-c", "from wafergpt.cli import main; main()", *arguments]
    output = None if shown() and not quiet else subprocess.DEVNULL
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=output, check=False)
    return done.returncode


def _born() -> float:
    import psutil

    return float(psutil.Process(os.getpid()).create_time()) or time.time()


def _record(recipe: Recipe) -> Path:
    facts = [recipe.model.model_dump(), recipe.system.precision, recipe.train.micro_batch_size]
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]
    return cache_folder() / f"compiling-{key}.json"


def _remember(recipe: Recipe, seconds: float) -> None:
    # A convenience: without it only this plan knows.
    with suppress(OSError):
        atomic_files.write_json(_record(recipe), {"seconds": seconds})


def _remembered(recipe: Recipe) -> float | None:
    try:
        return float(files.read_json(_record(recipe))["seconds"])
    except (InputError, OSError, KeyError, TypeError, ValueError):
        return None
