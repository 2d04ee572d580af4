from __future__ import annotations

import errno
import os
import signal
import sys
import time
from collections.abc import Iterator

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


@pytest.fixture
def hangup() -> Iterator[None]:
    """Undo what a test sets; the tests themselves may run under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("hangup")
def test_a_terminal_that_closes_asks_for_a_stop_and_never_for_haste(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Closed:
        def write(self, text: str) -> int:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        def flush(self) -> None:
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
def test_what_nohup_started_goes_on_when_the_terminal_closes() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with Signals() as signals:
        os.kill(os.getpid(), signal.SIGHUP)
        signals.poll()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def test_the_time_in_which_it_was_suspended_is_no_step(monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_a_stop_is_heard_between_two_batches_of_a_classifiers_validation() -> None:
    import numpy as np

    from wafergpt.config import load_recipe
    from wafergpt.tasks.classify import JUDGE_BATCH, fresh_classifier, scores

    shape = ["model.n_layers=1", "model.d_model=8", "model.n_heads=1", "model.seq_len=4"]
    recipe = load_recipe(None, [*shape, "model.vocab_size=300"])
    recipe = recipe.replace(task={"labels": ("a", "b")}, system={"precision": "fp32"})
    assert recipe.task is not None
    network = fresh_classifier(recipe.model, recipe.task, 0)
    texts = [np.array([1, 2])] * (JUDGE_BATCH + 1)
    calls = []
    assert len(scores(network, texts, recipe, poll=lambda: calls.append(0))) == len(texts)
    assert len(calls) >= 3
    with Signals() as signals:
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(StopRequested):
            scores(network, texts, recipe, poll=signals.poll)
