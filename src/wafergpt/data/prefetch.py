"""Reading the next update's batches while a device computes this one's."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")


class Prefetch(Generic[T]):
    """Reads one update ahead in a thread.

    What is read is a pure function of its place, so an update elsewhere (after a rollback, or while
    updates are timed) only costs a read that nobody uses.

    Args:
        read: returns what an update reads, from its first sample and their number.
    """

    def __init__(self, read: Callable[[int, int], T]) -> None:
        self._read = read
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="prefetch")
        self._ahead: tuple[tuple[int, int], Future[T]] | None = None

    def take(self, first: int, size: int, next_size: int) -> T:
        """Return samples ``first …`` and start to read the ``next_size`` after them."""
        ahead, self._ahead = self._ahead, None
        known = ahead is not None and ahead[0] == (first, size)
        found = ahead[1].result() if ahead and known else self._read(first, size)
        place = (first + size, next_size)
        self._ahead = place, self._pool.submit(self._read, *place)
        return found

    def close(self) -> None:
        """End the thread."""
        self._pool.shutdown(cancel_futures=True)
