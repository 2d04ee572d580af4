"""Whether a run's probabilities are right, before and after a temperature."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from wafergpt.errors import InputError
from wafergpt.evaluation.calibration import (
    calibration_metrics,
    fitted_temperature,
    resampled,
    with_temperature,
)
from wafergpt.evaluation.metrics import LEAST
from wafergpt.evaluation.selective import selective_metrics
from wafergpt.inference.predictor import Predictor
from wafergpt.progress import silent
from wafergpt.suites import rows as own
from wafergpt.tasks.classify import Classify
from wafergpt.tasks.multi_label import MultiLabel

Known = tuple[NDArray[np.float64], NDArray[np.int64]]
"""Probabilities ``[n, n_labels]`` and right classes ``[n]``."""


def calibration(predictor: Predictor) -> dict[str, Any]:
    """Judge a classifier's probabilities on its test rows, with a temperature of validation rows.

    Without test rows one half of the validation rows fits it, and the other half judges.

    Args:
        predictor: of the run.

    Returns:
        ``judged_on``, ``fitted_on`` and ``rows`` of the former; the ``temperature``; ``before`` and
        ``after`` it, what ``calibration_metrics`` returns and ``aurc`` and ``accuracy_at_90`` of
        ``selective_metrics``; and the paired ``difference`` of ``ece``, after minus before.

    Raises:
        InputError: if the run is no classifier with one label to a text, its rows are gone, or it
            has no validation rows.
    """
    task = predictor.task
    if not isinstance(task, Classify) or isinstance(task, MultiLabel):
        raise InputError("calibration is for task.name=classify with one label to a text")
    with silent():
        has_test = task.read_ahead().test is not None
    fitting = _known(predictor, "validation")
    if has_test:
        judging, names = _known(predictor, "test"), ("test", "validation")
    else:
        half = np.arange(len(fitting[1])) % 2 == 0
        judging = fitting[0][~half], fitting[1][~half]
        fitting = fitting[0][half], fitting[1][half]
        names = ("half of validation", "half of validation")
    if not len(fitting[1]) or not len(judging[1]):
        raise InputError(f"{predictor.run.path} has too few rows to judge probabilities by")
    temperature = fitted_temperature(np.log(np.maximum(fitting[0], LEAST)), fitting[1])
    probabilities, targets = judging
    cooled = with_temperature(probabilities, temperature)
    before, after = (resampled(one, targets) for one in (probabilities, cooled))
    return {
        "judged_on": names[0],
        "fitted_on": names[1],
        "rows": len(targets),
        "temperature": temperature,
        "before": _metrics(probabilities, targets),
        "after": _metrics(cooled, targets),
        "difference": after.minus(before, "ece").to_dict(),
    }


def _known(predictor: Predictor, name: str) -> Known:
    """Return what the run found for one part of its rows, of those that are of a class."""
    task: Any = own.labelled_task(predictor)
    with silent():
        rows = task.rows(name)
    judged = own.judge_own(predictor, name, rows)
    inside = judged.references >= 0
    probabilities = judged.outputs["probabilities"][inside].astype(np.float64)
    return probabilities, judged.references[inside].astype(np.int64)


def _metrics(probabilities: NDArray[np.float64], targets: NDArray[np.int64]) -> dict[str, Any]:
    right = probabilities.argmax(1) == targets
    selective = selective_metrics(probabilities.max(1), right)
    kept = {key: selective[key] for key in ("aurc", "accuracy_at_90")}
    return {**calibration_metrics(probabilities, targets), **kept}
