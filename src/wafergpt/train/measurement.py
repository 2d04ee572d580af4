"""What a training will take, from real updates of the real network on the real rows.

A plan measures in processes of its own, which then end; a run derives its own plan from what its
start has timed anyway.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from wafergpt.checkpoint.format import write_whole
from wafergpt.config import Recipe
from wafergpt.data.batches import Batches, parts
from wafergpt.devices.compiler import cold_compiles
from wafergpt.devices.load import OtherLoad
from wafergpt.distributed.collectives import ProcessGroup
from wafergpt.distributed.rendezvous import joined
from wafergpt.distributed.sharding import Part
from wafergpt.engines.base import Decision, UpdateResult
from wafergpt.planning.duration import Duration
from wafergpt.planning.estimate import speed
from wafergpt.planning.measurement import Measurement
from wafergpt.planning.memory import checkpoint_bytes, optimizer_bytes
from wafergpt.planning.schedule_check import require_possible_warmup
from wafergpt.planning.speed import OPTIMIZER_BYTES
from wafergpt.progress import working
from wafergpt.runs.run import Run
from wafergpt.shapes.counts import parameters, training_flops
from wafergpt.tasks.base import task_of
from wafergpt.train.setup import Setup, require_metric, set_up, settled
from wafergpt.train.trainer import memory_bytes

SECONDS = 4.0
"""Time for updates, and half of it for evaluation."""

SHAPE_SECONDS = 1.0
"""Time for the updates of one of the shapes that a budget could buy."""

FEWEST, MOST = 3, 64
"""Updates that are timed."""

COUNTED = 4096
"""Updates whose tokens are counted; of more, as many spread over the training."""

DISK_RATE = 200e6
"""Bytes/s of writing and hashing a checkpoint, where that was not measured."""

WRITTEN = 256 << 20
"""Largest checkpoint that is written to measure the disk."""

OVERLAP = 0.5
"""Share of a checkpoint's writing that training on the same cores waits for."""

DISTURBED = 0.1
"""Share of the cores used by other programs, from which on a measurement is in doubt."""

NEVER: Callable[[], bool] = lambda: False  # noqa: E731


def expected(setup: Setup, group: ProcessGroup, startup: float) -> Measurement:
    """Return what a run will take, from what its start has timed.

    Args:
        setup: settled.
        group: the processes of the training.
        startup: seconds so far, compiling included.
    """
    recipe, machine = setup.recipe, setup.machine
    n, tokens = parameters(recipe.model), total_tokens(setup, group)
    steps = recipe.train.steps or 0
    optimizer = OPTIMIZER_BYTES * n / machine.bandwidth
    updates = steps * (setup.update_seconds + optimizer)
    if not setup.update_seconds:
        compiled = recipe.system.compile == "on"
        updates = tokens / speed(recipe, machine, tokens / recipe.train.samples(steps), compiled)
    evaluation, final = _evaluated_tokens(setup)
    token = updates / tokens / 3
    memory = memory_bytes(torch.device(recipe.system.host))()
    copy = checkpoint_bytes(recipe.model, recipe.optimizer) if recipe.checkpoint.background else 0
    length = round(tokens / recipe.train.samples(steps))
    rows = recipe.model.vocab_size if recipe.task is None else 0
    return Measurement(
        recipe=recipe,
        tokens=tokens,
        flops=recipe.train.samples(steps) * training_flops(recipe.model, length, rows),
        epoch_tokens=setup.splits.tokens,
        time=Duration(
            startup=startup - setup.compile_seconds,
            compiling=setup.compile_seconds,
            updates=updates,
            evaluation=_evaluations(recipe) * evaluation * token,
            saving=_saving_seconds(recipe, copy / DISK_RATE),
            final=final * token * group.size,
        ),
        memory_bytes=memory + optimizer_bytes(recipe.model, recipe.optimizer) + copy,
    )


def measure(recipe: Recipe, start: Run | None, began: float) -> Measurement | None:
    """Measure a training in this process, and the others of its group.

    Args:
        recipe: as asked for.
        start: the run to start from.
        began: ``time.time()`` at the start of the process.

    Returns:
        The measurement; None in a worker.

    Raises:
        InputError: if the recipe is impossible or the data unusable.
    """
    load = OtherLoad()
    require_metric(task_of(recipe))
    require_possible_warmup(recipe.schedule)
    with joined(recipe.system.timeout) as group:
        setup = set_up(recipe, group, start)
        if group.is_worker:
            setup.engine.run_commands()
            return None
        setup = settled(setup, NEVER)
        found = _Stopwatch(setup, group).measurement(time.time() - began)
        setup.engine.close("")
    others = load.share(group.size)
    if others < DISTURBED:
        return found
    note = f"other programs used {others:.0%} of the cores while this was measured"
    return replace(found, notes=(*found.notes, f"{note}: without them it is faster"))


def tokens_per_second(recipe: Recipe) -> float:
    """Return the speed of a recipe's updates in this process, not compiled, in about a second."""
    with joined(recipe.system.timeout) as group:
        setup = set_up(recipe.replace(system={"compile": "off"}), group, None)
        if group.is_worker:
            setup.engine.run_commands()
            return 0.0
        seconds = setup.engine.seconds_per_update(NEVER, max_seconds=SHAPE_SECONDS)
        setup.engine.close("")
    n, bandwidth = parameters(setup.recipe.model), setup.machine.bandwidth
    tokens = recipe.train.batch_size * setup.recipe.model.seq_len
    return tokens / (seconds + OPTIMIZER_BYTES * n / bandwidth)


@dataclass
class _Stopwatch:
    """Times the parts of a training on its engine, whose weights are spoilt by it."""

    setup: Setup
    group: ProcessGroup

    def measurement(self, startup: float) -> Measurement:
        recipe, engine = self.setup.recipe, self.setup.engine
        cold = cold_compiles() > 0
        tokens = total_tokens(self.setup, self.group)
        with working("timing updates"):
            timed = self._updates()
            seconds, flops = _per_token(timed)
        with working("timing an evaluation"):
            evaluation = self._evaluation()
        evaluated, final = _evaluated_tokens(self.setup)
        with working("timing a checkpoint"):
            # The copy that is written while training goes on.
            state = engine.state().copied()
            saving = self._saving(state.tensors)
            self._update(0)
        memory = memory_bytes(torch.device(recipe.system.host))()
        compiling = self.setup.compile_seconds
        return Measurement(
            recipe=recipe,
            tokens=tokens,
            flops=tokens * flops,
            epoch_tokens=self.setup.splits.tokens,
            time=Duration(
                startup=startup - compiling,
                compiling=compiling,
                updates=tokens * seconds,
                evaluation=_evaluations(recipe) * evaluated * evaluation,
                saving=_saving_seconds(recipe, saving),
                final=final * evaluation * self.group.size,
            ),
            memory_bytes=memory,
            cold_compile_seconds=compiling if cold else None,
        )

    def _updates(self) -> list[UpdateResult]:
        """Make updates spread over the training, the one with the most tokens first."""
        steps = self.setup.recipe.train.steps or 0
        places = [int(steps * share) for share in _spread(MOST)]
        largest = max(places, key=lambda step: update_tokens(self.setup, self.group, step))
        self._update(largest)
        timed: list[UpdateResult] = []
        start = time.monotonic()
        for place in places:
            timed.append(self._update(place))
            if time.monotonic() - start > SECONDS and len(timed) >= FEWEST:
                break
        return timed

    def _update(self, step: int) -> UpdateResult:
        train = self.setup.recipe.train
        first, until = train.samples(step), train.steps or 0
        updates = self.setup.engine.updates(
            step, first, until, (), lambda _: Decision.APPLY, lambda: None
        )
        with closing(updates):
            return next(updates)

    def _evaluation(self) -> float:
        """Return the seconds of evaluating one token, from passes spread over the samples."""
        task, batches = self.setup.task, self.setup.splits.validation.batches
        samples, rows = task.evaluation_samples(batches), task.evaluation_rows()
        at_once = rows * self.group.size
        seconds, tokens, start = 0.0, 0, time.monotonic()
        for index, share in enumerate(_spread(MOST)):
            first = int(share * max(0, samples - at_once))
            n = min(at_once, samples - first)
            before = time.monotonic()
            self.setup.engine.outputs(range(first, first + n), rows, lambda: None)
            if index:
                # The first pass allocates.
                seconds += time.monotonic() - before
                tokens += n * batches.length(first, n)
            if index >= FEWEST and time.monotonic() - start > SECONDS / 2:
                break
        return seconds / tokens

    def _saving(self, tensors: Mapping[str, Mapping[str, Part]]) -> float:
        """Return the seconds of writing a checkpoint."""
        size = checkpoint_bytes(self.setup.recipe.model, self.setup.recipe.optimizer)
        if size > WRITTEN or self.setup.recipe.system.shards > 1:
            return size / DISK_RATE
        with TemporaryDirectory() as folder:
            start = time.monotonic()
            write_whole(tensors, Path(folder))
            return time.monotonic() - start


def total_tokens(setup: Setup, group: ProcessGroup) -> int:
    """Return the tokens of a whole training, padding included."""
    steps = setup.recipe.train.steps or 0
    counted = range(steps)
    if steps > COUNTED:
        counted = range(0, steps, math.ceil(steps / COUNTED))
    tokens = sum(update_tokens(setup, group, step) for step in counted)
    return round(tokens * steps / len(counted))


def update_tokens(setup: Setup, group: ProcessGroup, step: int) -> int:
    """Return the tokens of one update, padding included."""
    train, batches = setup.recipe.train, setup.splits.train
    first, size = train.samples(step), train.batch_at(step)
    shares = (ProcessGroup(rank, group.size).share(first, size) for rank in range(group.size))
    return sum(
        n * batches.length(place, n)
        for share in shares
        for place, n in parts(*share, train.micro_batch_size)
    )


def _evaluated_tokens(setup: Setup) -> tuple[int, int]:
    """Return the tokens of one evaluation, and of the final one."""
    task, splits = setup.task, setup.splits
    rows = task.evaluation_rows()

    def tokens(batches: Batches) -> int:
        passes = parts(0, task.evaluation_samples(batches), rows)
        return sum(n * batches.length(first, n) for first, n in passes)

    final = 0
    if setup.recipe.task is not None:
        final = sum(tokens(part.batches) for part in (splits.validation, splits.test) if part)
    return tokens(splits.validation.batches), final


def _evaluations(recipe: Recipe) -> int:
    return math.ceil((recipe.train.steps or 0) / recipe.evaluate.every)


def _saving_seconds(recipe: Recipe, one: float) -> float:
    """Return the seconds that training waits for checkpoints, of which the ends are waited for."""
    saves = math.ceil((recipe.train.steps or 0) / recipe.checkpoint.every)
    overlap = OVERLAP if recipe.checkpoint.background else 1.0
    return one * (2 + (saves - 1) * overlap)


def _spread(n: int) -> list[float]:
    """Return ``n`` numbers below 1 of which any first ones are spread evenly (van der Corput)."""
    return [sum((index >> bit & 1) / (2 << bit) for bit in range(16)) for index in range(n)]


def _per_token(timed: Sequence[UpdateResult]) -> tuple[float, float]:
    """Return the seconds and the FLOPs of a token; updates that compiled are left out."""
    usual = statistics.median(update.seconds / update.tokens for update in timed)
    kept = [update for update in timed if update.seconds < 2.5 * usual * update.tokens]
    tokens = sum(update.tokens for update in kept)
    seconds = sum(update.seconds for update in kept)
    return seconds / tokens, sum(update.flops for update in kept) / tokens
