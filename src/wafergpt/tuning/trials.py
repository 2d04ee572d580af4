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
from wafergpt.train.run import train
from wafergpt.train.state import Row, TrainState
from wafergpt.tuning.study import Trial


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


def trained(
    trial: Trial, recipe: Recipe, start: Run | None, folder: Path, watched: bool
) -> tuple[Run, float]:
    """Train a trial, or go on where its process died.

    Args:
        trial: taken by this process.
        recipe: of its run.
        start: the run to start from.
        folder: of the study.
        watched: whether it may stop early.

    Returns:
        Its run, and the objective on validation data.

    Raises:
        StoppedEarlyError: if it is worse than others on the way.
        InputError: if its settings are impossible.
        RunFailed: if it diverges.
        Interrupted: after saving, if a signal requested a stop.
    """
    run, metric = Run(folder / recipe.name), recipe.evaluate.metric
    if (value := _value(run, recipe)) is None:
        callbacks = [Rungs(trial, metric, run)] if watched else []
        run = train(recipe, start=start, auto_resume=True, root=folder, callbacks=callbacks)
        value = _value(run, recipe)
    # Only of a run whose evaluations were all not finite.
    return run, math.nan if value is None else value


def _value(run: Run, recipe: Recipe) -> float | None:
    """Return the objective of a run that has ended; None of another one."""
    result = run.read("result") if run.path.exists() else None
    if not isinstance(result, dict):
        return None
    found = result.get("best_val_loss")
    if recipe.task is not None:
        found = (result.get("metrics") or {}).get(recipe.evaluate.metric)
    return None if found is None else float(found)


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
