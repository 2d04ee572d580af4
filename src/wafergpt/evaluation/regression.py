"""How far predicted numbers are from the right ones."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class RegressionMetrics:
    """A regression's scores; correlations with numbers that are all alike are 0.

    Attributes:
        loss: mean squared error in units of the variance that training divided by.
        mean_absolute_error: in the units of the answers.
        rmse: root of the mean squared error, in the units of the answers.
        r2: coefficient of determination, 1 if exact.
        pearson: linear correlation.
        spearman: correlation of ranks, ties at their mean rank.
        quadratic_kappa: of predictions rounded to whole numbers (Cohen, 1968); None unless all
            answers are whole.
    """

    loss: float
    mean_absolute_error: float
    rmse: float
    r2: float
    pearson: float
    spearman: float
    quadratic_kappa: float | None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON, those that are there."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def regression_metrics(
    predictions: NDArray[np.floating], targets: NDArray[np.floating], scale: float = 1.0
) -> RegressionMetrics:
    """Compute the metrics of predicted numbers ``[n]``.

    R² of targets that are all alike is 0, and 1 where the predictions are exact.

    Args:
        predictions: ``[n]``.
        targets: ``[n]``, the right ones.
        scale: that training divided targets by.
    """
    found, wanted = predictions.astype(np.float64), targets.astype(np.float64)
    errors = found - wanted
    squared = float((errors**2).sum())
    # The mean of equal numbers may differ from them by its rounding.
    spread = float(((wanted - wanted.mean()) ** 2).sum()) if np.ptp(wanted) else 0.0
    whole = bool((wanted == wanted.round()).all())
    return RegressionMetrics(
        loss=squared / len(errors) / scale**2,
        mean_absolute_error=float(np.abs(errors).mean()),
        rmse=float(np.sqrt(squared / len(errors))),
        r2=1 - squared / spread if spread else float(squared == 0),
        pearson=_correlation(found, wanted),
        spearman=_correlation(_ranks(found), _ranks(wanted)),
        quadratic_kappa=_quadratic_kappa(found.round(), wanted) if whole else None,
    )


def _correlation(first: Floats, second: Floats) -> float:
    if not np.ptp(first) or not np.ptp(second):
        return 0.0
    one, two = first - first.mean(), second - second.mean()
    size = float(np.sqrt((one @ one) * (two @ two)))
    return float(np.clip(one @ two / size, -1.0, 1.0)) if size else 0.0


def _ranks(values: Floats) -> Floats:
    """Return the rank of each value, of equal ones their mean."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(counts) - (counts - 1) / 2)[place])


def _quadratic_kappa(found: Floats, wanted: Floats) -> float:
    """Return 1 less the squared error by that of independent answers with the same frequencies."""
    by_chance = found.var() + wanted.var() + (found.mean() - wanted.mean()) ** 2
    return float(1 - ((found - wanted) ** 2).mean() / by_chance) if by_chance else 1.0
