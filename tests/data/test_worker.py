from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from wafergpt.data import tokenizer as module
from wafergpt.data import worker
from wafergpt.data.tokenizer import Tokenizer, train_bpe
from wafergpt.errors import InputError, RunFailed

TEXTS = [f"word{i} and number {i * i}, naïve 你好 the quick brown fox" for i in range(300)]


def workers() -> list[psutil.Process]:
    return [p for p in psutil.Process().children() if "wafergpt.data.worker" in str(p.cmdline())]


def test_a_process_of_its_own_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    here = Tokenizer.train(TEXTS, 400)
    monkeypatch.setattr(module, "TRAINED_HERE", 1000)
    assert Tokenizer.train(iter(TEXTS), 400).sha256() == here.sha256()
    monkeypatch.setattr(module, "HUGE", 50)
    texts = ["short", "<|endoftext|> " * 9, "", TEXTS[0] * 3, "end"]
    assert here.encode_batch(texts) == [here.encode_here(text) for text in texts]
    assert workers() == []


def test_many_texts_are_encoded_by_several_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = Tokenizer(train_bpe(TEXTS, 400, False))
    expected = tokenizer.encode_batch(TEXTS)
    monkeypatch.setattr(module, "AT_ONCE", 100)
    assert [len(group) for group in module._groups(TEXTS)][:3] == [3, 3, 3]
    assert tokenizer.encode_batch(TEXTS) == expected


def test_what_goes_wrong_in_it_is_said() -> None:
    split = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated"}
    definition = json.loads(train_bpe(TEXTS, 300, False))
    definition["pre_tokenizer"] = {**split, "invert": False}
    with pytest.raises(InputError, match="the tokenizer cannot read a text"):
        worker.encode(json.dumps(definition), None, "a" * 4000 + "b")
    with pytest.raises(InputError, match="lone surrogate"):
        worker.train(["a\ud800"], 300, False)

    def texts() -> Iterator[str]:
        yield "a"
        (process,) = workers()
        process.kill()
        while process.status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.01)
        yield "b" * 10**6

    with pytest.raises(RunFailed, match="ended with -9"):
        worker.train(texts(), 300, False)
    assert workers() == []


def test_ctrl_c_is_heard_at_once_and_leaves_no_process() -> None:
    word = "".join(chr(97 + (i * i * 7919 + i) % 26) for i in range(1 << 18))

    def interrupt() -> None:
        # In the middle of the training, which takes much longer.
        while not workers() or workers()[0].cpu_times().user < 0.5:
            time.sleep(0.02)
        sent.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)

    sent: list[float] = []
    thread = threading.Thread(target=interrupt)
    # A shell's background jobs begin with SIGINT ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    thread.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            worker.train([word], 60_000, False)
    finally:
        signal.signal(signal.SIGINT, before)
    assert time.monotonic() - sent[0] < 2
    thread.join()
    assert workers() == []


@pytest.mark.slow
def test_it_does_not_outlive_a_parent_that_is_killed(tmp_path: Path) -> None:
    script = (
        "from wafergpt.data import worker\n"
        "worker.train(['abcdefghijklmnopqrstuvwxyz' * 40_000], 60_000, False)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script]) as parent:
        process = psutil.Process(parent.pid)
        while not (children := process.children()) or children[0].cpu_times().user < 0.3:
            time.sleep(0.02)
        parent.kill()
        _, alive = psutil.wait_procs(children, timeout=2)
    assert alive == []
