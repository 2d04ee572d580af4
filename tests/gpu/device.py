"""The device of the tests of GPUs, and what needs it."""

from __future__ import annotations

import os

import pytest
import torch

from wafergpt.runs.run import Run

DEVICE = os.environ.get("TEST_DEVICE", "cuda")
"""``TEST_DEVICE=cpu`` runs those tests that name it where there is no GPU."""

NEEDS_DEVICE = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        DEVICE == "cuda" and not torch.cuda.is_available(), reason="there is no NVIDIA GPU here"
    ),
]


def losses(run: Run) -> list[float]:
    """Return the training losses of a run."""
    return [row["loss"] for row in run.metrics() if "loss" in row]
