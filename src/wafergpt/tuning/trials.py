"""Training one trial of a study, which is an ordinary run."""

from __future__ import annotations

import math
import shutil
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from wafergpt.config import Recipe
from wafergpt.runs.run import Run
from wafergpt.tasks.base import task_of
from wafergpt.train.run import trained_once
from wafergpt.train.state import Row, TrainState
from wafergpt.tuning.records import Trial


class StoppedEarlyError(Exception):
    """A trial that is worse than others at the same share of its updates."""


class Rungs:
    """A callback that reports a trial's validation curve, and stops it if it is hopeless.

    Args:
        trial: that is trained.
        metric: the objective.
        run: of the trial, for its horizon and what it has reported before.
    """

    def __init__(self, trial: Trial, metric: str, run: Run) -> None:
        self._trial, self._name, self._run = trial, f"val_{metric}", run
        self._steps = 0
        if (run.path / "recipe.yaml").is_file():
            for row in run.metrics():
                self._report(row)

    def after_step(self, state: TrainState, row: Row) -> None:
        """Report an evaluation.

        Raises:
            StoppedEarlyError: if the trial should not go on.
        """
        if self._report(row):
            raise StoppedEarlyError

    def _report(self, row: Mapping[str, Any]) -> bool:
        if self._name not in row:
            return False
        self._steps = self._steps or self._run.recipe.train.steps or 1
        return self._trial.report(row["step"] / self._steps, float(row[self._name]))


def trained_here(trial: Trial | None, recipe: Recipe, start: Run | None, folder: Path) -> Run:
    """Train a trial in this process, which may be one of several of its training.

    Args:
        trial: to report to, which may stop the training; None to train to the end.
        recipe: of its run.
        start: the run to start from.
        folder: of the study.

    Returns:
        Its run.

    Raises:
        StoppedEarlyError: if it is worse than others on the way.
        InputError: if its settings are impossible.
        RunFailed: if it diverges.
        Interrupted: after saving, if a signal requested a stop.
    """
    callbacks = []
    if trial is not None:
        callbacks.append(Rungs(trial, recipe.evaluate.metric, Run(folder / recipe.name)))
    return trained_once(recipe, start=start, root=folder, callbacks=callbacks, test=False)


def reached(run: Run, metric: str) -> float:
    """Return the value of an objective that a trained run has; NaN if it has none."""
    if run.recipe.task is not None:
        return float(run.read("result")["metrics"].get(metric, math.nan))
    values = [row[f"val_{metric}"] for row in run.metrics() if f"val_{metric}" in row]
    choose = min if task_of(run.recipe).metrics[metric] == "min" else max
    return float(choose(values, default=math.nan))


def costs(run: Run, names: Sequence[str]) -> list[float]:
    """Return what a trained model costs to use.

    Args:
        run: of a trial that has ended.
        names: ``latency``, the seconds of an evaluation on the validation data, which is the same
            for all trials; ``size``, the parameters.
    """
    times = [row["evaluation_seconds"] for row in run.metrics() if "evaluation_seconds" in row]
    parameters = run.read("result")["parameters"]
    measured = {"latency": statistics.median(times), "size": float(parameters)}
    return [measured[name] for name in names]


def forget_weights(run: Run) -> None:
    """Delete the checkpoints of a trial that is not needed any more; its metrics stay."""
    if run.checkpoints.is_dir():
        shutil.rmtree(run.checkpoints)
