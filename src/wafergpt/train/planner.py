"""Plans: measured where that is possible in reasonable time, else estimated."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from wafergpt.config import Recipe
from wafergpt.errors import InputError
from wafergpt.planning.budget import (
    MAX_TOKENS_PER_PARAMETER,
    TIE,
    Budget,
    Kind,
    best,
    bought,
    candidates,
    not_taken,
)
from wafergpt.planning.estimate import RowFacts, estimate
from wafergpt.planning.hardware import Machine
from wafergpt.planning.plan import UNDERTRAINED, Candidate, Plan
from wafergpt.progress import duration, working
from wafergpt.runs.run import RUNS, Run
from wafergpt.tasks.augmented import excerpts
from wafergpt.tasks.base import task_of
from wafergpt.tasks.labelled_task import LabelledTask
from wafergpt.tasks.text_task import TextTask
from wafergpt.train.measure_process import NoMemoryError, measured, speeds

LONGEST_UPDATE = 20.0
"""Seconds; where an update is estimated to take longer, nothing is measured."""

ADJUSTMENTS = 3
"""How often a plan is fitted to its budget."""

LEAST_USED_SHARE = 0.93
MOST_USED_SHARES: Mapping[Kind, float] = {"seconds": 1.0, "tokens": 1.01, "flops": 1.01}
"""Shares of a budget that a plan should use."""

BYTES_PER_TOKEN = 4

PADDING_RATIO = 1.1
"""Tokens of a batch over those of its texts, which are of similar length."""

HELD_OUT_SHARE = 0.1
"""Rows that an estimate takes to be evaluated, as a share of the training rows."""


def plan_training(
    recipe: Recipe, machine: Machine, start: Run | None, quick: bool, root: Path = RUNS
) -> Plan:
    """Plan a training by beginning it in processes of its own, which then end.

    Args:
        recipe: as asked for.
        machine: with the memory that is free.
        start: the language model to start from.
        quick: only estimate.
        root: the folder of runs.

    Returns:
        A measured plan; an estimate if that is asked for, there is no data yet, or measuring needs
        more memory or time than there is.

    Raises:
        InputError: if the recipe is impossible or the data unusable.
        RunFailed: if a measuring process fails.
    """
    has_data = recipe.data.corpus is not None or recipe.task is not None
    why = "nothing was run: start-up and saving are not counted"
    if not quick:
        why = _why_not(recipe, machine) if has_data else "there is no data: this is an estimate"
    if why:
        plan = estimate(recipe, machine, _rows(recipe))
        return replace(plan, notes=(*plan.notes, why))
    try:
        return measured(recipe, start, root).plan(recipe, machine)
    except NoMemoryError:
        plan = estimate(recipe, machine, _rows(recipe))
        note = "a process that began it found no memory: this is an estimate"
        memory = max(plan.memory_bytes, machine.memory_available)
        return replace(plan, memory_bytes=memory, notes=(*plan.notes, note))


def plan_budget(
    recipe: Recipe,
    budget: Budget,
    machine: Machine,
    start: Run | None,
    quick: bool,
    root: Path = RUNS,
) -> Plan:
    """Plan the best model that a budget buys, among shapes that are measured.

    Args:
        recipe: whose shape, batch, horizon, schedule and learning rate are chosen.
        budget: how much it may cost.
        machine: with the memory that is free.
        start: must be None: a budget chooses the shape, and a start run fixes it.
        quick: only estimate.
        root: the folder of runs.

    Raises:
        InputError: if the recipe has a task or another run's shape, or the data is unusable.
        RunFailed: if a measuring process fails.
    """
    if recipe.train.teacher is not None:
        raise InputError("--budget has no rule for a train.teacher: leave it out")
    if recipe.task is not None or start is not None:
        raise InputError("--budget chooses the shape of a language model that is trained afresh")
    found = candidates(recipe, budget, machine)
    if not quick and recipe.data.corpus is not None:
        found = _with_measured_speeds(found, budget, machine)
    aim = budget
    for left in range(ADJUSTMENTS, -1, -1):
        chosen = best(found)
        plan = plan_training(chosen.recipe, machine, None, quick, root)
        used = plan.cost(budget.kind) / budget.amount
        enough = LEAST_USED_SHARE <= used <= MOST_USED_SHARES[budget.kind]
        if not left or plan.steps == 1 or budget.kind == "tokens" or enough:
            break
        if budget.kind == "flops":
            # A sampled softmax costs more where only a part of the batch fits at a time.
            aim = replace(aim, amount=aim.amount / used)
        overhead = plan.seconds - plan.time.updates
        found = [
            bought(
                one.recipe, aim,
                plan.tokens_per_second if one is chosen else one.tokens_per_second,
                overhead, one.measured,
            )
            for one in found
        ]  # fmt: skip
    rest = sorted((one for one in found if one is not chosen), key=lambda one: one.loss)
    notes = [note for note in plan.notes if UNDERTRAINED not in note]
    notes += _on_budget(plan, budget, recipe, chosen, rest)
    return replace(plan, candidates=(chosen, *rest), notes=tuple(notes))


def _with_measured_speeds(
    found: Sequence[Candidate], budget: Budget, machine: Machine
) -> list[Candidate]:
    """Return shapes by the speed of those whose updates are quick enough to be timed."""
    quick_enough = [c for c in found if not _why_not(c.recipe, machine)]
    with working(f"timing {len(quick_enough)} shapes"):
        rates = speeds([c.recipe for c in quick_enough]) if quick_enough else []
    # Slow updates are not those of the largest shapes alone: small ones have larger batches.
    of_shape = {id(c): rate for c, rate in zip(quick_enough, rates, strict=True) if rate}
    return [
        bought(c.recipe, budget, of_shape[id(c)], measured=True) if id(c) in of_shape else c
        for c in found
    ]


def _on_budget(
    plan: Plan, budget: Budget, asked: Recipe, chosen: Candidate, rest: Sequence[Candidate]
) -> Iterator[str]:
    """Yield what is not as expected of a plan for a budget."""
    if others := not_taken(asked, chosen.recipe):
        yield f"chosen by the budget, and so not {', '.join(others)}"
    lower = [one for one in rest if (1 + TIE) * one.loss < chosen.loss]
    if any(one.tokens_per_parameter > MAX_TOKENS_PER_PARAMETER for one in lower):
        yield (
            "a smaller shape is not chosen for its lower expected loss if it would read more than "
            f"{MAX_TOKENS_PER_PARAMETER:g} tokens per parameter: the law was fitted on fewer"
        )
    spent = plan.cost(budget.kind)
    shown = duration if budget.kind == "seconds" else lambda n: f"{n:,.3g} {budget.kind}"
    if spent > MOST_USED_SHARES[budget.kind] * budget.amount:
        yield (
            f"this takes {shown(spent)}, more than the budget of {shown(budget.amount)}, which is "
            "too small"
        )
    elif spent < LEAST_USED_SHARE * budget.amount:
        yield f"this takes {shown(spent)} of the budget's {shown(budget.amount)}"


def _why_not(recipe: Recipe, machine: Machine) -> str:
    """Return why a training cannot be begun to measure it, without reading its rows; "" if not."""
    horizon = {"steps": 1, "tokens": None, "epochs": None, "seconds": None}
    rows = RowFacts(1, recipe.sequences * recipe.model.seq_len, 1, 1) if recipe.task else None
    one = estimate(recipe.replace(train=horizon, schedule={"warmup": 0}), machine, rows)
    if not one.fits:
        return "nothing was run, for lack of memory: this is an estimate"
    update = one.time.updates
    if update > LONGEST_UPDATE:
        return f"an update takes about {duration(update)} here: this is an estimate"
    return ""


def _rows(recipe: Recipe) -> RowFacts | None:
    """Return about how many tokens a task's rows have: a token is about four bytes."""
    if recipe.task is None:
        return None
    task = task_of(recipe)
    limit, samples = recipe.task.max_tokens or recipe.model.seq_len, recipe.task.samples_per_row

    def tokens(texts: Iterable[str]) -> list[int]:
        sizes = (len(text.encode(errors="replace")) / BYTES_PER_TOKEN for text in texts)
        return [min(limit, max(1, math.ceil(size))) for size in sizes]

    lengths = tokens(task.texts())
    # A row of some tasks has several texts.
    n = len(task.tables.train.texts) if isinstance(task, LabelledTask) else len(lengths)
    held_out = round(n * HELD_OUT_SHARE)
    whole = samples * sum(lengths)
    if isinstance(task, TextTask) and (count := task.settings.excerpts):
        shorter = excerpts(task.tables.train, count, recipe.seed)
        whole += sum(sum(tokens(table.texts)) for table in shorter) - count * sum(lengths)
    length = max(1.0, PADDING_RATIO * whole / max(n * samples, 1))
    return RowFacts(n * samples, length, held_out, 2 * held_out)
