"""A trial that several processes train together, beside other trials.

The process that has taken the trial starts them and waits; their leader reports the validation
curve, and writes what became of the trial.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from wafergpt import atomic_files, files
from wafergpt.config import Recipe, recipe_from
from wafergpt.distributed.launcher import launch
from wafergpt.errors import Diverged, InputError, Interrupted, ProcessLost, RunFailed
from wafergpt.locks import locked
from wafergpt.progress import is_worker
from wafergpt.runs.holding import LOCK
from wafergpt.runs.run import Run
from wafergpt.tuning.records import Trial
from wafergpt.tuning.trials import StoppedEarlyError, trained_here

RESTARTS = 3
"""How often a trial goes on from its last checkpoint when one of its processes is lost."""

INTERRUPTED = 130

ENDS: dict[str, type[Exception]] = {
    "stopped": StoppedEarlyError, "input": InputError, "diverged": Diverged, "failed": RunFailed,
}  # fmt: skip
"""Errors of a training, the more special first, by how they are written down."""


def trained_by_several(trial: Trial, recipe: Recipe, folder: Path, watched: bool) -> None:
    """Train a trial in ``system.nproc`` processes, or go on where they died.

    Args:
        trial: taken by this process.
        recipe: of its run.
        folder: of the study; what the processes say is in its ``trial-NNN.log``.
        watched: whether the trial may stop early.

    Raises:
        StoppedEarlyError: if it is worse than others on the way.
        InputError: if its settings are impossible.
        RunFailed: if it diverges, or its processes are lost again and again.
        Interrupted: after saving, if a signal requested a stop.
    """
    job, answer, log = (folder / f"{recipe.name}.{end}" for end in ("job", "end", "log"))
    run = Run(folder / recipe.name)
    recipe.train.require_enough_for(recipe.system.nproc)
    if run.path.exists():
        # Processes whose starter was killed save what they have, and end.
        with locked(run.path / LOCK):
            pass
    atomic_files.write_json(
        job, {"number": trial.number, "recipe": recipe.model_dump(mode="json"), "watched": watched}
    )
    answer.unlink(missing_ok=True)
    for _ in range(1 + RESTARTS):
        code = launch(recipe.system.nproc, ["tune", "--trial", str(job.resolve())], log=log)
        if code == INTERRUPTED:
            raise Interrupted(f"{recipe.name}: interrupted; the same command goes on")
        if files.is_file(answer):
            break
    else:
        raise RunFailed(f"a process was lost {1 + RESTARTS} times; {log} has what they said")
    end = files.read_json(answer)
    job.unlink()
    answer.unlink()
    if end["kind"] in ENDS:
        raise ENDS[end["kind"]](end["reason"])


def work(job: Path) -> None:
    """Be one of the processes that train a trial.

    Args:
        job: the file that says which.

    Raises:
        Interrupted: after saving, if a signal requested a stop.
        ProcessLost: if another one of the processes has ended.
    """
    from wafergpt.tuning.asked import Asked
    from wafergpt.tuning.making import ASKED, TrialMaker

    folder, given = job.parent, files.read_json(job)
    asked = Asked.of_json(Run(folder).read(ASKED)["asked"])
    recipe, trial = recipe_from(given["recipe"]), None
    if given["watched"] and not is_worker():
        trial = TrialMaker(asked, folder).study.beside(given["number"])
    end: dict[str, Any] = {"kind": "trained", "reason": ""}
    try:
        trained_here(trial, recipe, asked.base, folder)
    except tuple(ENDS.values()) as error:
        if is_worker() or isinstance(error, ProcessLost):
            raise
        kind = next(kind for kind, of in ENDS.items() if isinstance(error, of))
        end = {"kind": kind, "reason": str(error)}
    if not is_worker():
        atomic_files.write_json(job.with_suffix(".end"), end)
