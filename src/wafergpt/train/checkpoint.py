"""Checkpoints that appear whole or not at all, and are believed only when every hash agrees."""

from __future__ import annotations

import json
import re
import shutil
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from wafergpt import files
from wafergpt.errors import InputError, RunFailed
from wafergpt.parallel.sharding import Part, fill
from wafergpt.progress import say, working
from wafergpt.run import Run
from wafergpt.train.state import TrainState
from wafergpt.train.stored import (
    MOMENTS,
    WEIGHTS,
    Stored,
    UnreadableTensorsError,
    entry,
    file_names,
    join_parts,
    write_part,
    write_whole,
)

STATE = "state.json"

STEP = re.compile(r"step-\d{8,20}")


class DamagedCheckpointError(RunFailed):
    """A checkpoint is not what was written."""


@dataclass(frozen=True)
class Shared:
    """A checkpoint that several processes write, each what it holds.

    Attributes:
        folder: the temporary one, which the leader has made.
        size: how many processes.
        timeout: seconds in which all must have written.
        given_up: set when they are not to be waited for any more.
    """

    folder: Path
    size: int
    timeout: float
    given_up: threading.Event


@dataclass(frozen=True)
class Snapshot:
    """A state as it was at one step, or what this process holds of it.

    Attributes:
        tensors: of each kind, by name.
        scalars: all the rest, as JSON.
    """

    tensors: Mapping[str, Mapping[str, Part]]
    scalars: Mapping[str, Any]

    @classmethod
    def of(cls, state: TrainState, copied: bool = False) -> Snapshot:
        """Look at a state; ``copied``, to the CPU, it stays as it is while the state moves on."""
        tensors = {
            WEIGHTS: _parts(state.model.state_dict()),
            MOMENTS: _parts(state.optimizer.state_tensors()),
        }
        scalars = state.scalars()
        if copied:
            tensors = {kind: _copied(parts) for kind, parts in tensors.items()}
            scalars = json.loads(json.dumps(scalars))
        return cls(tensors, scalars)


def _parts(tensors: Mapping[str, Tensor]) -> dict[str, Part]:
    return {name: Part.of(tensor) for name, tensor in tensors.items()}


def _copied(parts: Mapping[str, Part]) -> dict[str, Part]:
    return {
        name: replace(part, values=part.values.to("cpu", copy=True)) for name, part in parts.items()
    }


def begin_shared(run: Run, step: int) -> Path:
    """Make the temporary folder of a checkpoint that several processes will write."""
    temporary = files.beside(run.checkpoints / _name(step))
    temporary.mkdir()
    return temporary


def save(
    state: TrainState | Snapshot,
    run: Run,
    keep: int,
    keep_every: int = 0,
    shared: Shared | None = None,
) -> Path:
    """Write the state as a new checkpoint of ``run`` and drop old ones.

    The newest ``keep``, the best one, and those at a multiple of ``keep_every`` steps stay.

    Raises:
        RunFailed: if another process that should write its part of it does not.
    """
    snapshot = Snapshot.of(state) if isinstance(state, TrainState) else state
    scalars = snapshot.scalars
    folder = _write(run, snapshot, shared)
    if scalars["best_step"] == scalars["step"] and scalars["best"] is not None:
        files.write_text(run.checkpoints / "best", folder.name + "\n")
    _retire(run, keep, keep_every)
    return folder


def save_weights(weights: Mapping[str, Tensor], run: Run, step: int = 0) -> Path:
    """Write weights that nothing was trained for here as a checkpoint: no moments, no cursor."""
    return _write(run, Snapshot({WEIGHTS: _parts(weights), MOMENTS: {}}, {"step": step}))


def _write(run: Run, snapshot: Snapshot, shared: Shared | None = None) -> Path:
    folder = run.checkpoints / _name(snapshot.scalars["step"])
    with files.appearing(folder, None if shared is None else shared.folder) as temporary:
        if shared is None:
            manifest = write_whole(snapshot.tensors, temporary)
        else:
            write_part(snapshot.tensors, temporary, 0, shared.size)
            manifest = join_parts(temporary, shared.size, shared.timeout, shared.given_up)
        (temporary / STATE).write_text(json.dumps(snapshot.scalars), encoding="utf-8")
        manifest[STATE] = entry(temporary / STATE)
        (temporary / "manifest.json").write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    files.write_text(run.checkpoints / "latest", folder.name + "\n")
    return folder


def _name(step: object) -> str:
    return f"step-{step:08d}" if isinstance(step, int) else ""


def _retire(run: Run, keep: int, keep_every: int) -> None:
    everything = every(run)
    kept = {*everything[-keep:], best(run)}
    for folder in everything:
        milestone = keep_every and int(folder.name.removeprefix("step-")) % keep_every == 0
        if folder not in kept and not milestone:
            shutil.rmtree(folder)


def every(run: Run) -> list[Path]:
    """Return the run's checkpoints, oldest first."""
    return sorted(
        p for p in run.checkpoints.glob("step-*") if STEP.fullmatch(p.name) and p.is_dir()
    )


def best(run: Run) -> Path | None:
    """Return the checkpoint with the best validation score, if one was judged."""
    pointer = run.checkpoints / "best"
    if not pointer.is_file():
        return None
    name = pointer.read_text(encoding="utf-8", errors="replace").strip()
    folder = run.checkpoints / name if STEP.fullmatch(name) else None
    return folder if folder is not None and folder.is_dir() else None


def verify(folder: Path) -> None:
    """Compare every file of a checkpoint with its manifest, and its step with its name.

    Raises:
        DamagedCheckpointError: naming the first file that differs.
    """
    try:
        manifest = files.read_json(folder / "manifest.json")
        entries = {name: manifest[name] for name in sorted({STATE, *file_names(folder)})}
    except UnreadableTensorsError as error:
        raise DamagedCheckpointError(str(error)) from None
    except (OSError, ValueError, KeyError, TypeError):
        raise DamagedCheckpointError(f"{folder}: its manifest cannot be read") from None
    with working(f"checking {folder.name}"):
        for name, known in entries.items():
            if not _intact(folder / name, known):
                raise DamagedCheckpointError(f"{folder / name} is not the file that was written")
    try:
        step = files.read_json(folder / STATE)["step"]
    except (ValueError, KeyError, TypeError):
        raise DamagedCheckpointError(f"{folder / STATE} cannot be read") from None
    if folder.name != _name(step):
        raise DamagedCheckpointError(f"{folder} holds step {step}: it was another checkpoint's")


def _intact(path: Path, known: Mapping[str, object]) -> bool:
    try:
        return (
            files.is_file(path)
            and path.stat().st_size == known["bytes"]
            and files.sha256(path) == known["sha256"]
        )
    except (OSError, KeyError, TypeError):
        return False


def damage(folder: Path) -> str | None:
    """Say what is wrong with a checkpoint, or return None."""
    try:
        verify(folder)
    except DamagedCheckpointError as error:
        return str(error)
    return None


def load(state: TrainState, folder: Path, verified: bool = False) -> None:
    """Take over a checkpoint; unless another process has verified it just now, do so first.

    Raises:
        DamagedCheckpointError: if it is not what was written.
    """
    if not verified:
        verify(folder)
    try:
        fill(state.model, Stored(folder, WEIGHTS).by_rows.items())
        state.optimizer.load_state_tensors(Stored(folder, MOMENTS).by_rows)
        state.take_scalars(files.read_json(folder / STATE))
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise DamagedCheckpointError(f"{folder} does not fit this run: {reason}") from None


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
            with working(f"loading {folder.name}"):
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


def weights(run: Run) -> Stored:
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
    return Stored(folder, WEIGHTS)


N = TypeVar("N", bound=nn.Module)


def restored(build: Callable[[], N], stored: Stored) -> N:
    """Build a network and give it weights, once it is known that they fit.

    Raises:
        DamagedCheckpointError: if they are of another network.
    """
    with torch.device("meta"):
        network = build()
    require_fit(network, stored)
    with working("loading the weights"):
        network.to_empty(device="cpu")
        fill(network, stored.by_rows.items())
    return network


def require_fit(network: nn.Module, stored: Stored) -> None:
    """Compare the names and shapes of stored weights with those of a network.

    Raises:
        DamagedCheckpointError: naming the first that differs.
    """
    own = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    there = {name: tensor.shape for name, tensor in stored.by_rows.items()}
    for name in sorted(own.keys() | there.keys()):
        if own.get(name) != there.get(name):
            found = there.get(name, "not there")
            raise DamagedCheckpointError(
                f"{stored.folder} does not fit its run's recipe: {files.short(name)} is {found}, "
                f"not {own.get(name, 'there')}"
            )
