"""The engine's side of the worker in the SDK's environment: start, events, commands."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from wafergpt.cerebras import environment
from wafergpt.errors import InputError, RunFailed
from wafergpt.logs import say

LOG = "worker.log"

POLL_SECONDS = 0.2
"""Between two calls of ``poll`` while the worker sends nothing."""

END_SECONDS = 60.0
"""That the SDK may take to end, after all was sent; then it is killed."""

LAST_LINES = 3
"""Of what a worker wrote, in the message of its failure."""


class WorkerProcess:
    """A process in the SDK's environment, and its events: one JSON object per line.

    Args:
        process: the worker.
        events: the descriptor that its events are read from.
        commands: the descriptor that commands are written to.
        log: the file that it writes into.
        begins: the size of that file before.
    """

    def __init__(
        self, process: subprocess.Popen[bytes], events: int, commands: int, log: Path, begins: int
    ) -> None:
        self._process, self._log, self._begins = process, log, begins
        self._events, self._commands = events, commands

    def events(self, poll: Callable[[], None] = lambda: None) -> Iterator[dict[str, Any]]:
        """Yield what the worker sends, until it has ended.

        Args:
            poll: called several times a second while nothing is sent.

        Raises:
            InputError: if the worker rejects the recipe.
            RunFailed: if it fails.
        """
        for line in self._lines(poll):
            event = _event(line)
            if event is None:
                raise self.failure(f"the worker sent what is no message: {line[:80]!r}")
            if "error" in event:
                kind = InputError if event["code"] == 2 else RunFailed
                raise kind(f"{event['error']} (the SDK's output: {self._log})")
            yield event
        code = 0
        with suppress(subprocess.TimeoutExpired):
            code = self._process.wait(END_SECONDS)
        if code < 0:
            raise self.failure(f"the worker was ended by {signal.Signals(-code).name}")
        if code:
            raise self.failure(f"the worker ended with exit code {code}")

    def failure(self, what: str) -> RunFailed:
        """Return an error that has the last lines that this worker wrote."""
        with self._log.open("rb") as file:
            file.seek(max(self._begins, self._log.stat().st_size - (1 << 12)))
            text = file.read().decode(errors="replace")
        lines = [" ".join(line.split()) for line in text.splitlines() if line.strip()]
        said = " / ".join(lines[-LAST_LINES:]) or "nothing"
        return RunFailed(f"{what}; it said last: {said} (all of it: {self._log})")

    def command(self, word: str) -> None:
        """Send a command; an ended worker ignores it."""
        with suppress(BrokenPipeError):
            os.write(self._commands, f"{word}\n".encode())

    def _lines(self, poll: Callable[[], None]) -> Iterator[bytes]:
        waiting = b""
        while True:
            poll()
            # Asked first: what it sent before it ended is still read.
            ended = self._process.poll() is not None
            if not select.select([self._events], [], [], POLL_SECONDS)[0]:
                if ended:
                    # A process of its own still holds the pipe.
                    return
                continue
            data = os.read(self._events, 1 << 16)
            if not data:
                return
            *lines, waiting = (waiting + data).split(b"\n")
            yield from lines


def _event(line: bytes) -> dict[str, Any] | None:
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return event if isinstance(event, dict) else None


@contextmanager
def worker(job: dict[str, Any], log: Path, python: Path | None = None) -> Iterator[WorkerProcess]:
    """Start a worker for a job; it is killed at the end of the block."""
    python = python or environment.python()
    events, sends = os.pipe()
    receives, commands = os.pipe()
    job = {**job, "launcher": os.getpid(), "events": sends, "commands": receives}
    say(f"starting Cerebras' SDK; its output goes into {log}")
    with log.open("ab") as output:
        begins = output.tell()
        process = subprocess.Popen(
            [str(python), "-m", "wafergpt.cerebras.worker", json.dumps(job)],
            env=environment.environment(), stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            pass_fds=(sends, receives), cwd=log.parent,
            # Ctrl-C is handled on this side and passed on.
            start_new_session=True,
        )  # fmt: skip
    os.close(sends)
    os.close(receives)
    try:
        yield WorkerProcess(process, events, commands, log, begins)
    finally:
        os.close(events)
        os.close(commands)
        process.kill()
        process.wait()


def answer(job: dict[str, Any], key: str, python: Path | None = None) -> Any:
    """Have a worker do a short job, and return what it sends under ``key``."""
    folder = Path(mkdtemp(prefix="wafergpt-cerebras-"))
    with worker({**job, "artifacts": str(folder)}, folder / LOG, python) as running:
        found = [event[key] for event in running.events() if key in event]
        if not found:
            raise running.failure("the worker ended without an answer")
    # After a failure the log is kept.
    shutil.rmtree(folder)
    return found[0]
