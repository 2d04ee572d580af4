"""The public function that plans: what a training costs, and what a budget buys."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from wafergpt.api.given import Overrides, overrides_of, root_of
from wafergpt.config import Recipe, load_recipe, recipe_with, shipped_recipes
from wafergpt.errors import InputError
from wafergpt.files import from_home, is_corpus
from wafergpt.logs import say
from wafergpt.runs.run import RUNS, SCRATCH, AnyRun

if TYPE_CHECKING:
    from wafergpt.planning.plan import HasPath, Plan


def plan(
    what: Recipe | HasPath | str | Path | None = None,
    overrides: Overrides = (),
    *,
    start: AnyRun | None = None,
    budget: str | float | None = None,
    quick: bool = False,
    fresh: bool = False,
    machine: str | Path | None = None,
    root: str | Path = RUNS,
) -> Plan:
    """Find out what a training costs on this machine, or what a budget of time buys.

    The training is begun in a process of its own, a few real updates are timed, and it ends: that
    takes seconds. What does not fit into the free memory is only estimated.

    Args:
        what: a corpus or its folder; or a recipe, a YAML file, or a shipped recipe's name.
        overrides: ``section.key=value`` strings, or values by key.
        start: the run to start from, of a fine-tuning or a continued pretraining.
        budget: time such as ``"30m"`` or ``"2h"``, seconds, ``"50M tokens"`` or ``"1e15 FLOPs"``:
            shape, tokens, batch and learning rate are then chosen for it.
        quick: estimate from the machine's measurements alone, and run nothing.
        fresh: measure the machine again instead of using the cached measurements.
        machine: a file that ``wafergpt doctor --json`` printed on another machine, for an estimate
            of what the training costs there.
        root: the folder that holds runs.

    Returns:
        The plan: time in seconds, memory in bytes, the resolved recipe and a predicted loss.

    Raises:
        InputError: if the recipe or budget is impossible, the data unusable, or the device is not
            available.
        RunFailed: if the measuring process fails.
    """
    from wafergpt.devices.probe import probe
    from wafergpt.planning.budget import budget_of
    from wafergpt.planning.hardware import Machine
    from wafergpt.runs.teacher import with_teacher
    from wafergpt.train.finetuning import with_task
    from wafergpt.train.planner import plan_budget, plan_training
    from wafergpt.train.refit import is_worth_it

    root = root_of(root)
    wanted = None if budget is None else budget_of(budget)
    recipe = _planned(what, overrides_of(overrides))
    base = None
    if start is not None and str(start) != SCRATCH:
        from wafergpt.train.resume import beginning, language_model

        base = (language_model if recipe.task is None else beginning)(start, root)
    if recipe.task is not None:
        recipe = with_task(recipe, base, chooses=what is None)
        if what is None and is_worth_it(recipe, base, root):
            say("finetune trains twice, also on the held-out rows (refit): this is one of them")
    elif base is not None:
        from wafergpt.train.resume import on_top_of

        recipe = on_top_of(recipe, base)
    recipe.lora.require_start(base)
    recipe = with_teacher(recipe, root)
    if recipe.system.device == "cerebras":
        raise InputError(
            "a Cerebras system cannot be measured from here: --lower shows one training step "
            "as it is lowered, and without system.device=cerebras the plan is for this machine"
        )
    if machine is None:
        known = probe(recipe.system.host, fresh=fresh)
    else:
        known, quick = Machine.read(from_home(machine)), True
    if wanted is not None:
        return plan_budget(recipe, wanted, known, base, quick, root)
    return plan_training(recipe, known, base, quick, root)


def _planned(what: Recipe | HasPath | str | Path | None, overrides: Sequence[str]) -> Recipe:
    if not isinstance(what, Recipe | str | Path | None):
        what = getattr(what, "path", what)
    if not isinstance(what, Recipe | str | Path | None):
        raise InputError(f"a recipe or a corpus is wanted, or its name or path, not {what!r:.60}")
    if isinstance(what, str | Path) and _is_of_corpus(what):
        recipe = load_recipe(None, overrides)
        # Not as an override, which might be read as another path.
        return recipe if recipe.data.corpus else recipe.replace(data={"corpus": from_home(what)})
    return recipe_with(what, overrides)


def _is_of_corpus(what: str | Path) -> bool:
    """Return whether a folder is meant, and no shipped recipe of its name."""
    folder = from_home(what)
    return folder.is_dir() and (is_corpus(folder) or str(what) not in shipped_recipes())
