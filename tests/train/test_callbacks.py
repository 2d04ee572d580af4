"""What is written down of a step, and what is shown of it."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from wafergpt.config import Evaluate, load_recipe
from wafergpt.errors import Diverged
from wafergpt.runs.run import Run
from wafergpt.tasks.base import Direction
from wafergpt.train.callbacks import Evaluation, Recording
from wafergpt.train.state import Row, TrainState


class Shown:
    """A bar, and a tracker, that remember."""

    def __init__(self) -> None:
        self.notes: list[tuple[float, str]] = []
        self.lines: list[str] = []
        self.rows: list[Row] = []

    def advance(self, amount: float = 1, note: str = "") -> None:
        self.notes.append((amount, note))

    def say(self, line: str) -> None:
        self.lines.append(line)

    def log(self, row: Row) -> None:
        self.rows.append(dict(row))

    def close(self) -> None:
        raise AssertionError("whoever opened it closes it")


def test_each_row_is_on_disk_with_the_trackers_and_on_the_bar(tmp_path: Path) -> None:
    run = Run.create(load_recipe(None, ["name=r"]), tmp_path)
    bar, trackers = Shown(), [Shown(), Shown()]
    memory = iter([10, 20, 30, 40])
    recording = Recording(run, bar, lambda: next(memory), trackers)
    rows: list[Row] = [
        {"step": 1, "loss": 2.34567, "grad_norm": 0.5, "tokens_per_second": 12345.6},
        # As the loop leaves it: what is not finite is no number in it.
        {"step": 2, "skipped": "the loss is nan", "tokens_per_second": 99.0},
        {"step": 3, "loss": 1.0, "tokens_per_second": 5.0, "val_loss": 2.0, "val_macro_f1": 0.25},
        {"step": 1400, "tokens_per_second": 5.0, "skipped": "the loss is inf", "val_loss": 2.5},
    ]
    state = TrainState(best=2.0, best_step=3)
    for row in rows:
        state.step = row["step"]
        recording.after_step(state, dict(row))
        # On the disk at once, for who follows the file or kills the process.
        assert run.metrics()[-1]["step"] == state.step
    expected = [{**row, "memory_bytes": 10 * n} for n, row in enumerate(rows, 1)]
    assert run.metrics() == expected
    assert [tracker.rows for tracker in trackers] == [expected, expected]
    assert bar.notes == [
        (1, "loss 2.346 · 12,346 tokens/s"),
        (1, "skipped · 99 tokens/s"),
        (1, "loss 1.000 · 5 tokens/s"),
        (1, "skipped · 5 tokens/s"),
    ]
    assert bar.lines == [
        "step 3: validation loss 2.0000, macro f1 0.2500 (best so far)",
        "step 1,400: validation loss 2.5000",
    ]


@pytest.mark.parametrize(
    ("losses", "said"),
    [
        ([5.0, 4.0, 4.2, 4.5, 5.0], "risen from 4.000 at step 2 to 4.500"),
        # Noise around the lowest is no turn, nor is one bad evaluation.
        ([5.0, 4.0, 4.01, 4.02, 4.03], ""),
        ([5.0, 4.0, 9.0, 3.9, 3.8], ""),
        ([5.0, 4.5, 4.0, 3.5, 3.0], ""),
    ],
)
def test_a_validation_loss_that_turns_is_said_once(
    caplog: pytest.LogCaptureFixture, losses: list[float], said: str
) -> None:
    values = iter(losses)
    evaluation = Evaluation(
        lambda: {"val_loss": next(values)}, Evaluate(every=1), {"loss": "min"}, len(losses)
    )
    state = TrainState()
    for state.step in range(1, len(losses) + 1):
        evaluation.after_step(state, {})
    assert said in caplog.text
    assert caplog.text.count("learned by heart") == bool(said)


def test_a_task_without_a_validation_loss_is_evaluated() -> None:
    evaluation = Evaluation(
        lambda: {"val_share": 0.5}, Evaluate(every=1, metric="share"), {"share": "max"}, 3
    )
    state = TrainState()
    for state.step in (1, 2, 3):
        row: Row = {}
        evaluation.after_step(state, row)
    assert state.best_step == 1
    assert isinstance(row["evaluation_seconds"], float)


@pytest.mark.parametrize("metric", ["loss", "spearman"])
def test_what_is_not_finite_is_never_the_best(metric: str) -> None:
    """Weights that have diverged, or a correlation of equal answers."""
    values = iter([math.nan, 2.0, math.inf, -math.inf, 1.0])
    ways: dict[str, Direction] = {"loss": "min", "spearman": "max"}
    settings = Evaluate(every=1, metric=metric)
    evaluation = Evaluation(lambda: {f"val_{metric}": next(values)}, settings, ways, 9)
    state, best = TrainState(), []
    for state.step in range(1, 6):
        evaluation.after_step(state, {})
        best.append(state.best)
    assert best == [None, 2.0, 2.0, 2.0, 1.0 if metric == "loss" else 2.0]


def test_a_training_that_has_no_finite_loss_has_failed() -> None:
    evaluation = Evaluation(lambda: {"val_loss": math.nan}, Evaluate(every=1), {"loss": "min"}, 2)
    state = TrainState(step=1)
    evaluation.after_step(state, {})
    state.step = 2
    with pytest.raises(Diverged, match="the validation loss is nan at step 2: lower"):
        evaluation.after_step(state, {})
