"""Updates that must not happen: numbers that are none, and losses that leap."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable

from wafergpt import config
from wafergpt.errors import RunFailed
from wafergpt.progress import say
from wafergpt.train.state import TrainState

WINDOW = 64
"""Losses that say what is usual."""

LEAST = 16
"""Losses before anything can be unusual."""


class Guard:
    """Decides which updates a run leaves out, and keeps the account in its state.

    Args:
        settings: of the recipe.
        state: of the run.
        restore: takes the state back to its last good checkpoint.
    """

    def __init__(
        self, settings: config.Guard, state: TrainState, restore: Callable[[], object]
    ) -> None:
        self._settings, self._state, self._restore = settings, state, restore

    def fault(self, loss: float) -> str | None:
        """Say why an update with this loss must not happen, or return None."""
        if not math.isfinite(loss):
            return f"the loss is {loss}"
        recent = self._state.recent
        if not self._settings.spike or len(recent) < LEAST:
            return None
        mean, spread = statistics.fmean(recent), statistics.stdev(recent)
        if loss > mean + self._settings.spike * spread:
            return f"the loss leaps to {loss:.4f} from {mean:.4f} ± {spread:.4f}"
        return None

    def passed(self, loss: float) -> None:
        """Remember the loss of an update that happened."""
        if self._settings.spike:
            self._state.recent = [*self._state.recent, loss][-WINDOW:]

    def left_out(self, reason: str, samples: int) -> None:
        """Write down that the update over the next ``samples`` is left out.

        Raises:
            RunFailed: if the run has left out more than it may.
        """
        state, limit = self._state, self._settings.limit
        where = f"at step {state.step + 1}"
        if len(state.skipped) >= limit:
            raise RunFailed(
                f"{reason} {where}, after {limit} updates left out: the run diverged; "
                "try a lower optimizer.lr or a longer schedule.warmup"
            )
        say(f"{reason} {where}: this update is left out ({len(state.skipped) + 1} of {limit})")
        state.skipped = [*state.skipped, [state.samples, state.samples + samples, reason]]

    def rolls_back(self, reason: str, samples: int) -> bool:
        """Go back to the last checkpoint and on behind the bad data, if the recipe says so.

        The data between the checkpoint and the leap is passed over too, as for PaLM
        (arXiv:2204.02311, section 5.1).

        Raises:
            RunFailed: if the run has left out more than it may.
        """
        if self._settings.action != "rollback" or not reason.startswith("the loss leaps"):
            return False
        self.left_out(reason, samples)
        skipped, end = self._state.skipped, self._state.samples + samples
        self._restore()
        first = self._state.samples
        self._state.samples, self._state.recent = end, []
        self._state.skipped = [*skipped[:-1], [first, end, reason]]
        say(f"back to step {self._state.step}, and on behind sample {end:,}")
        return True
