"""The loop: fetch, forward and backward, clip, step, callbacks."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn

from wafergpt.config import Recipe
from wafergpt.data.batches import Batch, Batches, parts
from wafergpt.errors import Interrupted
from wafergpt.parallel.sharding import sums_in
from wafergpt.parallel.team import ALONE, Order, Team
from wafergpt.scaling.schedule import updates
from wafergpt.train.guard import Guard
from wafergpt.train.schedules import lr_factor
from wafergpt.train.signals import Signals, StopRequested
from wafergpt.train.state import Row, TrainState

Objective = Callable[[Recipe, nn.Module, Batch], Tensor]
"""Maps a recipe, a model and a batch to the summed loss of the batch's terms."""

FlopCount = Callable[[Recipe, Batch], float]
"""Maps a recipe and a batch to the FLOPs of its forward and backward pass."""


class Callback(Protocol):
    """Something optional that happens after a step."""

    def after_step(self, state: TrainState, row: Row) -> None:
        """Look at the state; add to the row of metrics."""


@dataclass
class Loop:
    """Trains ``state`` on ``batches`` to the horizon of a resolved recipe.

    Attributes:
        recipe: with every ``auto`` resolved.
        state: what changes.
        batches: where samples come from.
        objective: the summed loss of a batch.
        callbacks: run in order after each step.
        save: writes a checkpoint when a signal stops the run.
        device: where the model is.
        flops: counts a batch's, for the metrics.
        restore: takes the state back to its last good checkpoint.
        peak_flops: the measured matmul peak of all devices, for ``mfu``; None if unknown.
        signals: what asks for a stop or a save.
        team: the processes that share the work.
        spread: whether they share the weights too, so that all must make the same passes.
        validation: samples that ``look`` judges.
    """

    recipe: Recipe
    state: TrainState
    batches: Batches
    objective: Objective
    callbacks: Sequence[Callback]
    save: Callable[[TrainState], object]
    device: torch.device
    flops: FlopCount
    restore: Callable[[], object]
    peak_flops: float | None = None
    signals: Signals = field(default_factory=Signals)
    team: Team = ALONE
    spread: bool = False
    validation: Batches | None = None

    def __post_init__(self) -> None:
        self.guard = Guard(self.recipe.guard, self.state, self.restore)

    def run(self) -> None:
        """Train to the horizon.

        Raises:
            Interrupted: after saving, when a signal or the time limit asked for a stop.
            RunFailed: if more updates had to be left out than the recipe allows.
        """
        steps = self.recipe.train.steps
        assert steps is not None, "the horizon must be resolved before the loop"
        state = self.state
        try:
            if state.pending is not None:
                self._after_step(state.pending)
            while state.step < steps and not state.finished:
                self._after_step(self.step(steps))
                if self.signals.save_asked():
                    self.save(state)
                self.signals.poll()
        except StopRequested:
            self.save(state)
            raise Interrupted(f"stopped at step {state.step}; everything is saved") from None

    def _after_step(self, row: Row) -> None:
        self.state.pending = row
        for callback in self.callbacks:
            callback.after_step(self.state, row)
        self.state.pending = None

    def step(self, steps: int) -> Row:
        """Make one update of a run of ``steps``, and return its metrics."""
        start = time.perf_counter()
        state, recipe = self.state, self.recipe
        size = recipe.train.batch_at(state.step)
        loss, tokens, flops = self.gradients(state.samples, size)
        lr = recipe.optimizer.lr * self._lr_factor(steps)
        fault = self.guard.fault(loss)
        if fault and self.guard.rolls_back(fault, size):
            self.discard()
            return self.step(steps)
        norm = math.nan if fault else self.apply(lr)
        if not fault and not math.isfinite(norm):
            fault = f"the gradient is {norm}"
        if fault:
            self.discard()
            self.guard.left_out(fault, size)
        else:
            self.guard.passed(loss)
        seconds = time.perf_counter() - start
        state.step += 1
        state.samples += size
        if not state.flops:
            # A checkpoint of before they were counted.
            state.flops = flops / tokens * state.tokens
        state.flops += flops
        state.tokens += tokens
        state.seconds += seconds
        row: Row = {
            "step": state.step,
            "tokens": state.tokens,
            "flops": state.flops,
            "seconds": state.seconds,
            "lr": lr,
            "tokens_per_second": tokens / seconds,
        }
        if math.isfinite(loss):
            row["loss"] = loss
        if math.isfinite(norm):
            row["grad_norm"] = norm
        if fault:
            row["left_out"] = fault
        if self.peak_flops:
            row["mfu"] = flops / seconds / self.peak_flops
        return row

    def _lr_factor(self, steps: int) -> float:
        """Return the schedule's factor at this step.

        The schedule counts in steps of the final batch, so that it moves with the tokens read also
        where the first batches are smaller.
        """
        recipe, train = self.recipe, self.recipe.train
        whole, warmup = updates(recipe, steps)
        place = train.samples(self.state.step) / train.batch_size
        return lr_factor(recipe.schedule, place, whole, warmup)

    def gradients(self, first: int, size: int) -> tuple[float, int, float]:
        """Have everyone add the gradients of one global batch; see ``backward``."""
        self.team.order(Order.GRADIENTS, self.state.step, first, size)
        return self.backward(first, size)

    def apply(self, lr: float) -> float:
        """Have everyone move the weights; return the gradient's norm."""
        self.team.order(Order.APPLY, lr)
        return self.state.optimizer.step(lr)

    def discard(self) -> None:
        """Have everyone drop the gradients."""
        self.team.order(Order.DISCARD)
        self.state.optimizer.clear()

    def backward(self, first: int, size: int) -> tuple[float, int, float]:
        """Add the gradients of one global batch; return its mean loss, its tokens and its FLOPs.

        Each process of the team reads its share; the loss is a mean over all.
        """
        passes = self._passes(self.batches, first, size, self.recipe.train.micro_batch_size)
        weight, tokens, flops = self.team.sum(
            sum(batch.weight * share for batch, share in passes),
            sum(batch.tokens.numel() * share for batch, share in passes),
            sum(self.flops(self.recipe, batch) * share for batch, share in passes),
        )
        total = torch.zeros((), device=self.device)
        model = self.state.model
        model.train()
        for index, (batch, share) in enumerate(passes):
            reseed(self.recipe.seed, self.state.step, index, self.team.rank)
            if self.spread:
                sums_in(model, this_pass=index == len(passes) - 1)
            loss = self.forward(batch) * share / weight
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        if not self.spread:
            self.team.sum_gradients(model.parameters())
        (mean,) = self.team.sum(float(total))
        return mean, int(tokens), flops

    def _passes(
        self, batches: Batches, first: int, size: int, at_once: int
    ) -> list[tuple[Batch, float]]:
        """Return this process' batches of samples, each with 1, or with 0 if it is not to count.

        Passes gather spread weights, so that every process must make as many as any other.
        """
        own = self.team.share(first, size)
        passes = [(batches.batch(*part), 1.0) for part in parts(*own, at_once)]
        most = math.ceil(self.team.most(size) / at_once)
        if self.spread and len(passes) < most:
            passes += [(batches.batch(first, 1), 0.0)] * (most - len(passes))
        return passes

    def look(self, first: int, size: int) -> tuple[float, float]:
        """Have everyone work out the loss of validation samples; see ``looked``."""
        self.team.order(Order.LOOK, first, size)
        return self.looked(first, size)

    @torch.no_grad()
    def looked(self, first: int, size: int) -> tuple[float, float]:
        """Return the summed loss of validation samples, and how many terms it has."""
        assert self.validation is not None
        self.state.model.eval()
        passes = self._passes(self.validation, first, size, self.team.most(size))
        total, weight = self.team.sum(
            sum(float(self.forward(batch)) * share for batch, share in passes),
            sum(batch.weight * share for batch, share in passes),
        )
        return total, weight

    def forward(self, batch: Batch) -> Tensor:
        """Return the summed loss of a batch in the recipe's precision."""
        with autocast(self.recipe, self.device):
            return self.objective(self.recipe, self.state.model, batch.to(self.device))


def autocast(recipe: Recipe, device: torch.device) -> torch.autocast:
    """Return the context in which the recipe's precision computes."""
    return torch.autocast(
        device.type,
        torch.bfloat16,
        enabled=recipe.system.precision == "bf16",
        # A cached copy would outlive its block.
        cache_enabled=recipe.system.shards == 1 and not recipe.system.activation_checkpointing,
    )


def reseed(seed: int, step: int, micro_step: int, rank: int = 0) -> None:
    """Set torch's randomness from the place in the run alone, so that a resume repeats it."""
    digest = hashlib.blake2b(f"{seed}/{step}/{micro_step}/{rank}".encode(), digest_size=8).digest()
    torch.manual_seed(int.from_bytes(digest, "little") >> 1)
