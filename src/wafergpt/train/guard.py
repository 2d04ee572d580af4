"""Which updates are skipped: non-finite losses or gradients, and loss spikes."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass

from wafergpt import config
from wafergpt.engines.base import Decision, UpdateResult
from wafergpt.errors import Diverged
from wafergpt.logs import say
from wafergpt.train.state import TrainState

WINDOW = 64
"""Number of losses that a spike is compared with."""

MIN_LOSSES = 16
"""Number of losses before a spike can be detected."""


@dataclass(frozen=True)
class Fault:
    """Why an update is not applied, and what to do instead."""

    reason: str
    decision: Decision = Decision.SKIP


class Guard:
    """Decides which updates a run skips, and lists them in its state.

    Args:
        settings: of the recipe.
        state: of the run.
    """

    def __init__(self, settings: config.Guard, state: TrainState) -> None:
        self._settings, self._state = settings, state

    def fault(self, update: UpdateResult) -> Fault | None:
        """Return why an update must not be applied, or None."""
        loss = update.loss
        if not math.isfinite(loss):
            return Fault(f"the loss is {loss}")
        recent = self._state.recent
        if self._settings.spike and len(recent) >= MIN_LOSSES:
            mean, spread = statistics.fmean(recent), statistics.stdev(recent)
            if loss > mean + self._settings.spike * spread:
                reason = f"the loss spikes to {loss:.4f} from {mean:.4f} ± {spread:.4f}"
                back = self._settings.action == "rollback"
                return Fault(reason, Decision.ROLLBACK if back else Decision.SKIP)
        if not math.isfinite(update.grad_norm):
            return Fault(f"the gradient is {update.grad_norm}")
        return None

    def applied(self, loss: float) -> None:
        """Remember the loss of an applied update."""
        if self._settings.spike:
            self._state.recent = [*self._state.recent, loss][-WINDOW:]

    def skipped(self, fault: Fault, end: int) -> None:
        """Record that the samples from the cursor to ``end`` are skipped.

        Raises:
            Diverged: if the run has skipped more updates than it may.
        """
        state, limit = self._state, self._settings.limit
        where = f"at step {state.step + 1}"
        if len(state.skipped) >= limit:
            raise Diverged(
                f"{fault.reason} {where}, after {limit} skipped updates: the run diverged; "
                "try a lower optimizer.lr or a longer schedule.warmup"
            )
        say(f"{fault.reason} {where}: this update is skipped ({len(state.skipped) + 1} of {limit})")
        state.skipped = [*state.skipped, [state.samples, end, fault.reason]]
