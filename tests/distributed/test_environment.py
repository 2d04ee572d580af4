"""What launchers leave in the environment, whole or in part."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading

import pytest

from wafergpt.distributed import launcher as launch
from wafergpt.distributed.environment import NEEDED, OTHERS, required_place
from wafergpt.distributed.rendezvous import joined
from wafergpt.errors import InputError
from wafergpt.logs import place, say

WHOLE = {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


@pytest.fixture(autouse=True)
def empty(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", *NEEDED, *OTHERS):
        monkeypatch.delenv(name, raising=False)


def given(monkeypatch: pytest.MonkeyPatch, values: dict[str, str]) -> None:
    for name, value in values.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    "left",
    [
        {},
        {"WORLD_SIZE": ""},
        {"WORLD_SIZE": "1", "RANK": "0"},
        {"RANK": "3"},
        {"LOCAL_RANK": "1"},
        {"MASTER_ADDR": "node1", "MASTER_PORT": "x"},
        {"SLURM_NTASKS": "4", "SLURM_PROCID": "0"},
    ],
)
def test_an_environment_without_processes_is_one_process(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], left: dict[str, str]
) -> None:
    given(monkeypatch, left)
    assert required_place() == place() == (0, 1)
    assert not capsys.readouterr().err


@pytest.mark.parametrize(
    ("left", "message"),
    [
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE=2 processes, but RANK is not set: unset WORLD_SIZE"),
        ({"WORLD_SIZE": "2", "RANK": "0"}, "but MASTER_ADDR is not set"),
        ({**WHOLE, "MASTER_PORT": ""}, "but MASTER_PORT is not set"),
        ({"WORLD_SIZE": "abc"}, "WORLD_SIZE=abc .* unset WORLD_SIZE"),
        ({"WORLD_SIZE": "-1"}, "WORLD_SIZE=-1 .* from 1 on"),
        ({**WHOLE, "RANK": "2"}, "RANK=2 .* from 0 to 1"),
        ({**WHOLE, "RANK": "one"}, "RANK=one"),
        ({**WHOLE, "MASTER_PORT": "99999"}, "MASTER_PORT=99999 .* from 0 to 65535"),
        ({**WHOLE, "LOCAL_RANK": "x"}, "LOCAL_RANK=x"),
        ({**WHOLE, "LOCAL_WORLD_SIZE": "0"}, "LOCAL_WORLD_SIZE=0"),
    ],
)
def test_a_partly_set_environment_is_refused_before_any_work(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    left: dict[str, str],
    message: str,
) -> None:
    given(monkeypatch, left)
    with pytest.raises(InputError, match=message), joined(5):
        pass
    # A verb that trains nothing does not mind.
    say("hello")
    assert capsys.readouterr().err == "hello\n"


@pytest.mark.parametrize("name", OTHERS)
def test_tasks_that_each_train_alone_are_warned(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    monkeypatch.setenv(name, "4")
    assert required_place() == (0, 1)
    assert f"{name}=4, but WORLD_SIZE is not set" in capsys.readouterr().err


def test_a_port_that_is_taken_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("", 0)) as server:
        port = str(server.getsockname()[1])
        given(monkeypatch, {**WHOLE, "MASTER_PORT": port})
        with pytest.raises(InputError, match=f"MASTER_PORT={port} is taken"), joined(5):
            pass


def test_torchruns_variables_are_not_inherited_by_launched_processes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started: list[dict[str, str]] = []
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    monkeypatch.setattr(subprocess, "Popen", lambda command, env, **_: started.append(env))
    launch._start(2, ["pretrain"], [])
    assert [env["RANK"] for env in started] == ["0", "1"]
    assert not any("TORCHELASTIC_USE_AGENT_STORE" in env for env in started)


@pytest.mark.parametrize("ignored", [False, True])
def test_a_hangup_is_one_request_to_the_leader_unless_nohup_ignores_it(
    monkeypatch: pytest.MonkeyPatch, ignored: bool
) -> None:
    """A launcher that is deaf to it lets the leader finish."""
    work = "trap 'exit 3' TERM; echo ready; for i in 1 2 3 4 5 6 7 8; do sleep 0.1; done"

    def start(
        nproc: int, arguments: object, children: list[subprocess.Popen[bytes]], output: object
    ) -> None:
        children.append(subprocess.Popen(["sh", "-c", work], stdout=subprocess.PIPE))
        assert children[0].stdout is not None
        with children[0].stdout as output:
            assert output.readline() == b"ready\n"

    monkeypatch.setattr(launch, "_start", start)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL)
    timers = [threading.Timer(delay, os.kill, (os.getpid(), signal.SIGHUP)) for delay in (0.2, 0.3)]
    try:
        if not ignored:
            # Should the launcher not listen yet, this process would end.
            signal.signal(signal.SIGHUP, lambda *_: None)
        for timer in timers:
            timer.start()
        assert launch.launch(1, []) == (0 if ignored else 3)
    finally:
        for timer in timers:
            timer.join()
        assert launch.hangs_up() is not ignored
        signal.signal(signal.SIGHUP, before)
