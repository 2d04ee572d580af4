"""Which trial is taken as a run of its own, and judged beside the default on the same rows."""

from __future__ import annotations

import shutil
from contextlib import nullcontext
from typing import Any

from wafergpt import atomic_files
from wafergpt.data.tokenizer import Tokenizer
from wafergpt.errors import InputError
from wafergpt.evaluation.intervals import difference as paired
from wafergpt.logs import silent
from wafergpt.runs.run import Run
from wafergpt.tasks.base import task_of
from wafergpt.tasks.labelled_task import LabelledTask
from wafergpt.train.run import write_test_metrics
from wafergpt.tuning.records import Outcome

NOT_COPIED = ("*.lock", "holder", "tensorboard", "wandb.json")

CHANCE = 0.1
"""The best of many trials is partly lucky: with a larger p than this, on the validation rows, it is
no better than the default. One-sided, it is a level of 5%."""

JUDGED = "judged_trial"
"""Key of the trial whose test figures a study's result has."""

STUDY = "tuned"
"""Key of the study that a run was made by."""


def is_better(best: Run, default: Run, metric: str) -> bool:
    """Return whether a trial beats the default on the validation rows by more than chance.

    A paired test; what cannot be tested, such as a language model, is taken to be better.

    Args:
        best: with the better value of the metric.
        default: the recipe as it stands.
        metric: the objective.
    """
    task = task_of(best.recipe)
    if not isinstance(task, LabelledTask):
        return True
    with silent():
        references = task.validation(Tokenizer.load(best.tokenizer)).references
    difference = _difference(best, default, "validation", references, metric)
    return difference is None or difference["p"] <= CHANCE


def require_target(target: Run, study: str) -> None:
    """Require that a run to make does not exist, or is of this study.

    Args:
        target: the run.
        study: the study's own name.

    Raises:
        InputError: if something else has its name.
    """
    if not (target.path.exists() or target.path.is_symlink()):
        return
    if (target.read("result") or {}).get(STUDY) != study:
        raise InputError(
            f"{target.path} exists, and is not of this study: choose another name=NAME"
        )


def take(run: Run, best: Outcome, target: Run, study: str) -> bool:
    """Copy a trial to a run of its own, if it is not there yet.

    Args:
        run: of the study.
        best: the trial to take.
        target: the run to make, new or of an earlier call.
        study: the study's own name.

    Returns:
        Whether it was copied.

    Raises:
        InputError: if the target is of something else.
    """
    require_target(target, study)
    there = target.path.exists()
    if there and target.read("result")["trial"] == best.run:
        return False
    with (
        target.held() if there else nullcontext(),
        atomic_files.appearing(target.path, replaces=there) as temporary,
    ):
        ignored = shutil.ignore_patterns(*NOT_COPIED)
        shutil.copytree(run.path / best.run, temporary, dirs_exist_ok=True, ignore=ignored)
        copy = Run(temporary)
        copy.save_recipe(copy.recipe.replace(name=target.name))
        copy.write("asked", {**copy.read("asked"), "name": target.name})
        own = {"run": str(target.path), STUDY: study, "trial": best.run}
        copy.write("result", {**copy.read("result"), **own})
    return True


def judge(run: Run, best: Outcome, default: Outcome | None, target: Run, is_new: bool) -> None:
    """Judge a trial on the test rows, beside the default; no trial is judged twice.

    Args:
        run: of the study, whose result is completed.
        best: the trial that was taken.
        default: the recipe as it stands, to compare with.
        target: the run that was made of it.
        is_new: whether it has no test figures of its own yet.

    Raises:
        InputError: if the rows have changed.
    """
    result = {**run.read("result"), "made": str(target.path)}
    is_other = result.get(JUDGED) != best.run
    if (is_other or is_new) and _has_test(target):
        # A run that was removed and made again has the same figures.
        result |= {JUDGED: best.run, "judged": (result.get("judged") or 0) + is_other}
        beside = None if default is None or default.values is None else default
        result |= _judged(run, best, beside, target, result["metric"])
    run.write("result", result)


def _has_test(run: Run) -> bool:
    task = task_of(run.recipe)
    if not isinstance(task, LabelledTask):
        return False
    with silent():
        return task.read_ahead().test is not None


def _judged(
    run: Run, best: Outcome, default: Outcome | None, target: Run, metric: str
) -> dict[str, Any]:
    """Return the metrics of both on the test rows, and their difference by the objective."""
    rows = write_test_metrics(target)
    found = {"test": target.read("result")["test"], "default_test": None, "difference": None}
    if default is None:
        return found
    if default.run == best.run:
        return {**found, "default_test": found["test"]}
    other = Run(run.path / default.run)
    write_test_metrics(other)
    difference = _difference(target, other, "test", rows.references, metric)
    return {**found, "default_test": other.read("result")["test"], "difference": difference}


def _difference(
    one: Run, other: Run, part: str, references: Any, metric: str
) -> dict[str, float] | None:
    """Return how far a run is above another one; None where the task knows no metrics of rows."""
    task = task_of(one.recipe)
    assert isinstance(task, LabelledTask)
    kept = [run.outputs_of(part) for run in (one, other)]
    ours, theirs = (task.resampled(some, references) if some else None for some in kept)
    return paired(ours, theirs, metric)
