"""One training step lowered to Cerebras IR, without any Cerebras system."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wafergpt.cerebras import environment
from wafergpt.cerebras.cluster import require_cluster
from wafergpt.cerebras.unsupported import require_supported
from wafergpt.cerebras.worker_process import answer
from wafergpt.config import load_recipe
from wafergpt.planning.estimate import GPT2_VOCAB_SIZE


def lower(name: str | Path | None, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Lower one training step of a recipe to Cerebras IR.

    With ``system.cerebras.mode=compile`` a cluster also compiles it.

    Args:
        name: a YAML file, or the name of a shipped recipe.
        overrides: ``section.key=value`` strings.

    Returns:
        ``ir_bytes``, ``operators`` (how many), ``operator_kinds`` and ``seconds``.

    Raises:
        InputError: if the SDK is not installed, or the recipe uses what does not lower.
        RunFailed: if it does not lower, with the SDK's own message.
    """
    recipe = load_recipe(name, overrides)
    settings = recipe.system.cerebras
    if settings.mode == "compile":
        require_cluster(recipe)
    else:
        settings = settings.model_copy(update={"mode": "validate"})
    recipe = recipe.replace(
        system={"device": "cerebras", "cerebras": settings.model_dump()},
        model={"vocab_size": recipe.model.vocab_size or GPT2_VOCAB_SIZE},
        # Only the schedule reads it; the program is the same for any number of steps.
        train={"steps": 1000, "tokens": None, "epochs": None, "seconds": None},
    )
    if recipe.system.precision == "auto":
        recipe = recipe.replace(system={"precision": "bf16"})
    if recipe.task is not None and getattr(recipe.task, "labels", None) == ():
        recipe = recipe.replace(task={"labels": ("no", "yes")})
    require_supported(recipe)
    return dict(answer({"what": "lower", "recipe": recipe.to_yaml()}, "lowering"))


def verify() -> dict[str, Any]:
    """Make a few steps with the SDK; return its version and that of its torch."""
    return dict(answer({"what": "verify"}, "verified", environment.interpreter()))
