"""Reading of files and paths that are not trusted, and how messages show them."""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import math
import os
import re
import reprlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from wafergpt.errors import InputError

JSON_BYTES = 64 << 20
"""A larger file is not one of ours; once parsed, it takes about twenty times as much memory."""


SHOWN = 60
"""Characters of a wrong name or value that an error shows."""


def short(value: object) -> str:
    """Return the repr of a value, shortened if it is long."""
    form = reprlib.Repr()
    form.maxstring = form.maxother = form.maxlong = SHOWN
    form.maxlevel = 2
    return form.repr(value)


def many(count: int, what: str) -> str:
    """Return a number and what it counts, in the plural if it is not 1."""
    return f"{count:,} {what}{'s' * (count != 1)}"


def is_file(path: Path) -> bool:
    """Return whether there is a regular file; False for a name that no file can have."""
    try:
        return path.is_file()
    except OSError:
        return False


def exists(path: Path) -> bool:
    """Return whether a path exists; False for a name that no file can have."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def is_pattern(path: Path) -> bool:
    """Return whether a path stands for the files that match it, such as ``data/*.csv``."""
    return glob.has_magic(str(path)) and not exists(path)


def from_home(path: str | Path) -> Path:
    """Return a path with its ``~`` replaced, if that home folder is known."""
    try:
        return Path(path).expanduser()
    except (RuntimeError, ValueError):
        return Path(path)


def finite(value: Any) -> Any:
    """Return plain values as JSON has them: null for a number that is not finite."""
    if isinstance(value, Mapping):
        return {str(key): finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_json(path: Path, max_bytes: int = JSON_BYTES, fault: str = "is not JSON") -> Any:
    """Read a JSON file that is not trusted.

    Args:
        path: the file.
        max_bytes: the size limit.
        fault: what to call a file that cannot be parsed.

    Raises:
        InputError: if it is not a regular file, is larger than ``max_bytes``, or cannot be parsed.
    """
    # Only a regular file has an end: reading a pipe could block.
    if not is_file(path):
        raise InputError(f"no such file: {path}")
    with path.open("rb") as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise InputError(f"{path} is too large (limit {max_bytes >> 20} MiB)")
    try:
        return json.loads(data.decode())
    except (ValueError, RecursionError) as error:
        reason = "too deep" if isinstance(error, RecursionError) else error
        raise InputError(f"{path} {fault}: {reason}") from None


def mount_of(path: Path) -> Path:
    """Return the mount point of the file system of a path."""
    path = path.absolute()
    return next(folder for folder in (path, *path.parents) if os.path.ismount(folder))


CORPUS = "corpus.json"
"""The file that makes a folder a corpus."""


def is_corpus(folder: Path) -> bool:
    """Return whether a folder is a prepared corpus."""
    return is_file(folder / CORPUS)


def require_writable(folder: Path, option: str) -> None:
    """Check that a folder can be written, or created.

    Args:
        folder: the folder, which may not exist yet.
        option: the option that chooses another folder.

    Raises:
        InputError: if it cannot.
    """
    there = folder.absolute()
    while not there.exists() and there != there.parent:
        there = there.parent
    if not there.is_dir():
        raise InputError(f"{there} is a file: choose another folder with {option}")
    if not os.access(there, os.W_OK | os.X_OK):
        raise InputError(
            f"{there} cannot be written (it is read-only, or another user's): "
            f"choose another folder with {option}"
        )


def require_new(path: Path, option: str, *inputs: Path) -> None:
    """Check that a file can be written and is not there yet.

    Args:
        path: the file.
        option: the option that names it.
        inputs: files that it is made from.

    Raises:
        InputError: if it cannot, or is there.
    """
    if path.exists() or path.is_symlink():
        own = path.exists() and any(path.samefile(one) for one in inputs if one.exists())
        what = "is the input itself" if own else "exists"
        raise InputError(f"{path} {what}: choose another {option}")
    folder = path.absolute().parent
    if not folder.is_dir():
        raise InputError(f"no such folder: {folder}")
    require_writable(folder, option)


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file as hex, in bounded memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tree_bytes(folder: Path) -> int:
    """Return the bytes of all files below a folder; those that vanish meanwhile count for none."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                total += Path(place, name).lstat().st_size
    return total


@contextmanager
def system_errors() -> Iterator[None]:
    """Raise what safetensors and NumPy report of a full disk, or the like, as an OSError.

    Raises:
        OSError: with the system's number.
    """
    try:
        yield
    except Exception as error:
        found = re.search(r"\(os error (\d+)\)", str(error))
        number = int(found[1]) if found else None
        if re.fullmatch(r"\d+ requested and \d+ written", str(error)):
            number = errno.ENOSPC
        if number is None or (isinstance(error, OSError) and error.errno is not None):
            raise
        raise OSError(number, os.strerror(number)) from error
