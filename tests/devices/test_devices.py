from __future__ import annotations

import json
import sys
import sysconfig
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tests.machines import MACHINE
from wafergpt.api import plan
from wafergpt.devices import detect, probe
from wafergpt.devices import doctor as report
from wafergpt.devices.doctor import examine
from wafergpt.errors import InputError
from wafergpt.planning.hardware import Machine


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(probe, "busy_percent", lambda seconds=0.3: 0.0)
    return tmp_path / "wafergpt"


@pytest.mark.slow
def test_a_machine_is_measured_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = probe.probe("cpu", seconds=0.3)
    assert first.matmul_flops_fp32 > 1e8
    assert first.bandwidth > 1e8
    assert 1 <= first.cores <= 4096
    assert 0 < first.memory_available <= first.memory_bytes
    (record,) = cache.iterdir()
    measured: list[object] = []

    def measure(*asked: object) -> Machine:
        measured.append(asked)
        return first

    monkeypatch.setattr(probe, "measure", measure)
    again = probe.probe("cpu")
    assert not measured
    assert again.matmul_flops_fp32 == first.matmul_flops_fp32
    assert again.training_flops == first.training_flops
    probe.probe("cpu", fresh=True)
    assert len(measured) == 1
    for damage in ("", "{}", "[]", '{"version": 1}', json.dumps({"version": 99})):
        record.write_text(damage)
        assert probe.probe("cpu").matmul_flops_fp32 == first.matmul_flops_fp32
    assert len(measured) == 6


@pytest.mark.parametrize("others", [[80.0, 0.0], [0.0, 80.0]], ids=["before", "in between"])
def test_what_a_busy_machine_shows_counts_while_it_is_busy(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    others: list[float],
) -> None:  # fmt: skip
    measured: list[float] = []

    def measure(*_: object) -> Machine:
        measured.append(1e9 * (1 + len(measured)))
        return replace(MACHINE, bandwidth=measured[-1])

    def bandwidth(*seen: float, fresh: bool = False) -> float:
        found = iter(seen)
        monkeypatch.setattr(probe, "busy_percent", lambda seconds=0.3: next(found))
        return probe.probe("cpu", fresh=fresh).bandwidth

    monkeypatch.setattr(probe, "measure", measure)
    assert bandwidth(*others) == 1e9
    said = "other programs use 80% of the cores: this is "
    assert f"{said}only kept while they do" in capsys.readouterr().err
    assert bandwidth(80.0) == 1e9
    assert bandwidth(0.0, *others) == 2e9
    assert bandwidth(*others, fresh=True) == bandwidth(80.0) == 3e9
    # Nor for long, nor if the clock was set back.
    (record,) = cache.iterdir()
    values = json.loads(record.read_text())
    for when in (time.time() - 700, time.time() + 700, "yesterday"):
        record.write_text(json.dumps(values | {"beside_others": when}))
        assert bandwidth(*others) == measured[-1]
    assert len(measured) == 6
    # What was measured alone is kept.
    assert bandwidth(0.0, 0.0, 0.0) == 7e9
    capsys.readouterr()
    assert bandwidth(*others, fresh=True) == 8e9
    assert f"{said}not kept" in capsys.readouterr().err
    assert bandwidth() == 7e9


def test_beside_others_it_is_measured_on_the_cores_they_leave(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(detect, "cores", lambda: 4)
    assert [probe.free_threads(p) for p in (0, 20, 50, 74, 100)] == [4, 4, 2, 1, 1]


@pytest.mark.slow
def test_a_cache_that_cannot_be_written_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(probe, "busy_percent", lambda seconds=0.3: 0.0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert probe.probe("cpu", seconds=0.2).device == "cpu"
    assert "could not be saved" in capsys.readouterr().err


def test_devices_that_are_not_here() -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    assert detect.resolve_device("auto") in {"cpu", "mps"}
    with pytest.raises(InputError, match=r"system.device=cuda cannot be used"):
        detect.resolve_device("cuda")


def test_a_compiler_is_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("CXX", raising=False)
    assert detect.compiler_path() is None
    assert not detect.compiler_available("cpu")
    assert "install g++" in str(detect.compiler_missing("cpu"))
    monkeypatch.setenv("CXX", "ccache g++")
    assert "CXX=ccache g++ is not a program" in str(detect.compiler_missing("cpu"))
    monkeypatch.setenv("CXX", "/bin/sh")
    assert detect.compiler_path() == "/bin/sh"
    monkeypatch.setattr(sysconfig, "get_path", lambda name: "/nowhere")
    assert "Python's headers in /nowhere" in str(detect.compiler_missing("cpu"))


@pytest.mark.skipif(sys.platform == "darwin", reason="clang++ is Apple's")
def test_a_compiler_that_torch_does_not_try_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "clang++").write_text("#!/bin/sh\n")
    (tmp_path / "clang++").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert detect.compiler_path() is None
    monkeypatch.setenv("CXX", "clang++")
    assert detect.compiler_path() == str(tmp_path / "clang++")


@pytest.mark.slow
@pytest.mark.usefixtures("cache")
def test_a_plan_for_a_budget_is_a_recipe() -> None:
    found = plan(None, ["model.vocab_size=500", "model.seq_len=64"], budget="30s")
    recipe = found.recipe()
    assert recipe.train.tokens == found.tokens
    assert recipe.model.seq_len == 64
    assert recipe.model.d_ffn == 4 * recipe.model.d_model


@pytest.mark.slow
@pytest.mark.usefixtures("cache")
def test_what_the_doctor_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "trial", lambda device: "it is broken")
    facts = examine()
    assert facts["torch"]
    assert facts["compiler"] is None
    assert facts["disk_free_bytes"] > 0
    assert facts["extras"].keys() >= {"plotly", "tensorboard"}
