"""Copies of a network whose gradients are all-reduced during the backward pass (DDP)."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from wafergpt.distributed.collectives import explained
from wafergpt.distributed.sharding import sums_in


def replicated(program: nn.Module, device: torch.device) -> nn.Module:
    """Return a module whose backward pass sums gradients over all processes.

    Gradients are views of the buckets that are sent, so that there is no second copy of them.
    """
    with explained():
        copies = DistributedDataParallel(
            program,
            device_ids=[device] if device.type == "cuda" else None,
            gradient_as_bucket_view=True,
        )
    # The loss is a share of the global batch's mean: gradients are summed, not averaged.
    copies.register_comm_hook(None, _summed)
    return copies


# Torch compares these annotations with its own types, so they cannot be strings.
def _summed(
    state: None,
    bucket: dist.GradBucket,  # type: ignore[name-defined]
) -> torch.futures.Future[torch.Tensor]:
    work: Any = dist.all_reduce(bucket.buffer(), async_op=True)
    future: torch.futures.Future[Any] = work.get_future()
    return future.then(lambda done: done.value()[0])


@contextmanager
def without_sync(program: nn.Module, network: nn.Module, last: bool) -> Iterator[None]:
    """Run a backward pass that sums gradients over processes only if it is the last one."""
    sums_in(network, last)
    waits = isinstance(program, DistributedDataParallel) and not last
    with explained(), program.no_sync() if waits else nullcontext():  # type: ignore[operator]
        yield
