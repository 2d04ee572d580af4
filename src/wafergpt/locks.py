"""File locks, which the system releases when a process dies, and a fallback without them."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from wafergpt.files import mount_of
from wafergpt.logs import say_once

TAKEN = {errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES}
"""Errors of locking when another process holds the lock."""

NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL, errno.EBADF}
"""Errors of locking on a file system without locks: some NFS, FUSE and container mounts."""


class Lock:
    """An exclusive lock on a file, which stays with the file if its folder is renamed.

    On a file system without locks it is always free, and a warning is logged once.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.works = True
        """Whether the lock excludes other processes; known once it was acquired."""
        self._descriptor: int | None = None

    def acquire(self, wait: bool = False) -> bool:
        """Acquire the lock; return whether this process has it now.

        Args:
            wait: wait until the lock is free.

        Raises:
            OSError: if the file cannot be opened or created.
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
                "make sure that no two processes train the same run there",
            )
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor
        return True

    def release(self) -> None:
        """Release the lock; the file stays."""
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
    """Wait for a lock and hold it."""
    lock = Lock(path)
    lock.acquire(wait=True)
    try:
        yield
    finally:
        lock.release()


def _opened(path: Path) -> int:
    """Open a lock file for writing, as NFS requires, or another user's for reading."""
    # Do not follow a link or block on a pipe of that name.
    flags = os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        return os.open(path, flags | os.O_RDWR | os.O_CREAT, 0o666)
    except PermissionError:
        try:
            return os.open(path, flags | os.O_RDONLY)
        except OSError:
            pass
        raise
