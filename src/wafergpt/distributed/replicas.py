"""Copies of a network whose gradients are all-reduced during the backward pass (DDP)."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from wafergpt.distributed.collectives import ProcessGroup, explained
from wafergpt.distributed.sharding import sums_in
from wafergpt.errors import RunFailed


def replicated(program: nn.Module, device: torch.device, predicts: bool = True) -> nn.Module:
    """Return a module whose backward pass averages gradients over all processes.

    Gradients are views of the buckets that are sent, so that there is no second copy of them.
    Those of tables are left to ``average_rows``.

    Args:
        program: whose copies are the same in all processes.
        device: of the program.
        predicts: whether next tokens are; else an untied head for them has no gradient, which DDP
            would wait for.
    """
    left_out = set(_tables(program))
    if not predicts:
        names = (name for name, _ in program.named_parameters())
        left_out |= {name for name in names if name.endswith("lm_head.weight")}
    # What PyTorch's own FSDP and torchrec call to leave parameters out, in spite of its name.
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(program, left_out)
    with explained():
        return DistributedDataParallel(
            program,
            device_ids=[device] if device.type == "cuda" else None,
            gradient_as_bucket_view=True,
            # Ours never change.
            broadcast_buffers=False,
        )


def average_rows(network: nn.Module, group: ProcessGroup) -> None:
    """Average the sparse gradients of tables over all processes, after the last backward pass.

    DDP has gloo do it, in a thread that replaces the gradient's parts beside the backward pass.
    """
    if group.size == 1:
        return
    for table in _tables(network).values():
        gradient = table.grad
        assert gradient is not None
        gradient = gradient.coalesce()
        rows = group.all_gather_rows(gradient.indices()[0])
        values = group.all_gather_rows(gradient.values() / group.size)
        total = torch.sparse_coo_tensor(rows[None], values, table.shape, check_invariants=False)
        table.grad = total.coalesce()


def _tables(module: nn.Module) -> dict[str, torch.Tensor]:
    """Return the weights whose gradients are sparse, by name."""
    return {
        f"{name}.weight": part.weight
        for name, part in module.named_modules()
        if isinstance(part, nn.Embedding | nn.EmbeddingBag)
        and part.sparse
        # A frozen one has none.
        and part.weight.requires_grad
    }


def require_same(checksums: Sequence[int], shards: int) -> None:
    """Require that all copies of the weights are equal.

    Args:
        checksums: of the weights of each process.
        shards: processes that hold one copy together.

    Raises:
        RunFailed: if one differs.
    """
    for rank, found in enumerate(checksums):
        if found != checksums[rank % shards]:
            raise RunFailed(
                f"the weights of process {rank} are not those of process {rank % shards}, "
                "though they are copies: a memory or a device is faulty, or their processors "
                "differ. They were not saved; --resume continues from the last checkpoint"
            )


@contextmanager
def without_sync(
    program: nn.Module, network: nn.Module, last: bool, own: Callable[[BaseException], bool]
) -> Iterator[None]:
    """Run a backward pass that sums gradients over processes only if it is the last one.

    Args:
        program: that ``replicated`` returned, or the network where it is sharded.
        network: inside.
        last: whether it is.
        own: whether an error has nothing to do with the other processes.
    """
    sums_in(network, last)
    waits = isinstance(program, DistributedDataParallel) and not last
    with explained(own), program.no_sync() if waits else nullcontext():  # type: ignore[operator]
        yield
