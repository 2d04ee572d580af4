"""Saving beside the training: the state is copied, and a thread writes the copy."""

from __future__ import annotations

import json
import time
from concurrent.futures import Future, ThreadPoolExecutor

from wafergpt import config
from wafergpt.run import Run
from wafergpt.train import checkpoint
from wafergpt.train.state import TrainState


class Saver:
    """Writes a run's checkpoints, one at a time, so that no more than one copy is ever held.

    Args:
        run: whose checkpoints.
        settings: of the recipe.
    """

    def __init__(self, run: Run, settings: config.Checkpoint) -> None:
        self._run, self._settings = run, settings
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: Future[object] | None = None
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
        snapshot = checkpoint.Snapshot.of(state, copied=self._settings.background)
        self._writing = self._writer.submit(self._write, snapshot, scalars)
        if not self._settings.background:
            self.wait()

    def _write(self, snapshot: checkpoint.Snapshot, scalars: str) -> None:
        start = time.monotonic()
        checkpoint.save(snapshot, self._run, self._settings.keep, self._settings.keep_every)
        self._saved = scalars
        self._longest = max(self._longest, time.monotonic() - start)

    def longest(self) -> float:
        """Return the seconds that a save has taken at most."""
        return self._longest

    def wait(self) -> None:
        """Return when all is on the disk; raise what kept it from getting there."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def close(self) -> None:
        """Wait, and end the thread."""
        try:
            self.wait()
        finally:
            self._writer.shutdown()
