"""Which trial is taken as a run of its own, and judged beside the default on the same rows."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from wafergpt import atomic_files
from wafergpt.data.tokenizer import Tokenizer
from wafergpt.errors import InputError
from wafergpt.inference.evaluation import judged
from wafergpt.progress import silent
from wafergpt.runs.run import Run
from wafergpt.tasks.base import task_of
from wafergpt.tasks.labelled_task import LabelledTask
from wafergpt.train.folds import VALIDATION
from wafergpt.train.run import write_mistakes
from wafergpt.tuning.study import Outcome

NOT_COPIED = (".lock", "holder", "tensorboard")

CHANCE = 0.2
"""The best of many trials is partly lucky: with a larger p than this, on the validation rows, it is
no better than the default."""

JUDGED = "judged_trial"
"""Key of the trial whose test figures a study's result has."""


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
    samples = []
    for run in (best, default):
        kept = run.read_outputs().items()
        own = {n.removeprefix(VALIDATION): v for n, v in kept if n.startswith(VALIDATION)}
        samples.append(task.resampled(own, references) if own else None)
    one, other = samples
    if one is None or other is None or metric not in one.whole:
        return True
    return one.minus(other, metric).p <= CHANCE


def take(run: Run, best: Outcome, default: Outcome | None, target: Run, test: Path | None) -> None:
    """Copy a trial to a run of its own, and judge it; nothing is judged twice.

    Args:
        run: of the study, whose result is completed.
        best: the trial to take.
        default: the recipe as it stands, to compare with.
        target: the run to make, new or of an earlier call.
        test: the file of test rows; None if there is none.

    Raises:
        InputError: if the target is of something else, or the rows are unusable.
    """
    study = str(run.path.resolve())
    taken = target.read("result") if target.path.exists() else None
    if taken is not None and taken.get("tuned") != study:
        raise InputError(f"{target.path} is not of this study: choose another name=NAME")
    if taken is None or taken.get("trial") != best.run:
        with atomic_files.appearing(target.path) as temporary:
            ignored = shutil.ignore_patterns(*NOT_COPIED)
            shutil.copytree(run.path / best.run, temporary, dirs_exist_ok=True, ignore=ignored)
            copy = Run(temporary)
            copy.save_recipe(copy.recipe.replace(name=target.name))
            own = {"run": str(target.path), "tuned": study, "trial": best.run}
            copy.write("result", {**copy.read("result"), **own})
    result = {**run.read("result"), "made": str(target.path)}
    if test is not None and result.get(JUDGED) != best.run:
        count = (result.get("judged") or 0) + 1
        result |= {JUDGED: best.run, "judged": count}
        result |= _judged(run, best, default, target, test)
    run.write("result", result)


def _judged(
    run: Run, best: Outcome, default: Outcome | None, target: Run, test: Path
) -> dict[str, Any]:
    """Return the metrics of both on the test rows, and their difference by the objective."""
    ours = judged(target, test)
    target.save_recipe(target.recipe.replace(task={"test": test.resolve()}))
    kept = {f"test/{name}": values for name, values in ours.outputs.items()}
    target.write_outputs({**target.read_outputs(), **kept})
    target.write("result", {**target.read("result"), "test": ours.metrics})
    write_mistakes(target, ours.task.mistakes(ours.outputs, ours.evaluated))
    found: dict[str, Any] = {"test": ours.metrics, "default_test": None, "difference": None}
    if default is None or default.values is None:
        return found
    theirs = ours if default.run == best.run else judged(Run(run.path / default.run), test)
    found["default_test"] = theirs.metrics
    one, other = (
        side.task.resampled(side.outputs, side.evaluated.references) for side in (ours, theirs)
    )
    metric = run.read("result")["metric"]
    if one is not None and other is not None and metric in one.whole and ours is not theirs:
        found["difference"] = one.minus(other, metric).to_dict()
    return found
