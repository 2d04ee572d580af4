"""Checkpoints that appear whole or not at all, and are believed only when every hash agrees."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from wafergpt import files
from wafergpt.errors import InputError, RunFailed
from wafergpt.progress import say
from wafergpt.run import Run
from wafergpt.train.state import TrainState

WEIGHTS, MOMENTS, STATE = "model.safetensors", "optimizer.safetensors", "state.json"


class DamagedCheckpointError(RunFailed):
    """A checkpoint is not what was written."""


@dataclass(frozen=True)
class Snapshot:
    """A state as it was at one step.

    Attributes:
        weights: by name.
        moments: of the optimizer, by name.
        scalars: all the rest, as JSON.
    """

    weights: Mapping[str, Tensor]
    moments: Mapping[str, Tensor]
    scalars: Mapping[str, Any]

    @classmethod
    def of(cls, state: TrainState, copied: bool = False) -> Snapshot:
        """Look at a state; ``copied``, to the CPU, it stays as it is while the state moves on."""
        weights, moments = state.model.state_dict(), state.optimizer.state_tensors()
        scalars = state.scalars()
        if copied:
            weights, moments = _copied(weights), _copied(moments)
            scalars = json.loads(json.dumps(scalars))
        return cls(weights, moments, scalars)


def _copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}


def save(state: TrainState | Snapshot, run: Run, keep: int, keep_every: int = 0) -> Path:
    """Write the state as a new checkpoint of ``run`` and drop old ones.

    The newest ``keep``, the best one, and those at a multiple of ``keep_every`` steps stay.
    """
    snapshot = Snapshot.of(state) if isinstance(state, TrainState) else state
    scalars = snapshot.scalars
    folder = _write(run, scalars["step"], snapshot.weights, snapshot.moments, scalars)
    if scalars["best_step"] == scalars["step"] and scalars["best"] is not None:
        files.write_text(run.checkpoints / "best", folder.name + "\n")
    _retire(run, keep, keep_every)
    return folder


def save_weights(weights: Mapping[str, Tensor], run: Run, step: int = 0) -> Path:
    """Write weights that nothing was trained for here as a checkpoint: no moments, no cursor."""
    return _write(run, step, weights, {}, {"step": step})


def _write(
    run: Run,
    step: int,
    weights: Mapping[str, Tensor],
    moments: Mapping[str, Tensor],
    scalars: Mapping[str, Any],
) -> Path:
    folder = run.checkpoints / _name(step)
    with files.appearing(folder) as temporary:
        save_file(_contiguous(weights), temporary / WEIGHTS)
        save_file(_contiguous(moments), temporary / MOMENTS)
        (temporary / STATE).write_text(json.dumps(scalars), encoding="utf-8")
        names = (WEIGHTS, MOMENTS, STATE)
        manifest = {
            name: {
                "bytes": (temporary / name).stat().st_size,
                "sha256": files.sha256(temporary / name),
            }
            for name in names
        }
        (temporary / "manifest.json").write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    files.write_text(run.checkpoints / "latest", folder.name + "\n")
    return folder


def _name(step: object) -> str:
    return f"step-{step:08d}" if isinstance(step, int) else ""


def _contiguous(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().contiguous() for name, tensor in tensors.items()}


def _retire(run: Run, keep: int, keep_every: int) -> None:
    everything = every(run)
    kept = {*everything[-keep:], best(run)}
    for folder in everything:
        milestone = keep_every and int(folder.name.removeprefix("step-")) % keep_every == 0
        if folder not in kept and not milestone:
            shutil.rmtree(folder)


def every(run: Run) -> list[Path]:
    """Return the run's checkpoints, oldest first."""
    return sorted(p for p in run.checkpoints.glob("step-*") if p.is_dir())


def best(run: Run) -> Path | None:
    """Return the checkpoint with the best validation score, if one was judged."""
    pointer = run.checkpoints / "best"
    if not pointer.is_file():
        return None
    folder = run.checkpoints / pointer.read_text(encoding="utf-8").strip()
    return folder if folder.parent == run.checkpoints and folder.is_dir() else None


def verify(folder: Path) -> None:
    """Compare every file of a checkpoint with its manifest, and its step with its name.

    Raises:
        DamagedCheckpointError: naming the first file that differs.
    """
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        entries = {name: manifest[name] for name in (WEIGHTS, MOMENTS, STATE)}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise DamagedCheckpointError(f"{folder}: its manifest cannot be read") from None
    for name, entry in entries.items():
        path = folder / name
        try:
            intact = path.stat().st_size == entry["bytes"] and files.sha256(path) == entry["sha256"]
        except (OSError, KeyError, TypeError):
            intact = False
        if not intact:
            raise DamagedCheckpointError(f"{path} is not the file that was written")
    try:
        step = json.loads((folder / STATE).read_text(encoding="utf-8"))["step"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise DamagedCheckpointError(f"{folder / STATE} cannot be read") from None
    if folder.name != _name(step):
        raise DamagedCheckpointError(f"{folder} holds step {step}: it was another checkpoint's")


def damage(folder: Path) -> str | None:
    """Say what is wrong with a checkpoint, or return None."""
    try:
        verify(folder)
    except DamagedCheckpointError as error:
        return str(error)
    return None


def load(state: TrainState, folder: Path) -> None:
    """Take over a verified checkpoint.

    Raises:
        DamagedCheckpointError: if it is not what was written.
    """
    verify(folder)
    try:
        state.model.load_state_dict(load_file(folder / WEIGHTS))
        state.optimizer.load_state_tensors(load_file(folder / MOMENTS))
        scalars = json.loads((folder / STATE).read_text(encoding="utf-8"))
    except (SafetensorError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise DamagedCheckpointError(f"{folder} does not fit this run: {reason}") from None
    for name in TrainState.SCALARS:
        if name in scalars:
            setattr(state, name, scalars[name])


def resume(state: TrainState, run: Run) -> Path:
    """Load the newest checkpoint that is good; say loudly which ones are not.

    Those are renamed, lest they count as the newest ones when old checkpoints are dropped.

    Raises:
        RunFailed: if there is none: a run never starts from zero silently.
    """
    for unfinished in run.checkpoints.glob(".step-*.tmp"):
        shutil.rmtree(unfinished)
    damaged: list[Path] = []
    for folder in reversed(every(run)):
        try:
            load(state, folder)
        except DamagedCheckpointError as error:
            say(f"WARNING: damaged checkpoint refused: {error}")
            damaged.append(folder)
            continue
        for other in damaged:
            aside = other.with_name(f"damaged-{other.name}")
            shutil.rmtree(aside, ignore_errors=True)
            other.rename(aside)
        return folder
    raise RunFailed(f"{run.path} has no good checkpoint; start afresh under another name")


def weights(run: Run) -> dict[str, Any]:
    """Return the tensors to use a run with: of the checkpoint asked for, the best, or the last.

    Raises:
        InputError: if the run has no checkpoint yet.
        DamagedCheckpointError: if the checkpoint is not what was written.
    """
    everything = every(run)
    if not (run.checkpoint or everything):
        raise InputError(f"{run.path} has no checkpoint yet")
    folder = run.checkpoint or best(run) or everything[-1]
    verify(folder)
    return load_file(folder / WEIGHTS)
