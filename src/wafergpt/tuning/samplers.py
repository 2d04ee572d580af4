"""What chooses the settings of trials, and what stops them early: Optuna's, by name."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal

from wafergpt.errors import InputError

if TYPE_CHECKING:
    import optuna

Sampler = Literal["tpe", "random", "grid", "gp", "cmaes"]
"""``grid`` tries every combination of lists of values, in their order."""

Pruner = Literal["asha", "hyperband", "none"]

RUNGS = 9
"""A trial's whole length, in the unit of its rungs: a ninth, a third, and the whole."""

REDUCTION = 3
"""Of the trials at a rung, one in so many goes on."""

RANDOM_TRIALS = 4
"""Trials before a sampler uses what others found."""

LEAST_TO_TELL = 2 * RANDOM_TRIALS
"""Trials with a value from which importances are told."""


def sampler_of(name: Sampler, seed: int, objectives: int) -> optuna.samplers.BaseSampler:
    """Return a sampler; that of a grid chooses nothing.

    Raises:
        InputError: if it knows one objective and there are several, or a package is missing.
    """
    from optuna import samplers

    if name == "tpe":
        # Settings that another process is trying are not tried beside it.
        return samplers.TPESampler(seed=seed, n_startup_trials=RANDOM_TRIALS, constant_liar=True)
    if name == "gp":
        return samplers.GPSampler(seed=seed, n_startup_trials=RANDOM_TRIALS)
    if name == "cmaes":
        if objectives > 1:
            raise InputError("CMA-ES knows one objective: --sampler tpe")
        if find_spec("cmaes") is None:
            raise InputError("CMA-ES needs a package: pip install 'wafergpt[tune]'")
        return samplers.CmaEsSampler(seed=seed, n_startup_trials=RANDOM_TRIALS)
    return samplers.RandomSampler(seed=seed)


def pruner_of(name: Pruner) -> optuna.pruners.BasePruner:
    """Return a pruner of trials that report at rungs, of which the whole length has ``RUNGS``."""
    from optuna import pruners

    if name == "asha":
        return pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=REDUCTION)
    if name == "hyperband":
        return pruners.HyperbandPruner(1, RUNGS, REDUCTION)
    return pruners.NopPruner()
