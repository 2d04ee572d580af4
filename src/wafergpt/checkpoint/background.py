"""Saving in the background: the state is copied, and a thread writes the copy."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from wafergpt import config
from wafergpt.checkpoint import store
from wafergpt.checkpoint.format import write_part
from wafergpt.checkpoint.store import HostState
from wafergpt.distributed.collectives import SINGLE, ProcessGroup
from wafergpt.distributed.commands import Command, send
from wafergpt.errors import ProcessLost, RunFailed
from wafergpt.progress import working
from wafergpt.runs.run import Run


class Saver:
    """Writes a run's checkpoints, one at a time, so that at most one copy is held.

    Args:
        run: whose checkpoints.
        settings: of the recipe.
        writers: the processes that each write their part; a single one writes all.
        timeout: seconds in which all must have written.
    """

    def __init__(
        self,
        run: Run,
        settings: config.Checkpoint,
        writers: ProcessGroup = SINGLE,
        timeout: float = 0.0,
    ) -> None:
        self._run, self._settings = run, settings
        self._writers, self._timeout = writers, timeout
        self._given_up = threading.Event()
        self._thread = BackgroundWriter(settings.background)
        self._saved: str | None = None
        self._longest = 0.0

    def save(self, scalars: Mapping[str, Any], state: Callable[[], HostState]) -> None:
        """Save the current state; a failure of the previous save is raised here.

        A state that is on the disk already is not written again.

        Args:
            scalars: the state without its tensors, as JSON.
            state: returns the tensors.
        """
        self.wait()
        text = json.dumps(scalars)
        if text == self._saved:
            return
        now = state()
        shared = None
        if self._writers.size > 1:
            folder = store.begin_shared(self._run, scalars["step"])
            send(self._writers, Command.SAVE)
            self._writers.broadcast(str(folder))
            shared = store.Shared(folder, self._writers.size, self._timeout, self._given_up)
        if self._settings.background:
            now = now.copied()
        self._thread.begin(lambda: self._write(now, text, shared))

    def _write(self, state: HostState, scalars: str, shared: store.Shared | None) -> None:
        start = time.monotonic()
        keep, keep_every = self._settings.keep, self._settings.keep_every
        store.save(state, json.loads(scalars), self._run, keep, keep_every, shared)
        self._saved = scalars
        self._longest = max(self._longest, time.monotonic() - start)

    def longest(self) -> float:
        """Return the seconds of the longest save."""
        return self._longest

    def wait(self) -> None:
        """Wait until all is on the disk; raise the save's failure, if any."""
        self._thread.wait()

    def __enter__(self) -> Saver:
        """Return self."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Wait, but not for the parts of lost processes; end the thread."""
        if kind is None or not issubclass(kind, ProcessLost):
            self.close()
            return
        self._given_up.set()
        # The lost process is a better message than its missing part.
        with suppress(RunFailed):
            self.close()

    def close(self) -> None:
        """Wait, and end the thread."""
        with working("saving"):
            self._thread.close()


class PartSaver:
    """Writes a worker's part of each checkpoint that the leader starts."""

    def __init__(self, settings: config.Checkpoint, group: ProcessGroup) -> None:
        self._background, self._group = settings.background, group
        self._thread = BackgroundWriter(settings.background)

    def save(self, state: HostState) -> None:
        """Write this process' part of a checkpoint that the leader has started."""
        self._thread.wait()
        folder = Path(self._group.broadcast())
        tensors = (state.copied() if self._background else state).tensors
        self._thread.begin(lambda: write_part(tensors, folder, self._group.rank, self._group.size))

    def close(self) -> None:
        """Wait, and end the thread."""
        self._thread.close()


class BackgroundWriter:
    """A thread that runs one write at a time; without ``background``, each is waited for."""

    def __init__(self, background: bool) -> None:
        self._background = background
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: Future[None] | None = None

    def begin(self, write: Callable[[], None]) -> None:
        """Start a write after the previous one has ended."""
        self.wait()
        self._writing = self._pool.submit(write)
        if not self._background:
            self.wait()

    def wait(self) -> None:
        """Wait for the write; raise its failure, if any."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def close(self) -> None:
        """Wait, and end the thread."""
        try:
            self.wait()
        finally:
            self._pool.shutdown()
