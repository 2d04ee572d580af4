"""From a recipe to an engine that is ready for the first update: for trainings and for plans."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from wafergpt.checkpoint import store
from wafergpt.checkpoint.format import Stored
from wafergpt.config import Recipe
from wafergpt.data.tokenizer import Tokenizer
from wafergpt.data.tokenizer_files import SPELLING
from wafergpt.distributed.collectives import ProcessGroup
from wafergpt.engines.base import ROUNDS, Engine, engine_for
from wafergpt.errors import InputError, nearest
from wafergpt.logs import say, silent
from wafergpt.planning.hardware import Machine
from wafergpt.planning.intervals import counted_horizon, horizon, with_intervals
from wafergpt.planning.plan import passes_warning
from wafergpt.planning.schedule_check import schedule_warning
from wafergpt.progress import working
from wafergpt.runs.run import Run
from wafergpt.shapes.sparse import mask_warning
from wafergpt.tasks.base import Splits, Task, is_of_task, task_of
from wafergpt.tasks.labelled_task import LabelledTask
from wafergpt.train.teacher import teacher_of

UPDATES_WORTH_TIMING, BRIEF_SECONDS = 100, 1.0
"""Updates of a run whose first ones are timed for its plan alone, and the seconds for that."""

UPDATES_PER_TIMED = 8
"""Of so many updates of a short training one is timed before it: else timing would take longer than
the training."""


@dataclass(frozen=True)
class Setup:
    """A training that is ready to begin.

    Attributes:
        recipe: with every ``auto`` settled; horizon and intervals too, once ``settled``.
        task: what is learned.
        tokenizer: that the task reads with.
        splits: the encoded data.
        machine: as measured.
        engine: with the network in place.
        update_seconds: of an update, as it will run; 0 if it was not timed.
        compile_seconds: that compiling took.
    """

    recipe: Recipe
    task: Task
    tokenizer: Tokenizer
    splits: Splits
    machine: Machine
    engine: Engine
    update_seconds: float = 0.0
    compile_seconds: float = 0.0


def require_metric(task: Task) -> None:
    """Check ``evaluate.metric``.

    Raises:
        InputError: if the task has no such metric.
    """
    metric = task.recipe.evaluate.metric
    if metric not in task.metrics:
        own = task.recipe.task
        what = "a language model" if own is None else f"task.name={own.name}"
        raise InputError(
            f"evaluate.metric={metric} is no metric of {what}{nearest(metric, task.metrics)} "
            f"(there are {', '.join(task.metrics)})"
        )


def set_up(recipe: Recipe, group: ProcessGroup, start: Run | None, run: Run | None = None) -> Setup:
    """Read the data, settle what depends on the machine, and place the network.

    Args:
        recipe: as asked for; for a resume, the run's own.
        group: the processes of this training.
        start: a run to initialize the weights from.
        run: the run to resume.

    Raises:
        InputError: if the recipe is impossible or the data unusable.
    """
    make_engine = engine_for(recipe.system.device)
    make_engine.require(recipe)
    if run is None:
        _require_rows(recipe, start)
    asked = task_of(recipe)
    tokenizer = asked.tokenizer(_tokenizer_of(run or start))
    recipe, splits = asked.prepare(tokenizer)
    recipe, machine = make_engine.settle(recipe, group)
    _require_whole_weights(recipe, group)
    recipe, teacher = teacher_of(task_of(recipe), tokenizer)
    recipe, weights = _initial(recipe, start)
    task = task_of(recipe)
    task.teacher = teacher
    if start is not None and start.recipe.task is not None:
        task.before = task_of(start.recipe)
        # It has read the rows.
        _warn_of_learned_rows(asked, task.before, start)
    if run is None:
        task.recipe = recipe = task.sized(splits, weights)
    with working("making the network"):
        engine = make_engine(recipe, machine, task, splits, group, weights)
    return Setup(recipe, task, tokenizer, splits, machine, engine)


def settled(setup: Setup, stop: Callable[[], bool]) -> Setup:
    """Settle the horizon, the intervals and whether to compile, on the leader.

    Args:
        setup: of ``set_up``.
        stop: called between timed updates; if true, no more are timed.
    """
    recipe, train = setup.recipe, setup.recipe.train
    epoch = setup.splits.train.samples_per_epoch
    rounds = ROUNDS
    if not train.seconds:
        # The horizon is known before anything is timed.
        steps = horizon(recipe, epoch)
        _warn(setup, steps)
        rounds = max(1, min(ROUNDS, steps // UPDATES_PER_TIMED))
    seconds = 0.0
    if train.seconds or recipe.system.compile == "auto":
        with working("timing updates"):
            seconds = setup.engine.seconds_per_update(stop, rounds=rounds)
    steps = horizon(recipe, epoch, seconds)
    if not seconds and recipe.system.compile == "off" and steps >= UPDATES_WORTH_TIMING:
        # Only the run's own plan needs it.
        with working("timing updates"):
            seconds = setup.engine.seconds_per_update(stop, max_seconds=BRIEF_SECONDS)
    updates = train.samples(steps) / train.batch_size
    start = time.monotonic()
    compiled, seconds = setup.engine.choose_compilation(updates, seconds, stop)
    if train.seconds:
        # More compiled ones fit.
        steps = horizon(recipe, epoch, seconds)
        _warn(setup, steps)
        whole = counted_horizon(recipe, epoch) or steps
        if steps < whole:
            say(f"in train.seconds={train.seconds:g} it makes {steps:,} of {whole:,} updates here")
    recipe = recipe.replace(system={"compile": "on" if compiled else "off"})
    recipe = with_intervals(recipe, steps)
    setup.task.recipe = recipe
    compile_seconds = time.monotonic() - start if compiled else 0.0
    return replace(setup, recipe=recipe, update_seconds=seconds, compile_seconds=compile_seconds)


def _tokenizer_of(source: Run | None) -> Tokenizer | None:
    if source is None or not source.tokenizer.is_file():
        return None
    found = Tokenizer.load(source.tokenizer)
    if getattr(source.recipe.task, "spelling", False) and found.spelling is None:
        raise InputError(f"{source.tokenizer.with_name(SPELLING)} is missing")
    return found


def _initial(recipe: Recipe, start: Run | None) -> tuple[Recipe, Stored | None]:
    """Return the weights to start from, and the recipe with their hash if they stay frozen."""
    if start is not None and start.recipe.lora.rank:
        say(f"{start.path} holds adapters: the weights to start from have them merged in")
    if recipe.lora.rank:
        weights, digest = store.base_weights(recipe, start)
        if start is None and is_of_task(weights):
            # The run's own head is in its checkpoint.
            weights = weights.below("gpt.")
        return recipe.replace(lora={"base_sha256": digest}), weights
    return recipe, None if start is None else store.weights(start)


def _require_rows(recipe: Recipe, start: Run | None) -> None:
    """Require that rows which are said to be left of tables are those of the run to start from."""
    there = Recipe() if start is None else start.recipe
    keys = [("model", "ngram_kept"), ("model", "ngram_ids")]
    if not (recipe.data.fingerprint and getattr(recipe.task, "ngram_ratios", False)):
        # Else it is the recipe of a run, whose rows are counted again.
        keys.append(("task", "ngram_kept"))
    for section, key in keys:
        asked, found = (getattr(getattr(r, section), key, None) for r in (recipe, there))
        if asked and asked != found:
            raise InputError(
                f"{section}.{key} is set by prune, which takes rows out of a trained run: leave it "
                "out"
            )


def _require_whole_weights(recipe: Recipe, group: ProcessGroup) -> None:
    if group.size == 1 or recipe.system.shard == 1:
        return
    if recipe.task is not None:
        raise InputError("fine-tuning needs the whole weights in each process: system.shard=1")
    if recipe.evaluate.prompts:
        raise InputError(
            "no process has the whole weights to sample from evaluate.prompts: "
            "set evaluate.prompts=[] or system.shard=1"
        )


def _warn(setup: Setup, steps: int) -> None:
    """Log what speaks against a run of so many steps."""
    recipe, splits = setup.recipe, setup.splits
    passes = recipe.train.samples(steps) / splits.train.samples_per_epoch
    for warning in (
        schedule_warning(recipe, steps),
        mask_warning(recipe.sparsity, steps),
        passes_warning(recipe, round(passes * splits.tokens), splits.tokens),
    ):
        if warning:
            say(f"warning: {warning}")


def _warn_of_learned_rows(task: Task, before: Task, start: Run) -> None:
    """Warn if held-out rows are among those that the run to start from has learned.

    Args:
        task: of the training, its rows read.
        before: the run's.
        start: the run, whose rows may be gone by now.
    """
    if not (isinstance(task, LabelledTask) and isinstance(before, LabelledTask)):
        return
    try:
        with silent():
            learned = set(before.tables.train.texts)
    except (InputError, OSError):
        return
    for name in ("validation", "test"):
        table = getattr(task.tables, name)
        texts = [] if table is None else table.texts
        seen = sum(text in learned for text in texts)
        if seen:
            say(
                f"warning: {start.path} has learned from {seen:,} of {len(texts):,} {name} rows: "
                "what is measured on them is too good"
            )
