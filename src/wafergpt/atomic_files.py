"""Atomic writes: a reader sees the old file or folder or the new one, never a part of either.

What is written goes to a temporary name beside the final one, is flushed, and renamed.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from wafergpt.errors import InputError
from wafergpt.files import mount_of
from wafergpt.logs import say_once

NO_FLUSH = {
    errno.EINVAL, errno.EACCES, errno.EPERM, errno.EBADF, errno.ENOSYS, errno.ENOTSUP,
    errno.EOPNOTSUPP, errno.EISDIR,
}  # fmt: skip
"""Errors of file systems that cannot flush a file or a folder."""

SHARED = 0o666
"""Bits of a file's mode: who may read and write it."""


def sync(path: Path) -> None:
    """Flush a file or folder to the disk; if the file system cannot, warn once and continue."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in NO_FLUSH:
            raise
        mount = mount_of(path)
        say_once(
            ("sync", mount),
            f"warning: the file system at {mount} cannot flush writes to the disk "
            f"({error.strerror}): a loss of power may lose the latest ones",
        )


def beside(path: Path) -> Path:
    """Return an unused hidden path next to ``path``."""
    return path.with_name(f".{path.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}.tmp")


def _share(path: Path, usual: int) -> None:
    """Let a file be read and written by whom the umask admits: safetensors writes for the owner."""
    mode = path.stat().st_mode
    if stat.S_ISREG(mode) and usual & SHARED & ~mode:
        with suppress(OSError):  # Some file systems have no modes.
            path.chmod(stat.S_IMODE(mode) | usual & SHARED)


@contextmanager
def replacing(path: Path, new: bool = False) -> Iterator[Path]:
    """Yield a temporary path to write to; on success, flush it and rename it to ``path``.

    On any exception the temporary file is removed and ``path`` is unchanged.

    Args:
        path: the file to make.
        new: refuse to replace a file, also one that has been made meanwhile.

    Yields:
        The path to write to.

    Raises:
        InputError: if the file is to be new, and is not.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = beside(path)
    try:
        temporary.touch()
        usual = temporary.stat().st_mode
        yield temporary
        _share(temporary, usual)
        sync(temporary)
        if new:
            _link_new(temporary, path)
        else:
            temporary.replace(path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _link_new(temporary: Path, path: Path) -> None:
    """Give a file its name, unless another program has made one of that name meanwhile."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise _made_meanwhile(path) from None
    except OSError:
        # Some file systems have no links.
        if path.exists() or path.is_symlink():
            raise _made_meanwhile(path) from None
        temporary.replace(path)


def _made_meanwhile(path: Path) -> InputError:
    return InputError(f"{path} exists now, made by another program meanwhile: choose another name")


@contextmanager
def appearing(
    folder: Path, temporary: Path | None = None, replaces: bool = False
) -> Iterator[Path]:
    """Yield a temporary folder to fill; on success, flush it and rename it to ``folder``.

    On any exception the temporary folder is removed.

    Args:
        folder: the folder to make.
        temporary: a folder beside it that already exists, for several processes to fill; if
            omitted, one is made.
        replaces: replace an existing ``folder``.

    Yields:
        The folder to fill.

    Raises:
        InputError: if ``folder`` exists, perhaps only meanwhile, and is not to be replaced.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary or beside(folder)
    temporary.mkdir(exist_ok=True)
    try:
        yield temporary
        for file in temporary.iterdir():
            _share(file, temporary.stat().st_mode)
            sync(file)
        sync(temporary)
        if not replaces:
            _rename_new(temporary, folder)
        elif folder.exists():
            old = beside(folder)
            try:
                folder.rename(old)
            except OSError as error:
                # On an overlay, a folder of the image cannot be renamed.
                if error.errno != errno.EXDEV:
                    raise
                shutil.copytree(folder, old, symlinks=True)
                shutil.rmtree(folder)
            try:
                temporary.rename(folder)
            except BaseException:
                # Another process may have made it meanwhile: then its content is the new one.
                with suppress(OSError):
                    old.rename(folder)
                raise
            # A network file system may keep files of it that are open somewhere.
            shutil.rmtree(old, ignore_errors=True)
        else:
            temporary.rename(folder)
        sync(folder.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _rename_new(temporary: Path, folder: Path) -> None:
    """Give a folder its name, unless another program has made one of that name meanwhile."""
    if folder.exists() or folder.is_symlink():
        raise _made_meanwhile(folder)
    try:
        # A folder with anything in it is not replaced.
        temporary.rename(folder)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise
        raise _made_meanwhile(folder) from None


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
