"""Judging on validation data, choosing the best, and stopping when it gets no better."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from wafergpt import config
from wafergpt.progress import working
from wafergpt.train.state import Row, TrainState

LOOKS = "looks_without_gain"
"""Where the state keeps how many there were since the best one."""


class Evaluation:
    """Every so many steps, and after the last, asks ``judge`` for scores and keeps the best.

    Args:
        judge: returns metrics such as ``val_loss``; it may raise ``StopRequested``.
        settings: with ``every`` resolved.
        steps: of the whole run.
    """

    def __init__(
        self,
        judge: Callable[[], Mapping[str, float]],
        settings: config.Evaluate,
        steps: int,
    ) -> None:
        self._judge, self._settings, self._steps = judge, settings, steps

    def after_step(self, state: TrainState, row: Row) -> None:
        """Judge if it is time."""
        if state.step % self._settings.every and state.step < self._steps:
            return
        with working("evaluating"):
            row.update(self._judge())
        metric = self._settings.metric
        score: float = row[f"val_{metric}"]
        better = state.best is None or (
            score < state.best if metric == "loss" else score > state.best
        )
        if better:
            state.best, state.best_step = score, state.step
            state.callbacks[LOOKS] = 0
            return
        state.callbacks[LOOKS] = state.callbacks.get(LOOKS, 0) + 1
        if out_of_patience(state, self._settings):
            state.finished = True


def out_of_patience(state: TrainState, settings: config.Evaluate) -> bool:
    """Say whether a run has looked in vain as often as its recipe bears."""
    looks: int = state.callbacks.get(LOOKS, 0)
    return 0 < settings.patience <= looks
