"""Intervals and paired tests against scipy's."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from wafergpt.evaluation.intervals import Bootstrap, mcnemar, wilson


@given(st.integers(0, 1000), st.integers(1, 1000))
def test_intervals_of_shares_are_those_of_scipy(right: int, more: int) -> None:
    n = right + more
    low, high = wilson(right / n, n)
    expected = stats.binomtest(right, n).proportion_ci(0.95, method="wilson")
    # 1.96 for 1.959964.
    assert low == pytest.approx(expected.low, abs=1e-4)
    assert high == pytest.approx(expected.high, abs=1e-4)


def bootstrap(values: NDArray[np.float64], seed: int = 0) -> Bootstrap:
    def metrics(rows: NDArray[np.int64]) -> Mapping[str, float]:
        return {"mean": float(values[rows].mean()), "median": float(np.median(values[rows]))}

    return Bootstrap.of(metrics, len(values), seed)


def mean(values: NDArray[np.float64], rows: NDArray[np.int64]) -> Mapping[str, float]:
    return {"mean": float(values[rows].mean())}


def test_the_bootstrap_is_that_of_scipy() -> None:
    values = np.random.default_rng(1).gamma(2.0, size=400)
    ours = bootstrap(values)
    for name, statistic in (("mean", np.mean), ("median", np.median)):
        expected = stats.bootstrap(
            (values,), statistic, method="percentile", n_resamples=4000, rng=2
        ).confidence_interval
        width = expected.high - expected.low
        assert ours.interval(name) == pytest.approx(tuple(expected), abs=0.1 * width)
        assert ours.whole[name] == statistic(values)


def test_pairs_tell_apart_what_lies_within_both_intervals() -> None:
    """Rows differ far more than the models: only the paired test sees the difference."""
    generator = np.random.default_rng(3)
    rows = generator.normal(size=500)
    first = bootstrap(rows + 0.05 + generator.normal(scale=0.1, size=500))
    second = bootstrap(rows)
    assert first.interval("mean")[0] < second.whole["mean"]
    found = first.minus(second, "mean")
    assert found.p < 0.01
    assert found.low < 0.05 < found.high
    back = second.minus(first, "mean")
    assert (back.value, back.low, back.high) == pytest.approx(
        (-found.value, -found.high, -found.low)
    )


def test_equal_models_do_not_differ() -> None:
    values = np.random.default_rng(4).normal(size=50)
    found = bootstrap(values).minus(bootstrap(values), "mean")
    assert (found.value, found.low, found.high, found.p) == (0, 0, 0, 1)


@pytest.mark.slow
def test_it_rejects_equal_models_as_often_as_it_says() -> None:
    generator = np.random.default_rng(5)
    rejected = 0
    for seed in range(60):
        drawn = generator.normal(size=(2, 80))
        first, second = (Bootstrap.of(partial(mean, one), 80, seed) for one in drawn)
        found = first.minus(second, "mean")
        rejected += found.p < 0.05
    # Binomial(60, 0.06) is at most this with probability 0.999: the percentile interval is a
    # little too narrow for so few rows.
    assert rejected <= 11


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_mcnemar_is_the_binomial_test_of_the_rows_that_differ(
    pairs: list[tuple[bool, bool]],
) -> None:
    first, second = np.array(pairs).T
    only, differ = int((first & ~second).sum()), int((first != second).sum())
    expected = stats.binomtest(only, differ).pvalue if differ else 1.0
    assert mcnemar(first, second) == pytest.approx(expected)
    assert mcnemar(second, first) == mcnemar(first, second)


def test_mcnemar_of_many_rows() -> None:
    first = np.arange(40_000) % 2 == 0
    second = ~first
    second[:4000:2] = True
    differ = int((first != second).sum())
    expected = stats.binomtest(int((first & ~second).sum()), differ).pvalue
    assert mcnemar(first, second) == pytest.approx(expected, rel=1e-6)
