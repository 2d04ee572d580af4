"""How sure a metric is, and whether two models really differ on the same rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
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
        p: two-sided: twice the share of resamples in which the difference has the other sign or is
            zero.
    """

    value: float
    low: float
    high: float
    p: float

    @property
    def significant(self) -> bool:
        """Whether the interval excludes zero."""
        return self.low > 0 or self.high < 0

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
    """

    whole: Mapping[str, float]
    resampled: Mapping[str, NDArray[np.float64]]

    @classmethod
    def of(
        cls, metrics: Callable[[NDArray[np.int64]], Mapping[str, float]], n: int, seed: int = 0
    ) -> Bootstrap:
        """Compute metrics on all rows and on resamples.

        Args:
            metrics: of rows below ``n``, given by number and possibly repeated.
            n: the number of rows.
            seed: of the resamples.
        """
        generator = np.random.default_rng(seed)
        whole = metrics(np.arange(n))
        found = [metrics(generator.integers(n, size=n)) for _ in range(RESAMPLES)]
        return cls(whole, {name: np.array([one[name] for one in found]) for name in whole})

    def interval(self, metric: str) -> tuple[float, float]:
        """Return the percentile interval of a metric."""
        return _ends(self.resampled[metric])

    def minus(self, other: Bootstrap, metric: str) -> Difference:
        """Return how far this model's metric is above another's on the same rows."""
        values = self.resampled[metric] - other.resampled[metric]
        opposite = float(min((values <= 0).mean(), (values >= 0).mean()))
        whole = self.whole[metric] - other.whole[metric]
        return Difference(whole, *_ends(values), min(1.0, 2 * opposite))


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
