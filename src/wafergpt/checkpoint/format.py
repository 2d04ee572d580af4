"""The files of a checkpoint's tensors: whole, or one file of parts per process.

Both are plain safetensors. Parts have an index, ``shards.json``, with the shape of each whole
tensor and the first row of each part.
"""

from __future__ import annotations

import copy
import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import EllipsisType
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from wafergpt import atomic_files, files
from wafergpt.distributed.sharding import Part, Rows
from wafergpt.errors import RunFailed
from wafergpt.model.rounding import rounded_rows

WEIGHTS, MOMENTS = "model", "optimizer"
"""The kinds of tensors; their files' names start with them."""

SHARDS = "shards.json"

INDEX_BYTES = 1 << 30
"""Limit of an index; that of 13B in 1,024 parts is a tenth of it."""

Entry = dict[str, Any]
"""An entry of a manifest: ``bytes`` and ``sha256`` of a file."""


RENAMED = {"score.weight": "head.weight"}
"""Parameters that older checkpoints store under another name."""

SCALE = "/scale"
"""Follows a matrix' name in that of its rows' scales, if its values are stored as int8."""

PART_FILE = re.compile(rf"({WEIGHTS}|{MOMENTS})-\d{{5,}}-of-\d{{5,}}\.safetensors")


class UnreadableTensorsError(RunFailed, ValueError):
    """The tensors or their index are not what was written."""


def whole_file(kind: str) -> str:
    """Return the name of the file that holds all tensors of a kind."""
    return f"{kind}.safetensors"


def write_whole(kinds: Mapping[str, Mapping[str, Part]], folder: Path) -> dict[str, Entry]:
    """Write whole tensors; return the manifest of the files."""
    for kind, parts in kinds.items():
        tensors = {name: part.values.contiguous() for name, part in parts.items()}
        with files.system_errors():
            save_file(tensors, folder / whole_file(kind))
    return {whole_file(kind): entry(folder / whole_file(kind)) for kind in kinds}


def entry(path: Path) -> Entry:
    """Return a file's size and hash."""
    return {"bytes": path.stat().st_size, "sha256": files.sha256(path)}


def write_part(kinds: Mapping[str, Mapping[str, Part]], folder: Path, rank: int, size: int) -> None:
    """Write the part of one of ``size`` processes; its list appears when all is on the disk.

    A failure is written beside it, for the process that waits for the list.
    """
    try:
        _write_part(kinds, folder, rank, size)
    except Exception as error:
        with suppress(OSError):
            (folder / _failure_name(rank)).write_text(f"{error}", encoding="utf-8")
        raise


def _write_part(
    kinds: Mapping[str, Mapping[str, Part]], folder: Path, rank: int, size: int
) -> None:
    manifest: dict[str, Entry] = {}
    shards: dict[str, dict[str, Any]] = {}
    for kind, parts in kinds.items():
        mine = {
            name: part
            for name, part in parts.items()
            # The first process writes what all have whole, such as a count of updates.
            if part.first_copy and (len(part.values) if part.shape else rank == 0)
        }
        path = folder / f"{kind}-{rank:05d}-of-{size:05d}.safetensors"
        with files.system_errors():
            save_file({name: part.values.contiguous() for name, part in mine.items()}, path)
        atomic_files.sync(path)
        manifest[path.name] = entry(path)
        shards[kind] = {
            name: {
                "shape": part.shape,
                "parts": [
                    {
                        "file": path.name,
                        "start": part.start,
                        "rows": len(part.values) if part.shape else 1,
                    }
                ],
            }
            for name, part in mine.items()
        }
    hidden = atomic_files.beside(folder / _list_name(rank))
    hidden.write_text(json.dumps({"files": manifest, "shards": shards}), encoding="utf-8")
    atomic_files.sync(hidden)
    # Last: as soon as the list is there, the folder may be renamed.
    hidden.replace(folder / _list_name(rank))


def _list_name(rank: int) -> str:
    return f"part-{rank:05d}.json"


def _failure_name(rank: int) -> str:
    return f"part-{rank:05d}.failed"


def join_parts(
    folder: Path, size: int, timeout: float, given_up: threading.Event
) -> dict[str, Entry]:
    """Wait for the parts of ``size`` processes, write their index, and return the manifest.

    Raises:
        RunFailed: if a part could not be written or does not come within ``timeout`` seconds, if
            ``given_up`` is set, or if the parts are not the whole.
    """
    manifest: dict[str, Entry] = {}
    shards: dict[str, dict[str, Any]] = {WEIGHTS: {}, MOMENTS: {}}
    deadline = time.monotonic() + timeout
    for rank in range(size):
        path = folder / _list_name(rank)
        while not path.exists():
            if (failure := folder / _failure_name(rank)).exists():
                raise RunFailed(
                    f"process {rank} could not write its part of {folder}: "
                    f"{failure.read_text(encoding='utf-8')}"
                )
            if given_up.is_set() or time.monotonic() > deadline:
                raise RunFailed(f"process {rank} did not write its part of {folder}")
            time.sleep(0.01)
        part = json.loads(path.read_text(encoding="utf-8"))
        manifest |= part["files"]
        for kind, tensors in part["shards"].items():
            for name, value in tensors.items():
                known = shards[kind].setdefault(name, {"shape": value["shape"], "parts": []})
                known["parts"] += value["parts"]
        path.unlink()
    index = folder / SHARDS
    index.write_text(json.dumps(shards), encoding="utf-8")
    for kind in shards:
        _index(folder, kind)
    return manifest | {SHARDS: entry(index)}


def file_names(folder: Path) -> set[str]:
    """Return the names of the files with a checkpoint's tensors.

    Raises:
        UnreadableTensorsError: if their index cannot be read.
    """
    if not (folder / SHARDS).exists():
        return {whole_file(WEIGHTS), whole_file(MOMENTS)}
    tensors = [v for kind in (WEIGHTS, MOMENTS) for v in _index(folder, kind).values()]
    return {SHARDS, *(part["file"] for value in tensors for part in value["parts"])}


def _index(folder: Path, kind: str) -> dict[str, Any]:
    try:
        index: dict[str, Any] = files.read_json(folder / SHARDS, INDEX_BYTES)[kind]
        sound = all(_is_whole(**value) for value in index.values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError):
        sound = False
    if not sound:
        raise UnreadableTensorsError(f"{folder / SHARDS} cannot be read, or is incomplete")
    return index


def _is_whole(shape: Any, parts: Any) -> bool:
    """Return whether an index's parts cover all rows, in order and without overlap."""
    end = 0
    for part in sorted(parts, key=lambda part: int(part["start"])):
        if part["start"] != end or part["rows"] < 1 or not PART_FILE.fullmatch(part["file"]):
            return False
        end += part["rows"]
    return all(isinstance(n, int) for n in (*shape, end)) and end == (shape[0] if shape else 1)


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in the files of a checkpoint, read by rows.

    Attributes:
        name: of the tensor in the files.
        shape: of the whole tensor.
        parts: the first row and the file of each part, in the order of the rows.
        stored: the checkpoint.
        scaled: whether its rows are int8, to be multiplied by their scales.
    """

    name: str
    shape: tuple[int, ...]
    parts: Sequence[tuple[int, str]]
    stored: Stored
    scaled: bool = False

    def __getitem__(self, rows: slice | EllipsisType) -> Tensor:
        """Read some rows, or all, and nothing else of the files.

        Raises:
            UnreadableTensorsError: if they are not what was written.
        """
        try:
            if not self.shape:
                scalar: Tensor = self.stored.opened(self.parts[0][1]).get_tensor(self.name)
                return scalar
            first, end, _ = (slice(None) if rows is ... else rows).indices(self.shape[0])
            pieces = list(self._pieces(first, end))
            result = torch.cat(pieces) if len(pieces) > 1 else pieces[0]
        except UnreadableTensorsError:
            raise
        except (SafetensorError, RuntimeError, TypeError, OverflowError, UnicodeError) as error:
            raise self._unreadable(str(error).splitlines()[0]) from None
        if result.shape != (end - first, *self.shape[1:]):
            raise self._unreadable("its parts are not the whole")
        return result

    def _unreadable(self, reason: str) -> UnreadableTensorsError:
        return UnreadableTensorsError(f"{self.stored.folder}: {files.short(self.name)}: {reason}")

    def _pieces(self, first: int, end: int) -> Iterator[Tensor]:
        """Yield the rows of each part that has some; for no rows, an empty piece."""
        ends = [*(start for start, _ in self.parts[1:]), self.shape[0]]
        for (start, file), stop in zip(self.parts, ends, strict=True):
            low, high = max(first, start), min(end, stop)
            if low < high or (first == end and start == 0):
                rows = slice(low - start, high - start)
                values = self.stored.opened(file).get_slice(self.name)[rows]
                if self.scaled:
                    values = values * self.stored.opened(file).get_slice(self.name + SCALE)[rows]
                yield values


def current_name(name: str) -> str:
    """Return the current name of a stored tensor; moments are named ``parameter/key``."""
    parameter, slash, key = name.partition("/")
    return RENAMED.get(parameter, parameter) + slash + key


class Stored(Mapping[str, Tensor]):
    """The tensors of one kind in a checkpoint, each read on access.

    Args:
        folder: of the checkpoint.
        kind: ``WEIGHTS`` or ``MOMENTS``.

    Attributes:
        folder: of the checkpoint.
        by_rows: the tensors, to be read by rows.

    Raises:
        UnreadableTensorsError: if they are not what was written.
    """

    def __init__(self, folder: Path, kind: str) -> None:
        self.folder = folder
        self._opened: dict[str, Any] = {}
        self.by_rows: dict[str, Rows] = {}
        if (folder / SHARDS).exists():
            for name, value in _index(folder, kind).items():
                places = sorted((part["start"], part["file"]) for part in value["parts"])
                shape = tuple(value["shape"])
                self.by_rows[current_name(name)] = StoredTensor(name, shape, places, self)
            return
        file = whole_file(kind)
        values = self.opened(file)
        names = set(values.keys())
        for name in sorted(names):
            if name.endswith(SCALE) and name.removesuffix(SCALE) in names:
                continue
            shape, scaled = tuple(values.get_slice(name).get_shape()), name + SCALE in names
            self.by_rows[current_name(name)] = StoredTensor(name, shape, [(0, file)], self, scaled)

    def below(self, prefix: str) -> Stored:
        """Return the tensors whose names begin with a prefix, named without it."""
        found = copy.copy(self)
        found.by_rows = {
            name.removeprefix(prefix): tensor
            for name, tensor in self.by_rows.items()
            if name.startswith(prefix)
        }
        return found

    def opened(self, file: str) -> Any:
        """Return an open file of the checkpoint, opened once."""
        if file not in self._opened:
            try:
                self._opened[file] = safe_open(self.folder / file, framework="pt")
            except (OSError, SafetensorError) as error:
                reason = str(error).splitlines()[0]
                raise UnreadableTensorsError(f"{self.folder / file}: {reason}") from None
        return self._opened[file]

    def __getitem__(self, name: str) -> Tensor:
        return self.by_rows[name][...]

    def __iter__(self) -> Iterator[str]:
        return iter(self.by_rows)

    def __len__(self) -> int:
        return len(self.by_rows)


def as_int8(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Round matrices to int8, each row by its own scale, which ``Stored`` multiplies again.

    Args:
        weights: of a network.

    Returns:
        The same names; a matrix ``[rows, …]`` has its scales ``[rows, 1]`` beside it.
    """
    rounded = {}
    for name, values in weights.items():
        if values.ndim != 2:
            rounded[name] = values
            continue
        rounded[name], rounded[name + SCALE] = rounded_rows(values)
    return rounded


def weights_checksum(weights: Mapping[str, Tensor]) -> int:
    """Return the sum of this process' weights, their bits read as integers."""
    sums = [Part.of(t).values.view(torch.int32).sum(dtype=torch.int64) for t in weights.values()]
    return int(torch.stack(sums).sum()) if sums else 0


def weights_sha256(weights: Mapping[str, Tensor]) -> str:
    """Return a hash of weights: names, types, shapes and bytes, in the order of names."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        # One after the other: stored ones are read now.
        tensor = weights[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
