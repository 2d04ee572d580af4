"""Curves: smoothing, thinning, axes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wafergpt.config import recipe_from
from wafergpt.reports import curves
from wafergpt.reports.sections import Chapter
from wafergpt.runs.run import Run


def chapter(rows: list[dict[str, Any]]) -> Chapter:
    recipe = recipe_from({})
    return Chapter("pretraining", "Pretraining", Run(Path("none")), recipe, rows, {}, {})


def rows(losses: list[float]) -> list[dict[str, Any]]:
    return [
        {"step": i + 1, "tokens": 10 * (i + 1), "seconds": 60.0 * (i + 1), "loss": loss}
        for i, loss in enumerate(losses)
    ]


def test_smoothing_is_the_centred_mean_numpy_gives() -> None:
    losses = np.random.default_rng(0).normal(3, 1, 500)
    smooth = curves._smooth(rows(losses.tolist()), "loss")
    width = 21  # 2% of 500 to either side
    expected = np.convolve(losses, np.ones(width) / width, mode="valid")
    np.testing.assert_allclose(smooth[10:-10], expected, rtol=1e-12)


def test_smoothing_starts_at_the_first_loss_and_keeps_a_slope() -> None:
    losses = [10 - 0.01 * i for i in range(500)]
    smooth = curves._smooth(rows(losses), "loss")
    assert smooth[0] == 10
    assert smooth[3] == pytest.approx(losses[3])


@given(st.lists(st.floats(0.1, 20), min_size=1, max_size=5000))
def test_thinning_keeps_the_extremes_and_the_ends(losses: list[float]) -> None:
    kept = curves._thin(rows(losses), "loss")
    found = [row["loss"] for row in kept]
    assert len(kept) <= curves.MAX_POINTS + 2
    assert (max(found), min(found)) == (max(losses), min(losses))
    assert (kept[0]["step"], kept[-1]["step"]) == (1, len(losses))
    assert [row["step"] for row in kept] == sorted({row["step"] for row in kept})


def test_time_has_the_unit_that_fits() -> None:
    (loss,) = curves.curves(chapter(rows([3.0, 2.0, 1.0, 0.5])))
    assert loss.axes == {"tokens": "Tokens", "seconds": "Time (minutes)", "step": "Step"}
    assert loss.data[0]["x"] == {
        "tokens": [10, 20, 30, 40],
        "seconds": [1, 2, 3, 4],
        "step": [1, 2, 3, 4],
    }


def test_an_axis_that_a_row_lacks_is_not_offered() -> None:
    some = rows([3.0, 2.0])
    del some[1]["tokens"]
    (loss,) = curves.curves(chapter(some))
    assert list(loss.axes) == ["seconds", "step"]


def test_validation_is_marked_where_it_is_lowest() -> None:
    some = rows([3.0, 2.0, 1.0])
    for row, value in zip(some, [2.5, 1.9, 2.2], strict=True):
        row["val_loss"] = value
    (loss,) = curves.curves(chapter(some))
    assert "lowest validation loss 1.900, at step 2" in loss.caption
    assert [trace["name"] for trace in loss.data] == ["training", "validation"]


def test_the_share_of_clipped_steps_is_shown() -> None:
    some = [{"step": i, "grad_norm": norm} for i, norm in enumerate([0.5, 1.5, 2.0, 0.9])]
    (chart,) = curves.curves(chapter(some))
    assert chart.caption == "Clipped to 1 in 50% of the steps."


@pytest.mark.parametrize(("last", "axis"), [(0.9001, [0.89, 0.91]), (0.95, None)])
def test_shares_that_hardly_differ_do_not_fill_the_axis(
    last: float, axis: list[float] | None
) -> None:
    found = rows([3.0, 2.0])
    for row, share in zip(found, (0.9, last), strict=True):
        row["val_accuracy"] = share
    (_, accuracy) = curves.curves(chapter(found))
    drawn = accuracy.layout["yaxis"].get("range")
    assert drawn == (axis and pytest.approx(axis, abs=1e-3))
