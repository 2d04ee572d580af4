"""Shared fixtures: the real data sets that stand beside the project."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import settings

from tests.preloaded import Popen
from wafergpt.logs import show

# How long an example takes depends on what else the machine does.
settings.register_profile("wafergpt", deadline=None)
settings.load_profile("wafergpt")

DATA = Path(os.environ.get("WAFERGPT_DATA", Path(__file__).parents[1] / ".." / "shared" / "data"))


def pytest_configure(config: pytest.Config) -> None:
    """Hide the GPUs from all tests but theirs: those of processes want one for each."""
    marks, named = config.option.markexpr, any("gpu" in argument for argument in config.args)
    if not named and ("gpu" not in marks or "not gpu" in marks):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    _stay_on_one_core()


def _stay_on_one_core() -> None:
    """Keep each of several workers on a core of its own: threads of two wait for each other."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    if worker and hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[int(worker.removeprefix("gw")) % len(cores)]})


@pytest.fixture(scope="session", autouse=True)
def messages() -> None:
    """Show what is said, as the command line does."""
    show()


@pytest.fixture
def preloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have processes of Python forked from one that has imported torch, in the library too."""
    monkeypatch.setattr(subprocess, "Popen", Popen)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Return the folder of real data sets, or skip."""
    if not DATA.is_dir():
        pytest.skip(f"no real data at {DATA.resolve()}; set WAFERGPT_DATA")
    return DATA
