"""The command ``wafergpt`` in a process that is forked from one that has imported torch.

That import is most of the time that a page of short commands takes. wafergpt's own modules are
imported anew by each command, and everything else is as it is for a user's process.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

CLIENT = """#!{python} -S
import json, os, socket, sys
channel = socket.socket(socket.AF_UNIX)
channel.connect({address!r})
command = {{"argv": sys.argv[1:], "folder": os.getcwd(), "environment": dict(os.environ)}}
socket.send_fds(channel, [json.dumps(command).encode() + b"\\n"], [0, 1, 2])
code = int(channel.makefile().read() or 1)
sys.exit(code if code >= 0 else 128 - code)
"""


@functools.cache
def folder_with_command() -> Path:
    """Start the process, and return a folder for PATH that has the command."""
    folder = Path(tempfile.mkdtemp(prefix="wafergpt-tests-"))
    address, command = folder / "socket", folder / "wafergpt"
    command.write_text(CLIENT.format(python=sys.executable, address=str(address)))
    command.chmod(0o755)
    server = subprocess.Popen(
        [sys.executable, __file__, str(address)], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL
    )
    assert server.stdout is not None
    assert server.stdout.readline() == b"ready\n"
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    atexit.register(server.kill)
    return folder


def serve(address: str) -> None:
    """Fork for each connection, and answer with the exit status of its command."""
    import torch._dynamo  # noqa: F401

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
            return _answer(channel)
        channel.close()


def _answer(channel: socket.socket) -> None:
    data, files, _, _ = socket.recv_fds(channel, 1 << 16, 3)
    while not data.endswith(b"\n"):
        data += channel.recv(1 << 16)
    command = os.fork()
    if command:
        code = os.waitstatus_to_exitcode(os.waitpid(command, 0)[1])
        channel.sendall(str(code).encode())
        os._exit(0)
    channel.close()
    for own, given in enumerate(files):
        os.dup2(given, own)
        os.close(given)
    asked = json.loads(data)
    os.chdir(asked["folder"])
    os.environ.clear()
    os.environ.update(asked["environment"])
    sys.argv = ["wafergpt", *asked["argv"]]
    from wafergpt.cli import main

    main()


if __name__ == "__main__":
    serve(sys.argv[1])
