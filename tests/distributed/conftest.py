"""A machine that has been measured: several processes would wait for the one that measures it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict

import pytest

from wafergpt import atomic_files
from wafergpt.devices import detect, probe
from wafergpt.planning.hardware import Machine


@pytest.fixture(scope="module", autouse=True)
def measured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        machine = Machine(
            device="cpu", name="test", cores=detect.cores(), memory_bytes=16 << 30,
            memory_available=12 << 30, torch="2.13", compiler=True, matmul_flops_fp32=1.5e11,
            matmul_flops_bf16=0.0, training_flops={"fp32": {128: 5e10}}, bandwidth=3e10,
            softmax_rate=2e8,
        )  # fmt: skip
        record = {"version": probe.VERSION, **asdict(machine)}
        atomic_files.write_json(probe._record("cpu"), record)
        yield
