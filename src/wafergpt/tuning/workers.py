"""Further processes that make trials of a study on this machine."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from wafergpt.errors import Interrupted
from wafergpt.logs import say
from wafergpt.train.signals import Signals
from wafergpt.tuning.gpus import gpus_of
from wafergpt.tuning.making import STOPPED

LOOK_SECONDS = 0.1
"""Between two looks whether they have ended."""


class Workers:
    """Processes that join in a study; they end when its budget is used, or with this one.

    Args:
        folder: of the study.
        count: their number.
        nproc: processes of a trial. Each worker has GPUs of its own, and this process the first.
    """

    def __init__(self, folder: Path, count: int, nproc: int = 1) -> None:
        self._folder, self._count, self._nproc = folder.resolve(), count, nproc
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Workers:
        command = [sys.executable, "-m", "wafergpt", "tune", "--join", str(self._folder)]
        for number in range(1, self._count + 1):
            log = (self._folder / f"worker-{number}.log").open("ab")
            environment = {**os.environ, **gpus_of(number, self._nproc)}
            with log:
                self._processes.append(
                    subprocess.Popen(
                        command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=environment
                    )
                )
        return self

    def wait(self) -> None:
        """Wait until all have ended, and say which have failed.

        Raises:
            Interrupted: if a signal requested a stop.
        """
        with Signals() as signals:
            while any(process.poll() is None for process in self._processes):
                if signals.requested:
                    raise Interrupted(STOPPED)
                time.sleep(LOOK_SECONDS)
        for number, process in enumerate(self._processes, 1):
            if process.wait():
                log = self._folder / f"worker-{number}.log"
                lines = log.read_text(errors="replace").strip().splitlines()
                say(f"warning: worker {number} has failed: {lines[-1] if lines else log}")

    def __exit__(self, *error: object) -> None:
        for process in self._processes:
            if process.poll() is None:
                # They save, and leave their trial to be taken up.
                process.terminate()
        for process in self._processes:
            process.wait()
