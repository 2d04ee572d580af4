"""Starting the processes of one training on this machine, seeing them end, starting them again."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from types import FrameType

from wafergpt.progress import say

GRACE_SECONDS = 10.0
"""For the others to notice that one is gone, before they are killed."""

FORWARDED = [
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")
    if hasattr(signal, name)
]

HANGUP = getattr(signal, "SIGHUP", None)
"""Comes when a terminal closes; what nohup starts ignores it."""

SAME_WISH_SECONDS = 1.0
"""A signal that comes again so soon is the first one, passed on by a queue and by a launcher."""

LOST = 75
"""Exit code of a process that has lost another one, to its launcher alone."""

LAUNCHED = "WAFERGPT_LAUNCHED"
"""In the environment of what is started here."""


def launch(
    nproc: int, arguments: Sequence[str], restarts: int = 0, grace: float = GRACE_SECONDS
) -> int:
    """Run ``wafergpt ARGUMENTS`` as ``nproc`` processes; return the exit code of the leader.

    Signals go to the leader, which decides; a second one that asks for an end ends all. A process
    that is killed or hangs is named, and the others are ended. Then all are started again, up to
    ``restarts`` times, to go on from the last checkpoint.
    """
    children: list[subprocess.Popen[bytes]] = []
    asked = 0.0

    def forward(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        ends = number != getattr(signal, "SIGUSR1", None)
        # Nobody has lost patience who closes a terminal.
        if ends and number != HANGUP and asked and time.monotonic() > asked + SAME_WISH_SECONDS:
            for child in children:
                child.kill()
        elif children and children[0].poll() is None:
            children[0].send_signal(signal.SIGTERM if number == HANGUP else number)
        asked = asked or (time.monotonic() if ends else 0.0)

    heard = [number for number in FORWARDED if number != HANGUP or hangs_up()]
    previous = {number: signal.signal(number, forward) for number in heard}
    try:
        for left in range(restarts, -1, -1):
            _start(nproc, arguments, children)
            code = _watch(children, grace)
            _end(children)
            lost = code is None or code < 0 or code == LOST
            if not lost or asked or not left:
                break
            say(f"starting all {nproc} again ({left} more times at most) …")
            if not {"--resume", "--go-on"} & set(arguments):
                arguments = [*arguments, "--go-on"]
        return (130 if asked else 1) if code is None or lost else code
    finally:
        _end(children)
        for number, handler in previous.items():
            signal.signal(number, handler)


def hangs_up() -> bool:
    """Say whether SIGHUP is to be heard here: nohup has it ignored, and it stays so."""
    return HANGUP is not None and signal.getsignal(HANGUP) != signal.SIG_IGN


def _start(nproc: int, arguments: Sequence[str], children: list[subprocess.Popen[bytes]]) -> None:
    """Start the processes, adding each to ``children``."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = {
        "WORLD_SIZE": nproc, "LOCAL_WORLD_SIZE": nproc,
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, LAUNCHED: 1,
    }  # fmt: skip
    # Of another start by torchrun, whose store is not for these.
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("TORCHELASTIC_")}
    for rank in range(nproc):
        place = {k: str(v) for k, v in {**common, "RANK": rank, "LOCAL_RANK": rank}.items()}
        code = "from wafergpt.cli import main; main()"
        if rank == 0:
            code = f"from wafergpt.parallel import launch; launch.outlive({os.getpid()}); {code}"
        # -P: no module that lies in the current folder is taken for one of ours.
        command = [sys.executable, "-P", "-c", code, *arguments]
        # In a session of its own, a child does not get the terminal's Ctrl-C.
        child = subprocess.Popen(command, env=inherited | place, start_new_session=True)
        children.append(child)


def outlive(launcher: int) -> None:
    """Have this process save and stop, as at SIGTERM, should its launcher be killed (on Linux)."""
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


def _watch(children: Sequence[subprocess.Popen[bytes]], grace: float) -> int | None:
    """Wait for the end of all; return the leader's exit code, None if it hangs."""
    leader, *followers = children
    while leader.poll() is None and not any(child.poll() for child in followers):
        time.sleep(0.05)
    ended = {rank: child.poll() for rank, child in enumerate(children) if child.poll()}
    for rank, code in ended.items():
        if code is not None and code < 0:
            say(f"process {rank} of {len(children)} was ended by {signal.Signals(-code).name}")
        elif rank and leader.poll() in (None, LOST):
            say(f"process {rank} of {len(children)} ended with exit code {code}")
    deadline = time.monotonic() + grace
    while any(child.poll() is None for child in children) and time.monotonic() < deadline:
        time.sleep(0.05)
    for rank, child in enumerate(children):
        if child.poll() is None:
            say(f"process {rank} of {len(children)} hangs, and is killed")
    return leader.poll()
