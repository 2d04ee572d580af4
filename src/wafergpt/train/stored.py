"""How tensors lie in a checkpoint: whole, or in a file of parts for each process.

Plain safetensors either way. Parts have an index beside them, ``shards.json``, with the shape of
each whole tensor, and where the rows of each part begin in it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from wafergpt import files
from wafergpt.errors import RunFailed
from wafergpt.parallel.sharding import Part

WEIGHTS, MOMENTS = "model", "optimizer"
"""The kinds of tensors, which begin the names of their files."""

SHARDS = "shards.json"

Entry = dict[str, Any]
"""Of a manifest: ``bytes`` and ``sha256`` of a file."""


class UnreadableTensorsError(ValueError):
    """The tensors or their index are not what was written."""


def whole_file(kind: str) -> str:
    """Return the name of the file that holds all tensors of a kind."""
    return f"{kind}.safetensors"


def write_whole(kinds: Mapping[str, Mapping[str, Part]], folder: Path) -> dict[str, Entry]:
    """Write tensors of which this process holds all; return the manifest of the files."""
    for kind, parts in kinds.items():
        tensors = {name: part.values.contiguous() for name, part in parts.items()}
        save_file(tensors, folder / whole_file(kind))
    return {whole_file(kind): entry(folder / whole_file(kind)) for kind in kinds}


def entry(path: Path) -> Entry:
    """Return a file's size and hash."""
    return {"bytes": path.stat().st_size, "sha256": files.sha256(path)}


def write_part(kinds: Mapping[str, Mapping[str, Part]], folder: Path, rank: int, size: int) -> None:
    """Write what one of ``size`` processes holds; its list appears when all is on the disk."""
    manifest: dict[str, Entry] = {}
    shards: dict[str, dict[str, Any]] = {}
    for kind, parts in kinds.items():
        mine = {
            name: part
            for name, part in parts.items()
            # What every process has whole, such as a count of updates, the first one writes.
            if part.first_copy and (len(part.values) if part.shape else rank == 0)
        }
        path = folder / f"{kind}-{rank:05d}-of-{size:05d}.safetensors"
        save_file({name: part.values.contiguous() for name, part in mine.items()}, path)
        files.sync(path)
        manifest[path.name] = entry(path)
        shards[kind] = {
            name: {"shape": part.shape, "parts": [{"file": path.name, "start": part.start}]}
            for name, part in mine.items()
        }
    files.write_json(folder / _list_name(rank), {"files": manifest, "shards": shards})


def _list_name(rank: int) -> str:
    return f"part-{rank:05d}.json"


def join_parts(folder: Path, size: int, timeout: float) -> dict[str, Entry]:
    """Wait for the parts of ``size`` processes, write their index, and return the manifest.

    Raises:
        RunFailed: if one does not come within ``timeout`` seconds.
    """
    manifest: dict[str, Entry] = {}
    shards: dict[str, dict[str, Any]] = {WEIGHTS: {}, MOMENTS: {}}
    deadline = time.monotonic() + timeout
    for rank in range(size):
        path = folder / _list_name(rank)
        while not path.exists():
            if time.monotonic() > deadline:
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
    return manifest | {SHARDS: entry(index)}


def file_names(folder: Path) -> set[str]:
    """Return the names of the files that a checkpoint's tensors lie in.

    Raises:
        UnreadableTensorsError: if their index cannot be read.
    """
    if not (folder / SHARDS).exists():
        return {whole_file(WEIGHTS), whole_file(MOMENTS)}
    names = {SHARDS}
    for kind in (WEIGHTS, MOMENTS):
        for value in _index(folder, kind).values():
            names |= {part["file"] for part in value["parts"]}
    return names


def _index(folder: Path, kind: str) -> dict[str, Any]:
    try:
        index: dict[str, Any] = json.loads((folder / SHARDS).read_text(encoding="utf-8"))[kind]
        sound = all(
            all(isinstance(n, int) and n >= 0 for n in value["shape"])
            and all(
                isinstance(part["start"], int) and Path(part["file"]).name == part["file"]
                for part in value["parts"]
            )
            for value in index.values()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        sound = False
    if not sound:
        raise UnreadableTensorsError(f"{folder / SHARDS} cannot be read")
    return index


class Stored(Mapping[str, Tensor]):
    """The tensors of one kind in a checkpoint, whole, each read when it is asked for.

    Args:
        folder: of the checkpoint.
        kind: ``WEIGHTS`` or ``MOMENTS``.

    Raises:
        UnreadableTensorsError: if they are not what was written.
    """

    def __init__(self, folder: Path, kind: str) -> None:
        self._folder = folder
        self._opened: dict[str, Any] = {}
        self._index: dict[str, Any]
        if (folder / SHARDS).exists():
            self._index = _index(folder, kind)
        else:
            file = whole_file(kind)
            self._index = {
                name: {"shape": None, "parts": [{"file": file, "start": 0}]}
                for name in self._open(file).keys()  # noqa: SIM118 (it is no mapping)
            }

    def _open(self, file: str) -> Any:
        if file not in self._opened:
            try:
                self._opened[file] = safe_open(self._folder / file, framework="pt")
            except (OSError, SafetensorError) as error:
                reason = str(error).splitlines()[0]
                raise UnreadableTensorsError(f"{self._folder / file}: {reason}") from None
        return self._opened[file]

    def __getitem__(self, name: str) -> Tensor:
        value = self._index[name]
        parts = [
            (part["start"], self._open(part["file"]).get_tensor(name)) for part in value["parts"]
        ]
        if value["shape"] is None or not value["shape"]:
            tensor: Tensor = parts[0][1]
            return tensor
        parts.sort(key=lambda part: part[0])
        ends = [start + len(values) for start, values in parts]
        if [start for start, _ in parts] != [0, *ends[:-1]] or ends[-1] != value["shape"][0]:
            raise UnreadableTensorsError(f"{self._folder}: the parts of {name} are not the whole")
        return torch.cat([values for _, values in parts])

    def __iter__(self) -> Iterator[str]:
        return iter(self._index)

    def __len__(self) -> int:
        return len(self._index)
