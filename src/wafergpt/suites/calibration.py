"""Whether a run's probabilities are right, before and after a temperature."""

from __future__ import annotations

from dataclasses import dataclass, replace
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
from wafergpt.logs import silent
from wafergpt.suites import rows as own
from wafergpt.tasks.classify import Classify
from wafergpt.tasks.classify_fit import decided_of


@dataclass(frozen=True)
class _Known:
    """What a run found for rows of a class.

    Attributes:
        probabilities: ``[n, n_labels]``.
        targets: ``[n]``, right classes.
        decided: ``[n]``, classes that are answered.
    """

    probabilities: NDArray[np.float64]
    targets: NDArray[np.int64]
    decided: NDArray[np.int64]

    def of(self, rows: slice) -> _Known:
        return _Known(self.probabilities[rows], self.targets[rows], self.decided[rows])

    def metrics(self) -> dict[str, Any]:
        answered = self.probabilities[np.arange(len(self.targets)), self.decided]
        selective = selective_metrics(answered, self.decided == self.targets)
        kept = {key: selective[key] for key in ("aurc", "accuracy_at_90")}
        return {**calibration_metrics(self.probabilities, self.targets, self.decided), **kept}


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
    if not isinstance(task, Classify) or not task.one_label:
        raise InputError("calibration is for task.name=classify with one label to a text")
    with silent():
        has_test = task.read_ahead().test is not None
    fitting = _known(predictor, "validation")
    if has_test:
        judging, names = _known(predictor, "test"), ("test", "validation")
    else:
        fitting, judging = fitting.of(slice(0, None, 2)), fitting.of(slice(1, None, 2))
        names = ("half of validation", "half of validation")
    if not len(fitting.targets) or not len(judging.targets):
        raise InputError(f"{predictor.run.path} has too few rows to judge probabilities by")
    logs = np.log(np.maximum(fitting.probabilities, LEAST))
    temperature = fitted_temperature(logs, fitting.targets)
    # A temperature changes no answer.
    cooled = replace(judging, probabilities=with_temperature(judging.probabilities, temperature))
    before, after = (
        resampled(one.probabilities, one.targets, one.decided) for one in (judging, cooled)
    )
    return {
        "judged_on": names[0],
        "fitted_on": names[1],
        "rows": len(judging.targets),
        "temperature": temperature,
        "before": judging.metrics(),
        "after": cooled.metrics(),
        "difference": after.minus(before, "ece").to_dict(),
    }


def _known(predictor: Predictor, name: str) -> _Known:
    """Return what the run found for one part of its rows, of those that are of a class."""
    task: Any = own.labelled_task(predictor)
    with silent():
        rows = task.rows(name)
    judged = own.judge_own(predictor, name, rows)
    inside = judged.references >= 0
    probabilities = judged.outputs["probabilities"][inside].astype(np.float64)
    targets = judged.references[inside].astype(np.int64)
    return _Known(probabilities, targets, decided_of(judged.outputs)[inside])
