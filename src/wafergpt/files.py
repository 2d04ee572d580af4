"""Writing so that a reader sees the old file or the new one, never a part of either.

And reading what may come from anyone.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import reprlib
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from wafergpt.errors import InputError
from wafergpt.progress import say_once

JSON_BYTES = 64 << 20
"""A larger file is no JSON of ours; once read it takes some twenty times as much memory."""


NO_SYNC = {
    errno.EINVAL, errno.EACCES, errno.EPERM, errno.EBADF, errno.ENOSYS, errno.ENOTSUP,
    errno.EOPNOTSUPP, errno.EISDIR,
}  # fmt: skip
"""Errors of a file system that cannot flush a file or a folder."""

SHOWN = 60
"""Characters of a wrong name or value that an error repeats."""


def short(value: object) -> str:
    """Write a value as Python would, in few characters however large it is."""
    form = reprlib.Repr()
    form.maxstring = form.maxother = form.maxlong = SHOWN
    form.maxlevel = 2
    return form.repr(value)


def is_file(path: Path) -> bool:
    """Say whether there is a regular file; under a name that no file can have, there is none."""
    try:
        return path.is_file()
    except OSError:
        return False


def exists(path: Path) -> bool:
    """Say whether there is anything; under a name that no file can have, there is not."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def from_home(path: str | Path) -> Path:
    """Return a path with its ``~`` replaced, where there is such a home."""
    try:
        return Path(path).expanduser()
    except (RuntimeError, ValueError):
        return Path(path)


def read_json(path: Path, most_bytes: int = JSON_BYTES, fault: str = "is not JSON") -> Any:
    """Read a JSON file that may come from anyone, and may be anything.

    Raises:
        InputError: if it is no regular file, is larger than ``most_bytes``, or cannot be read;
            ``fault`` says what is then wrong with it.
    """
    # Only a regular file has an end: a pipe would be waited for.
    if not is_file(path):
        raise InputError(f"no such file: {path}")
    with path.open("rb") as file:
        data = file.read(most_bytes + 1)
    if len(data) > most_bytes:
        raise InputError(f"{path} is too large (limit {most_bytes >> 20} MiB)")
    try:
        return json.loads(data.decode())
    except (ValueError, RecursionError) as error:
        reason = "too deep" if isinstance(error, RecursionError) else error
        raise InputError(f"{path} {fault}: {reason}") from None


def sync(path: Path) -> None:
    """Flush a file or folder to the disk; where that cannot be done, say so once and go on."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in NO_SYNC:
            raise
        mount = mount_of(path)
        say_once(
            ("sync", mount),
            f"warning: the file system at {mount} cannot flush what is written to the disk "
            f"({error.strerror}): a loss of power may cost the last of it",
        )


def mount_of(path: Path) -> Path:
    """Return the folder at which the file system of a path is mounted."""
    path = path.absolute()
    return next(folder for folder in (path, *path.parents) if os.path.ismount(folder))


def require_writable(folder: Path, option: str) -> None:
    """Check that a folder can be written, or made.

    Raises:
        InputError: if it cannot; ``option`` is what names another one.
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


def beside(path: Path) -> Path:
    """Return a hidden, unused path next to ``path``."""
    return path.with_name(f".{path.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}.tmp")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write; on success it is flushed and renamed over ``path``.

    On any exception the temporary file is removed and ``path`` stays as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = beside(path)
    try:
        yield temporary
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def appearing(folder: Path, temporary: Path | None = None) -> Iterator[Path]:
    """Yield a temporary folder to fill; on success it is flushed and renamed to ``folder``.

    An existing ``folder`` is replaced. On any exception the temporary folder is removed. It may
    have been made before, beside ``folder``, where others fill it too.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary or beside(folder)
    temporary.mkdir(exist_ok=True)
    try:
        yield temporary
        for file in temporary.iterdir():
            sync(file)
        sync(temporary)
        if folder.exists():
            old = beside(folder)
            try:
                folder.rename(old)
            except OSError as error:
                # An image's folder, on an overlay, has no other name.
                if error.errno != errno.EXDEV:
                    raise
                shutil.copytree(folder, old, symlinks=True)
                shutil.rmtree(folder)
            temporary.rename(folder)
            shutil.rmtree(old)
        else:
            temporary.rename(folder)
        sync(folder.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path`` atomically."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` as UTF-8, atomically."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` to ``path`` as indented JSON, atomically; NaN is refused."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file as hex, read in bounded memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
