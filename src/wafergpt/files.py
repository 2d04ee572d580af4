"""Atomic writes: a reader sees the old file or the new one, never a part of either.

And reading of files that are not trusted.
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
"""A larger file is not one of ours; once parsed, it takes about twenty times as much memory."""


NO_SYNC = {
    errno.EINVAL, errno.EACCES, errno.EPERM, errno.EBADF, errno.ENOSYS, errno.ENOTSUP,
    errno.EOPNOTSUPP, errno.EISDIR,
}  # fmt: skip
"""Errors of file systems that cannot flush a file or a folder."""

SHOWN = 60
"""Characters of a wrong name or value that an error shows."""


def short(value: object) -> str:
    """Return the repr of a value, shortened if it is long."""
    form = reprlib.Repr()
    form.maxstring = form.maxother = form.maxlong = SHOWN
    form.maxlevel = 2
    return form.repr(value)


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


def from_home(path: str | Path) -> Path:
    """Return a path with its ``~`` replaced, if that home folder is known."""
    try:
        return Path(path).expanduser()
    except (RuntimeError, ValueError):
        return Path(path)


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


def sync(path: Path) -> None:
    """Flush a file or folder to the disk; if the file system cannot, warn once and continue."""
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
            f"warning: the file system at {mount} cannot flush writes to the disk "
            f"({error.strerror}): a loss of power may lose the latest ones",
        )


def mount_of(path: Path) -> Path:
    """Return the mount point of the file system of a path."""
    path = path.absolute()
    return next(folder for folder in (path, *path.parents) if os.path.ismount(folder))


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


def beside(path: Path) -> Path:
    """Return an unused hidden path next to ``path``."""
    return path.with_name(f".{path.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}.tmp")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to; on success, flush it and rename it to ``path``.

    On any exception the temporary file is removed and ``path`` is unchanged.
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
    """Yield a temporary folder to fill; on success, flush it and rename it to ``folder``.

    An existing ``folder`` is replaced. On any exception the temporary folder is removed.

    Args:
        folder: the folder to make.
        temporary: a folder beside it that already exists, for several processes to fill; if
            omitted, one is made.
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
                # On an overlay, a folder of the image cannot be renamed.
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
    """Return the SHA-256 of a file as hex, in bounded memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
