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
from typing import Any, Literal

from wafergpt import atomic_files, files
from wafergpt.config import Recipe, load_recipe
from wafergpt.config.registry import ENGINES, TASKS
from wafergpt.devices.peak_memory import is_out_of_memory
from wafergpt.devices.probe import cache_folder
from wafergpt.distributed.launcher import launch, outside_of_a_group
from wafergpt.errors import InputError, Interrupted, RunFailed
from wafergpt.logs import is_worker, repeat_none, said, shown
from wafergpt.planning.measurement import Measurement
from wafergpt.runs.run import RUNS, Run

JobKind = Literal["training", "speeds"]
"""What a measuring process times: all of one training, or the updates of several recipes."""

KILLED_CODES = (-9, 137)
"""Exit codes of a process that was killed, here and by a shell."""

INTERRUPTED_CODE = 130

LONGEST_REASON = 300
"""Characters of a failure that are shown."""


class NoMemoryError(Exception):
    """A measuring process was killed, or found no memory."""


def measured(recipe: Recipe, start: Run | None, root: Path = RUNS) -> Measurement:
    """Measure a training in processes of its own.

    If they compiled with an empty cache they are run again: a run after them will find the cache.

    Args:
        recipe: as asked for.
        start: the language model to start from.
        root: the folder of runs, on whose disk a checkpoint is timed.

    Raises:
        InputError: if the recipe is impossible or the data unusable.
        NoMemoryError: if there is not enough memory.
        RunFailed: if a process fails.
    """
    found = Measurement.from_dict(_worked(recipe, start, root))
    if found.cold_compile_seconds is not None:
        cold = found.cold_compile_seconds
        _remember(found.recipe, cold)
        found = Measurement.from_dict(_worked(recipe, start, root, quiet=True))
        return replace(found, cold_compile_seconds=cold)
    if found.recipe.system.compile == "on":
        return replace(found, cold_compile_seconds=_remembered(found.recipe))
    return found


def speeds(recipes: Sequence[Recipe]) -> list[float]:
    """Return the tokens/s of each recipe, measured in one process; 0 where it was not reached.

    Raises:
        InputError: if a recipe is impossible or the data unusable.
        RunFailed: if the process fails.
    """
    with TemporaryDirectory(prefix="wafergpt-plan-") as name:
        # Without memory for the last ones, the smaller ones were measured before.
        with suppress(NoMemoryError):
            _run_in(Path(name), "speeds", recipes, None, quiet=True)
        rates: list[float] = []
        if files.is_file(Path(name) / "result.json"):
            rates = files.read_json(Path(name) / "result.json")
    return [*rates, *[0.0] * (len(recipes) - len(rates))]


def work(folder: Path) -> None:
    """Measure in this process what ``folder`` describes, and write the result there."""
    with suppress(OSError):
        # If memory runs out, this process goes first.
        Path("/proc/self/oom_score_adj").write_text("1000")
    job = files.read_json(folder / "job.json")
    TASKS.update(job["tasks"])
    ENGINES.update(job["engines"])
    repeat_none(job["said"])
    recipes = [load_recipe(str(folder / f"{index}.yaml")) for index in range(job["recipes"])]
    try:
        if job["kind"] == "speeds":
            _write_speeds(recipes, folder)
        else:
            _write_training(recipes[0], job["start"], job["began"], folder)
    except Exception as error:
        if not is_worker():
            memory = isinstance(error, MemoryError) or is_out_of_memory(error)
            failure = "memory" if memory else type(error).__name__
            failure = "input" if isinstance(error, InputError) else failure
            reason = str(error)[:LONGEST_REASON]
            atomic_files.write_json(folder / "error.json", {"kind": failure, "reason": reason})
        # The process that waits for this one reports it.
        sys.exit(1)


def _write_training(recipe: Recipe, start: str | None, began: float, folder: Path) -> None:
    from wafergpt.train.timing import time_training

    found = time_training(recipe, None if start is None else Run.find(start), folder, began)
    if found is not None:
        atomic_files.write_json(folder / "result.json", found.to_dict())


def _write_speeds(recipes: Sequence[Recipe], folder: Path) -> None:
    from wafergpt.distributed.rendezvous import joined
    from wafergpt.train.timing import tokens_per_second

    rates: list[float] = []
    with joined(recipes[0].system.timeout) as group:
        for recipe in recipes:
            rates.append(tokens_per_second(recipe, group))
            if not group.is_worker:
                atomic_files.write_json(folder / "result.json", rates)


def _worked(recipe: Recipe, start: Run | None, root: Path, quiet: bool = False) -> Any:
    """Run the measuring processes; return their result."""
    with _work_folder(root) as name:
        _run_in(Path(name), "training", [recipe], start, quiet=quiet)
        return files.read_json(Path(name) / "result.json")


def _work_folder(root: Path) -> TemporaryDirectory[str]:
    """Return a temporary folder on the disk of the runs, or wherever one can be."""
    there = root.absolute()
    while not there.is_dir():
        there = there.parent
    try:
        return TemporaryDirectory(prefix=".wafergpt-plan-", dir=there)
    except OSError:
        return TemporaryDirectory(prefix="wafergpt-plan-")


def _run_in(
    folder: Path, kind: JobKind, recipes: Sequence[Recipe], start: Run | None, *, quiet: bool
) -> None:
    """Run the measuring processes in a folder.

    Raises:
        InputError: as the process did.
        NoMemoryError: if there was not enough memory.
        Interrupted: by Ctrl-C.
        RunFailed: if it failed otherwise.
    """
    for index, recipe in enumerate(recipes):
        (folder / f"{index}.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
    source = None if start is None else str((start.checkpoint or start.path).resolve())
    job = {"kind": kind, "recipes": len(recipes), "start": source, "began": time.time()}
    known = {"tasks": TASKS, "engines": ENGINES, "said": said()}
    atomic_files.write_json(folder / "job.json", {**job, **known})
    code, errors = _run(["plan", "--measure", str(folder)], recipes[0], quiet)
    if code == 0:
        return
    if code == INTERRUPTED_CODE:
        raise Interrupted("interrupted while measuring")
    if code in KILLED_CODES:
        raise NoMemoryError
    last = next((line for line in reversed(errors.splitlines()) if line.strip()), "")
    reason, failure = f"exit code {code} {last}".strip(), ""
    if files.is_file(folder / "error.json"):
        error = files.read_json(folder / "error.json")
        reason, failure = error["reason"], error["kind"]
    if failure == "input":
        raise InputError(reason)
    if failure == "memory":
        raise NoMemoryError
    raise RunFailed(f"measuring failed ({reason}); --quick estimates without running anything")


def _run(arguments: list[str], recipe: Recipe, quiet: bool) -> tuple[int, str]:
    """Run the command line in as many processes as the recipe wants.

    Returns:
        The exit code, and what a silent process wrote to stderr.
    """
    nproc = recipe.system.nproc
    with outside_of_a_group():
        if nproc > 1:
            recipe.train.require_enough_for(nproc)
            return launch(nproc, arguments), ""
        ends_with_us = (
            f"from wafergpt.distributed.launcher import stop_with; stop_with({os.getpid()})"
        )
        program = f"{ends_with_us}; from wafergpt.cli import main; main()"
        # Modules that the host program can import, and none of the current folder.
        path = os.pathsep.join(str(entry) for entry in sys.path if entry)
        done = subprocess.run(
            [sys.executable, "-P", "-c", program, *arguments],
            stdout=subprocess.DEVNULL,
            stderr=None if shown() and not quiet else subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": path},
            text=True,
            errors="replace",
            check=False,
        )
    return done.returncode, done.stderr or ""


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
