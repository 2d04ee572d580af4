"""What the processes of a team do together, besides updates: take over a state, compare, obey."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from wafergpt.errors import RunFailed
from wafergpt.parallel.team import Order
from wafergpt.train import checkpoint
from wafergpt.train.loop import Loop
from wafergpt.train.saver import PartSaver
from wafergpt.train.state import weights_checksum


def obey(loop: Loop, saver: PartSaver, compile_blocks: Callable[[bool], None]) -> None:
    """Do what the leader orders, until it ends."""
    state = loop.state
    while True:
        order, numbers = loop.team.next_order()
        if order is Order.GRADIENTS:
            step, first, size = map(int, numbers)
            state.step = step
            loop.backward(first, size)
        elif order is Order.LOOK:
            first, size = map(int, numbers[:2])
            loop.looked(first, size)
        elif order is Order.APPLY:
            state.optimizer.step(numbers[0])
        elif order is Order.DISCARD:
            state.optimizer.clear()
        elif order is Order.SAVE:
            saver.save(state)
        elif order is Order.CHECK:
            _checksums(loop)
        elif order is Order.STATE:
            _share_state(loop)
        elif order is Order.COMPILE:
            compile_blocks(bool(numbers[0]))
        else:
            return


def give_state(loop: Loop, folder: Path | None) -> None:
    """Have everyone take over the leader's weights and moments.

    Where they are spread, everyone reads its part of the checkpoint that the leader has read;
    without one all have begun alike.
    """
    if loop.team.size > 1 and (folder or not loop.spread):
        loop.team.order(Order.STATE)
        _share_state(loop, folder)


def _share_state(loop: Loop, folder: Path | None = None) -> None:
    state, team = loop.state, loop.team
    if loop.spread:
        told = team.told(str(folder))
        if team.follows:
            checkpoint.load(state, Path(told), verified=True)
        return
    weights = team.given(state.model.state_dict(), loop.device)
    moments = team.given(state.optimizer.state_tensors(), loop.device)
    if team.follows:
        state.model.load_state_dict(weights)
        state.optimizer.load_state_tensors(moments)


def require_same_copies(loop: Loop) -> None:
    """Compare the weights of processes that must hold the same.

    Raises:
        RunFailed: naming the first process whose weights differ.
    """
    shards = loop.recipe.system.shards
    if loop.team.size == shards:
        return
    loop.team.order(Order.CHECK)
    sums = _checksums(loop)
    for rank, found in enumerate(sums):
        if found != sums[rank % shards]:
            raise RunFailed(
                f"at step {loop.state.step} the weights of process {rank} are not those of "
                f"process {rank % shards}, whose copy they are: a memory or a device is faulty, "
                "or their processors differ. Nothing of it was saved; --resume goes on from before"
            )


def _checksums(loop: Loop) -> list[int]:
    return loop.team.of_each(weights_checksum(loop.state.model.state_dict()))
