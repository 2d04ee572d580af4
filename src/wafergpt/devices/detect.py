"""Detect device, precision, compiler and memory. Torch is imported only if necessary."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import sysconfig
import warnings
from importlib import metadata, util
from pathlib import Path

from wafergpt.devices import limits
from wafergpt.devices.limits import cores as cores
from wafergpt.errors import InputError
from wafergpt.logs import say
from wafergpt.planning.hardware import Machine
from wafergpt.planning.speed import best_precision

ACCELERATOR_NODES = ("/dev/nvidia0", "/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
"""Device files on Linux of an NVIDIA or AMD GPU, or of one under WSL."""

TYPICAL_WIDTH = 256
"""d_model to choose a precision for, if the shape is not known."""


def torch_version() -> str | None:
    """Return the installed version of torch without importing it, or None."""
    try:
        return metadata.version("torch")
    except metadata.PackageNotFoundError:
        return None


def resolve_device(name: str) -> str:
    """Resolve ``auto`` to the best available device, and check that a named one is available.

    Raises:
        InputError: if the named device is not usable.
    """
    if name == "cpu" or (name == "auto" and not _may_have_accelerator()):
        return "cpu"
    import torch

    # A first product in a backward pass says so, and works.
    warnings.filterwarnings("ignore", "Attempting to run cuBLAS, but there was no current CUDA")
    usable = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return next((device for device, here in usable.items() if here), "cpu")
    if not usable.get(name):
        reason = {
            "cuda": "torch finds no NVIDIA GPU",
            "mps": "torch finds no Apple GPU",
        }.get(name, "it is unknown")
        raise InputError(
            f"system.device={name} cannot be used: {reason}; use system.device=cpu, "
            "and see 'wafergpt doctor'"
        )
    return name


def _may_have_accelerator() -> bool:
    if sys.platform != "linux":
        return True
    if (torch_version() or "").endswith("+cpu"):
        return False
    return any(Path(node).exists() for node in ACCELERATOR_NODES)


def multiplies_bf16(device: str) -> bool:
    """Return whether the hardware has instructions for products in bf16, which are slow without."""
    import torch

    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device != "cpu":
        return True
    available: bool = torch.backends.mkldnn.is_available()
    return available and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def resolve_precision(
    name: str, device: str, machine: Machine, d_model: int = TYPICAL_WIDTH
) -> str:
    """Resolve ``auto`` to ``bf16`` if the probe measured it clearly faster, else ``fp32``.

    Args:
        name: ``auto``, ``fp32`` or ``bf16``.
        device: the resolved device.
        machine: its measurements.
        d_model: the width of the network, which decides how much bf16 gains.

    Raises:
        InputError: if the device does not support the requested bf16.
    """
    if name == "auto":
        return best_precision(machine, d_model)
    if name == "bf16" and device != "cpu" and "bf16" not in machine.training_flops:
        raise InputError(f"system.precision=bf16: {machine.name} has no bf16; use fp32")
    if name == "bf16" and not multiplies_bf16(device):
        say(
            "warning: this processor has no instructions for products in bf16, so they take many "
            "times as long as in fp32: system.precision=fp32"
        )
    return name


def compiler_available(device: str = "cpu") -> bool:
    """Return whether torch.compile seems to have what it needs for the device."""
    return compiler_missing(device) is None


def compiler_missing(device: str = "cpu") -> str | None:
    """Return what torch.compile needs for the device and does not find, or None.

    On a CPU it needs a C++ compiler and Python's headers; on a GPU, Triton and a C compiler.
    """
    if device == "cpu":
        if compiler_path() is None:
            named = os.environ.get("CXX")
            install = f"CXX={named} is not a program" if named else "install g++, or set CXX"
            return f"a C++ compiler: {install}"
        headers = Path(sysconfig.get_path("include"))
        if not (headers / "Python.h").is_file():
            return f"Python's headers in {headers}: install python3-dev"
        return None
    if device == "cuda":
        if util.find_spec("triton") is None:
            return "Triton: pip install triton"
        if not any(map(shutil.which, (os.environ.get("CC") or "gcc", "clang"))):
            return "a C compiler: install gcc, or set CC"
        return None
    return f"another device than {device}"


def compiler_path() -> str | None:
    """Return the C++ compiler that torch.compile would use, or None."""
    # Torch tries no other one.
    return shutil.which(os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++"))


def processor_name() -> str:
    """Return the CPU's model name."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.lower().startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def memory_total(device: str = "cpu") -> int:
    """Return the bytes of memory of the device, or the container's limit."""
    return _memory(device)[1]


def memory_available(device: str = "cpu") -> int:
    """Return the bytes of memory that are free now."""
    return _memory(device)[0]


def _memory(device: str) -> tuple[int, int]:
    """Return (free, total) bytes."""
    if device == "cuda":
        import torch

        free, total = torch.cuda.mem_get_info()
        return int(free), int(total)
    import psutil

    here = psutil.virtual_memory()
    free, total = int(here.available), int(here.total)
    return limits.memory(free, total)
