"""The engine interface: what makes the updates of a training.

An engine knows a recipe, a task's network and loss, and data, but no run folder. An engine is one
class, and one line in ``wafergpt.config.registry.ENGINES``; docs/extending.md shows a whole one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

import torch
from torch import Tensor, nn

from wafergpt.config import Recipe
from wafergpt.config.registry import ENGINES, imported

if TYPE_CHECKING:
    from wafergpt.checkpoint.format import Stored
    from wafergpt.checkpoint.store import HostState, StoredState
    from wafergpt.data.batches import Batch
    from wafergpt.distributed.collectives import ProcessGroup
    from wafergpt.planning.hardware import Machine
    from wafergpt.tasks.base import Outputs, Splits, Task


ROUNDS = 16
"""Updates that tell how long one takes."""


class Decision(Enum):
    """What to do with an update whose loss and gradient are known."""

    APPLY = "apply"
    SKIP = "skip"
    """Leave the weights as they are, and continue after its samples."""
    ROLLBACK = "rollback"
    """Leave the weights as they are, and end the iteration: a checkpoint will be loaded."""


@dataclass(frozen=True)
class UpdateResult:
    """One update, computed and decided on.

    Attributes:
        step: updates done, this one included.
        samples: the sample after its last one.
        tokens: that it read, padding included.
        flops: of its forward and backward pass.
        loss: mean over its terms, in nats or the task's own unit.
        grad_norm: of the whole gradient before clipping.
        lr: the learning rate at this step.
        seconds: that it took.
        decision: what was done with it.
        state_ready: whether the engine's ``state`` may be read now.
    """

    step: int
    samples: int
    tokens: int
    flops: float
    loss: float
    grad_norm: float
    lr: float
    seconds: float = 0.0
    decision: Decision = Decision.APPLY
    state_ready: bool = True


class Engine(Protocol):
    """Makes updates on some device.

    Attributes:
        network: the task's network on this host, with the weights of the last ``state``: to
            evaluate and to sample from.
    """

    network: nn.Module

    def __init__(
        self,
        recipe: Recipe,
        machine: Machine,
        task: Task,
        splits: Splits,
        group: ProcessGroup,
        start: Stored | None,
    ) -> None:
        """Place the network where it will be trained; its GPT is initialized from ``start``."""

    @staticmethod
    def require(recipe: Recipe) -> None:
        """Check what can be known before the data is read.

        Args:
            recipe: as asked for.

        Raises:
            InputError: if the recipe cannot run here.
        """

    @staticmethod
    def settle(recipe: Recipe, group: ProcessGroup) -> tuple[Recipe, Machine]:
        """Resolve all that is ``auto`` in ``system``, and the micro-batch; measure the machine.

        Args:
            recipe: as asked for.
            group: the processes of this training.

        Returns:
            The resolved recipe, and the machine as measured.

        Raises:
            InputError: if the recipe cannot run here, before there is a run.
        """

    def work_in(self, folder: Path) -> None:
        """Set the folder for the engine's own files; called once, before the first update."""

    def seconds_per_update(
        self, stop: Callable[[], bool], max_seconds: float = 6.0, rounds: int = ROUNDS
    ) -> float:
        """Time real updates over all the data, without moving a weight.

        Args:
            stop: called after each update; if true, no more are timed.
            max_seconds: that this should take.
            rounds: maximum updates, beside a first one.

        Returns:
            Seconds of an update.
        """

    def choose_compilation(
        self, updates: float, eager_seconds: float, stop: Callable[[], bool]
    ) -> tuple[bool, float]:
        """Compile if the recipe requires it, or if it pays for so many updates.

        Args:
            updates: number of updates of the training.
            eager_seconds: of one update that is not compiled.
            stop: called while updates are timed; if true, no more are timed.

        Returns:
            Whether updates are compiled now, and the seconds of one where that was timed, else 0.

        Raises:
            InputError: if the recipe requires it and it does not work here.
        """

    def updates(
        self,
        step: int,
        samples: int,
        until: int,
        sync: Collection[int],
        decide: Callable[[UpdateResult], Decision],
        poll: Callable[[], None],
    ) -> Generator[UpdateResult, None, None]:
        """Make the updates from ``step`` on and yield each.

        Args:
            step: updates done so far.
            samples: the first sample.
            until: the last step, the end of the learning rate's schedule.
            sync: steps after which ``state`` must be ready.
            decide: called before the weights move.
            poll: called repeatedly while an update is waited for; it may call ``request``.
        """

    def state(self) -> HostState:
        """Return weights and moments, where ``UpdateResult.state_ready``.

        Returns:
            The tensors by name; of sharded ones, this process' part.

        Raises:
            RunFailed: if replicas that must hold the same weights do not.
        """

    def load(self, stored: StoredState | None) -> None:
        """Load a checkpoint; without one, copy the leader's state to every replica.

        Args:
            stored: the checkpoint.

        Raises:
            ValueError: if it does not fit the network.
        """

    def outputs(self, samples: range, rows: int, poll: Callable[[], None]) -> Outputs:
        """Return the task's outputs of some validation samples, in the order of the rows.

        Args:
            samples: which, one after the other.
            rows: samples of one forward pass on one replica.
            poll: called before each pass; it may raise.

        Returns:
            Arrays ``[samples, …]`` by name.
        """

    def request(self, what: Literal["save", "stop"]) -> None:
        """Make the state ready for a save as soon as possible, or end the updates early."""

    def run_commands(self) -> str:
        """In a worker process, run the leader's commands until it ends; return its run's path."""

    def close(self, run: str) -> None:
        """End the worker processes; their ``run_commands`` returns ``run``."""


class Program(nn.Module):
    """A network and its loss in one forward pass, to be wrapped by DDP."""

    def __init__(self, network: nn.Module, loss: Callable[[nn.Module, Batch], Tensor]) -> None:
        super().__init__()
        self.network = network
        self._loss = loss

    def forward(self, batch: Batch) -> Tensor:
        """Return the summed loss of a batch."""
        return self._loss(self.network, batch)


def engine_for(device: str) -> type[Engine]:
    """Return the engine of a ``system.device``."""
    engine: type[Engine] = imported(ENGINES[device])
    return engine


def autocast(recipe: Recipe, device: torch.device) -> torch.autocast:
    """Return the autocast context of the recipe's precision."""
    return torch.autocast(
        device.type,
        torch.bfloat16,
        enabled=recipe.system.precision == "bf16",
        # A cached copy would outlive its block.
        cache_enabled=recipe.system.shards == 1 and not recipe.system.activation_checkpointing,
    )


@contextmanager
def generators_kept() -> Iterator[None]:
    """Leave torch's generators, which ``reseed`` sets, as the caller has seeded them."""
    # A device that is not in use yet has no state, and would be initialized to read it.
    used = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=used):
        yield


def reseed(seed: int, step: int, micro_step: int, rank: int = 0, device: str = "") -> None:
    """Seed torch from the position in the run alone, so that a resume repeats it.

    Only the generator of ``device``, if it is ``cpu``; else those of all devices.
    """
    digest = hashlib.blake2b(f"{seed}/{step}/{micro_step}/{rank}".encode(), digest_size=8).digest()
    number = int.from_bytes(digest, "little") >> 1
    if device == "cpu":
        # torch.manual_seed also formats a stack for each kind of GPU, 0.4 ms in all.
        torch.default_generator.manual_seed(number)
    else:
        torch.manual_seed(number)
