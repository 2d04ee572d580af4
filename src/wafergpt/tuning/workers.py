"""Further processes that make trials of a study on this machine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from wafergpt.progress import say

VISIBLE = "CUDA_VISIBLE_DEVICES"


class Workers:
    """Processes that join in a study; they end when its budget is used, or with this one.

    Args:
        folder: of the study.
        count: their number. Of several GPUs each has one, and this process the first.
    """

    def __init__(self, folder: Path, count: int) -> None:
        self._folder, self._count = folder.resolve(), count
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Workers:
        command = [sys.executable, "-m", "wafergpt.cli", "tune", "--join", str(self._folder)]
        for number in range(1, self._count + 1):
            log = (self._folder / f"worker-{number}.log").open("ab")
            environment = {**os.environ, **_device(number)}
            with log:
                self._processes.append(
                    subprocess.Popen(
                        command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=environment
                    )
                )
        return self

    def wait(self) -> None:
        """Wait until all have ended, and say which have failed."""
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


def _device(number: int) -> dict[str, str]:
    """Return what gives a worker one of several GPUs, of those that this process may use."""
    import torch

    count = torch.cuda.device_count()
    if count < 2:
        return {}
    names = os.environ.get(VISIBLE) or ",".join(map(str, range(count)))
    return {VISIBLE: names.split(",")[number % count]}
