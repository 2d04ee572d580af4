"""One training, whatever it teaches: speed settled, loop run, result written."""

from __future__ import annotations

import math
import resource
import shutil
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from wafergpt.config import Recipe
from wafergpt.data.batches import Batches
from wafergpt.devices.compiler import Compiler, is_of_compiler, reason
from wafergpt.devices.detect import compile_pays, compiler_available
from wafergpt.errors import InputError, Interrupted, RunFailed
from wafergpt.parallel.launch import FORWARDED
from wafergpt.parallel.sharding import Rows, fill, spread
from wafergpt.parallel.team import ALONE, Order, Team
from wafergpt.progress import duration, progress, say, working
from wafergpt.run import Run, command_line
from wafergpt.scaling.machine import Machine
from wafergpt.scaling.memory import disk_bytes
from wafergpt.scaling.schedule import schedule_warning
from wafergpt.shapes.parametrization import rules
from wafergpt.train import checkpoint
from wafergpt.train.callbacks.evaluation import Evaluation, out_of_patience
from wafergpt.train.callbacks.recording import Recording
from wafergpt.train.callbacks.samples import Samples
from wafergpt.train.callbacks.saving import Saving
from wafergpt.train.callbacks.tracking import trackers
from wafergpt.train.following import give_state, obey, require_same_copies
from wafergpt.train.loop import Callback, FlopCount, Loop, Objective
from wafergpt.train.optimizers import Optimizer
from wafergpt.train.saver import PartSaver, Saver
from wafergpt.train.signals import Signals
from wafergpt.train.state import TrainState, weights_sha256
from wafergpt.train.stored import WEIGHTS, Stored

MOST_BATCHES, LEAST_BATCHES = 50, 4
"""Validation batches of a look, where the recipe names no number."""

DEFAULT_LOOKS = 10
"""Validations, and checkpoints, of a run that names no interval."""


class Trainer:
    """Trains one network by one recipe.

    Args:
        recipe: with device, precision and threads settled.
        machine: what was measured of this machine.
        network: the whole network; if it is to be spread, it may be without memory (meta).
        blocks: its repeated part, which is compiled once for all where that pays.
        batches: the training samples.
        objective: the summed loss of a batch.
        flops: counts a batch's, for the metrics.
        team: the processes that share the work.
        weights: that the network begins with, if it does not have them yet.
    """

    def __init__(
        self,
        recipe: Recipe,
        machine: Machine,
        network: nn.Module,
        blocks: nn.ModuleList,
        batches: Batches,
        objective: Objective,
        flops: FlopCount,
        team: Team = ALONE,
        weights: Iterable[tuple[str, Rows]] | None = None,
    ) -> None:
        self.recipe = recipe
        self.machine = machine
        self.team = team
        self.device = torch.device(recipe.system.host)
        self.signals = Signals()
        self._compiler = Compiler()
        self._blocks = blocks
        if recipe.system.activation_checkpointing:
            _checkpoint_activations(blocks)
        self.spread = recipe.system.shards > 1
        if self.spread:
            spread(network, blocks, team, recipe.system.shards, self.device.type)
        if any(parameter.is_meta for parameter in network.parameters()):
            network.to_empty(device=self.device)
        else:
            network.to(self.device)
        if weights is not None:
            fill(network, weights)
        names = [name for name, _ in network.named_parameters()]
        by_name = rules(recipe.model, recipe.optimizer.name, names)
        optimizer = Optimizer(network.named_parameters(), recipe.optimizer, by_name)
        state = TrainState(network, optimizer)
        # Processes on one machine share its cores, but each has a GPU of its own.
        devices = team.size if self.device.type == "cuda" else team.size / team.on_this_machine
        self.loop = Loop(
            recipe, state, batches, objective, (), self._save, self.device,
            flops, self._restore, devices * machine.peak_flops, self.signals, team, self.spread,
        )  # fmt: skip
        self._run: Run | None = None
        self._saver: Saver | None = None

    @property
    def state(self) -> TrainState:
        """What the training changes."""
        return self.loop.state

    def settle(self) -> None:
        """Settle the horizon, the intervals and whether to compile, and write them down.

        Raises:
            InputError: if compiling was asked for and does not work.
        """
        train = self.recipe.train
        if not train.seconds:
            # Known before anything is timed.
            self._warn_of_the_schedule(self._steps(0.0))
        wanted = self.recipe.system.compile
        eager = 0.0
        if train.seconds or (wanted == "auto" and compiler_available(self.device.type)):
            with working("timing steps"):
                eager = self._step_seconds()
        steps = self._steps(eager)
        if train.seconds:
            self._warn_of_the_schedule(steps)
        ahead = train.seconds or train.samples(steps) / train.batch_size * eager
        compiled = wanted == "on"
        if wanted == "auto" and eager and compile_pays(ahead, self.device.type):
            compiled = self._compiled_is_faster(eager)
        elif compiled:
            self._require_compiler()
        self._compiler.loud = True
        self._replace(system={"compile": "on" if compiled else "off"})
        evaluate = self.recipe.evaluate
        every = evaluate.every or math.ceil(steps / DEFAULT_LOOKS)
        # A forward pass is a third of a step: a look costs a fifteenth of what lies before it.
        batches = evaluate.batches or min(MOST_BATCHES, max(LEAST_BATCHES, every // 5))
        self._replace(
            train={"steps": steps, "tokens": None, "epochs": None, "seconds": None},
            checkpoint={"every": self.recipe.checkpoint.every or math.ceil(steps / DEFAULT_LOOKS)},
            evaluate={"every": every, "batches": batches},
        )

    def _warn_of_the_schedule(self, steps: int) -> None:
        if warning := schedule_warning(self.recipe, steps):
            say(f"WARNING: {warning}")

    def _replace(self, **sections: Mapping[str, Any]) -> None:
        self.recipe = self.loop.recipe = self.recipe.replace(**sections)

    def _steps(self, step_seconds: float) -> int:
        train = self.recipe.train
        if train.steps:
            return train.steps
        samples = train.epochs or 0.0
        if train.seconds:
            samples = train.seconds / step_seconds * train.batch_size
        elif train.tokens:
            samples = train.tokens / self.recipe.model.seq_len
        else:
            samples *= self.loop.batches.samples_per_epoch
        return train.steps_for(samples)

    def _step_seconds(self, rounds: int = 16, most_seconds: float = 6.0) -> float:
        """Time real steps, spread over the data, without moving a weight."""
        size = self.recipe.train.batch_size
        epoch = self.loop.batches.samples_per_epoch
        times: list[float] = []
        while len(times) <= rounds and sum(times[1:]) < most_seconds:
            if times and self.signals.requested:
                break
            first = len(times) * epoch // (rounds + 1)
            start = time.perf_counter()
            self.loop.gradients(first, size)
            self.loop.discard()
            times.append(time.perf_counter() - start)
        # The first steps pay for allocations, and for kernels of each new length.
        return statistics.fmean(times[-max(1, len(times) // 2) :])

    def _compiled_is_faster(self, eager: float) -> bool:
        with working("compiling, and timing steps"):
            compiled, failure = self._try_compiled()
        if failure:
            say(f"warning: torch.compile does not work here ({failure}): training without it")
        elif compiled < eager:
            say(f"compiled steps take {compiled:.3f}s instead of {eager:.3f}s")
            return True
        else:
            say(f"compiled steps take {compiled:.3f}s, plain ones {eager:.3f}s: not compiling")
        self.compile(on=False)
        return False

    def _require_compiler(self) -> None:
        """Compile, and make a step while there is no run yet."""
        _, failure = self._try_compiled(rounds=0)
        if failure:
            raise InputError(
                f"system.compile=on: torch.compile does not work here ({failure}); "
                "system.compile=off trains without it"
            )

    def _try_compiled(self, rounds: int = 16) -> tuple[float, str | None]:
        """Compile, and return the seconds of a step, or what failed."""
        self.compile()
        try:
            return self._step_seconds(rounds), self._compiler.failure
        except Exception as error:
            # Of several processes the others wait for what this one has not computed.
            if self.team.size > 1 or not is_of_compiler(error):
                raise
            self.loop.discard()
            return math.inf, reason(error)

    def compile(self, on: bool = True) -> None:
        """Have everyone compile the blocks, each time they meet a new shape, or do so no more."""
        self.team.order(Order.COMPILE, on)
        self._compile(on)

    def _compile(self, on: bool) -> None:
        self._replace(system={"compile": "on" if on else "off"})
        for block in self._blocks:
            if on:
                block.compile(dynamic=None, backend=self._compiler)
            else:
                # nn.Module has a compile() but nothing that takes it back.
                block._compiled_call_impl = None

    def follow(self) -> Run:
        """Do what the leader orders, until the end; return the run that came of it."""
        for number in FORWARDED:
            # Whoever sends them to all means the leader.
            signal.signal(number, signal.SIG_IGN)
        with closing(PartSaver(self.recipe.checkpoint, self.team)) as saver:
            obey(self.loop, saver, self._compile)
        return Run(Path(self.team.told()))

    def train(
        self,
        run: Run,
        judge: Callable[[], Mapping[str, float]],
        write_on: Callable[[str], str] | None = None,
        resumed: bool = False,
    ) -> None:
        """Train to the horizon inside ``run``, going on from its checkpoints if ``resumed``.

        Raises:
            InputError: if another process trains in this run.
        """
        try:
            writers = self.team if self.spread else ALONE
            saver = Saver(run, self.recipe.checkpoint, writers, self.recipe.system.timeout)
            with run.held(), saver:
                self._run, self._saver = run, saver
                self._train(run, judge, write_on, resumed)
            with working("writing the result"):
                run.write("result", self.result())
        except Interrupted:
            self._end()
            raise
        # Only now is all on the disk that the others may read.
        self._end()
        say(f"{run.path}: {self.state.step:,} steps in {duration(self.state.seconds)}")

    def _end(self) -> None:
        assert self._run is not None
        self.team.order(Order.END)
        self.team.told(str(self._run.path))

    def _train(
        self,
        run: Run,
        judge: Callable[[], Mapping[str, float]],
        write_on: Callable[[str], str] | None,
        resumed: bool,
    ) -> None:
        steps = self.recipe.train.steps
        assert steps is not None, "settle() comes first"
        if resumed:
            folder = checkpoint.resume(self.state, run)
            run.rewind(self.state.step)
            # A run that stopped early goes on only if its patience has grown.
            self.state.finished = out_of_patience(self.state, self.recipe.evaluate)
            say(f"going on from {folder}")
            if self.state.step < steps and not self.state.finished:
                # What it says is of a shorter horizon.
                (run.path / "result.json").unlink(missing_ok=True)
            give_state(self.loop, folder)
        else:
            _warn_of_the_disk(run, self.recipe)
            give_state(self.loop, None)
            # From here on, whatever happens, there is something to resume.
            self._save(self.state, wait=True)
        run.save_recipe(self.recipe)
        callbacks: list[Callback] = [Evaluation(judge, self.recipe.evaluate, steps)]
        if write_on is not None and self.recipe.evaluate.prompts:
            callbacks.append(Samples(run, write_on, self.recipe.evaluate.prompts))
        with ExitStack() as stack:
            followers = trackers(self.recipe, run)
            for follower in followers:
                stack.callback(follower.close)
            bar = stack.enter_context(progress(run.name, steps, "steps", self.state.step))
            bar.advance(0, "compiling" if self.recipe.system.compile == "on" else "")
            callbacks.append(Recording(run, bar, memory_bytes(self.device), followers))
            callbacks.append(Saving(self.recipe.checkpoint.every, steps, self._save))
            self.loop.callbacks = callbacks
            if self.recipe.checkpoint.time_limit:
                assert self._saver is not None
                self.signals.limit(self.recipe.checkpoint.time_limit, self._saver.longest)
            try:
                self._run_loop()
            except Interrupted as stop:
                verb = "finetune" if self.recipe.task else "pretrain"
                line = command_line(verb, "--resume", run.path)
                raise Interrupted(f"{stop}; next: {line}") from None
            except RuntimeError as error:
                if not is_of_compiler(error):
                    raise
                raise RunFailed(
                    f"torch.compile failed after step {self.state.step} ({reason(error)}): "
                    f"--resume {run.path} system.compile=off goes on without it"
                ) from error
        if self.state.finished and self.state.step < steps:
            say(f"stopped early at step {self.state.step:,}: no better score any more")

    def _run_loop(self) -> None:
        self.loop.run()

    def _save(self, state: TrainState, wait: bool = False) -> None:
        assert self._saver is not None
        with working("saving"):
            require_same_copies(self.loop)
            self._saver.save(state)
            if wait:
                self._saver.wait()

    def _restore(self) -> None:
        assert self._run is not None
        assert self._saver is not None
        self._saver.wait()
        give_state(self.loop, checkpoint.resume(self.state, self._run))
        self._run.rewind(self.state.step)

    def result(self) -> dict[str, Any]:
        """Return the run's result as the JSON contract has it."""
        assert self._run is not None
        state = self.state
        rows = self._run.metrics()
        judged = [row for row in rows if "val_loss" in row]
        mfu = [row["mfu"] for row in rows if "mfu" in row]
        memory = (row["memory_bytes"] for row in rows if "memory_bytes" in row)
        # The state knows it even if metrics.jsonl was lost.
        known = state.best if self.recipe.evaluate.metric == "loss" else None
        return {
            "run": str(self._run.path),
            "step": state.step,
            "tokens": state.tokens,
            "loss": next((row["loss"] for row in reversed(rows) if "loss" in row), None),
            "val_loss": judged[-1]["val_loss"] if judged else None,
            "best_val_loss": min((row["val_loss"] for row in judged), default=known),
            "best_step": state.best_step,
            "seconds": state.seconds,
            "tokens_per_second": state.tokens / state.seconds,
            "mfu": statistics.median(mfu) if mfu else None,
            "peak_memory_bytes": max(memory, default=None),
            "parameters": sum(p.numel() for p in state.model.parameters()),
            "stopped_early": state.finished,
            "left_out": state.skipped,
            "weights_sha256": self._weights_sha256(),
        }

    def _weights_sha256(self) -> str:
        assert self._run is not None
        if not self.spread:
            return self.state.weights_sha256()
        # No process has them whole, but the last checkpoint does.
        return weights_sha256(Stored(checkpoint.every(self._run)[-1], WEIGHTS))


def _checkpoint_activations(blocks: nn.ModuleList) -> None:
    from torch.utils.checkpoint import checkpoint as recomputed

    for block in blocks:
        block.forward = partial(recomputed, block.forward, use_reentrant=False)


def _warn_of_the_disk(run: Run, recipe: Recipe) -> None:
    needed, free = disk_bytes(recipe), shutil.disk_usage(run.path).free
    if needed > free:
        say(
            f"WARNING: the run's checkpoints will take {needed / 1e9:,.1f} GB, and "
            f"{free / 1e9:,.1f} GB are free: lower checkpoint.keep, or make room"
        )


def memory_bytes(device: torch.device) -> Callable[[], int]:
    """Return what measures the peak memory so far: of the GPU, or of this process."""
    if device.type == "cuda":
        return lambda: torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
