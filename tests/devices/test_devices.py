from __future__ import annotations

import json
import sys
import sysconfig
from pathlib import Path

import pytest

from wafergpt.api import plan
from wafergpt.devices import detect, probe
from wafergpt.devices import doctor as report
from wafergpt.devices.doctor import examine
from wafergpt.errors import InputError
from wafergpt.planning.hardware import Machine


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(probe, "busy_percent", lambda: 0.0)
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


@pytest.mark.slow
def test_what_a_busy_machine_shows_is_not_remembered(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(probe, "busy_percent", lambda: 80.0)
    assert probe.probe("cpu", seconds=0.2).matmul_flops_fp32 > 0
    assert not cache.exists()
    assert "other programs use 80% of the cores" in capsys.readouterr().err


@pytest.mark.slow
def test_nor_is_it_when_a_neighbour_comes_in_between(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = iter([0.0, 80.0])
    monkeypatch.setattr(probe, "busy_percent", lambda: next(seen))
    assert probe.probe("cpu", seconds=0.2).matmul_flops_fp32 > 0
    assert not cache.exists()


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
    monkeypatch.setattr(probe, "busy_percent", lambda: 0.0)
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
