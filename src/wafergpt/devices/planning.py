"""``wafergpt.plan``: a plan for this machine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from wafergpt.config import Recipe, load_recipe
from wafergpt.devices.probe import probe
from wafergpt.errors import InputError
from wafergpt.scaling.budget import recipe_for, seconds_of
from wafergpt.scaling.plan import HasPath, Plan
from wafergpt.scaling.plan import plan as plan_for


def plan(
    what: Recipe | HasPath | str | Path | None = None,
    overrides: Sequence[str] = (),
    *,
    budget: str | float | None = None,
    fresh: bool = False,
) -> Plan:
    """Say what a training will cost on this machine, or what a budget of time buys.

    Args:
        what: a corpus or its folder; or a recipe, a YAML file, or a shipped recipe's name.
        overrides: ``section.key=value`` strings.
        budget: time such as ``"30m"`` or ``"2h"``, or seconds: shape, tokens, batch and learning
            rate are then chosen for it.
        fresh: measure the machine again instead of using what was measured before.

    Raises:
        InputError: on an impossible recipe or budget, or a device that is not here.
    """
    seconds = None if budget is None else seconds_of(budget)
    recipe = _recipe(what, overrides)
    if recipe.system.device == "cerebras":
        raise InputError(
            "a Cerebras system cannot be measured from here: --lower says what one training step "
            "becomes there, and without system.device=cerebras this machine is planned for"
        )
    machine = probe(recipe.system.device, fresh=fresh)
    if seconds is not None:
        recipe = recipe_for(recipe, seconds, machine)
    return plan_for(recipe, machine)


def _recipe(what: Recipe | HasPath | str | Path | None, overrides: Sequence[str]) -> Recipe:
    if isinstance(what, Recipe):
        changes = load_recipe(None, overrides).model_dump(exclude_unset=True)
        return what.replace(**changes) if changes else what
    if what is not None and not isinstance(what, str | Path):
        what = what.path
    if what is not None and Path(what).is_dir():
        recipe = load_recipe(None, overrides)
        # As it is: an override might be read as another path.
        return recipe if recipe.data.corpus else recipe.replace(data={"corpus": Path(what)})
    return load_recipe(what, overrides)
