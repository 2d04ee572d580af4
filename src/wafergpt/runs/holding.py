"""Who trains in a run: one process at a time."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from wafergpt import atomic_files
from wafergpt.errors import InputError
from wafergpt.locks import Lock
from wafergpt.logs import say

LOCK = ".lock"

HOLDER = "holder"
"""File that names the process that trains in the run, for people."""

CLOCK_SECONDS = 2.0
"""Tolerance for a file system's clock."""

_created: dict[Path, Lock] = {}
"""Locks of runs that this process has made and not yet trained."""


def hold_new(path: Path, temporary: Path) -> None:
    """Lock a run that is being made, until this process trains it.

    Args:
        path: of the run.
        temporary: the folder that will be renamed to it; a lock stays with its file.
    """
    _created[path] = Lock(temporary / LOCK)
    _created[path].acquire()


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Lock a run for training; the lock of a process that dies is released.

    Args:
        path: of the run.

    Raises:
        InputError: if another process trains in it.
    """
    lock = _created.pop(path, None)
    if lock is None:
        lock = Lock(path / LOCK)
        if not lock.acquire():
            raise _in_use(path, _holder(path) or "another process")
    try:
        if not lock.works:
            _require_no_holder(path)
        holder = path / HOLDER
        # It is for messages alone: a run can be removed from a full disk.
        with suppress(OSError):
            name = f"process {os.getpid()} on {socket.gethostname()}\n"
            atomic_files.write_text(holder, name)
        try:
            yield
        finally:
            holder.unlink(missing_ok=True)
    finally:
        lock.release()


def _in_use(path: Path, by: str) -> InputError:
    return InputError(f"{path} is in use by {by}: wait for it, or stop it first")


def _holder(path: Path) -> str:
    """Return the name of the process that trains here or was killed here, if known."""
    try:
        return (path / HOLDER).read_text(encoding="utf-8", errors="replace")[:100].strip()
    except OSError:
        return ""


def _require_no_holder(path: Path) -> None:
    """Find another process that trains here, on file systems without locks.

    Raises:
        InputError: if there is one on this machine.
    """
    who = _holder(path)
    found = re.fullmatch(r"process (\d{1,18}) on (.+)", who)
    if not found:
        return
    number, host = int(found[1]), found[2]
    if host != socket.gethostname():
        say(f"warning: {path} was in use by {who}: if it still is, stop one of the two")
    elif number != os.getpid() and _lives_since(number, path / HOLDER):
        raise _in_use(path, who)


def _lives_since(process: int, file: Path) -> bool:
    """Return whether a process is alive and older than a file, so not a later one of its number."""
    import psutil

    try:
        return psutil.Process(process).create_time() <= file.stat().st_mtime + CLOCK_SECONDS
    except (psutil.Error, OSError):
        return False
