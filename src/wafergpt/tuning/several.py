"""A trial that several processes train together, beside other trials.

The process that has taken the trial starts them and waits; their leader reports the validation
curve, and writes what became of the trial.
"""

from __future__ import annotations

from pathlib import Path

from wafergpt import atomic_files, files
from wafergpt.config import Recipe
from wafergpt.distributed.launcher import launch
from wafergpt.errors import Diverged, InputError, Interrupted, RunFailed
from wafergpt.locks import locked
from wafergpt.runs.holding import LOCK
from wafergpt.runs.run import Run
from wafergpt.tuning.records import Trial
from wafergpt.tuning.trials import StoppedEarlyError

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
