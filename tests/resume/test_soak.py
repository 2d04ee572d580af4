"""The short form of benchmarks/soak.py."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import soak
from wafergpt import files
from wafergpt.checkpoint import store

STEPS = {kind: 40 if "--nproc" in options else 150 for kind, options in soak.KINDS.items()}
"""Of several processes each step takes as long as several of one."""

FORMATS = ("one process", "two that spread them")
"""Kinds whose checkpoints are written differently: in one file, and in parts."""


@pytest.mark.slow
@pytest.mark.usefixtures("preloaded")
@pytest.mark.parametrize("kind", list(soak.KINDS))
def test_killed_damaged_and_on_a_full_disk_nothing_is_lost(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one test, for its runs take long, and two workers would each make them."""
    soak.corpus(tmp_path)
    kills = 2 if kind in FORMATS else 1
    # The second run saves beside the training.
    run, count = soak.kill(tmp_path, kind, 2, kills, steps=STEPS[kind], seed=1)
    # Killed at random, every run ends in the same bits.
    assert count.runs == 2
    assert count.kills >= kills
    assert count.different == 0
    if kind not in FORMATS:
        return
    # No damaged checkpoint is loaded.
    assert soak.damage_many(run, count=40, seed=1) == 0
    # A full disk at any write loses nothing.
    writes, lost = soak.fill_the_disk(run)
    assert writes > 8
    assert lost == 0
    # The soak detects a difference: with sizes in place of hashes, flipped bits get through.
    monkeypatch.setattr(files, "sha256", lambda path: "0" * 64)
    for folder in store.every(run):
        sizes = {n: e | {"sha256": "0" * 64} for n, e in _entries(folder).items()}
        (folder / "manifest.json").write_text(json.dumps(sizes))
    assert soak.damage_many(run, count=40, seed=1) > 0


def _entries(folder: Path) -> dict[str, dict[str, object]]:
    entries: dict[str, dict[str, object]] = json.loads((folder / "manifest.json").read_text())
    return entries
