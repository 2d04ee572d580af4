"""Processes that are forked from one that has imported torch, wafergpt and what it needs.

Those imports are most of what a short command takes, and the tests start hundreds of them.
Everything else is as it is for a user's process: its own pid, environment, files and signals.
"""

from __future__ import annotations

import atexit
import faulthandler
import functools
import importlib
import importlib.machinery
import itertools
import json
import logging
import os
import posix
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

CLIENT = """#!{python} -S
import json, os, socket, sys
channel = socket.socket(socket.AF_UNIX)
channel.connect({address!r})
python = ["-c", "from wafergpt.cli import main; main()", *sys.argv[1:]]
command = {{"python": python, "folder": os.getcwd(), "environment": dict(os.environ),
            "session": False, "files": [], "parent": os.getppid()}}
socket.send_fds(channel, [json.dumps(command).encode() + b"\\n"], [0, 1, 2])
pid, status = channel.makefile().read().split()
code = os.waitstatus_to_exitcode(int(status))
sys.exit(code if code >= 0 else 128 - code)
"""

IMPORTED = (
    "torch._dynamo", "torch.distributed.fsdp", "wafergpt.train.run", "wafergpt.train.finetuning",
    "wafergpt.train.timing", "wafergpt.cli", "wafergpt.cli.pretrain", "wafergpt.cli.finetune",
    "wafergpt.cli.predict", "wafergpt.cli.generate", "wafergpt.tasks.classify",
    "wafergpt.inference.predictor", "wafergpt.inference.writer",
)  # fmt: skip

OURS = ("wafergpt", "benchmarks", "tests")

PIPES = slice(9, 15)
"""Of the arguments of ``_execute_child`` after the command: both ends of each pipe."""

SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCHLD)


@functools.cache
def _server() -> Path:
    """Start the process that the others are forked from, and return its folder."""
    folder = Path(tempfile.mkdtemp(prefix="wafergpt-tests-"))
    address = folder / "socket"
    server = subprocess.Popen(
        [sys.executable, __file__, str(address), str(os.getpid())],
        stdout=subprocess.PIPE, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert server.stdout is not None
    assert server.stdout.readline() == b"ready\n"
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    atexit.register(server.kill)
    return folder


@functools.cache
def folder_with_command() -> Path:
    """Return a folder for PATH that has the command ``wafergpt``."""
    folder = _server() / "bin"
    folder.mkdir()
    command = folder / "wafergpt"
    command.write_text(CLIENT.format(python=sys.executable, address=str(_server() / "socket")))
    command.chmod(0o755)
    return folder


class _Start(NamedTuple):
    """What starts as ``python ARGUMENTS``, and what its files 0, 1 and 2 become."""

    python: list[str]
    folder: str
    environment: dict[str, str]
    session: bool
    files: list[int]


def _start_of(command: Any, more: Sequence[Any]) -> _Start | None:
    """Read the arguments of ``_execute_child``; None where they start something else."""
    _, prepared, _, _, folder, environment, _, _, shell = more[: PIPES.start]
    pipes, session = more[PIPES], more[-2]
    if shell or prepared or not isinstance(command, Sequence) or command[0] != sys.executable:
        return None
    options = list(itertools.takewhile(lambda word: word not in ("-c", "-m"), command[1:]))
    if len(options) == len(command) - 1 or not {"-P", "-u", "-X", "faulthandler"} >= {*options}:
        return None
    environment = dict(os.environ if environment is None else environment)
    ends = enumerate((pipes[0], pipes[3], pipes[5]))
    files = [own if end == -1 else end for own, end in ends]
    return _Start(
        list(map(os.fspath, command[1:])), str(folder or Path.cwd()), environment, session, files
    )


class Popen(subprocess.Popen[Any]):
    """A process of this interpreter that is forked by the server; of other programs, as ever."""

    _channel: socket.socket | None = None

    def _execute_child(self, command: Any, *more: Any) -> None:
        start = _start_of(command, more)
        if start is None:
            super()._execute_child(command, *more)  # type: ignore[misc]
            return
        self._channel = socket.socket(socket.AF_UNIX)
        self._channel.connect(str(_server() / "socket"))
        asked = json.dumps({**start._asdict(), "files": [], "parent": os.getpid()})
        socket.send_fds(self._channel, [asked.encode() + b"\n"], start.files)
        self._answers = self._channel.makefile()
        self.pid = int(self._answers.readline())
        self._child_created = True
        self._close_pipe_fds(*more[PIPES])  # type: ignore[attr-defined]

    def _try_wait(self, flags: int) -> tuple[int, int]:
        if self._channel is None:
            found: tuple[int, int] = super()._try_wait(flags)  # type: ignore[misc]
            return found
        seconds = 0 if flags & os.WNOHANG else None
        if not select.select([self._channel], [], [], seconds)[0]:
            return 0, 0
        status = int(self._answers.readline())
        self._answers.close()
        self._channel.close()
        return self.pid, status

    def _internal_poll(self, *arguments: Any, **named: Any) -> int | None:
        if self._channel is None:
            code: int | None = super()._internal_poll(*arguments, **named)  # type: ignore[misc]
            return code
        if self.returncode is None:
            pid, status = self._try_wait(os.WNOHANG)
            if pid:
                self._handle_exitstatus(status)  # type: ignore[attr-defined]
        return self.returncode


class _Child(subprocess.Popen[Any]):
    """A process of this interpreter that a forked one forks by itself, as its parent."""

    def _execute_child(self, command: Any, *more: Any) -> None:
        start = _start_of(command, more)
        # What other threads hold locked would stay so.
        if start is None or threading.active_count() > 1:
            super()._execute_child(command, *more)  # type: ignore[misc]
            return
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        self.pid = os.fork()
        if not self.pid:
            os.getppid = posix.getppid
            _become(start, anew=True)
        self._child_created = True
        self._close_pipe_fds(*more[PIPES])  # type: ignore[attr-defined]


def serve(address: str, parent: int) -> NoReturn:
    """Fork for each connection; answer with the pid of its process, then with how it ended."""
    for name in IMPORTED:
        importlib.import_module(name)
    from wafergpt.distributed.launcher import stop_with

    stop_with(parent)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    while True:
        channel, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _answer(channel)
        channel.close()


def _answer(channel: socket.socket) -> NoReturn:
    data, given, _, _ = socket.recv_fds(channel, 1 << 16, 3)
    while not data.endswith(b"\n"):
        data += channel.recv(1 << 16)
    pid = os.fork()
    if not pid:
        asked = json.loads(data)
        parent = int(asked.pop("parent"))
        os.getppid = lambda: parent
        _become(_Start(**{**asked, "files": list(given)}))
    for file in given:
        os.close(file)
    channel.sendall(f"{pid}\n".encode())
    channel.sendall(f"{os.waitpid(pid, 0)[1]}\n".encode())
    os._exit(0)


def _become(start: _Start, anew: bool = False) -> NoReturn:
    """Go on as ``python ARGUMENTS`` would; import our own modules anew where they were in use."""
    python, folder, environment, session, given = start
    for own, file in enumerate([os.dup(file) for file in given]):
        os.dup2(file, own)
    os.closerange(3, 1 << 10)
    if session:
        os.setsid()
    os.chdir(folder)
    for number in SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    ours = ("", str(Path(__file__).parent), *_paths(os.environ))
    paths = [*_paths(environment), *(path for path in sys.path if path not in ours)]
    os.environ.clear()
    os.environ.update(environment)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", 1, closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", 1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    if anew or _differs(paths):
        for known in (sys.modules, logging.root.manager.loggerDict):
            for name in [name for name in known if name.partition(".")[0] in OURS]:
                del known[name]
    subprocess.Popen = _Child  # type: ignore[misc]
    atexit._clear()
    if "COVERAGE_PROCESS_CONFIG" in environment:
        coverage = importlib.import_module("coverage")
        coverage.Coverage.current().stop()
        coverage.process_startup(force=True)
    _end(_run(python, paths))


def _differs(paths: list[str]) -> bool:
    """Return whether another wafergpt is found in these folders than the one that is imported."""
    found = importlib.machinery.PathFinder.find_spec("wafergpt", paths)
    return found is not None and found.origin != sys.modules["wafergpt"].__file__


def _paths(environment: Any) -> list[str]:
    return [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path]


def _run(python: list[str], paths: list[str]) -> int:
    safe = False
    while python[0] not in ("-c", "-m"):
        option = python.pop(0)
        safe |= option == "-P"
        if option == "faulthandler":
            faulthandler.enable()
    how, what, *arguments = python
    sys.path[:] = [*([] if safe else [""]), *paths]
    sys.argv = [how, *arguments]
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        if how == "-c":
            exec(compile(what, "<string>", "exec"), vars(main))
        else:
            runpy.run_module(what, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        print(end.code, file=sys.stderr)
        return 1
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def _end(code: int) -> NoReturn:
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            code = code or 120
    os._exit(code)


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]))
