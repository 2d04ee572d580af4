"""How the processes of one training meet."""

from __future__ import annotations

import ctypes
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path

import torch
from torch import distributed as dist
from torch._C._distributed_c10d import Store, TCPStore

from wafergpt.distributed.collectives import LEADER, SINGLE, ProcessGroup, explained
from wafergpt.distributed.environment import required_place
from wafergpt.errors import InputError, ProcessLost

LONG_SECONDS = 10.0
"""How long a process waits for the others before it prints a notice."""


@contextmanager
def joined(timeout: float) -> Iterator[ProcessGroup]:
    """Join the other processes of this training, if there are any.

    Tensors on CPUs go over gloo, those on GPUs, one GPU per process, over NCCL.

    Args:
        timeout: seconds after which a process that does not answer counts as lost.

    Raises:
        InputError: if the environment does not name the meeting place.
        ProcessLost: if a process does not join.
    """
    rank, size = required_place()
    if size == 1:
        yield SINGLE
        return
    backend = "gloo"
    with explained(), _notice_when_long(rank, size):
        store = _store_of_this_start(rank, size, timeout)
        local = _local_rank(store, rank, size)
        if local < torch.cuda.device_count():
            torch.cuda.set_device(local)
            backend = "cpu:gloo,cuda:nccl"
        dist.init_process_group(
            backend, store=store, rank=rank, world_size=size, timeout=timedelta(seconds=timeout)
        )
    try:
        yield ProcessGroup(rank, size)
    finally:
        # Never freed: whoever drops the last reference waits for gloo's threads with the
        # interpreter locked, and one that has just ended a collective waits for the interpreter.
        for group in (dist.group.WORLD, *dist.distributed_c10d._world.pg_map):
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(group))
        dist.destroy_process_group()


def _local_rank(store: Store, rank: int, size: int) -> int:
    """Return this process' number on its machine; where no launcher says it, it is counted."""
    store.set(f"machine of {rank}", _machine())
    if not os.environ.get("LOCAL_RANK"):
        machines = [store.get(f"machine of {one}") for one in range(size)]
        here = [one for one in range(size) if machines[one] == machines[rank]]
        os.environ |= {"LOCAL_RANK": str(here.index(rank)), "LOCAL_WORLD_SIZE": str(len(here))}
    return int(os.environ["LOCAL_RANK"])


def _machine() -> str:
    """Return what no other machine has: hosts of one name may be several."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return socket.gethostname()


@contextmanager
def _notice_when_long(rank: int, size: int) -> Iterator[None]:
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
    """Return the store in which the processes exchange their addresses.

    The store of torchrun's agent outlives the processes, and gives restarted ones the addresses of
    dead ones (pytorch/pytorch#135712). So it holds only the port of the leader's own store,
    which is polled until it answers.
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
    raise ProcessLost(f"process 0 did not join within {timeout:g} seconds")
