"""Metrics into the run folder, and progress for whoever watches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from wafergpt.progress import Bar
from wafergpt.run import Run
from wafergpt.train.state import Row, TrainState


class Tracker(Protocol):
    """Somewhere else that metrics go."""

    def log(self, row: Row) -> None:
        """Take one row."""

    def close(self) -> None:
        """Flush what is held."""


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
        loss = f"loss {row['loss']:.3f}" if "loss" in row else "left out"
        self._bar.advance(1, f"{loss} · {row['tokens_per_second']:,.0f} tokens/s")
