"""Saving beside the training: the state is copied, and a thread writes the copy."""

from __future__ import annotations

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

    def save(self, state: TrainState) -> None:
        """Save the state as it is now. What went wrong with the save before is raised here."""
        self.wait()
        settings = self._settings
        snapshot = checkpoint.Snapshot.of(state, copied=settings.background)
        self._writing = self._writer.submit(
            checkpoint.save, snapshot, self._run, settings.keep, settings.keep_every
        )
        if not settings.background:
            self.wait()

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
