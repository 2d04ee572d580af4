"""How sure a metric is, and whether two models really differ on the same rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.95
"""Confidence of every interval."""

RESAMPLES = 1000


@dataclass(frozen=True)
class Difference:
    """How far one model's metric is above another's, on the same rows.

    Attributes:
        value: on all rows.
        low: end of the interval.
        high: end of the interval.
        p: of as large a difference by chance, two-sided. Chance is that of the rows: how much
            another training of the same model would differ is not in it.
    """

    value: float
    low: float
    high: float
    p: float

    def to_dict(self) -> dict[str, float]:
        """Return plain values for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Bootstrap:
    """A model's metrics on some rows, and on resamples of them (Efron, 1979).

    The resamples depend on the number of rows and the seed alone, so two models that were judged on
    the same rows are compared on the same resamples: a paired test (Berg-Kirkpatrick et al.,
    EMNLP 2012).

    Attributes:
        whole: each metric on all rows.
        resampled: ``[RESAMPLES]`` values of each.
        n: the number of rows.
        shares: metrics that are shares of the rows, of which resamples know no spread near 0 and 1.
    """

    whole: Mapping[str, float]
    resampled: Mapping[str, NDArray[np.float64]]
    n: int
    shares: Collection[str] = ()

    @classmethod
    def of(
        cls,
        metrics: Callable[[NDArray[np.int64]], Mapping[str, float]],
        n: int,
        seed: int = 0,
        shares: Collection[str] = (),
    ) -> Bootstrap:
        """Compute metrics on all rows and on resamples.

        Args:
            metrics: of rows below ``n``, given by number and possibly repeated.
            n: the number of rows.
            seed: of the resamples.
            shares: metrics that are shares of the rows.
        """
        generator = np.random.default_rng(seed)
        whole = metrics(np.arange(n))
        found = [metrics(generator.integers(n, size=n)) for _ in range(RESAMPLES)]
        resampled = {name: np.array([one[name] for one in found]) for name in whole}
        return cls(whole, resampled, n, shares)

    @classmethod
    def of_means(
        cls, values: Mapping[str, NDArray[np.floating]], shares: Collection[str] = ()
    ) -> Bootstrap:
        """Compute metrics that are means over rows, and the same of resamples.

        Args:
            values: ``[n]`` of each metric, of one row at least.
            shares: metrics that are shares of the rows.
        """

        def means(rows: NDArray[np.int64]) -> Mapping[str, float]:
            return {name: float(of_rows[rows].mean()) for name, of_rows in values.items()}

        return cls.of(means, len(next(iter(values.values()))), shares=shares)

    def interval(self, metric: str) -> tuple[float, float]:
        """Return the percentile interval of a metric."""
        return _ends(self.resampled[metric])

    def intervals(self) -> dict[str, list[float]]:
        """Return the interval of each metric."""
        return {
            name: list(
                wilson(self.whole[name], self.n) if name in self.shares else self.interval(name)
            )
            for name in self.whole
        }

    def minus(self, other: Bootstrap, metric: str) -> Difference:
        """Return how far this model's metric is above another's on the same rows."""
        values = self.resampled[metric] - other.resampled[metric]
        opposite = min((values <= 0).sum(), (values >= 0).sum())
        p = min(1.0, 2 * float(opposite + 1) / (RESAMPLES + 1))
        return Difference(self.whole[metric] - other.whole[metric], *_ends(values), p)


def difference(
    ours: Bootstrap | None, theirs: Bootstrap | None, metric: str
) -> dict[str, float] | None:
    """Return how far a metric is above another model's on the same rows, if both know it.

    Args:
        ours: of one model; None if it has no metrics of rows.
        theirs: of the other one.
        metric: of both.
    """
    if ours is None or theirs is None or metric not in ours.whole:
        return None
    return ours.minus(theirs, metric).to_dict()


def mcnemar(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    """Return the p of two models' accuracies on the same rows (McNemar, 1947; exact, two-sided).

    Args:
        first: ``[n]``, whether one model is right.
        second: ``[n]``, whether the other one is.
    """
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    n, fewer = only_first + only_second, min(only_first, only_second)
    logs = [
        math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) for k in range(fewer + 1)
    ]
    return min(1.0, 2 * math.fsum(math.exp(log - n * math.log(2)) for log in logs))


def wilson(share: float, n: float) -> tuple[float, float]:
    """Return the interval of a share measured on ``n`` rows (Wilson, 1927)."""
    z = 1.96
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def _ends(values: NDArray[np.float64]) -> tuple[float, float]:
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(values, (tail, 1 - tail))
    return float(low), float(high)
