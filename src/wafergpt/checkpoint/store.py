"""Checkpoints that appear whole or not at all, and are loaded only if every hash agrees."""

from __future__ import annotations

import json
import re
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from wafergpt import atomic_files, files
from wafergpt.checkpoint.adapters import Merged
from wafergpt.checkpoint.format import (
    MOMENTS,
    WEIGHTS,
    Stored,
    UnreadableTensorsError,
    entry,
    file_names,
    join_parts,
    weights_sha256,
    write_part,
    write_whole,
)
from wafergpt.config import Recipe
from wafergpt.devices.peak_memory import is_out_of_memory
from wafergpt.distributed.sharding import Part
from wafergpt.errors import InputError, ProcessLost, RunFailed
from wafergpt.logs import say
from wafergpt.progress import working
from wafergpt.runs.run import SHIPPED, Run

STATE = "state.json"
MANIFEST = "manifest.json"

STEP = re.compile(r"step-\d{8,20}")


class DamagedCheckpointError(RunFailed):
    """A checkpoint is not what was written."""


@dataclass(frozen=True)
class Shared:
    """A checkpoint that several processes write, each its part.

    Attributes:
        folder: the temporary one, made by the leader.
        size: number of processes.
        timeout: seconds in which all must have written.
        given_up: set to stop waiting for them.
    """

    folder: Path
    size: int
    timeout: float
    given_up: threading.Event


@dataclass(frozen=True)
class HostState:
    """Weights and moments by name; of sharded ones, this process' part.

    Attributes:
        tensors: by kind (``WEIGHTS``, ``MOMENTS``) and name.
    """

    tensors: Mapping[str, Mapping[str, Part]]

    @classmethod
    def of(cls, weights: Mapping[str, Tensor], moments: Mapping[str, Tensor]) -> HostState:
        """Refer to tensors without copying them."""
        return cls({WEIGHTS: _parts(weights), MOMENTS: _parts(moments)})

    def copied(self) -> HostState:
        """Copy it to the CPU, where training does not change it."""
        return HostState({kind: _copied(parts) for kind, parts in self.tensors.items()})


def _parts(tensors: Mapping[str, Tensor]) -> dict[str, Part]:
    return {name: Part.of(tensor) for name, tensor in tensors.items()}


def _copied(parts: Mapping[str, Part]) -> dict[str, Part]:
    return {
        name: replace(part, values=part.values.to("cpu", copy=True)) for name, part in parts.items()
    }


class StoredState:
    """A checkpoint whose tensors are read on access.

    Attributes:
        folder: of the checkpoint.
        weights: by name, read whole or by rows.
        moments: of the optimizer, likewise.
        scalars: the rest of the state.

    Raises:
        DamagedCheckpointError: if it is not what was written; with ``verified``, its hashes are
            not compared again.
    """

    def __init__(self, folder: Path, verified: bool = False) -> None:
        if not verified:
            verify(folder)
        self.folder = folder
        try:
            self.weights = Stored(folder, WEIGHTS)
            self.moments = Stored(folder, MOMENTS)
            self.scalars: dict[str, Any] = files.read_json(folder / STATE)
        except (RuntimeError, ValueError) as error:
            raise unfit(folder, error) from None


def unfit(folder: Path, error: Exception) -> DamagedCheckpointError:
    """Return the error of a checkpoint that cannot be loaded."""
    reason = str(error).splitlines()[0]
    return DamagedCheckpointError(f"{folder} does not fit this run: {reason}")


def begin_shared(run: Run, step: int) -> Path:
    """Make the temporary folder of a checkpoint that several processes write."""
    temporary = atomic_files.beside(run.checkpoints / _name(step))
    temporary.mkdir()
    return temporary


def save(
    state: HostState,
    scalars: Mapping[str, Any],
    run: Run,
    keep: int,
    keep_every: int = 0,
    shared: Shared | None = None,
) -> Path:
    """Write the state as a new checkpoint of ``run`` and drop old ones.

    The newest ``keep``, the best one, and those at a multiple of ``keep_every`` steps stay.

    Raises:
        RunFailed: if another process does not write its part.
    """
    folder = _write(run, state, scalars, shared)
    found = run.checkpoints / _name(scalars["best_step"])
    # A process that was killed may have left the best one without its name.
    if scalars["best"] is not None and found.is_dir() and best(run) != found:
        atomic_files.write_text(run.checkpoints / "best", found.name + "\n")
    _retire(run, keep, keep_every)
    return folder


def save_weights(weights: Mapping[str, Tensor], run: Run, step: int = 0) -> Path:
    """Write weights alone as a checkpoint, without moments or a cursor."""
    return _write(run, HostState.of(weights, {}), {"step": step})


def _write(
    run: Run, state: HostState, scalars: Mapping[str, Any], shared: Shared | None = None
) -> Path:
    folder = run.checkpoints / _name(scalars["step"])
    place = None if shared is None else shared.folder
    with atomic_files.appearing(folder, place, replaces=True) as temporary:
        if shared is None:
            manifest = write_whole(state.tensors, temporary)
        else:
            write_part(state.tensors, temporary, 0, shared.size)
            manifest = join_parts(temporary, shared.size, shared.timeout, shared.given_up)
        (temporary / STATE).write_text(json.dumps(scalars), encoding="utf-8")
        manifest[STATE] = entry(temporary / STATE)
        (temporary / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    atomic_files.write_text(run.checkpoints / "latest", folder.name + "\n")
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
    try:
        # glob takes a folder that cannot be read for an empty one.
        found = list(run.checkpoints.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    steps = (path for path in found if STEP.fullmatch(path.name) and path.is_dir())
    # From 100,000,000 on, names are not in the order of steps.
    return sorted(steps, key=lambda path: (len(path.name), path.name))


def best(run: Run) -> Path | None:
    """Return the checkpoint with the best validation score, if one was evaluated."""
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
        InputError: if one may not be read.
    """
    try:
        manifest = files.read_json(folder / MANIFEST)
        entries = {name: manifest[name] for name in sorted({STATE, *file_names(folder)})}
    except UnreadableTensorsError as error:
        raise DamagedCheckpointError(str(error)) from None
    except PermissionError as error:
        raise _forbidden(error) from None
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
    except PermissionError as error:
        raise _forbidden(error) from None
    except (OSError, KeyError, TypeError):
        return False


def _forbidden(error: PermissionError) -> InputError:
    """Return the error of a file that may be sound, and must not be taken for damaged."""
    return InputError(f"{error.strerror}: {error.filename}")


def damage(folder: Path) -> str | None:
    """Return what is wrong with a checkpoint, or None."""
    try:
        verify(folder)
    except DamagedCheckpointError as error:
        return str(error)
    return None


def load(folder: Path, take: Callable[[StoredState], None]) -> None:
    """Verify a checkpoint's hashes, and pass it to ``take``.

    Raises:
        DamagedCheckpointError: if it is not what was written, or does not fit.
    """
    stored = StoredState(folder)
    try:
        take(stored)
    except (DamagedCheckpointError, ProcessLost):
        raise
    except (RuntimeError, ValueError) as error:
        if is_out_of_memory(error):
            raise
        raise unfit(folder, error) from None


def resume(run: Run, take: Callable[[StoredState], None]) -> Path:
    """Load the newest checkpoint that is not damaged; warn of those that are.

    Damaged ones are renamed, so that they do not count among the newest that are kept.

    Raises:
        RunFailed: if there is none: a run never restarts from zero silently.
    """
    for unfinished in run.checkpoints.glob(".step-*.tmp"):
        folder = run.checkpoints / unfinished.name.split(".")[1]
        if (unfinished / MANIFEST).is_file() and not folder.exists():
            # Whole, for its manifest comes last: killed before it got its name, or replaced.
            unfinished.rename(folder)
        else:
            shutil.rmtree(unfinished)
    damaged: list[Path] = []
    for folder in reversed(every(run)):
        try:
            with working(f"loading {folder.name}"):
                load(folder, take)
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


def folder_of(run: Run) -> Path:
    """Return the checkpoint of a run's weights: the one asked for, else the best, else the last.

    Raises:
        InputError: if the run has no checkpoint yet.
    """
    everything = every(run)
    if not (run.checkpoint or everything):
        raise InputError(f"{run.path} has no checkpoint yet")
    return run.checkpoint or best(run) or everything[-1]


def weights(run: Run) -> Stored:
    """Return a run's weights: of the checkpoint asked for, else the best, else the last.

    Adapters are merged into the weights that they were trained on.

    Raises:
        InputError: if the run has no checkpoint yet, or what its adapters were trained on is gone.
        DamagedCheckpointError: if the checkpoint is not what was written.
    """
    folder = folder_of(run)
    verify(folder)
    own, recipe = Stored(folder, WEIGHTS), run.recipe
    return Merged(own, base_weights(recipe)[0], recipe.lora) if recipe.lora.rank else own


def base_weights(recipe: Recipe, start: Run | None = None) -> tuple[Stored, str]:
    """Return the weights that a recipe's adapters are trained on, and their hash.

    Args:
        recipe: with adapters; once resolved, also with that hash.
        start: the run to start from; if omitted, that of the recipe, wherever the package is.

    Raises:
        InputError: if they are gone, or are others than at the start.
        DamagedCheckpointError: if the checkpoint is not what was written.
    """
    known, named = recipe.lora.base_sha256, recipe.start or Path()
    wrong = "is gone: put it back"
    for run in _bases(named) if start is None else (start,):
        found = weights(run)
        digest = weights_sha256(found)
        if known in (None, digest):
            return found, digest
        wrong = "has other weights now: put the old ones back"
    raise InputError(f"{recipe.name} holds adapters of {named}, which {wrong}")


def _bases(named: Path) -> Iterator[Run]:
    """Yield what a base may be: the run, then its checkpoints, for another may be best by now."""
    for path in (named, SHIPPED / named.name):
        with suppress(InputError):
            run = Run.find(path)
            yield run
            yield from (Run(run.path, folder) for folder in every(run))
