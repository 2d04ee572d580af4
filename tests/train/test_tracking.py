from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from wafergpt.config import load_recipe
from wafergpt.errors import InputError
from wafergpt.runs.run import Run
from wafergpt.train.tracking import trackers

SCRIPT = """
import sys
from pathlib import Path
from wafergpt.config import load_recipe
from wafergpt.runs.run import Run
from wafergpt.train.tracking import TensorBoard, trackers
recipe = load_recipe(None, ["name=tracked", "tracking.tensorboard=true", "tracking.wandb=true"])
run = Run.create(recipe, Path(sys.argv[1]))
opened = trackers(recipe, run)
assert len(opened) == 2
for step in (1, 2, 3):
    for tracker in opened:
        tracker.log({"step": step, "loss": 3.0 / step, "lr": 0.5})
        tracker.log({"step": step, "skipped": "the loss is nan"})
for tracker in opened:
    tracker.close()
again = TensorBoard(run)
again.log({"step": 3, "loss": 0.5})
again.close()
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
    # The last step was made again after a resume.
    assert losses == [(1, 3.0), (2, 1.5), (3, 0.5)]


def wandb_records(run: Run) -> Iterator[Any]:
    """Yield what an offline run has stored: a log of LevelDB's, whose entries are protobufs."""
    # Its attributes are made while it is imported.
    protocol: Any = import_module("wandb.proto.wandb_internal_pb2")
    (path,) = run.path.glob("wandb/offline-run-*/*.wandb")
    content, place = path.read_bytes(), 7
    # Longer logs come in blocks, and their entries in pieces.
    assert content.startswith(b":W&B")
    assert len(content) < 1 << 15
    while place < len(content):
        _, length, kind = struct.unpack_from("<IHB", content, place)
        place += 7 + length
        assert kind == 1
        yield protocol.Record.FromString(content[place - length : place])


def values(items: Any) -> dict[str, Any]:
    return {item.key or item.nested_key[0]: json.loads(item.value_json) for item in items}


@pytest.mark.filterwarnings("ignore")
def test_wandb_has_every_row_and_the_recipe_offline(run: Run) -> None:
    records = list(wandb_records(run))
    (begun,) = (record.run for record in records if record.HasField("run"))
    # Another run of that name in the project is another one.
    assert begun.run_id == run.read("wandb")["id"]
    assert begun.run_id.startswith("tracked-")
    assert begun.display_name == "tracked"
    assert values(begun.config.update)["model"] == run.recipe.model.model_dump(mode="json")
    rows = [values(record.history.item) for record in records if record.HasField("history")]
    assert [(row["_step"], row["loss"], row["lr"]) for row in rows] == [
        (1, 3.0, 0.5),
        (2, 1.5, 0.5),
        (3, 1.0, 0.5),
    ]
    assert {row["skipped"] for row in rows} == {"the loss is nan"}


def test_a_missing_tracker_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    recipe = load_recipe(None, ["name=r", "tracking.wandb=true"])
    with pytest.raises(InputError, match=r"pip install 'wafergpt\[track\]'"):
        trackers(recipe, Run.create(recipe, tmp_path))


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({}, "No API key configured"),
        ({"WANDB_API_KEY": "short"}, "must have 40"),
        ({"WANDB_MODE": "never"}, "mode: Input should be 'online', 'offline'"),
        ({"WANDB_MODE": "offline", "WANDB_PROJECT": "a/b"}, "Invalid project name 'a/b'"),
    ],
)
def test_wandb_without_a_key_or_with_odd_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], reason: str
) -> None:
    wandb = pytest.importorskip("wandb", reason="needs wafergpt[track]")
    # It reads the environment once.
    wandb.teardown()
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    recipe = load_recipe(None, ["name=r", "tracking.wandb=true"])
    run = Run.create(recipe, tmp_path)
    with pytest.raises(
        InputError, match=rf"Weights & Biases: .*{reason}.*WANDB_MODE=offline"
    ) as at:
        trackers(recipe, run)
    assert str(at.value).endswith(f"--resume {run.path} goes on then")
