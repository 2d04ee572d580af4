from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from wafergpt.config import load_recipe
from wafergpt.errors import InputError
from wafergpt.run import Run
from wafergpt.train.callbacks.tracking import trackers

SCRIPT = """
import sys
from pathlib import Path
from wafergpt.config import load_recipe
from wafergpt.run import Run
from wafergpt.train.callbacks.tracking import trackers
recipe = load_recipe(None, ["name=tracked", "tracking.tensorboard=true", "tracking.wandb=true"])
run = Run.create(recipe, Path(sys.argv[1]))
followers = trackers(recipe, run)
assert len(followers) == 2
for step in (1, 2, 3):
    for follower in followers:
        follower.log({"step": step, "loss": 3.0 / step, "lr": 0.5})
        follower.log({"step": step, "left_out": "the loss is nan"})
for follower in followers:
    follower.close()
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run tracked by both, in a process of its own: their imports warn."""
    for package in ("tensorboard", "wandb"):
        pytest.importorskip(package, reason="the tracking tests need wafergpt[track]")
    home = tmp_path_factory.mktemp("tracked")
    environment = {**os.environ, "WANDB_MODE": "offline", "HOME": str(home), "WANDB_SILENT": "true"}
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(home)], env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    return Run.find("tracked", home)


@pytest.mark.filterwarnings("ignore")
def test_tensorboard_has_every_number(run: Run) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run.path / "tensorboard"))
    events.Reload()
    assert sorted(events.Tags()["scalars"]) == ["loss", "lr"]
    losses = [(event.step, event.value) for event in events.Scalars("loss")]
    assert losses == [(1, 3.0), (2, 1.5), (3, 1.0)]


def test_wandb_has_an_offline_run_with_the_recipe(run: Run) -> None:
    (record,) = run.path.glob("wandb/offline-run-*/*.wandb")
    content = record.read_bytes()
    for word in (b"loss", b"tracked", b"n_layers"):
        assert word in content


def test_a_missing_tracker_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    recipe = load_recipe(None, ["name=r", "tracking.wandb=true"])
    with pytest.raises(InputError, match=r"pip install 'wafergpt\[track\]'"):
        trackers(recipe, Run.create(recipe, tmp_path))
