"""Runs whose weights were imported, averaged or pruned, not trained."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from wafergpt import atomic_files
from wafergpt.checkpoint import store
from wafergpt.checkpoint.format import weights_sha256
from wafergpt.config import Recipe
from wafergpt.data.tokenizer import Tokenizer
from wafergpt.errors import InputError, RunFailed
from wafergpt.progress import working
from wafergpt.runs.run import Run, command_line


def require_new(name: str, root: Path) -> Path:
    """Return the folder of a new run.

    Raises:
        InputError: if it exists.
    """
    path = root / name
    if path.exists() or path.is_symlink():
        raise InputError(f"{path} exists: choose another --name")
    return path


def require_trained(run: Run) -> None:
    """Require a run that was trained here and can be resumed.

    Raises:
        InputError: if the run was imported, averaged or pruned, or comes with the package.
        RunFailed: if it has no checkpoint.
    """
    if not store.every(run):
        if "folds" in (run.read("result") or {}):
            raise InputError(f"{run.path} is of --folds: the same command goes on")
        raise RunFailed(f"{run.path} has no good checkpoint; start afresh under another name")
    try:
        result = run.read("result")
    except ValueError:
        # A resume reads only checkpoints; a damaged result will be written again.
        return
    origins = [
        key
        for key in ("imported", "averaged", "pruned")
        if isinstance(result, dict) and key in result
    ]
    if run.shipped or origins:
        how = "comes with wafergpt" if run.shipped else f"was {origins[0]}"
        name = run.name if run.shipped else run.path
        raise InputError(
            f"{name} {how}, not trained here: there is no training to resume; "
            f"'{run.command('finetune')}' and "
            f"'{command_line('pretrain', '--from', name)}' start one from its weights"
        )


def run_with(
    weights: Mapping[str, Tensor],
    recipe: Recipe,
    root: Path,
    tokenizer: Tokenizer | None,
    result: Mapping[str, Any],
    step: int = 0,
) -> Run:
    """Make a run of given weights; its folder appears whole or not at all.

    Args:
        weights: of the network that the recipe describes.
        recipe: whose name the run takes.
        root: the folder that holds runs.
        tokenizer: of the network, if known.
        result: what to write into result.json beside the counts.
        step: of the checkpoint.

    Raises:
        InputError: if a run of that name exists.
    """
    path = require_new(recipe.name, root)
    with working(f"writing {path}"), atomic_files.appearing(path) as temporary:
        unfinished = Run(temporary)
        unfinished.checkpoints.mkdir()
        unfinished.save_recipe(recipe)
        if tokenizer is not None:
            tokenizer.save(unfinished.tokenizer)
        store.save_weights(weights, unfinished, step)
        unfinished.write(
            "result",
            {
                "run": str(path),
                "step": step,
                "parameters": sum(tensor.numel() for tensor in weights.values()),
                "weights_sha256": weights_sha256(weights),
                **result,
            },
        )
    return Run(path)
