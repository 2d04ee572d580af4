"""Checkpoints now and then."""

from __future__ import annotations

from collections.abc import Callable

from wafergpt.train.state import Row, TrainState


class Saving:
    """Saves every so many steps, at each best score, and when the run is over.

    It comes last of the callbacks, so that a saved step is a recorded one.
    """

    def __init__(self, every: int, steps: int, save: Callable[[TrainState], object]) -> None:
        self._every, self._steps, self._save = every, steps, save

    def after_step(self, state: TrainState, row: Row) -> None:
        """Save if it is time."""
        over = state.step >= self._steps or state.finished
        best = state.best is not None and state.best_step == state.step
        if over or best or state.step % self._every == 0:
            state.pending = None
            self._save(state)
