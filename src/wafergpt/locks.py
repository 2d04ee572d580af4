"""Locks on files, which a process that dies lets go of; and what happens where there are none."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from wafergpt.files import mount_of
from wafergpt.progress import say_once

TAKEN = {errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES}
"""Errors of a lock that another process holds."""

NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL, errno.EBADF}
"""Errors of a file system that has no locks: some NFS, FUSE and container mounts."""


class Lock:
    """An exclusive lock on a file, which goes with the file whatever its folder is called.

    On a file system without locks it is always free, which is said once.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.works = True
        """Whether it keeps others out; known once it was acquired."""
        self._descriptor: int | None = None

    def acquire(self, wait: bool = False) -> bool:
        """Take the lock, waiting for it if asked to; return whether this process has it now.

        Raises:
            OSError: if the file cannot be opened or made.
        """
        import fcntl

        descriptor = _opened(self.path)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError as error:
            if error.errno in TAKEN:
                os.close(descriptor)
                return False
            if error.errno not in NO_LOCKS:
                os.close(descriptor)
                raise
            self.works = False
            mount = mount_of(self.path)
            say_once(
                ("locks", mount),
                f"warning: the file system at {mount} has no locks ({error.strerror}): "
                "make sure that no two processes train in one run there",
            )
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor
        return True

    def release(self) -> None:
        """Let go of the lock; the file stays."""
        import fcntl

        descriptor, self._descriptor = self._descriptor, None
        if descriptor is None:
            return
        try:
            # A forked process may have the same descriptor.
            if self.works:
                fcntl.flock(descriptor, fcntl.LOCK_UN)
        finally:
            os.close(descriptor)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Wait for a lock, and hold it."""
    lock = Lock(path)
    lock.acquire(wait=True)
    try:
        yield
    finally:
        lock.release()


def _opened(path: Path) -> int:
    """Open a lock file for writing, which NFS wants, or as another user's for reading."""
    # Neither a link nor a pipe can stand in its place.
    flags = os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        return os.open(path, flags | os.O_RDWR | os.O_CREAT, 0o666)
    except PermissionError:
        try:
            return os.open(path, flags | os.O_RDONLY)
        except OSError:
            pass
        raise
