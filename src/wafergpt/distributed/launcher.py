"""Start the processes of one training on this machine, watch them, and restart them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import FrameType
from typing import IO

from wafergpt.logs import say

GRACE_SECONDS = 10.0
"""How long the others have to notice that one is gone, before they are killed."""

STOPPED_GRACE_SECONDS = 1.0
"""The same once the leader has ended as it was asked to: they may never have found it."""

FORWARDED = [
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")
    if hasattr(signal, name)
]

HANGUP = getattr(signal, "SIGHUP", None)
"""Sent when a terminal closes; ignored by processes under nohup."""

SAME_SIGNAL_SECONDS = 1.0
"""A signal repeated within this time is one signal, forwarded by both a queue and a launcher."""

LOST = 75
"""Exit code, for the launcher only, of a process that has lost another one."""

AS_ASKED = (0, 130, -signal.SIGINT, -signal.SIGTERM)
"""Exit codes of a leader that was asked to stop: saved, or before it could be."""

LAUNCHED = "WAFERGPT_LAUNCHED"
"""Set in the environment of the processes that are started here."""


def launch(
    nproc: int,
    arguments: Sequence[str],
    restarts: int = 0,
    log: Path | None = None,
) -> int:
    """Run ``wafergpt ARGUMENTS`` as ``nproc`` processes; return the exit code of the leader.

    What they print is added to ``log``, if there is one.

    Signals are forwarded to the leader; a second request to stop kills all processes. A process
    that is killed or hangs is named, and the others are killed. Then all are restarted, up to
    ``restarts`` times, and resume from the last checkpoint.
    """
    children: list[subprocess.Popen[bytes]] = []
    asked = 0.0

    def forward(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        ends = number != getattr(signal, "SIGUSR1", None)
        # A closed terminal is not a second Ctrl-C.
        if ends and number != HANGUP and asked and time.monotonic() > asked + SAME_SIGNAL_SECONDS:
            for child in children:
                child.kill()
        elif children and children[0].poll() is None:
            children[0].send_signal(signal.SIGTERM if number == HANGUP else number)
        asked = asked or (time.monotonic() if ends else 0.0)

    handled = [number for number in FORWARDED if number != HANGUP or hangs_up()]
    if threading.current_thread() is not threading.main_thread():
        handled = []
    previous = {number: signal.signal(number, forward) for number in handled}
    try:
        for left in range(restarts, -1, -1):
            with nullcontext() if log is None else log.open("ab") as output:
                _start(nproc, arguments, children, output)
            if asked:
                # A signal that came while there was no process.
                children[0].send_signal(signal.SIGTERM)
            code = _watch(children, lambda: bool(asked))
            # A process that failed by itself, as for lack of memory, would fail again.
            failed = next((n for one in children if (n := one.poll()) and 0 < n != LOST), None)
            _end(children)
            lost = code is None or code < 0 or code == LOST
            if lost and failed is not None:
                code, lost = failed, False
            if not lost or asked or not left:
                break
            say(f"starting all {nproc} again ({left} more times at most) …")
            if not {"--resume", "--go-on"} & {one.partition("=")[0] for one in arguments}:
                arguments = [*arguments, "--go-on"]
        return (130 if asked else 1) if code is None or lost else code
    finally:
        _end(children)
        for number, handler in previous.items():
            signal.signal(number, handler)


OF_A_GROUP = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""Variables of a process of several; ``TORCHELASTIC_…`` too."""


def leave_group() -> dict[str, str]:
    """Take out of the environment what says that this process is one of several; return it."""
    return {
        name: os.environ.pop(name)
        for name in list(os.environ)
        if name in OF_A_GROUP or name.startswith("TORCHELASTIC_")
    }


@contextmanager
def outside_of_a_group() -> Iterator[None]:
    """Hide that this process is one of several, from processes that are started meanwhile."""
    hidden = leave_group()
    try:
        yield
    finally:
        os.environ.update(hidden)


def hangs_up() -> bool:
    """Return whether to handle SIGHUP: not where it is ignored, as under nohup."""
    return HANGUP is not None and signal.getsignal(HANGUP) != signal.SIG_IGN


def _start(
    nproc: int,
    arguments: Sequence[str],
    children: list[subprocess.Popen[bytes]],
    output: IO[bytes] | None = None,
) -> None:
    """Start the processes, adding each to ``children``."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = {
        "WORLD_SIZE": nproc, "LOCAL_WORLD_SIZE": nproc,
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, LAUNCHED: 1,
    }  # fmt: skip
    # Variables of an outer torchrun, whose store is not for these processes.
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("TORCHELASTIC_")}
    for rank in range(nproc):
        place = {k: str(v) for k, v in {**common, "RANK": rank, "LOCAL_RANK": rank}.items()}
        code = "from wafergpt.cli import main; main()"
        if rank == 0:
            stop = f"import stop_with; stop_with({os.getpid()})"
            code = f"from wafergpt.distributed.launcher {stop}; {code}"
        # -P: modules in the current folder do not shadow ours. A crash in native code says where.
        command = [sys.executable, "-P", "-X", "faulthandler", "-c", code, *arguments]
        # In a session of its own, a child does not get the terminal's Ctrl-C.
        child = subprocess.Popen(
            command, env=inherited | place, start_new_session=True, stdout=output, stderr=output
        )
        children.append(child)


def stop_with(launcher: int) -> None:
    """Have this process get SIGTERM, and so save and stop, if its launcher is killed (on Linux)."""
    if sys.platform != "linux":
        return
    import ctypes

    set_parent_death_signal = 1
    ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGTERM)
    if os.getppid() != launcher:
        sys.exit(1)


def _end(children: list[subprocess.Popen[bytes]]) -> None:
    for child in children:
        child.kill()
    for child in children:
        child.wait()
    children.clear()


def _name(number: int) -> str:
    """Return the name of a signal; those of real time have none."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _watch(children: Sequence[subprocess.Popen[bytes]], is_asked: Callable[[], bool]) -> int | None:
    """Wait until all have ended; return the leader's exit code, None if it hangs."""
    leader, *workers = children
    while leader.poll() is None and not any(child.poll() for child in workers):
        time.sleep(0.05)
    ended = {rank: child.poll() for rank, child in enumerate(children) if child.poll()}
    for rank, code in ended.items():
        if code is not None and code < 0:
            say(f"process {rank} of {len(children)} was ended by {_name(-code)}")
        elif rank and leader.poll() in (None, LOST):
            say(f"process {rank} of {len(children)} ended with exit code {code}")
    stopped = is_asked() and leader.poll() in AS_ASKED
    deadline = time.monotonic() + (STOPPED_GRACE_SECONDS if stopped else GRACE_SECONDS)
    while any(child.poll() is None for child in children) and time.monotonic() < deadline:
        time.sleep(0.05)
    for rank, child in enumerate(children):
        if child.poll() is None and not stopped:
            say(f"process {rank} of {len(children)} hangs, and is killed")
    return leader.poll()
