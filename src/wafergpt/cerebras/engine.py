"""The engine of Cerebras systems: a worker in the SDK's environment makes the steps.

The worker has no run and evaluates nothing: it sends the loss of each step and, at the steps that
are asked for, weights and moments. Evaluations, saves and decisions happen here, on the host's copy
of the network.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from wafergpt import atomic_files, files
from wafergpt.cerebras import environment
from wafergpt.cerebras.cluster import (
    MOMENTS_FILE,
    RECIPE,
    ROWS,
    WEIGHTS_FILE,
    require_cluster,
)
from wafergpt.cerebras.unsupported import require_supported
from wafergpt.cerebras.worker_process import LOG, WorkerProcess, worker
from wafergpt.checkpoint.format import Stored
from wafergpt.checkpoint.store import HostState, StoredState
from wafergpt.config import Recipe
from wafergpt.data.batches import parts
from wafergpt.data.labelled_batches import LabelledBatches
from wafergpt.devices.detect import cores
from wafergpt.devices.probe import probe
from wafergpt.distributed.collectives import ProcessGroup
from wafergpt.distributed.sharding import fill
from wafergpt.engines.base import ROUNDS, Decision, UpdateResult
from wafergpt.engines.outputs import outputs_of
from wafergpt.engines.settings import settled_by_leader
from wafergpt.errors import InputError, RunFailed
from wafergpt.logs import say
from wafergpt.model.empty import empty
from wafergpt.planning.hardware import Machine
from wafergpt.sparsity.masks import with_whole_masks
from wafergpt.tasks.base import Outputs, Splits, Task, joined

HOST = torch.device("cpu")


class CerebrasEngine:
    """Makes updates on Cerebras systems; see ``wafergpt.engines.base.Engine``."""

    def __init__(
        self,
        recipe: Recipe,
        machine: Machine,
        task: Task,
        splits: Splits,
        group: ProcessGroup,
        start: Stored | None,
    ) -> None:
        self._recipe, self._task, self._splits = recipe, task, splits
        self.network = empty(task.network)
        self.network.to_empty(device=HOST)
        fill(self.network, task.initial_weights(self.network, start))
        self._moments: dict[str, Tensor] = {}
        self._folder: Path | None = None
        self._worker: WorkerProcess | None = None
        self._stopping = False

    @staticmethod
    def require(recipe: Recipe) -> None:
        """Check that the recipe lowers, and that the SDK and, to run there, a cluster are here."""
        require_supported(recipe)
        mode = recipe.system.cerebras.mode
        if mode in {"validate", "compile"}:
            raise InputError(
                f"system.cerebras.mode={mode} trains nothing: "
                "wafergpt plan RECIPE --lower shows its result"
            )
        environment.python()
        if mode == "run":
            require_cluster(recipe)

    @staticmethod
    def settle(recipe: Recipe, group: ProcessGroup) -> tuple[Recipe, Machine]:
        """Resolve what differs from torch: eps, precision, no torch.compile.

        Raises:
            InputError: if there are more processes than sequences.
        """
        recipe, machine = settled_by_leader(recipe, group, _settled)
        torch.set_num_threads(recipe.system.threads)
        return recipe, machine

    def work_in(self, folder: Path) -> None:
        """Set the folder for the engine's own files; a cluster's workers must see it too."""
        self._folder = folder

    def seconds_per_update(
        self, stop: Callable[[], bool], max_seconds: float = 6.0, rounds: int = ROUNDS
    ) -> float:
        """Return 0: it cannot be measured here, and is not needed."""
        return 0.0

    def choose_compilation(
        self, updates: float, eager_seconds: float, stop: Callable[[], bool]
    ) -> tuple[bool, float]:
        """Compile nothing: the SDK does so by itself."""
        return False, 0.0

    def updates(
        self,
        step: int,
        samples: int,
        until: int,
        sync: Collection[int],
        decide: Callable[[UpdateResult], Decision],
        poll: Callable[[], None],
    ) -> Generator[UpdateResult, None, None]:
        """Yield the updates from ``step`` on; the state is ready at ``sync`` and on request.

        Raises:
            RunFailed: if an update must be skipped, which the SDK cannot, or the worker fails.
        """
        assert self._folder is not None, "work_in comes first"
        self._folder.mkdir(exist_ok=True)
        self._write_inputs(self._folder)
        place = {"folder": str(self._folder.resolve()), "step": step, "samples": samples}
        # All batches of a device have one shape.
        flops = self._task.flops(self._splits.train.batch(0, self._recipe.train.batch_size))
        atomic_files.write_json(self._folder / "sync.json", sorted(n for n in sync if n > step))
        with worker({"what": "train", **place}, self._folder / LOG) as self._worker:
            for event in self._worker.events(poll):
                if "say" in event:
                    say(event["say"])
                if "update" not in event:
                    continue
                result = UpdateResult(flops=flops, **event["update"])
                if decide(result) is not Decision.APPLY:
                    raise RunFailed(
                        f"at step {result.step} the loss is {result.loss} and the gradient's norm "
                        f"{result.grad_norm}, and the SDK skips no update: lower optimizer.lr, and "
                        "--resume from the last checkpoint"
                    )
                if result.state_ready:
                    self._take_state()
                step = result.step
                yield result
                if result.state_ready:
                    self._worker.command("continue")
            if step < until and not self._stopping:
                raise self._worker.failure(f"the worker ended at step {step:,} of {until:,}")
        self._worker = None

    def _write_inputs(self, folder: Path) -> None:
        atomic_files.write_text(folder / RECIPE, self._recipe.to_yaml())
        _write_tensors(folder / WEIGHTS_FILE, self.network.state_dict())
        _write_tensors(folder / MOMENTS_FILE, self._moments)
        batches = self._splits.train
        if isinstance(batches, LabelledBatches):
            tokens = np.concatenate(batches.texts).astype(np.int32)
            ends = np.cumsum([len(text) for text in batches.texts])
            targets = torch.from_numpy(batches.targets.copy())
            _write_tensors(
                folder / ROWS,
                {
                    "tokens": torch.from_numpy(tokens),
                    "ends": torch.from_numpy(ends),
                    "targets": targets,
                },
            )

    def _take_state(self) -> None:
        assert self._folder is not None
        self.network.load_state_dict(load_file(self._folder / WEIGHTS_FILE))
        self._moments = load_file(self._folder / MOMENTS_FILE)

    def outputs(self, samples: range, rows: int, poll: Callable[[], None]) -> Outputs:
        """Return the task's outputs of some validation samples, computed on the host."""
        found = []
        for first, n in parts(samples.start, len(samples), rows):
            poll()
            batch = self._splits.held_out.batches.batch(first, n)
            outputs = outputs_of(self._task, self.network, batch, self._recipe, HOST)
            found.append({name: values.numpy() for name, values in outputs.items()})
        order = self._splits.held_out.rows
        return joined(found, None if order is None else order[samples.start : samples.stop])

    def state(self) -> HostState:
        """Return the weights and moments that the worker sent last."""
        return HostState.of(self.network.state_dict(), self._moments)

    def load(self, stored: StoredState | None) -> None:
        """Load a checkpoint."""
        if stored is not None:
            fill(self.network, stored.weights.by_rows.items())
            self._moments = with_whole_masks(stored.moments, self.network.state_dict())

    def request(self, what: Literal["save", "stop"]) -> None:
        """Send the request to the worker."""
        self._stopping = self._stopping or what == "stop"
        if self._worker is not None:
            self._worker.command(what)

    def run_commands(self) -> str:
        """Raise: there is one process on this side."""
        raise NotImplementedError

    def close(self, run: str) -> None:
        """Do nothing: the worker ends with its updates."""


def _settled(recipe: Recipe) -> tuple[Recipe, Machine]:
    precision = recipe.system.precision
    if precision == "auto":
        precision = "fp32" if recipe.system.cerebras.mode == "cpu" else "bf16"
    settled = recipe.replace(
        system={
            "precision": precision,
            "compile": "off",
            "threads": recipe.system.threads or cores(),
        },
        optimizer={"eps_hat": True},
        train={"micro_batch_size": recipe.train.micro_batch_size or recipe.train.batch_size},
    )
    return settled, probe("cpu")


def _write_tensors(path: Path, tensors: dict[str, Any]) -> None:
    with atomic_files.replacing(path) as temporary, files.system_errors():
        save_file({name: value.contiguous() for name, value in tensors.items()}, temporary)
