"""One training in one run: the loop, what happens after each step, and its result."""

from __future__ import annotations

import math
import shutil
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from wafergpt import files
from wafergpt.checkpoint import store
from wafergpt.checkpoint.background import Saver
from wafergpt.checkpoint.format import WEIGHTS, Stored, weights_sha256
from wafergpt.config import Recipe
from wafergpt.devices.peak_memory import peak_memory
from wafergpt.distributed.collectives import SINGLE, ProcessGroup
from wafergpt.engines.base import Decision, UpdateResult
from wafergpt.errors import Interrupted
from wafergpt.logs import say
from wafergpt.planning.duration import Duration
from wafergpt.planning.memory import disk_bytes
from wafergpt.progress import duration, progress, working
from wafergpt.runs.run import Run, command_line
from wafergpt.shapes.sparse import share_of_zeros, spared_flops
from wafergpt.train.callbacks import (
    Callback,
    Evaluation,
    Recording,
    Samples,
    Saving,
    out_of_patience,
)
from wafergpt.train.guard import Fault, Guard
from wafergpt.train.setup import Setup
from wafergpt.train.signals import Signals, StopRequested
from wafergpt.train.state import Row, TrainState
from wafergpt.train.tracking import trackers


@dataclass
class Trainer:
    """Trains inside a run, to the horizon of its settled recipe.

    Attributes:
        setup: settled.
        run: that everything is written to.
        signals: requests for a stop or a save.
        group: the processes that share the work.
        began: ``time.monotonic()`` at the start of the command.
        callbacks: further ones, before a step is saved.
        state: what changes, besides weights and moments.
    """

    setup: Setup
    run: Run
    signals: Signals
    group: ProcessGroup = SINGLE
    began: float = field(default_factory=time.monotonic)
    callbacks: Sequence[Callback] = ()
    state: TrainState = field(default_factory=TrainState)

    def __post_init__(self) -> None:
        self.recipe, self.engine = self.setup.recipe, self.setup.engine
        self.task, self.splits = self.setup.task, self.setup.splits
        checkpoint, system = self.recipe.checkpoint, self.recipe.system
        self._sharded = system.shards > 1
        self._saver = Saver(
            self.run, checkpoint, self.group if self._sharded else SINGLE, system.timeout
        )
        self._guard = Guard(self.recipe.guard, self.state)
        self._fault: Fault | None = None
        self._startup = time.monotonic() - self.began
        self._callbacks: list[Callback] = []
        self._saving = self._stopping = False
        self._saved_step = 0
        self._elapsed_before = 0.0
        # Processes on one machine share its cores, but each has a GPU of its own.
        gpus = system.device == "cuda"
        devices = self.group.size if gpus else self.group.size / self.group.on_this_machine
        self._peak_flops = devices * self.setup.machine.peak_flops

    def train(self, resumed: bool = False, notes: Mapping[str, Any] | None = None) -> None:
        """Train, from the run's last good checkpoint if ``resumed``, and write the result.

        Args:
            resumed: whether the run has checkpoints.
            notes: JSON files of the run, by name, that are written as soon as it is held.

        Raises:
            InputError: if another process trains in this run.
            Interrupted: after saving, if a signal or the time limit requested a stop.
            RunFailed: if more updates are skipped than the recipe allows.
        """
        try:
            with self.run.held(), self._saver:
                for name, value in (notes or {}).items():
                    self.run.write(name, value)
                self._begin(resumed)
                with self._watched():
                    self._loop()
            with working("writing the result"):
                # Of a run that has nothing left to do, what was added to its result stays.
                before = self.run.read("result") or {}
                self.run.write("result", {**before, **files.finite(self.result())})
        except Interrupted as stop:
            self.engine.close(str(self.run.path))
            verb = "finetune" if self.recipe.task else "pretrain"
            line = command_line(verb, "--resume", self.run.path)
            raise Interrupted(stop.reason, line) from None
        # The workers return once the run is complete on the disk.
        self.engine.close(str(self.run.path))
        if self.state.finished and self.state.step < self._steps:
            say(f"stopped early at step {self.state.step:,}: no better score")
        say(f"{self.run.path}: {self.state.step:,} steps in {duration(self.state.seconds)}")

    @property
    def _steps(self) -> int:
        assert self.recipe.train.steps is not None, "the horizon is resolved before"
        return self.recipe.train.steps

    def _begin(self, resumed: bool) -> None:
        self.engine.work_in(self.run.path / self.recipe.system.device)
        if resumed:
            folder = self._load_newest()
            before = self.run.metrics()
            self._elapsed_before = before[-1].get("elapsed", self.state.seconds) if before else 0.0
            # A run that stopped early continues only if its patience has grown.
            self.state.finished = out_of_patience(self.state, self.recipe.evaluate)
            say(f"resuming from {folder}")
            if self.state.step < self._steps and not self.state.finished:
                # That result is of a shorter horizon.
                (self.run.path / "result.json").unlink(missing_ok=True)
            else:
                say(f"nothing is left to do: {self.state.step:,} of {self._steps:,} steps are done")
        else:
            _warn_about_disk(self.run, self.recipe)
            self.engine.load(None)
            # From here on there is a checkpoint to resume from.
            self._save(wait=True)
        self.run.save_recipe(self.recipe)

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """Open the callbacks, and close them at the end."""
        recipe, steps = self.recipe, self._steps
        self._callbacks = []
        if self.splits.validation is not None:
            self._callbacks.append(
                Evaluation(self._evaluate, recipe.evaluate, self.task.metrics, steps)
            )
        if recipe.evaluate.prompts:
            self._callbacks.append(Samples(self.run, self._sample, recipe.evaluate.prompts))
        with ExitStack() as stack:
            opened = trackers(recipe, self.run)
            for tracker in opened:
                stack.callback(tracker.close)
            bar = stack.enter_context(progress(self.run.name, steps, "steps", self.state.step))
            bar.advance(0, "compiling" if recipe.system.compile == "on" else "")
            memory = partial(peak_memory, torch.device(recipe.system.host))
            self._callbacks.append(Recording(self.run, bar, memory, opened))
            self._callbacks += self.callbacks
            self._callbacks.append(Saving(recipe.checkpoint.every, steps, self._save))
            if recipe.checkpoint.time_limit:
                self.signals.limit(recipe.checkpoint.time_limit, self._saver.longest)
            yield

    def _loop(self) -> None:
        state = self.state
        try:
            if state.pending is not None:
                self._after_step(state.pending)
            # A second round comes only after a rollback, which moves the cursor.
            while state.step < self._steps and not (state.finished or self._stopping):
                self._update()
        except StopRequested:
            # Raised by the evaluation of a finished step.
            self._stopping = True
            self._save()
        if self._stopping and (state.step < self._steps or state.pending is not None):
            all_saved = self._saved_step == state.step
            kept = "everything is saved" if all_saved else f"saved up to step {self._saved_step}"
            raise Interrupted(f"stopped at step {state.step}; {kept}")

    def _update(self) -> None:
        """Make updates until the horizon, a stop, or a rollback."""
        state = self.state
        updates = self.engine.updates(
            state.step, state.samples, self._steps, self._sync(), self._decide, self._poll
        )
        with closing(updates):
            for update in updates:
                if update.decision is Decision.ROLLBACK:
                    self._roll_back(update)
                    return
                self._after_step(self._taken(update))
                self._poll()
                if update.state_ready and (self._saving or self._stopping):
                    self._save()
                    self._saving = False
                if state.finished or (self._stopping and update.state_ready):
                    return

    def _poll(self) -> None:
        """Pass requests of signals and the time limit on to the engine."""
        if self.signals.save_asked():
            self._saving = True
            self.engine.request("save")
        if not self._stopping:
            try:
                self.signals.poll()
            except StopRequested:
                self._stopping = True
                self.engine.request("stop")

    def _sync(self) -> frozenset[int]:
        every = {self.recipe.evaluate.every, self.recipe.checkpoint.every}
        return frozenset({self._steps}.union(*(range(n, self._steps, n) for n in every)))

    def _decide(self, update: UpdateResult) -> Decision:
        self._fault = self._guard.fault(update)
        return Decision.APPLY if self._fault is None else self._fault.decision

    def _taken(self, update: UpdateResult) -> Row:
        """Advance the state by an update, and return its metrics."""
        state, fault = self.state, self._fault
        if fault is None:
            self._guard.applied(update.loss)
        else:
            self._guard.skipped(fault, update.samples)
        state.step, state.samples = update.step, update.samples
        if not state.flops:
            # The checkpoint is older than the count.
            state.flops = update.flops / update.tokens * state.tokens
        state.flops += update.flops
        sparsity = self.recipe.sparsity
        # Cerebras' SDK has schedules of its own.
        if sparsity.algorithm != "none" and self.recipe.system.device != "cerebras":
            state.zeros = max(state.zeros, share_of_zeros(sparsity, state.step - 1, self._steps))
            spared = spared_flops(self.recipe, state.zeros) * update.tokens
            state.sparse_flops += update.flops - spared
        state.tokens += update.tokens
        state.seconds += update.seconds
        row: Row = {
            "step": state.step,
            "tokens": state.tokens,
            "flops": state.flops,
            "seconds": state.seconds,
            "elapsed": self._elapsed(),
            "lr": update.lr,
            "tokens_per_second": update.tokens / update.seconds,
        }
        for name, value in (("loss", update.loss), ("grad_norm", update.grad_norm)):
            if math.isfinite(value):
                row[name] = value
        if state.sparse_flops:
            row["sparse_flops"] = state.sparse_flops
        if fault is not None:
            row["skipped"] = fault.reason
        row["mfu"] = update.flops / update.seconds / self._peak_flops
        return row

    def _after_step(self, row: Row) -> None:
        self.state.pending = row
        for callback in self._callbacks:
            callback.after_step(self.state, row)
        self.state.pending = None

    def _roll_back(self, update: UpdateResult) -> None:
        """Load the last checkpoint, and continue after the bad data.

        The data between the checkpoint and the spike is skipped too, as for PaLM (arXiv:2204.02311,
        section 5.1).
        """
        assert self._fault is not None
        self._guard.skipped(self._fault, update.samples)
        state, skipped = self.state, self.state.skipped
        self._saver.wait()
        self._load_newest()
        first, end = state.samples, update.samples
        state.samples, state.recent = end, []
        state.skipped = [*skipped[:-1], [first, end, self._fault.reason]]
        say(f"back to step {state.step}, continuing from sample {end:,}")

    def _load_newest(self) -> object:
        def load(stored: store.StoredState) -> None:
            self.engine.load(stored)
            self.state.take_scalars(stored.scalars)

        folder = store.resume(self.run, load)
        self._saved_step = self.state.step
        self.run.rewind(self.state.step)
        return folder

    def _elapsed(self) -> float:
        """Return the seconds since the start of the command, and those of earlier ones."""
        return self._elapsed_before + time.monotonic() - self.began

    def _save(self, wait: bool = False) -> None:
        with working("saving"):
            self._saver.save(self.state.scalars(), self.engine.state)
            self._saved_step = self.state.step
            if wait:
                self._saver.wait()

    def _evaluate(self) -> Mapping[str, float]:
        """Return the task's metrics on validation data, as ``val_…``."""
        samples = self.task.evaluation_samples(self.splits.held_out.batches)
        outputs = self.engine.outputs(
            range(samples), self.task.evaluation_rows(), self.signals.poll
        )
        references = self.splits.held_out.references
        _, outputs = self.task.fit(outputs, references)
        metrics = self.task.compute_metrics(outputs, references)
        return {f"val_{name}": metrics[name] for name in self.task.metrics if name in metrics}

    def _sample(self, prompt: str) -> str:
        return self.task.sample(self.engine.network, self.setup.tokenizer, prompt)

    def result(self) -> dict[str, Any]:
        """Return the run's result, the contents of result.json."""
        state = self.state
        rows = self.run.metrics()
        evaluated = [row for row in rows if "val_loss" in row]
        mfu = [row["mfu"] for row in rows if "mfu" in row]
        memory = (row["memory_bytes"] for row in rows if "memory_bytes" in row)
        # The state knows it even if metrics.jsonl was lost.
        known = state.best if self.recipe.evaluate.metric == "loss" else None
        return {
            "run": str(self.run.path),
            "step": state.step,
            "tokens": state.tokens,
            "loss": next((row["loss"] for row in reversed(rows) if "loss" in row), None),
            "val_loss": evaluated[-1]["val_loss"] if evaluated else None,
            "best_val_loss": min((row["val_loss"] for row in evaluated), default=known),
            "best_step": state.best_step,
            "seconds": state.seconds,
            "elapsed": self._elapsed(),
            "time": self._time(rows),
            "tokens_per_second": state.tokens / state.seconds,
            "mfu": statistics.median(mfu) if mfu else None,
            "peak_memory_bytes": max(memory, default=None),
            "parameters": sum(p.numel() for p in self.engine.network.parameters()),
            "trained_parameters": sum(
                p.numel() for p in self.engine.network.parameters() if p.requires_grad
            ),
            "sparse_flops": state.sparse_flops or None,
            "stopped_early": state.finished,
            "skipped_updates": state.skipped,
            "weights_sha256": self._weights_sha256(),
        }

    def _time(self, rows: Sequence[Row]) -> dict[str, float] | None:
        """Return the seconds by what took them; None of a run that was resumed."""
        if self._elapsed_before:
            # Kept where nothing was left to do.
            before: dict[str, float] | None = (self.run.read("result") or {}).get("time")
            return before
        compiling = self.setup.compile_seconds
        evaluation = sum(row.get("evaluation_seconds", 0.0) for row in rows)
        startup, updates = self._startup - compiling, self.state.seconds
        saving = max(0.0, self._elapsed() - self._startup - updates - evaluation)
        return Duration(startup, compiling, updates, evaluation, saving).to_dict()

    def _weights_sha256(self) -> str:
        if not (self._sharded or self.recipe.lora.rank):
            return weights_sha256(self.engine.network.state_dict())
        # No process has the whole weights, but the last checkpoint does; of adapters, those alone.
        return weights_sha256(Stored(store.every(self.run)[-1], WEIGHTS))


def _warn_about_disk(run: Run, recipe: Recipe) -> None:
    needed, free = disk_bytes(recipe), shutil.disk_usage(run.path).free
    if needed > free:
        say(
            f"WARNING: the run's checkpoints will take {needed / 1e9:,.1f} GB, and "
            f"{free / 1e9:,.1f} GB are free: lower checkpoint.keep, or make room"
        )
