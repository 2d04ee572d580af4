"""What happens after each step: evaluation, samples, recording, saving, in that order.

Everything optional in a training is a callback, so that the loop stays short.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from wafergpt import config
from wafergpt.errors import Diverged
from wafergpt.logs import say
from wafergpt.progress import Bar, working
from wafergpt.runs.run import Run
from wafergpt.tasks.base import Direction
from wafergpt.train.state import Row, TrainState


class Callback(Protocol):
    """Something optional that happens after a step."""

    def after_step(self, state: TrainState, row: Row) -> None:
        """Read the state, and add to the row of metrics."""


WITHOUT_GAIN_KEY = "looks_without_gain"
"""Key of the number of evaluations since the best one, in the state."""

LOWEST_LOSS_KEY, WARNED_KEY = "lowest_val_loss", "warned_of_overfitting"
"""Keys of the lowest validation loss with its step, and of whether its rise was logged."""

RISEN_RATIO = 1.02
"""A validation loss this many times the lowest has turned."""


class Evaluation:
    """Evaluates every so many steps and after the last one, and keeps the best score.

    Args:
        evaluate: returns metrics such as ``val_loss``; it may raise ``StopRequested``.
        settings: with ``every`` resolved.
        directions: by metric, whether less or more of it is better.
        steps: of the whole run.
    """

    def __init__(
        self,
        evaluate: Callable[[], Mapping[str, float]],
        settings: config.Evaluate,
        directions: Mapping[str, Direction],
        steps: int,
    ) -> None:
        self._evaluate, self._settings, self._steps = evaluate, settings, steps
        self._lower_is_better = directions[settings.metric] == "min"

    def after_step(self, state: TrainState, row: Row) -> None:
        """Evaluate if a step of ``every`` or the last one is done.

        Raises:
            Diverged: if the last loss is not finite, and none before was.
        """
        if state.step % self._settings.every and state.step < self._steps:
            return
        start = time.monotonic()
        with working("evaluating"):
            row.update(self._evaluate())
        row["evaluation_seconds"] = time.monotonic() - start
        metric = self._settings.metric
        score: float = row[f"val_{metric}"]
        loss = row.get("val_loss", math.inf)
        ends = state.step >= self._steps
        if ends and state.best is None and "val_loss" in row and not math.isfinite(loss):
            raise Diverged(
                f"the validation loss is {loss} at step {state.step:,}: lower optimizer.lr"
            )
        if loss < state.callbacks.get(LOWEST_LOSS_KEY, [math.inf])[0]:
            state.callbacks[LOWEST_LOSS_KEY] = [loss, state.step]
        # What is not finite is no gain: weights that have diverged, a correlation of equal answers.
        better = math.isfinite(score) and (
            state.best is None
            or (score < state.best if self._lower_is_better else score > state.best)
        )
        if better:
            state.best, state.best_step = score, state.step
            state.callbacks[WITHOUT_GAIN_KEY] = 0
            return
        state.callbacks[WITHOUT_GAIN_KEY] = state.callbacks.get(WITHOUT_GAIN_KEY, 0) + 1
        _warn_of_overfitting(state, loss)
        if out_of_patience(state, self._settings):
            state.finished = True


def _warn_of_overfitting(state: TrainState, loss: float) -> None:
    """Log, once in a run, that the validation loss has turned."""
    if LOWEST_LOSS_KEY not in state.callbacks:
        return
    lowest, step = state.callbacks[LOWEST_LOSS_KEY]
    turned = state.callbacks[WITHOUT_GAIN_KEY] >= 2 and loss > RISEN_RATIO * lowest
    if turned and not state.callbacks.get(WARNED_KEY):
        state.callbacks[WARNED_KEY] = True
        say(
            f"warning: the validation loss has risen from {lowest:.3f} at step {step:,} to "
            f"{loss:.3f}: the training text is being learned by heart; more text, fewer steps or "
            "model.dropout help, and evaluate.patience=3 stops in time (the best is kept)"
        )


def out_of_patience(state: TrainState, settings: config.Evaluate) -> bool:
    """Return whether a run has been evaluated without gain ``patience`` times."""
    count: int = state.callbacks.get(WITHOUT_GAIN_KEY, 0)
    return 0 < settings.patience <= count


class Samples:
    """Appends the model's continuations of prompts to samples.md after each evaluation."""

    def __init__(self, run: Run, write_on: Callable[[str], str], prompts: Sequence[str]) -> None:
        self._file = run.path / "samples.md"
        self._write_on, self._prompts = write_on, prompts

    def after_step(self, state: TrainState, row: Row) -> None:
        """Write the samples of this step."""
        if "val_loss" not in row:
            return
        lines = [f"## step {state.step} · validation loss {row['val_loss']:.3f}", ""]
        start = time.monotonic()
        for prompt in self._prompts:
            with working("writing samples"):
                text = f"**{prompt}**{self._write_on(prompt)}"
            lines += [*(f"> {line}" for line in text.splitlines()), ""]
        row["evaluation_seconds"] += time.monotonic() - start
        with self._file.open("a", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n")


class Tracker(Protocol):
    """A destination of metrics beside metrics.jsonl."""

    def log(self, row: Row) -> None:
        """Log one row."""

    def close(self) -> None:
        """Flush what is buffered."""


class Recording:
    """Writes each step's row to metrics.jsonl and the trackers, and moves the bar."""

    def __init__(
        self,
        run: Run,
        bar: Bar,
        memory_bytes: Callable[[], int],
        trackers: Sequence[Tracker] = (),
    ) -> None:
        self._run, self._bar, self._memory, self._trackers = run, bar, memory_bytes, trackers

    def after_step(self, state: TrainState, row: Row) -> None:
        """Record the row."""
        row["memory_bytes"] = self._memory()
        self._run.log(row)
        for tracker in self._trackers:
            tracker.log(row)
        if "val_loss" in row:
            scores = [
                f"{name.removeprefix('val_').replace('_', ' ')} {value:.4f}"
                for name, value in row.items()
                if name.startswith("val_")
            ]
            mark = " (best so far)" if state.best_step == state.step else ""
            self._bar.say(f"step {state.step:,}: validation {', '.join(scores)}{mark}")
        loss = f"loss {row['loss']:.3f}" if "loss" in row else "skipped"
        self._bar.advance(1, f"{loss} · {row['tokens_per_second']:,.0f} tokens/s")


class Saving:
    """Saves every so many steps, at each best score, and when the run is over.

    It is the last callback, so that a saved step is a recorded one.
    """

    def __init__(self, every: int, steps: int, save: Callable[[], object]) -> None:
        self._every, self._steps, self._save = every, steps, save

    def after_step(self, state: TrainState, row: Row) -> None:
        """Save if this step is due, the best, or the last."""
        over = state.step >= self._steps or state.finished
        best = state.best is not None and state.best_step == state.step
        if over or best or state.step % self._every == 0:
            state.pending = None
            self._save()
