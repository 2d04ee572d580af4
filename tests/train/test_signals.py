from __future__ import annotations

import os
import signal
import time

import psutil
import pytest

from tests.train.test_loop import loop_of
from wafergpt.errors import Interrupted
from wafergpt.train.signals import Signals, StopRequested
from wafergpt.train.state import Row, TrainState


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


def test_sigusr1_saves_after_the_step_and_goes_on() -> None:
    loop = loop_of()
    saved: list[int] = []
    loop.save = lambda state: saved.append(state.step)

    class Ask:
        def after_step(self, state: TrainState, row: Row) -> None:
            if state.step in {2, 5}:
                os.kill(os.getpid(), signal.SIGUSR1)

    loop.callbacks = [Ask()]
    with loop.signals:
        loop.run()
    assert saved == [2, 5]
    assert loop.state.step == 6


def test_the_time_limit_leaves_time_for_the_longest_thing_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    born = psutil.Process().create_time()
    now = [born + 10.0]
    monkeypatch.setattr(time, "time", lambda: now[0])
    loop = loop_of("train.steps=100")
    saved: list[int] = []
    loop.save = lambda state: saved.append(state.step)

    class Clock:
        def after_step(self, state: TrainState, row: Row) -> None:
            # Every tenth step there is a look at validation data.
            now[0] += 9.0 if state.step % 10 == 0 else 1.0

    loop.callbacks = [Clock()]
    loop.signals.limit(100.0, lambda: 2.0)
    with pytest.raises(Interrupted, match="stopped at step"):
        loop.run()
    # 40 steps have taken 36 + 4·9 = 72 s when less than 2·(9 + 2) s are left of 100 - 10.
    assert loop.state.step == 40
    assert saved == [40]
