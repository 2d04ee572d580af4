"""The short form of benchmarks/soak.py."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import soak
from wafergpt import files
from wafergpt.checkpoint import store
from wafergpt.runs.run import Run


@pytest.fixture(scope="module", params=list(soak.KINDS))
def killed(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> tuple[Run, soak.Kills]:
    root = tmp_path_factory.mktemp("soak")
    soak.corpus(root)
    return soak.kill(root, request.param, runs=2, kills=2, steps=300, seed=1)


@pytest.mark.slow
def test_killed_at_random_every_run_ends_in_the_same_bits(killed: tuple[Run, soak.Kills]) -> None:
    _, count = killed
    assert count.runs == 2
    assert count.kills >= 2
    assert count.different == 0


@pytest.mark.slow
def test_no_damaged_checkpoint_is_loaded(killed: tuple[Run, soak.Kills]) -> None:
    assert soak.damage_many(killed[0], count=60, seed=1) == 0


@pytest.mark.slow
def test_a_full_disk_at_any_write_loses_nothing(killed: tuple[Run, soak.Kills]) -> None:
    writes, lost = soak.fill_the_disk(killed[0])
    assert writes > 8
    assert lost == 0


@pytest.mark.slow
def test_the_soak_detects_a_difference(
    killed: tuple[Run, soak.Kills], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With sizes in place of hashes, flipped bits get through."""
    run, _ = killed
    monkeypatch.setattr(files, "sha256", lambda path: "0" * 64)
    for folder in store.every(run):
        sizes = {n: e | {"sha256": "0" * 64} for n, e in _entries(folder).items()}
        (folder / "manifest.json").write_text(json.dumps(sizes))
    assert soak.damage_many(run, count=60, seed=1) > 0


def _entries(folder: Path) -> dict[str, dict[str, object]]:
    entries: dict[str, dict[str, object]] = json.loads((folder / "manifest.json").read_text())
    return entries
