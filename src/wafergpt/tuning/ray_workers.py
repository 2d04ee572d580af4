"""Workers of a study on the nodes of a Ray cluster (Moritz et al., arXiv:1712.05889).

Each is a task that joins in the study, as a process on this machine would. They coordinate through
the study's folder and storage, so that a worker that is lost costs no more than its node.
"""

from __future__ import annotations

import importlib
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wafergpt.config import System
from wafergpt.devices.limits import cores
from wafergpt.errors import InputError, Interrupted, RunFailed
from wafergpt.logs import logger, say
from wafergpt.progress import working
from wafergpt.tuning.making import IN_A_ROW, join

LOCAL = "local"
"""Address of a cluster on this machine, which ends with the command."""

CONNECT_SECONDS, ANSWER_SECONDS = 5.0, 30.0
"""How long a cluster may take to accept a connection, and to answer."""

STORE_BYTES = 80 << 20
"""Shared memory of a local cluster, the least that Ray takes: nothing is passed through it."""

QUIET: dict[str, Any] = {"log_to_driver": False, "configure_logging": False}


@dataclass(frozen=True)
class Slot:
    """What a worker takes of a node.

    Attributes:
        threads: of each process of a trial.
        nproc: processes of a trial, each with a CPU for each thread.
        gpus: one for each process, or none.
    """

    threads: int
    nproc: int
    gpus: int

    @property
    def cpus(self) -> int:
        """CPUs of all processes."""
        return self.threads * self.nproc

    def fits(self, nodes: Sequence[tuple[float, float]]) -> int:
        """Return how many of these there is room for on nodes of so many CPUs and GPUs."""
        return sum(
            int(min(cpus // self.cpus, gpus // self.gpus if self.gpus else cpus))
            for cpus, gpus in nodes
        )


def slot_for(system: System, workers: int, nodes: Sequence[tuple[float, float]]) -> Slot:
    """Choose what each worker takes.

    Args:
        system: of the recipe; its ``threads``, if set, are taken.
        workers: trials at a time.
        nodes: CPUs and GPUs of each.

    Returns:
        As many threads as leave room for as many workers as possible.
    """
    has_gpus = any(gpus for _, gpus in nodes)
    on_gpus = system.device == "cuda" or (system.device == "auto" and has_gpus)
    gpus = system.nproc if on_gpus else 0
    if system.threads:
        return Slot(system.threads, system.nproc, gpus)
    most = int(max((cpus for cpus, _ in nodes), default=1)) // system.nproc
    slots = [Slot(threads, system.nproc, gpus) for threads in range(max(1, most), 0, -1)]
    return max(slots, key=lambda slot: min(workers, slot.fits(nodes)))


@contextmanager
def connected(address: str) -> Iterator[None]:
    """Connect to a cluster, or start one for a while.

    Args:
        address: ``HOST:PORT`` of its head, ``auto`` for the one of this machine, or ``local``.

    Raises:
        InputError: if Ray is missing, or the cluster does not answer.
    """
    ray = _ray()
    before = signal.getsignal(signal.SIGTERM)
    # Ray prints there what its nodes report; stdout is for the result.
    with redirect_stdout(sys.stderr):
        if address == LOCAL:
            own = {"num_cpus": cores(), "object_store_memory": STORE_BYTES}
            ray.init(LOCAL, include_dashboard=False, **own, **QUIET)
        else:
            with working(f"connecting to the Ray cluster {address}"):
                _require_answer(address)
                ray.init(address, **QUIET)
        if threading.current_thread() is threading.main_thread():
            # Ray's own would end this process at once.
            signal.signal(signal.SIGTERM, before)
        try:
            yield
        finally:
            ray.shutdown()


def _ray() -> Any:
    """Import Ray, whose types are not everywhere."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    logging.getLogger("ray").setLevel(logging.ERROR)
    try:
        return importlib.import_module("ray")
    except ImportError:
        raise InputError("--ray needs Ray: pip install 'wafergpt[cluster]'") from None


def _require_answer(address: str) -> None:
    """Require that a cluster answers; Ray itself would try for minutes, and end the process."""
    host, _, port = address.rpartition(":")
    if address != "auto":
        if not host or "/" in host or not port.isdecimal():
            raise InputError(f"--ray {address} is no address: write HOST:PORT, auto, or local")
        try:
            socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
        except (OSError, OverflowError) as error:
            raise InputError(f"no Ray cluster at {address}: {error}") from None
    asks = f"import ray; ray.init({address!r}, log_to_driver=False)"
    try:
        asked = subprocess.run(
            [sys.executable, "-P", "-c", asks], capture_output=True, text=True, errors="replace",
            timeout=ANSWER_SECONDS, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise InputError(
            f"no Ray cluster at {address}: no answer within {ANSWER_SECONDS:g} seconds"
        ) from None
    if asked.returncode:
        lines = asked.stderr.strip().splitlines()
        raise InputError(f"no Ray cluster at {address}: {lines[-1] if lines else 'no answer'}")


class RayWorkers:
    """Workers of a study on the cluster that this process is connected to.

    Args:
        folder: of the study, which all nodes see.
        system: of the recipe.
        count: their number. Those that have no room begin when others end.
    """

    def __init__(self, folder: Path, system: System, count: int) -> None:
        ray = _ray()
        self._folder, self._count = folder.resolve(), count
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        room = [(one.get("CPU", 0.0), one.get("GPU", 0.0)) for one in nodes]
        self._slot = slot_for(system, count, room)
        if not self._slot.fits(room):
            gpus = f" and {self._slot.gpus} GPUs" if self._slot.gpus else ""
            say(f"warning: no node has {self._slot.cpus} CPUs{gpus}: the trials wait for one")
        # A process of its own for each: threads and devices are settled once.
        self._task = ray.remote(max_calls=1)(_work)
        self._tasks: dict[Any, int] = {}
        self._failures: list[Exception] = []
        self._lost, self._settled = 0, 0

    def __enter__(self) -> RayWorkers:
        for number in range(self._count):
            self._start(number)
        return self

    def _start(self, number: int) -> None:
        task = self._task.options(
            num_cpus=self._slot.cpus,
            num_gpus=self._slot.gpus,
            # A lost one is started again below, where that is said and has an end.
            max_retries=0,
            scheduling_strategy="SPREAD",
        )
        self._tasks[task.remote(str(self._folder), number, self._slot.threads)] = number

    def at_work(self, settled: int, seconds: float) -> bool:
        """Wait a while, and start workers again that were lost.

        Args:
            settled: trials by now.
            seconds: to wait at most.

        Returns:
            Whether there are any.

        Raises:
            InputError: if all have failed, as the first.
            RunFailed: if they are lost again and again, or all have failed.
        """
        ray = _ray()
        if settled > self._settled:
            self._settled, self._lost = settled, 0
        ended, _ = ray.wait([*self._tasks], timeout=seconds)
        for task in ended:
            number = self._tasks.pop(task)
            try:
                ray.get(task)
            except ray.exceptions.RayTaskError as error:
                failure = error.cause
                if isinstance(failure, Interrupted):
                    self._start_again(number, str(failure))
                else:
                    say(f"warning: worker {number} has failed: {failure}")
                    self._failures.append(failure)
            except ray.exceptions.RayError as error:
                self._start_again(number, type(error).__name__)
        if len(self._failures) == self._count:
            raise self._failures[0]
        return bool(self._tasks)

    def _start_again(self, number: int, reason: str) -> None:
        self._lost += 1
        # A rack that fails takes many at once.
        if self._lost > IN_A_ROW * self._count:
            raise RunFailed(f"{self._lost} workers were lost, and no trial ended: {reason}")
        say(f"warning: worker {number} was lost ({reason}): another one takes up its trial")
        self._start(number)

    def __exit__(self, *error: object) -> None:
        ray = _ray()
        for task in self._tasks:
            # As Ctrl-C does: they save, and leave their trial to be taken up.
            ray.cancel(task)
        if self._tasks:
            ray.wait([*self._tasks], num_returns=len(self._tasks))


def _work(folder: str, number: int, threads: int) -> None:
    """Be a worker, in a process of a node."""
    handler = logging.FileHandler(Path(folder) / f"worker-{number}.log")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        join(Path(folder), threads)
    finally:
        logger.removeHandler(handler)
        handler.close()
