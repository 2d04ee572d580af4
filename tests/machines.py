"""Machines that nobody has measured."""

from __future__ import annotations

from dataclasses import asdict

from wafergpt import atomic_files
from wafergpt.devices import probe
from wafergpt.planning.hardware import Machine

MACHINE = Machine(
    device="cpu", name="test", cores=2, memory_bytes=16 << 30, memory_available=12 << 30,
    torch="2.13", compiler=True, matmul_flops_fp32=1.5e11, matmul_flops_bf16=4e11,
    training_flops={"fp32": {128: 5e10}, "bf16": {128: 9e10}}, bandwidth=3e10, softmax_rate=2e8,
)  # fmt: skip


def remember(machine: Machine) -> None:
    """Have it taken for this one, measured before; XDG_CACHE_HOME names a folder of the test."""
    record = {"version": probe.VERSION, **asdict(machine)}
    atomic_files.write_json(probe._record("cpu"), record)
