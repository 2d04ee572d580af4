"""The checkpoints of a run: listed, compared, averaged into a new run."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wafergpt.checkpoint import store
from wafergpt.checkpoint.format import WEIGHTS, Stored
from wafergpt.checkpoint.imported_run import require_new, run_with
from wafergpt.config.sparsity import Sparsity
from wafergpt.data.tokenizer import Tokenizer
from wafergpt.errors import InputError
from wafergpt.progress import working
from wafergpt.runs.run import RUNS, AnyRun, Run
from wafergpt.shapes.roles import role_of


def average(
    run: AnyRun,
    name: str,
    *,
    last: int | None = None,
    ema: float | None = None,
    root: Path = RUNS,
) -> Run:
    """Make a run from the mean of a run's checkpoints.

    Args:
        run: a run, its name or its path.
        name: of the new run.
        last: take the plain mean of this many newest checkpoints (Izmailov et al., 2018).
        ema: take the exponential mean of all checkpoints after step 0, oldest to newest: at each
            one, the mean so far keeps this share.
        root: the folder that holds runs.

    Raises:
        InputError: if the name is taken, or the run has too few checkpoints.
        DamagedCheckpointError: if a checkpoint is not what was written.
    """
    if (last is None) == (ema is None):
        raise InputError("give either last (how many checkpoints) or ema (a share)")
    found = Run.find(run, root)
    recipe = found.recipe.replace(name=name)
    require_new(name, root)
    # Step 0 holds the initial weights.
    folders = [folder for folder in store.every(found) if step_of(folder)]
    wanted = 2 if last is None else last
    if wanted < 2:
        raise InputError(f"last={wanted}: a mean takes 2 checkpoints or more")
    if len(folders) < wanted:
        raise InputError(
            f"{found.path} has {len(folders)} checkpoints after step 0, and this mean takes "
            f"{wanted} or more: train with a larger checkpoint.keep"
        )
    folders = folders if last is None else folders[-last:]
    shares = mean_shares(len(folders), ema)
    for folder in folders:
        store.verify(folder)
    tokenizer = Tokenizer.load(found.tokenizer) if found.tokenizer.is_file() else None
    steps = [step_of(folder) for folder in folders]
    origin = {
        "averaged": str(found.path.resolve()),
        "steps": steps,
        "shares": shares,
        "tokens": None,
        "loss": None,
        "val_loss": None,
    }
    with working("averaging"):
        mean = _mean(folders, shares, found.recipe.sparsity)
    return run_with(mean, recipe, root, tokenizer, origin, step=steps[-1])


def mean_shares(count: int, ema: float | None) -> list[float]:
    """Return the share of each of ``count`` checkpoints, oldest first; they add up to 1.

    Raises:
        InputError: if ``ema`` is not between 0 and 1.
    """
    if ema is None:
        return [1 / count] * count
    if not 0 < ema < 1:
        raise InputError(f"an ema of {ema} is no share: give one between 0 and 1")
    return [ema ** (count - 1)] + [(1 - ema) * ema ** (count - 1 - n) for n in range(1, count)]


def _mean(
    folders: Sequence[Path], shares: Sequence[float], sparsity: Sparsity
) -> dict[str, Tensor]:
    """Average tensor by tensor, in fp64, so that no two checkpoints are in memory at once.

    What is zero in a sparse matrix of the newest one stays so: masks may differ between them.
    """
    sparse = sparsity.roles if sparsity.algorithm != "none" else ()
    mean: dict[str, Tensor] = {}
    for name, tensors in _side_by_side(folders):
        if not tensors[0].is_floating_point():
            # Numbers of rows, which no training changes.
            mean[name] = tensors[-1]
            continue
        total = torch.zeros(tensors[0].shape, dtype=torch.float64)
        for tensor, share in zip(tensors, shares, strict=True):
            total += tensor.double() * share
        if role_of(name) in sparse and total.ndim == 2:
            total[tensors[-1] == 0] = 0.0
        mean[name] = total.to(tensors[0].dtype)
    return mean


def _side_by_side(folders: Sequence[Path]) -> Iterator[tuple[str, list[Tensor]]]:
    opened = [Stored(folder, WEIGHTS) for folder in folders]
    for name in opened[0]:
        yield name, [tensors[name] for tensors in opened]


def step_of(folder: Path) -> int:
    """Return the step of a checkpoint's folder."""
    return int(folder.name.rpartition("-")[2])


def listing(run: Run) -> list[dict[str, Any]]:
    """Return ``step, path, bytes, loss, val_loss, best, latest`` of each checkpoint, oldest first.

    A loss that was not measured at that step is None.

    Raises:
        InputError: if metrics.jsonl is damaged before its last line.
    """
    rows: dict[int, dict[str, Any]] = {}
    try:
        for row in run.metrics():
            rows.setdefault(row["step"], {}).update(row)
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{run.path / 'metrics.jsonl'} is damaged") from None
    folders, best = store.every(run), store.best(run)
    return [
        {
            "step": step_of(folder),
            "path": str(folder),
            "bytes": sum(file.stat().st_size for file in folder.iterdir()),
            **{
                key: _number(rows.get(step_of(folder), {}).get(key)) for key in ("loss", "val_loss")
            },
            "best": folder == best,
            "latest": folder == folders[-1],
        }
        for folder in folders
    ]


def _number(value: object) -> float | None:
    return value if isinstance(value, int | float) else None


def compare(run: Run, first: str, second: str) -> dict[str, Any]:
    """Compare two checkpoints, each given by its step, ``best`` or ``latest``.

    Returns:
        ``first`` and ``second``, rows of ``listing``, and by role ``distance``:
        ‖second − first‖ / ‖first‖ over all the role's tensors, None where the first is zero.

    Raises:
        InputError: if there is no such checkpoint, or both are the same.
        DamagedCheckpointError: if one is not what was written.
    """
    rows = listing(run)
    chosen = [_choose(run, rows, which) for which in (first, second)]
    folders = [Path(row["path"]) for row in chosen]
    if folders[0] == folders[1]:
        raise InputError(f"'{first}' and '{second}' are the same checkpoint, {folders[0]}")
    for folder in folders:
        store.verify(folder)
    moved: dict[str, float] = {}
    size: dict[str, float] = {}
    for name, (before, after) in _side_by_side(folders):
        role = role_of(name)
        moved[role] = moved.get(role, 0.0) + float((after - before).double().square().sum())
        size[role] = size.get(role, 0.0) + float(before.double().square().sum())
    distance = {role: math.sqrt(moved[role] / size[role]) if size[role] else None for role in moved}
    return {"first": chosen[0], "second": chosen[1], "distance": distance}


def _choose(run: Run, rows: Sequence[Mapping[str, Any]], which: str) -> Mapping[str, Any]:
    for row in rows:
        if which == str(row["step"]) or (which in ("best", "latest") and row[which]):
            return row
    steps = ", ".join(str(row["step"]) for row in rows) or "none"
    raise InputError(f"{run.path} has no checkpoint '{which}': there are the steps {steps}")
