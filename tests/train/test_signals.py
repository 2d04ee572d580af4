from __future__ import annotations

import errno
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.train.trainers import trainer_of
from wafergpt.errors import Interrupted
from wafergpt.train.signals import Signals, StopRequested
from wafergpt.train.state import Row
from wafergpt.train.trainer import Trainer


def test_a_second_signal_stops_at_once_and_the_old_handlers_come_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    before = signal.getsignal(signal.SIGTERM)
    with Signals() as signals:
        signals.poll()
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(StopRequested):
            signals.poll()
        # A queue and torchrun both pass it on.
        now[0] += 0.5
        os.kill(os.getpid(), signal.SIGTERM)
        now[0] += 1.0
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_signal_after_the_time_limit_is_the_first_one() -> None:
    with Signals() as signals:
        signals.limit(0.0, float)
        with pytest.raises(StopRequested):
            signals.poll()
        os.kill(os.getpid(), signal.SIGTERM)


def watched(trainer: Trainer, hook: Callable[[int], None]) -> list[int]:
    """Call ``hook`` with each step that is over; return the steps at which the trainer saves."""
    saved: list[int] = []
    after, save = trainer._after_step, trainer._save

    def hooked(row: Row) -> None:
        after(row)
        hook(trainer.state.step)

    def saving(wait: bool = False) -> None:
        saved.append(trainer.state.step)
        save(wait)

    trainer._after_step = hooked  # type: ignore[method-assign]
    trainer._save = saving  # type: ignore[method-assign]
    return saved


def test_sigusr1_saves_after_the_step_and_continues(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, "evaluate.every=99", "checkpoint.every=99")

    def ask(step: int) -> None:
        if step in {2, 5}:
            os.kill(os.getpid(), signal.SIGUSR1)

    saved = watched(trainer, ask)
    with trainer.signals:
        trainer.train()
    assert saved == [0, 2, 5, 6]


def test_the_time_limit_leaves_time_for_the_longest_thing_twice(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    born = psutil.Process().create_time()
    now = [born + 10.0]
    settings = ("train.steps=100", "evaluate.every=999", "checkpoint.every=999")
    trainer = trainer_of(tmp_path, *settings, "checkpoint.time_limit=100")
    trainer._saver.longest = lambda: 2.0  # type: ignore[method-assign]

    def clock(step: int) -> None:
        # Every tenth step there is an evaluation.
        now[0] += 9.0 if step % 10 == 0 else 1.0

    saved = watched(trainer, clock)
    monkeypatch.setattr(time, "time", lambda: now[0])
    with pytest.raises(Interrupted, match="stopped at step 40; everything is saved"):
        trainer.train()
    # 40 steps have taken 36 + 4·9 = 72 s when less than 2·(9 + 2) s are left of 100 - 10.
    assert saved == [0, 40]


@pytest.fixture
def hangup() -> Iterator[None]:
    """Undo what a test sets; the tests themselves may run under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("hangup")
def test_a_closed_terminal_asks_for_a_stop_and_never_for_an_abort(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Closed:
        def write(self, text: str) -> int:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        def flush(self) -> None:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        def fileno(self) -> int:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(sys, "stderr", Closed())
    with Signals() as signals:
        os.kill(os.getpid(), signal.SIGHUP)
        assert signals.requested
        now[0] += 60.0
        os.kill(os.getpid(), signal.SIGHUP)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_DFL


@pytest.mark.usefixtures("hangup")
def test_under_nohup_a_run_continues_when_the_terminal_closes() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with Signals() as signals:
        os.kill(os.getpid(), signal.SIGHUP)
        signals.poll()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def test_suspended_time_does_not_count_as_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    born = psutil.Process().create_time()
    now = [born + 10.0]
    monkeypatch.setattr(time, "time", lambda: now[0])
    with Signals() as signals:
        signals.limit(1000.0, float)
        signals.poll()
        now[0] += 400.0
        os.kill(os.getpid(), signal.SIGCONT)
        now[0] += 1.0
        # Two more steps of 401 seconds would not fit.
        signals.poll()
        now[0] += 588.0
        with pytest.raises(StopRequested):
            signals.poll()
