"""Studies on a Ray cluster of two nodes, which the test starts for itself."""

from __future__ import annotations

import importlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tuning.films import LR, tune
from wafergpt.config import System
from wafergpt.errors import InputError, Interrupted
from wafergpt.runs.run import Run
from wafergpt.tuning import ray_workers
from wafergpt.tuning.ray_workers import STORE_BYTES, Slot, connected, slot_for

NODE: dict[str, Any] = {"num_cpus": 1, "object_store_memory": STORE_BYTES}
STEPS = 90
"""So many that the study is interrupted before the last trial ends."""


@given(
    st.lists(st.tuples(st.integers(0, 64), st.integers(0, 8)), max_size=5),
    st.integers(1, 9),
    st.integers(1, 4),
    st.sampled_from(["auto", "cpu", "cuda"]),
)
def test_no_other_slots_give_more_room(
    nodes: list[tuple[float, float]], workers: int, nproc: int, device: str
) -> None:
    slot = slot_for(System(device=device, nproc=nproc), workers, nodes)
    on_gpus = device == "cuda" or (device == "auto" and any(gpus for _, gpus in nodes))
    assert (slot.nproc, slot.gpus) == (nproc, nproc if on_gpus else 0)
    here = min(workers, slot.fits(nodes))
    assert here == min(workers, Slot(1, nproc, slot.gpus).fits(nodes))
    assert not here or Slot(slot.threads + 1, nproc, slot.gpus).fits(nodes) < here
    # They are really there.
    left = [list(node) for node in nodes]
    for _ in range(here):
        node = next(n for n in left if n[0] >= slot.cpus and n[1] >= slot.gpus)
        node[0] -= slot.cpus
        node[1] -= slot.gpus


def test_threads_of_the_recipe_are_taken() -> None:
    assert slot_for(System(threads=3, nproc=2), 4, [(8.0, 0.0)]) == Slot(3, 2, 0)


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"pip install 'wafergpt\[cluster\]'"), connected("auto"):
        pass


def test_what_listens_and_does_not_answer_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray", reason="Ray is not installed")
    monkeypatch.setattr(ray_workers, "ANSWER_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        message = f"no Ray cluster at {address}: no answer within 0.2 seconds"
        with pytest.raises(InputError, match=message), connected(address):
            pass


@pytest.fixture
def address(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Start a cluster of two nodes of one core each, and return its address."""
    pytest.importorskip("ray", reason="Ray is not installed")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    cluster = importlib.import_module("ray.cluster_utils").Cluster(
        initialize_head=True, head_node_args={**NODE, "include_dashboard": False}
    )
    cluster.add_node(**NODE)
    yield cluster.address
    cluster.shutdown()


def when(ready: Callable[[], bool], then: Callable[[], object]) -> threading.Thread:
    """Do something as soon as something else is true, beside the test."""

    def wait() -> None:
        deadline = time.monotonic() + 200
        while not ready():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        then()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


@pytest.mark.slow
@pytest.mark.usefixtures("any_gain")
def test_workers_on_two_nodes_make_each_trial_once(
    address: str, rows: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Also when one is killed, and all are interrupted."""
    folder, killed = rows / "runs" / "film-tune", []

    def kill(name: str) -> None:
        holder = (folder / name / "holder").read_text()
        killed.append(name)
        os.kill(int(holder.split()[1]), signal.SIGKILL)

    def is_trained(name: str) -> bool:
        run = Run(folder / name)
        return (run.path / "holder").exists() and len(run.metrics()) > 2

    def study(**options: Any) -> Run:
        return tune(rows, LR, f"train.steps={STEPS}", "evaluate.every=1", trials=3, **options)

    when(lambda: is_trained("trial-000"), lambda: kill("trial-000"))
    when(lambda: is_trained("trial-002"), lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(Interrupted, match="the trials are saved; the same command goes on"):
        study(workers=2, ray=address)
    assert killed == ["trial-000"]
    assert "was lost (WorkerCrashedError): another one takes up its trial" in capfd.readouterr().err
    last = Run(folder / "trial-002")
    assert not (last.path / "holder").exists()
    before = last.metrics()
    assert 2 < len(before) < STEPS
    # No matter where.
    result = study().read("result")
    assert sorted(one["run"] for one in result["outcomes"]) == [f"trial-00{n}" for n in range(3)]
    for one in result["outcomes"]:
        assert one["values"], one["why"]
        steps = [row["step"] for row in Run(folder / one["run"]).metrics()]
        assert steps == list(range(1, STEPS + 1))
    assert last.metrics()[: len(before)] == before
    # Whichever had the time to end one.
    assert any("trial " in log.read_text() for log in folder.glob("worker-*.log"))
    assert Run(rows / "runs" / "film").read("result")["test"] == result["test"]
