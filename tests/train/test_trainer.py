"""The loop: what happens after each step, evaluations, early stopping, rows."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.train.trainers import trainer_of
from wafergpt.checkpoint import store
from wafergpt.errors import Interrupted
from wafergpt.train.signals import StopRequested
from wafergpt.train.trainer import Trainer


def evaluated(trainer: Trainer, scores: list[float]) -> list[int]:
    """Have evaluations return these scores; return a list of when they were asked for."""
    asked: list[int] = []
    given = iter(scores)

    def evaluate() -> Mapping[str, float]:
        asked.append(trainer.state.step)
        score = next(given)
        return {"val_loss": score, "val_bits_per_byte": score}

    trainer._evaluate = evaluate  # type: ignore[method-assign]
    return asked


def saved(trainer: Trainer) -> list[int]:
    return [int(folder.name[5:]) for folder in store.every(trainer.run)]


LONG = ("train.steps=20", "checkpoint.every=100", "checkpoint.keep=99")


def test_the_best_is_kept_and_patience_ends_the_run(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, *LONG, "evaluate.every=2", "evaluate.patience=3")
    asked = evaluated(trainer, [3.0, 2.0, 2.5, 2.5, 2.5, 1.0, 1.0, 1.0])
    trainer.train()
    state = trainer.state
    assert asked == [2, 4, 6, 8, 10]
    assert (state.best, state.best_step, state.step, state.finished) == (2.0, 4, 10, True)
    assert saved(trainer) == [0, 2, 4, 10]
    assert trainer.run.read("result")["stopped_early"]


def test_without_patience_it_goes_to_the_end(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, *LONG, "evaluate.every=8")
    asked = evaluated(trainer, [0.6, 0.5, 0.5])
    trainer.train()
    assert asked == [8, 16, 20]
    assert (trainer.state.best, trainer.state.best_step) == (0.5, 16)
    assert saved(trainer) == [0, 8, 16, 20]


def test_rows_reach_the_run_folder(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path)
    trainer.train()
    rows = trainer.run.metrics()
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    flops = rows[0]["flops"]
    assert [row["flops"] for row in rows] == [flops * row["step"] for row in rows]
    assert rows[-1]["mfu"] == pytest.approx(flops / 96 * rows[-1]["tokens_per_second"] / 1e9)
    assert rows[-1]["seconds"] > rows[0]["seconds"] > 0
    assert rows[-1]["tokens"] == 576
    assert all(row["memory_bytes"] > 1 << 20 for row in rows)


def test_a_stop_in_an_evaluation_saves_the_step_and_the_resume_evaluates_it(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, "evaluate.every=2", "checkpoint.keep=99")
    evaluate = trainer._evaluate

    def stop() -> Mapping[str, float]:
        if trainer.state.step == 4:
            raise StopRequested
        return evaluate()

    trainer._evaluate = stop  # type: ignore[method-assign]
    with pytest.raises(Interrupted, match=r"stopped at step 4; everything is saved") as stopped:
        trainer.train()
    assert stopped.value.next_command == f"wafergpt pretrain --resume {trainer.run.path}"
    # As a worker on another machine sends it.
    sent = pickle.loads(pickle.dumps(stopped.value))
    assert str(sent) == str(stopped.value)
    assert str(sent).endswith(f"is saved; next: {sent.next_command}")
    assert [row["step"] for row in trainer.run.metrics()] == [1, 2, 3]
    again = trainer_of(tmp_path, "evaluate.every=2", "checkpoint.keep=99")
    again.run = trainer.run
    again.__post_init__()
    again.train(resumed=True)
    rows = again.run.metrics()
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert ["val_loss" in row for row in rows] == [False, True] * 3
