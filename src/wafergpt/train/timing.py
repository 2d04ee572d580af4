"""What a training will take, from real updates of the real network on the real rows.

A plan measures in processes of its own, which then end; a run derives its own plan from what its
start has timed anyway.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from wafergpt import atomic_files
from wafergpt.checkpoint.format import write_whole
from wafergpt.config import Recipe
from wafergpt.devices.compiler import cold_compiles
from wafergpt.devices.load import OtherLoad
from wafergpt.devices.peak_memory import peak_memory
from wafergpt.distributed.collectives import ProcessGroup
from wafergpt.distributed.rendezvous import joined
from wafergpt.distributed.sharding import Part
from wafergpt.engines.base import Decision, UpdateResult
from wafergpt.planning.duration import Duration
from wafergpt.planning.estimate import speed, teacher_flops
from wafergpt.planning.measurement import Measurement
from wafergpt.planning.memory import (
    change_bytes,
    checkpoint_bytes,
    estimated_memory,
    optimizer_bytes,
)
from wafergpt.planning.schedule_check import require_possible_warmup
from wafergpt.planning.speed import APPLY_BYTES
from wafergpt.progress import working
from wafergpt.runs.run import Run
from wafergpt.shapes import sparse
from wafergpt.shapes.counts import (
    adapter_parameters,
    parameters,
    trained_parameters,
    training_flops,
)
from wafergpt.sparsity.masks import largest
from wafergpt.tasks.base import task_of
from wafergpt.train.setup import Setup, require_metric, set_up, settled
from wafergpt.train.workload import (
    evaluated_tokens,
    evaluation_seconds,
    evaluations,
    final_seconds,
    saves,
    spread,
    total_tokens,
    update_tokens,
)

TIMING_SECONDS = 4.0
"""Time for updates, and half of it for evaluation."""

SHAPE_SECONDS = 1.0
"""Time for the updates of one of the shapes that a budget could buy."""

FEWEST_UPDATES, MOST_UPDATES = 3, 64
"""Updates that are timed."""

UPDATES_PER_TIMED = 4
"""Updates of a short training of which one is timed: measuring takes less time than training."""

TIMED_EPOCHS = 2
"""Passes over the data that timed updates are taken from: the order of so many is kept."""

COMPILING_RATIO = 2.5
"""An update that takes this many times the usual time for its tokens was compiling."""

DISK_RATE = 200e6
"""Bytes/s of writing and hashing a checkpoint, where that was not measured."""

LARGEST_WRITTEN_BYTES = 256 << 20
"""Largest checkpoint that is written to measure the disk."""

WAITING_SHARE = 0.5
"""Share of a checkpoint's writing that training on the same cores waits for."""

DISTURBING_LOAD = 0.1
"""Share of the cores used by other programs, from which on a measurement is in doubt."""

SORTED_WEIGHTS = 1 << 20
"""Weights of a matrix that a change of its mask is timed on."""

BRIEF_SECONDS = 0.5
"""Seconds for the evaluation that a run times for its own plan."""

NEVER_STOP: Callable[[], bool] = lambda: False  # noqa: E731


def plan_of_start(setup: Setup, group: ProcessGroup, startup: float) -> Measurement:
    """Return what a run will take, from what its start has timed.

    Args:
        setup: settled.
        group: the processes of the training.
        startup: seconds so far, compiling included.
    """
    recipe, train = setup.recipe, setup.recipe.train
    steps = train.steps or 0
    tokens, samples = total_tokens(setup, group), train.samples(steps)
    length, sequences = tokens / samples / recipe.sequences, samples * recipe.sequences
    if setup.update_seconds:
        moved = APPLY_BYTES * trained_parameters(recipe.model, recipe.lora)
        apply = moved / setup.machine.bandwidth
        updates = setup.update_seconds * samples / train.batch_size + apply * steps
        updates += _changing_seconds(recipe)
    else:
        updates = tokens / speed(recipe, setup.machine, length, recipe.system.compile == "on")
    # A forward pass takes a third of both, and more where the network is small.
    token = updates / tokens / 3 / recipe.passes
    if setup.update_seconds and setup.splits.validation is not None:
        start = time.monotonic()
        token, _ = evaluation_seconds(setup, group, BRIEF_SECONDS, fewest=2)
        startup += time.monotonic() - start
    evaluation = evaluated_tokens(setup.task, setup.splits.validation)
    rows = recipe.model.vocab_size if recipe.vocabulary_head else 0
    return Measurement(
        recipe=recipe,
        tokens=tokens,
        flops=sequences
        * (
            recipe.passes * training_flops(recipe.model, round(length), rows, lora=recipe.lora)
            + teacher_flops(recipe, round(length))
        ),
        epoch_tokens=setup.splits.tokens,
        time=Duration(
            startup=startup - setup.compile_seconds,
            compiling=setup.compile_seconds,
            updates=updates,
            evaluation=evaluations(recipe) * evaluation * token,
            saving=_saving_seconds(recipe, _checkpoint_bytes(setup) / DISK_RATE),
            final=final_seconds(setup, group, token),
        ),
        memory_bytes=_expected_memory(setup),
        task_parameters=_task_parameters(setup),
    )


def _expected_memory(setup: Setup) -> int:
    recipe = setup.recipe
    if not setup.update_seconds:
        return estimated_memory(recipe, setup.machine.device).total
    memory = _peak_memory(recipe)
    memory += optimizer_bytes(recipe.model, recipe.optimizer, recipe.lora) // recipe.system.shards
    on_host = recipe.checkpoint.background and recipe.system.device != "cuda"
    return memory + on_host * _checkpoint_bytes(setup)


def _peak_memory(recipe: Recipe) -> int:
    """Return the peak of timed updates, and what a change of masks, which none made, adds to it."""
    host = torch.device(recipe.system.host)
    return peak_memory(host) + change_bytes(recipe, estimated_memory(recipe, host.type))


def _changing_seconds(recipe: Recipe) -> float:
    """Return the seconds that a training's changes of masks take, as timed on one matrix."""
    changes = sparse.mask_changes(recipe.sparsity, recipe.train.steps or 0)
    if not changes or recipe.sparsity.every == 1:
        return 0.0
    sizes = [
        rows * columns for rows, columns in sparse.matrices(recipe.model, recipe.sparsity).values()
    ]
    count = min(SORTED_WEIGHTS, max(sizes))
    scores = torch.rand(count, device=recipe.system.host)
    times = []
    for _ in range(2):
        start = time.monotonic()
        # Those that stay, those that come back, and how many there are.
        kept = largest(scores, count // 2)
        int((kept | largest(scores.masked_fill(kept, -1.0), count // 4)).sum())
        times.append(time.monotonic() - start)
    return changes * min(times) * sum(sizes) / count


def time_training(
    recipe: Recipe, start: Run | None, folder: Path, began: float
) -> Measurement | None:
    """Measure a training in this process, and the others of its group.

    Args:
        recipe: as asked for.
        start: the run to start from.
        folder: for temporary files, on the disk of the runs.
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
        setup = settled(setup, NEVER_STOP)
        setup.engine.work_in(folder / "engine")
        setup.engine.load(None)
        found = _Stopwatch(setup, group, folder).measurement(time.time() - began)
        setup.engine.close("")
    others = load.share(group.size)
    if others < DISTURBING_LOAD:
        return found
    note = f"other programs used {others:.0%} of the cores while this was measured"
    return replace(found, notes=(*found.notes, f"{note}: without them it is faster"))


def tokens_per_second(recipe: Recipe, group: ProcessGroup) -> float:
    """Return the speed of a recipe's updates, not compiled, in about a second; 0 in a worker."""
    setup = set_up(recipe.replace(system={"compile": "off"}), group, None)
    if group.is_worker:
        setup.engine.run_commands()
        return 0.0
    seconds = setup.engine.seconds_per_update(NEVER_STOP, max_seconds=SHAPE_SECONDS)
    setup.engine.close("")
    moved = APPLY_BYTES * trained_parameters(setup.recipe.model, setup.recipe.lora)
    seconds += moved / setup.machine.bandwidth
    return recipe.train.batch_size * setup.recipe.model.seq_len / seconds


@dataclass
class _Stopwatch:
    """Times the parts of a training on its engine, whose weights are spoilt by it."""

    setup: Setup
    group: ProcessGroup
    folder: Path

    def measurement(self, startup: float) -> Measurement:
        setup, recipe, engine = self.setup, self.setup.recipe, self.setup.engine
        tokens = total_tokens(setup, self.group)
        with working("timing updates"):
            compiles = recipe.system.compile == "on"
            seconds, flops, compiled = _per_token(self._updates(), compiles)
        with working("timing an evaluation"):
            # Without validation rows only test rows are evaluated, in forward passes.
            evaluation, first = seconds / 3 / recipe.passes, 0.0
            if setup.splits.validation is not None:
                evaluation, first = evaluation_seconds(
                    setup, self.group, TIMING_SECONDS / 2, fewest=FEWEST_UPDATES + 1
                )
            sampling = self._sampling()
            final = final_seconds(setup, self.group, evaluation)
        evaluated = evaluated_tokens(setup.task, setup.splits.validation)
        with working("timing a checkpoint"):
            # The copy that is written while training goes on.
            state = engine.state()
            state = state.copied() if recipe.checkpoint.background else state
            saving = self._saving(state.tensors)
            self._update(0)
        compiling = setup.compile_seconds
        if compiles:
            compiling += compiled + first
        count = evaluations(recipe)
        return Measurement(
            recipe=recipe,
            tokens=tokens,
            flops=tokens * flops,
            epoch_tokens=setup.splits.tokens,
            time=Duration(
                startup=startup - setup.compile_seconds,
                compiling=compiling,
                updates=tokens * seconds + _changing_seconds(recipe),
                evaluation=count * (evaluated * evaluation + sampling),
                saving=_saving_seconds(recipe, saving),
                final=final,
            ),
            memory_bytes=_peak_memory(recipe),
            task_parameters=_task_parameters(setup),
            cold_compile_seconds=compiling if cold_compiles() else None,
        )

    def _updates(self) -> list[UpdateResult]:
        """Make updates spread over the training, the one with the most tokens first."""
        train, splits = self.setup.recipe.train, self.setup.splits
        span = min(train.steps or 0, train.steps_for(TIMED_EPOCHS * splits.train.samples_per_epoch))
        count = min(MOST_UPDATES, max(FEWEST_UPDATES, (train.steps or 0) // UPDATES_PER_TIMED))
        places = [int(span * share) for share in spread(count)]
        sparsity = self.setup.recipe.sparsity
        if sparse.mask_changes(sparsity, train.steps or 0) and sparsity.every > 1:
            # Changes of masks are timed apart: a few updates have too many or too few.
            places = [place - ((place + 1) % sparsity.every == 0) for place in places]
        largest = max(places, key=lambda step: update_tokens(self.setup, self.group, step))
        self._update(largest)
        timed: list[UpdateResult] = []
        start = time.monotonic()
        for place in places:
            timed.append(self._update(place))
            if time.monotonic() - start > TIMING_SECONDS and len(timed) >= FEWEST_UPDATES:
                break
        return timed

    def _update(self, step: int) -> UpdateResult:
        """Make an update; on a GPU the second of two, whose batch was read ahead."""
        train = self.setup.recipe.train
        first, until = train.samples(step), max(train.steps or 0, step + 2)
        updates = self.setup.engine.updates(
            step, first, until, (), lambda _: Decision.APPLY, lambda: None
        )
        ahead = 1 if self.setup.recipe.system.device == "cuda" else 0
        with closing(updates):
            return next(itertools.islice(updates, ahead, None))

    def _sampling(self) -> float:
        """Return the seconds of continuing the recipe's prompts once."""
        setup, prompts = self.setup, self.setup.recipe.evaluate.prompts
        if not prompts:
            return 0.0
        start = time.monotonic()
        setup.task.sample(setup.engine.network, setup.tokenizer, prompts[0])
        return len(prompts) * (time.monotonic() - start)

    def _saving(self, tensors: Mapping[str, Mapping[str, Part]]) -> float:
        """Return the seconds of writing a checkpoint."""
        size = _checkpoint_bytes(self.setup)
        if size <= LARGEST_WRITTEN_BYTES and self.setup.recipe.system.shards == 1:
            start = time.monotonic()
            try:
                for name in write_whole(tensors, self.folder):
                    atomic_files.sync(self.folder / name)
                return time.monotonic() - start
            except OSError:
                # A full disk is the run's concern.
                pass
        return size / DISK_RATE


def _checkpoint_bytes(setup: Setup) -> int:
    recipe = setup.recipe
    whole = checkpoint_bytes(recipe.model, recipe.optimizer, _task_parameters(setup), recipe.lora)
    return whole // recipe.system.shards


def _task_parameters(setup: Setup) -> int:
    """Return the number of weights that the task adds to the GPT."""
    weights = sum(parameter.numel() for parameter in setup.engine.network.parameters())
    model, lora = setup.recipe.model, setup.recipe.lora
    return weights - parameters(model) - adapter_parameters(model, lora)


def _saving_seconds(recipe: Recipe, one: float) -> float:
    """Return the seconds that training waits for checkpoints; the ends are waited for."""
    waiting = WAITING_SHARE if recipe.checkpoint.background else 1.0
    return one * (2 + (saves(recipe) - 1) * waiting)


def _per_token(timed: Sequence[UpdateResult], compiles: bool) -> tuple[float, float, float]:
    """Return the seconds and FLOPs of a token, and the seconds that compiling took."""
    usual = statistics.median(update.seconds / update.tokens for update in timed)
    kept = [u for u in timed if not compiles or u.seconds < COMPILING_RATIO * usual * u.tokens]
    tokens = sum(update.tokens for update in kept)
    seconds, flops = (sum(getattr(u, name) for u in kept) for name in ("seconds", "flops"))
    compiling = sum(u.seconds - usual * u.tokens for u in timed if u not in kept)
    return seconds / tokens, flops / tokens, compiling
