"""How the processes of one training find each other."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
from torch import distributed as dist
from torch._C._distributed_c10d import Store, TCPStore

from wafergpt.errors import InputError, TeamLost
from wafergpt.parallel.team import ALONE, LEADER, Team, explained
from wafergpt.progress import place


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
    rank, size = place()
    if size == 1:
        yield ALONE
        return
    if "MASTER_ADDR" not in os.environ:
        raise InputError(
            f"WORLD_SIZE={size} processes, but MASTER_ADDR is not set: start them with torchrun or "
            "--nproc, or unset WORLD_SIZE"
        )
    backend = "gloo"
    local = int(os.environ.get("LOCAL_RANK", rank))
    if local < torch.cuda.device_count():
        torch.cuda.set_device(local)
        backend = "cpu:gloo,cuda:nccl"
    with explained():
        store = _store_of_this_start(rank, size, timeout)
        dist.init_process_group(
            backend, store=store, rank=rank, world_size=size, timeout=timedelta(seconds=timeout)
        )
    try:
        yield Team(rank, size)
    finally:
        dist.destroy_process_group()


def _store_of_this_start(rank: int, size: int, timeout: float) -> Store:
    """Return where the processes leave each other their addresses.

    The store of torchrun's agent outlives the processes, and gives those that it starts again the
    addresses of dead ones (pytorch/pytorch#135712). There, only the place of the leader's own store
    is left, until a living one is found.
    """
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    wait = timedelta(seconds=timeout)
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return TCPStore(host, port, size, rank == LEADER, wait)
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
