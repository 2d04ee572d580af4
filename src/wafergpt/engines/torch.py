"""The engine of torch's own devices: CPUs, NVIDIA GPUs and Apple's, one process or many.

Several processes share each batch. Weights are either copied, and gradients all-reduced by torch's
DDP during the backward pass, or sharded (FSDP2). The trainer runs on the leader only, whose engine
broadcasts commands to the workers (``distributed/commands.py``).
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Collection, Generator
from contextlib import AbstractContextManager, closing, nullcontext
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from wafergpt.checkpoint.background import PartSaver
from wafergpt.checkpoint.format import Stored, weights_checksum
from wafergpt.checkpoint.store import HostState, StoredState
from wafergpt.config import Recipe
from wafergpt.data.batches import Batch, Batches, parts
from wafergpt.data.prefetch import Prefetch
from wafergpt.devices.compiler import Compiler, is_of_compiler, reason
from wafergpt.devices.detect import resolve_device
from wafergpt.devices.peak_memory import is_out_of_memory
from wafergpt.distributed.collectives import ProcessGroup
from wafergpt.distributed.commands import Command, receive, send
from wafergpt.distributed.launcher import FORWARDED
from wafergpt.distributed.replicas import average_rows, replicated, require_same, without_sync
from wafergpt.distributed.sharding import fill, shard
from wafergpt.engines import compilation
from wafergpt.engines.base import ROUNDS, Decision, Program, UpdateResult, reseed
from wafergpt.engines.optimizers import Optimizer
from wafergpt.engines.outputs import outputs_of
from wafergpt.engines.passes import Passes, recompute_activations
from wafergpt.engines.schedules import learning_rate
from wafergpt.engines.settings import settle_for_torch
from wafergpt.engines.timing import mean_update_seconds
from wafergpt.errors import RunFailed
from wafergpt.model.empty import empty
from wafergpt.model.lora import add_adapters
from wafergpt.model.ngrams import use_sparse_gradients
from wafergpt.planning.hardware import Machine
from wafergpt.shapes.parametrization import rules
from wafergpt.sparsity.masks import Masks
from wafergpt.tasks.base import Outputs, Splits, Task, gpt_of, joined


class TorchEngine:
    """Makes updates on torch's devices; see ``wafergpt.engines.base.Engine``."""

    @staticmethod
    def require(recipe: Recipe) -> None:
        """Check that the device is available."""
        resolve_device(recipe.system.device)

    @staticmethod
    def settle(recipe: Recipe, group: ProcessGroup) -> tuple[Recipe, Machine]:
        """Settle device, precision, threads and micro-batch, and measure the machine."""
        return settle_for_torch(recipe, group)

    def __init__(
        self,
        recipe: Recipe,
        machine: Machine,
        task: Task,
        splits: Splits,
        group: ProcessGroup,
        start: Stored | None,
    ) -> None:
        self._recipe, self._task, self._splits, self._group = recipe, task, splits, group
        self._device = torch.device(recipe.system.device)
        self._sharded = recipe.system.shards > 1
        # Sharded weights are never whole in any process.
        self._frozen: set[str] = set()
        self.network = empty(self._built, "meta" if self._sharded else "cpu")
        self._blocks = gpt_of(self.network).blocks
        self._place(start)
        named = [(n, p) for n, p in self.network.named_parameters() if p.requires_grad]
        by_name = rules(recipe.model, recipe.optimizer.name, [name for name, _ in named])
        zeros = recipe.sparsity.algorithm != "none"
        masks = Masks(named, recipe, start is not None) if zeros else None
        self._optimizer = Optimizer(
            named, recipe.optimizer, by_name, masks, recipe.system.precision
        )
        program = Program(self.network, task.training_loss)
        self._copies = 1 if self._sharded else group.size
        if self._copies == 1:
            self._program: nn.Module = program
        else:
            self._program = replicated(program, self._device, recipe.vocabulary_head)
        self._pass = Passes(self._program, recipe, self._device, self._copies, group.size)
        self._compiler, self._norm = Compiler(), math.nan
        # On a CPU, reading ahead would only take a core from the update.
        self._ahead = Prefetch(self._read) if self._device.type == "cuda" else None

    def _built(self) -> nn.Module:
        network = self._task.network()
        if self._recipe.lora.rank:
            gpt = gpt_of(network)
            prefix = "" if gpt is network else "gpt."
            self._frozen = {prefix + n for n in add_adapters(gpt, self._recipe.lora)}
        return network

    def _place(self, start: Stored | None) -> None:
        system = self._recipe.system
        # A GPU adds to a whole table sooner than it waits for the rows to be counted.
        if not self._sharded and self._device.type == "cpu":
            use_sparse_gradients(self.network)
        if system.activation_checkpointing:
            recompute_activations(self._blocks)
        if self._sharded:
            shard(self.network, self._blocks, self._group, system.shards, self._device.type)
            self.network.to_empty(device=self._device)
        else:
            self.network.to(self._device)
        fill(self.network, self._task.initial_weights(self.network, start, self._splits))

    def work_in(self, folder: Path) -> None:
        """Do nothing: this engine writes no files but checkpoints."""

    # --- before the first update -----------------------------------------------------------------

    def seconds_per_update(
        self, stop: Callable[[], bool], max_seconds: float = 6.0, rounds: int = ROUNDS
    ) -> float:
        """Return the seconds of an update, from real ones over all the data; no weight moves."""
        size = self._recipe.train.batch_size

        def update(first: int) -> None:
            self._gradients(0, first, size)
            self._discard()

        return mean_update_seconds(self._splits.train, size, update, stop, max_seconds, rounds)

    def choose_compilation(
        self, updates: float, eager_seconds: float, stop: Callable[[], bool]
    ) -> tuple[bool, float]:
        """Compile if the recipe requires it or if it pays; see ``Engine``."""
        found = compilation.chosen(
            self._recipe.system, updates, eager_seconds,
            partial(self._try_compiled, stop), self._compile,
        )  # fmt: skip
        self._compiler.loud = True
        return found

    def _try_compiled(self, stop: Callable[[], bool], rounds: int) -> tuple[float, str | None]:
        """Compile, and return (seconds of an update, None), or (infinity, what failed)."""
        self._compile(True)
        try:
            return self.seconds_per_update(stop, rounds=rounds), self._compiler.failure
        except Exception as error:
            # Other processes wait for results that this one has not computed.
            if self._group.size > 1 or not is_of_compiler(error):
                raise
            self._discard()
            return math.inf, reason(error)

    def _compile(self, on: bool) -> None:
        send(self._group, Command.COMPILE, on)
        self._compile_here(on)

    def _compile_here(self, on: bool) -> None:
        teacher = self._task.teacher
        taught = gpt_of(teacher.network).blocks if teacher else ()
        compilation.compile_blocks((*self._blocks, *taught), self._compiler if on else None)
        self._pass.forget()

    # --- updates ---------------------------------------------------------------------------------

    def updates(
        self,
        step: int,
        samples: int,
        until: int,
        sync: Collection[int],
        decide: Callable[[UpdateResult], Decision],
        poll: Callable[[], None],
    ) -> Generator[UpdateResult, None, None]:
        """Yield the updates from ``step`` on; the state is ready after each."""
        while step < until:
            try:
                result = self._update(step, samples, until, decide)
            except RuntimeError as error:
                if not is_of_compiler(error):
                    raise
                raise RunFailed(
                    f"torch.compile failed after step {step} ({reason(error)}): "
                    "--resume with system.compile=off continues without it"
                ) from error
            yield result
            if result.decision is Decision.ROLLBACK:
                return
            step, samples = result.step, result.samples

    def _update(
        self, step: int, first: int, until: int, decide: Callable[[UpdateResult], Decision]
    ) -> UpdateResult:
        start = time.perf_counter()
        size = self._recipe.train.batch_at(step)
        loss, norm, tokens, flops = self._gradients(step, first, size, until)
        lr = learning_rate(self._recipe, step, until)
        result = UpdateResult(step + 1, first + size, tokens, flops, loss, norm, lr)
        decision = decide(result)
        if decision is Decision.APPLY:
            send(self._group, Command.APPLY, lr, step, until)
            self._optimizer.step(lr, self._norm, step, until)
        else:
            self._discard()
        return UpdateResult(
            result.step, result.samples, tokens, flops, loss, norm, lr,
            time.perf_counter() - start, decision,
        )  # fmt: skip

    def _gradients(
        self, step: int, first: int, size: int, until: int = 0
    ) -> tuple[float, float, int, float]:
        """Have every process compute its part of the gradient; see ``_gradients_here``."""
        send(self._group, Command.GRADIENTS, step, first, size, until)
        return self._gradients_here(step, first, size, until)

    def _discard(self) -> None:
        send(self._group, Command.DISCARD)
        self._optimizer.clear()

    def _gradients_here(
        self, step: int, first: int, size: int, until: int
    ) -> tuple[float, float, int, float]:
        """Compute the gradient of one global batch; return loss, norm, tokens and FLOPs.

        Each process reads its share; in all, loss and gradient are those of the whole batch.
        """
        ahead, following = self._ahead, self._recipe.train.batch_at(step + 1)
        passes = ahead.take(first, size, following) if ahead else self._read(first, size)
        weight, tokens, flops = self._group.sum(
            sum(batch.weight * share for batch, share in passes),
            sum(batch["tokens"].numel() * share for batch, share in passes),
            sum(self._task.training_flops(batch) * share for batch, share in passes),
        )
        total = torch.zeros((), device=self._device)
        self.network.train()
        self._pass.begin()
        for index, (batch, share) in enumerate(passes):
            reseed(self._recipe.seed, step, index, self._group.rank, self._device.type)
            with self._synced(last=index == len(passes) - 1):
                total += self._pass.run(batch, share, weight or 1.0)  # 0: no token counts
            self._optimizer.merge_rows()
        average_rows(self.network, self._group)
        norm = self._optimizer.grad_norm(step, until).to(total)
        # The only synchronization with a GPU in an update, but for sampled tokens.
        own_loss, self._norm = torch.stack([total, norm]).tolist()
        (mean,) = self._group.sum(own_loss)
        return mean, self._norm, int(tokens), flops

    def _read(self, first: int, size: int) -> list[tuple[Batch, float]]:
        """Read this process' part of a global batch."""
        passes = self._passes(self._splits.train, first, size, self._recipe.train.micro_batch_size)
        if self._device.type != "cuda":
            return passes
        return [(batch.pinned(), share) for batch, share in passes]

    def _synced(self, last: bool) -> AbstractContextManager[None]:
        """Return the context of a pass; only the last pass sums gradients over processes."""
        if self._group.size == 1:
            return nullcontext()
        return without_sync(
            self._program, self.network, last, lambda e: is_out_of_memory(e) or is_of_compiler(e)
        )

    def _passes(
        self, batches: Batches, first: int, size: int, at_once: int
    ) -> list[tuple[Batch, float]]:
        """Return this process' batches of samples, each with weight 1, or 0 for padding.

        Passes all-gather sharded weights, so every process must make the same number of passes.
        """
        own = self._group.share(first, size)
        passes = [(batches.batch(*part), 1.0) for part in parts(*own, at_once)]
        max_passes = math.ceil(self._group.largest_share(size) / at_once)
        if self._sharded and len(passes) < max_passes:
            passes += [(batches.batch(first, 1), 0.0)] * (max_passes - len(passes))
        return passes

    # --- evaluation ------------------------------------------------------------------------------

    def outputs(self, samples: range, rows: int, poll: Callable[[], None]) -> Outputs:
        """Return the task's outputs of some validation samples, computed by all processes."""
        found = []
        for first, n in parts(samples.start, len(samples), rows * self._group.size):
            poll()
            send(self._group, Command.OUTPUTS, first, n)
            found.append(self._outputs_here(first, n))
        order = self._splits.held_out.rows
        return joined(found, None if order is None else order[samples.start : samples.stop])

    def _outputs_here(self, first: int, n: int) -> Outputs:
        batches = self._splits.held_out.batches
        ((batch, share),) = self._passes(batches, first, n, self._group.largest_share(n)) or [
            (batches.batch(first, 1), 0.0)
        ]
        own = outputs_of(self._task, self.network, batch, self._recipe, self._device)
        return {
            name: self._group.all_gather_rows(values if share else values[:0]).numpy()
            for name, values in own.items()
        }

    # --- state -----------------------------------------------------------------------------------

    def state(self) -> HostState:
        """Return weights and moments, after comparing the replicas."""
        self._require_same_replicas()
        return self._host_state()

    def _host_state(self) -> HostState:
        """Return what a checkpoint holds: moments, and weights but for frozen ones."""
        weights = self.network.state_dict()
        trained = {name: value for name, value in weights.items() if name not in self._frozen}
        return HostState.of(trained, self._optimizer.state_tensors())

    def load(self, stored: StoredState | None) -> None:
        """Load a checkpoint; without one, copy the leader's state to every replica."""
        if stored is not None:
            self._take(stored)
        if self._group.size > 1 and (stored or not self._sharded):
            send(self._group, Command.STATE)
            self._share_state(stored)

    def _take(self, stored: StoredState) -> None:
        fill(self.network, stored.weights.by_rows.items(), self._frozen)
        self._optimizer.load_state_tensors(stored.moments.by_rows)

    def _share_state(self, stored: StoredState | None = None) -> None:
        group = self._group
        if self._sharded:
            folder = group.broadcast(stored and str(stored.folder))
            if group.is_worker:
                self._take(StoredState(Path(folder), verified=True))
            return
        weights = group.broadcast_tensors(self.network.state_dict(), self._device)
        moments = group.broadcast_tensors(self._optimizer.state_tensors(), self._device)
        if group.is_worker:
            self.network.load_state_dict(weights)
            self._optimizer.load_state_tensors(moments)

    def _require_same_replicas(self) -> None:
        shards = self._recipe.system.shards
        if self._group.size > shards:
            send(self._group, Command.CHECKSUM)
            require_same(self._checksums(), shards)

    def _checksums(self) -> list[int]:
        return self._group.all_gather(weights_checksum(self.network.state_dict()))

    # --- workers ---------------------------------------------------------------------------------

    def request(self, what: Literal["save", "stop"]) -> None:
        """Do nothing: the state is ready after each update."""

    def run_commands(self) -> str:
        """Run the leader's commands until it ends; return the path of its run."""
        for number in FORWARDED:
            # A signal that is sent to all processes is for the leader.
            signal.signal(number, signal.SIG_IGN)
        with closing(PartSaver(self._recipe.checkpoint, self._group)) as saver:
            while True:
                command, numbers = receive(self._group)
                if command is Command.END:
                    break
                self._execute(command, numbers, saver)
        return str(self._group.broadcast())

    def _execute(self, command: Command, numbers: list[float], saver: PartSaver) -> None:
        if command is Command.GRADIENTS:
            self._gradients_here(*map(int, numbers))
        elif command is Command.APPLY:
            self._optimizer.step(numbers[0], self._norm, int(numbers[1]), int(numbers[2]))
        elif command is Command.DISCARD:
            self._optimizer.clear()
        elif command is Command.OUTPUTS:
            self._outputs_here(int(numbers[0]), int(numbers[1]))
        elif command is Command.SAVE:
            saver.save(self._host_state())
        elif command is Command.CHECKSUM:
            self._checksums()
        elif command is Command.STATE:
            self._share_state()
        else:
            self._compile_here(bool(numbers[0]))

    def close(self, run: str) -> None:
        """End the workers."""
        if self._ahead:
            self._ahead.close()
        send(self._group, Command.END)
        self._group.broadcast(run)
