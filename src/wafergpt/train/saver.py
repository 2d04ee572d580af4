"""Saving beside the training: the state is copied, and a thread writes the copy."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from wafergpt import config
from wafergpt.errors import RunFailed, TeamLost
from wafergpt.parallel.team import ALONE, Order, Team
from wafergpt.progress import working
from wafergpt.run import Run
from wafergpt.train import checkpoint
from wafergpt.train.state import TrainState
from wafergpt.train.stored import write_part


class Saver:
    """Writes a run's checkpoints, one at a time, so that no more than one copy is ever held.

    Args:
        run: whose checkpoints.
        settings: of the recipe.
        writers: the processes that write, each what it holds; alone, this one writes all.
        timeout: seconds in which all must have written.
    """

    def __init__(
        self, run: Run, settings: config.Checkpoint, writers: Team = ALONE, timeout: float = 0.0
    ) -> None:
        self._run, self._settings = run, settings
        self._writers, self._timeout = writers, timeout
        self._given_up = threading.Event()
        self._thread = BackgroundWriter(settings.background)
        self._saved: str | None = None
        self._longest = 0.0

    def save(self, state: TrainState) -> None:
        """Save the state as it is now. What went wrong with the save before is raised here.

        What is on the disk already is not written again.
        """
        self.wait()
        scalars = json.dumps(state.scalars())
        if scalars == self._saved:
            return
        shared = None
        if self._writers.size > 1:
            folder = checkpoint.begin_shared(self._run, state.step)
            self._writers.order(Order.SAVE)
            self._writers.told(str(folder))
            shared = checkpoint.Shared(folder, self._writers.size, self._timeout, self._given_up)
        snapshot = checkpoint.Snapshot.of(state, copied=self._settings.background)
        self._thread.begin(lambda: self._write(snapshot, scalars, shared))

    def _write(
        self, snapshot: checkpoint.Snapshot, scalars: str, shared: checkpoint.Shared | None
    ) -> None:
        start = time.monotonic()
        keep, keep_every = self._settings.keep, self._settings.keep_every
        checkpoint.save(snapshot, self._run, keep, keep_every, shared)
        self._saved = scalars
        self._longest = max(self._longest, time.monotonic() - start)

    def longest(self) -> float:
        """Return the seconds that a save has taken at most."""
        return self._longest

    def wait(self) -> None:
        """Return when all is on the disk; raise what kept it from getting there."""
        self._thread.wait()

    def __enter__(self) -> Saver:
        """Save until the end of the block."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Wait, but not for the parts of processes that are lost; end the thread."""
        if kind is None or not issubclass(kind, TeamLost):
            self.close()
            return
        self._given_up.set()
        # That a process is lost says more than that its part is missing.
        with suppress(RunFailed):
            self.close()

    def close(self) -> None:
        """Wait, and end the thread."""
        with working("saving"):
            self._thread.close()


class PartSaver:
    """Writes what a follower holds of each checkpoint that the leader begins."""

    def __init__(self, settings: config.Checkpoint, team: Team) -> None:
        self._background, self._team = settings.background, team
        self._thread = BackgroundWriter(settings.background)

    def save(self, state: TrainState) -> None:
        """Take part in a checkpoint that the leader has ordered."""
        self._thread.wait()
        folder = Path(self._team.told())
        tensors = checkpoint.Snapshot.of(state, copied=self._background).tensors
        self._thread.begin(lambda: write_part(tensors, folder, self._team.rank, self._team.size))

    def close(self) -> None:
        """Wait, and end the thread."""
        self._thread.close()


class BackgroundWriter:
    """A thread that writes one thing at a time; with ``background`` false, it is waited for."""

    def __init__(self, background: bool) -> None:
        self._background = background
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: Future[None] | None = None

    def begin(self, write: Callable[[], None]) -> None:
        """Have something written, when what went before is."""
        self.wait()
        self._writing = self._pool.submit(write)
        if not self._background:
            self.wait()

    def wait(self) -> None:
        """Return when it is written; raise what kept it from that."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def close(self) -> None:
        """Wait, and end the thread."""
        try:
            self.wait()
        finally:
            self._pool.shutdown()
