"""How the processes of one training find each other."""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
from torch import distributed as dist
from torch._C._distributed_c10d import Store, TCPStore

from wafergpt.errors import InputError, TeamLost
from wafergpt.parallel.environment import required_place
from wafergpt.parallel.team import ALONE, LEADER, Team, explained

LONG_SECONDS = 10.0
"""Of waiting for the others, before that is said."""


@contextmanager
def joined(timeout: float) -> Iterator[Team]:
    """Meet the other processes of this training, if there are any.

    What lies on CPUs goes over gloo, what lies on GPUs, of which each process takes its own, over
    NCCL.

    Args:
        timeout: seconds after which a process that does not answer is given up.

    Raises:
        InputError: if the environment does not say where they meet, or there are too few GPUs.
        TeamLost: if one does not come.
    """
    rank, size = required_place()
    if size == 1:
        yield ALONE
        return
    backend = "gloo"
    local = int(os.environ.get("LOCAL_RANK", rank))
    if local < torch.cuda.device_count():
        torch.cuda.set_device(local)
        backend = "cpu:gloo,cuda:nccl"
    with explained(), _said_when_long(rank, size):
        store = _store_of_this_start(rank, size, timeout)
        dist.init_process_group(
            backend, store=store, rank=rank, world_size=size, timeout=timedelta(seconds=timeout)
        )
    try:
        yield Team(rank, size)
    finally:
        dist.destroy_process_group()


@contextmanager
def _said_when_long(rank: int, size: int) -> Iterator[None]:
    where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    line = (
        f"process {rank} of WORLD_SIZE={size} waits for the others at {where}; to train in one "
        "process, stop this and unset WORLD_SIZE"
    )
    timer = threading.Timer(LONG_SECONDS, print, (line,), {"file": sys.stderr, "flush": True})
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _store_of_this_start(rank: int, size: int, timeout: float) -> Store:
    """Return where the processes leave each other their addresses.

    The store of torchrun's agent outlives the processes, and gives those that it starts again the
    addresses of dead ones (pytorch/pytorch#135712). There, only the place of the leader's own store
    is left, until a living one is found.
    """
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    wait = timedelta(seconds=timeout)
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        try:
            return TCPStore(host, port, size, rank == LEADER, wait)
        except RuntimeError as error:
            if rank == LEADER and "EADDRINUSE" in str(error):
                raise InputError(
                    f"MASTER_PORT={port} is taken by another process: set MASTER_PORT to a free one"
                ) from None
            raise
    agents = TCPStore(host, port, None, False, wait)
    if rank == LEADER:
        own = TCPStore(host, 0, size, True, wait, wait_for_workers=False)
        agents.set("leader", str(own.port))
        return own
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        there = int(agents.get("leader"))
        try:
            socket.create_connection((host, there), timeout=5).close()
        except OSError:
            time.sleep(0.1)
            continue
        return TCPStore(host, there, size, False, wait)
    raise TeamLost(f"process 0 did not come within {timeout:g} seconds")
