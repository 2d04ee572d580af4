"""Read a folder of safetensors that is not trusted: it may be damaged or hostile.

Nothing is unpickled, nothing outside the folder is opened, and no tensor is read before its shape
was checked.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from wafergpt.errors import InputError
from wafergpt.files import read_json, short

CONFIG_BYTES = 1 << 20
INDEX_BYTES = 16 << 20
"""The size limits of a configuration and of an index."""

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLES = ("pytorch_model*.bin", "*.ckpt", "*.pt", "*.pth")
TYPES = ("F32", "BF16", "F16")
"""Types that convert to fp32 without loss."""

WHOLE = "I32"
"""The type of numbers of rows and tokens."""


@dataclass(frozen=True)
class Entry:
    """The file of a tensor, and its description in the header."""

    file: Path
    name: str
    kind: str
    shape: tuple[int, ...]


def inside(folder: Path, name: str) -> Path:
    """Return the path of a file of a folder.

    Raises:
        InputError: if the name, or the link under that name, leads out of the folder. The links of
            Hugging Face's cache, from ``snapshots/REVISION`` to ``blobs``, are followed.
    """
    path = folder / name
    if Path(name).name != name or name in ("", ".", ".."):
        raise InputError(f"{folder}: the file name {short(name)} leads out of the folder")
    try:
        real, home, linked = path.resolve(), folder.resolve(), path.is_symlink()
    except (OSError, ValueError, RuntimeError):
        # A NUL, a lone surrogate, a name that is too long, a link to itself.
        raise InputError(f"{folder}: a file cannot be called {short(name)}") from None
    cached = home.parent.name == "snapshots" and real.parent == home.parent.parent / "blobs"
    if linked and not (cached or real.parent == home):
        raise InputError(f"{path} is a link that leads out of the folder: copy the file there")
    return path


def read_object(folder: Path, name: str, max_bytes: int) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        InputError: if there is none, or it is too large.
    """
    path = inside(folder, name)
    if not folder.is_dir():
        raise InputError(f"no folder {folder}: nothing is downloaded, so get its files first")
    if not path.is_file():
        raise InputError(f"no {name} in {folder}")
    value = read_json(path, max_bytes)
    if not isinstance(value, dict):
        raise InputError(f"{path} is not a JSON object")
    return value


def entries(folder: Path) -> dict[str, Entry]:
    """Return every tensor of a folder's safetensors by its name there.

    Raises:
        InputError: if there are none, or they do not match the index.
    """
    mapped: dict[str, str] | None = None
    if inside(folder, WEIGHTS).is_file():
        names = [WEIGHTS]
    elif inside(folder, INDEX).is_file():
        mapped = _weight_map(folder)
        names = sorted(set(mapped.values()))
    else:
        raise InputError(_no_weights(folder))
    found: dict[str, Entry] = {}
    for name in names:
        path = inside(folder, name)
        if not path.is_file():
            raise InputError(f"{path} is missing: {INDEX} names it")
        for entry in _header(path):
            if entry.name in found:
                known = found[entry.name].file.name
                raise InputError(f"{path}: {short(entry.name)} is in {known} too")
            if mapped is not None and mapped.get(entry.name) != name:
                raise InputError(f"{path}: {short(entry.name)} is not in the file of {INDEX}")
            found[entry.name] = entry
    lost = next((tensor for tensor in mapped or () if tensor not in found), None)
    if lost is not None:
        raise InputError(f"{folder}: {short(lost)} is in {INDEX}, but in no file")
    return found


def read(wanted: Mapping[str, Entry]) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of some entries, under their keys, one at a time: whole numbers, or fp32.

    Raises:
        InputError: if a tensor cannot be read, or has a value that is not finite.
    """
    for path in sorted({entry.file for entry in wanted.values()}):
        with _open(path) as file:
            for key, entry in wanted.items():
                if entry.file == path:
                    tensor = file.get_tensor(entry.name)
                    if entry.kind != WHOLE:
                        tensor = tensor.to(torch.float32)
                    if not bool(torch.isfinite(tensor).all()):
                        raise InputError(f"{path}: {entry.name!r} contains NaN or infinity")
                    yield key, tensor


@contextmanager
def _open(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        if isinstance(error, InputError):
            raise
        # The error may quote the file, which may contain terminal control characters.
        text = "".join(c if c.isprintable() else " " for c in str(error))
        reason = " ".join(text.split())[:200]
        raise InputError(f"{path} is not a valid safetensors file: {reason}") from None


def _header(path: Path) -> Iterator[Entry]:
    with _open(path) as file:
        for name in file.keys():  # noqa: SIM118 (it is no mapping)
            part = file.get_slice(name)
            yield Entry(path, name, part.get_dtype(), tuple(part.get_shape()))


def _weight_map(folder: Path) -> dict[str, str]:
    mapped = read_object(folder, INDEX, INDEX_BYTES).get("weight_map")
    path = folder / INDEX
    if not isinstance(mapped, dict) or not mapped:
        raise InputError(f"{path} has no weight_map")
    for tensor, name in mapped.items():
        if not isinstance(name, str) or not name.endswith(".safetensors"):
            raise InputError(
                f"{path}: {short(tensor)} is in {short(name)}, which is not a .safetensors file"
            )
        inside(folder, name)
    return mapped


CONVERTING = (
    "import sys; from transformers import GPT2LMHeadModel as M; "
    'M.from_pretrained(sys.argv[1]).save_pretrained("converted")'
)
"""Program that reads pickled weights of a folder and writes safetensors."""


def _no_weights(folder: Path) -> str:
    if any(next(folder.glob(pattern), None) for pattern in PICKLES):
        return (
            f"{folder} contains pickled weights, which can run any code when they are read: "
            "convert them in an isolated environment (such as a container without network): "
            + shlex.join(["python", "-c", CONVERTING, str(folder)])
            + ", then import that folder"
        )
    return f"no {WEIGHTS} and no {INDEX} in {folder}"
