"""A recipe's cluster settings in the SDK's own names."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from wafergpt.config import Cerebras, Recipe
from wafergpt.errors import InputError

ROWS = "rows.safetensors"
"""In the engine's folder: the labelled rows for the worker."""

RECIPE, WEIGHTS_FILE, MOMENTS_FILE = "recipe.yaml", "weights.safetensors", "moments.safetensors"
"""Also there: what the worker starts from, and what it returns."""

CLUSTER = Path("/opt/cerebras/config_v2")
"""The SDK's default cluster configuration."""


def cluster_arguments(settings: Cerebras) -> dict[str, Any]:
    """Return the arguments of the SDK's ``ClusterConfig``."""
    arguments: dict[str, Any] = {
        "num_csx": settings.systems,
        "job_priority": settings.priority,
        "mount_dirs": [str(path) for path in settings.mounts],
        "python_paths": [str(path) for path in settings.python_paths],
    }
    if settings.management:
        arguments["mgmt_address"] = settings.management
    return arguments


def micro_batch_size(settings: Cerebras) -> Any:
    """Return the value of the SDK's ``csx.performance.micro_batch_size``."""
    bounds = {"min": settings.micro_batch_min, "max": settings.micro_batch_max}
    bounds = {name: value for name, value in bounds.items() if value}
    if settings.micro_batch == "explore" and bounds:
        return {"explore": bounds}
    return settings.micro_batch


def sparsity_arguments(recipe: Recipe) -> dict[str, Any]:
    """Return the arguments of the SDK's ``sparse.configure``.

    Parameters are chosen by name: the SDK's own filter misses embeddings of some names.
    """
    settings, steps = recipe.sparsity, recipe.train.steps
    arguments: dict[str, Any] = {
        "algorithm": settings.algorithm,
        "init_method": "topk" if settings.algorithm == "gmp" else "random",
        "param_filter": ["*blocks.*.attention.*.weight", "*blocks.*.ffn.*.weight"],
        "sparsity": settings.sparsity,
    }
    if settings.algorithm == "gmp":
        # At the end a hundredth of the distance remains.
        rate = math.log(0.01) / (steps or 1)
        final = settings.sparsity
        arguments["sparsity"] = {"type": "exp", "init": 0.0, "gamma": rate, "final": final}
    if settings.algorithm != "static":
        arguments["update"] = {"freq": settings.every}
    if settings.algorithm in {"set", "rigl"}:
        arguments["drop_fraction"] = settings.drop_fraction
    return arguments


def require_cluster(recipe: Recipe) -> None:
    """Require that the recipe or this machine names a cluster.

    Raises:
        InputError: if neither does.
    """
    if recipe.system.cerebras.management or CLUSTER.exists():
        return
    raise InputError(
        f"no Cerebras cluster is configured here ({CLUSTER}): set "
        "system.cerebras.management=NAME:PORT, or train by the same program on this CPU with "
        "system.cerebras.mode=cpu; wafergpt plan RECIPE --lower needs neither"
    )
