"""Matrices rounded to int8 by rows."""

from __future__ import annotations

import torch

from wafergpt.model.rounding import rounded_rows


def test_each_row_has_a_scale_and_zeros_stay_zeros() -> None:
    weight = torch.tensor([[0.0, 0.0, 0.0], [1.27, -0.64, 0.004], [-1e-9, 4e-10, 0.0]])
    values, scales = rounded_rows(weight)
    assert values.tolist() == [[0, 0, 0], [127, -64, 0], [-127, 51, 0]]
    error = (values * scales - weight).abs()
    assert (error <= scales / 2 * (1 + 1e-6)).all()
