"""What the baselines need, checked before anything is trained."""

from __future__ import annotations

from importlib.util import find_spec

from wafergpt.config import Recipe
from wafergpt.errors import InputError

NEEDS_SKLEARN = "the TF-IDF baseline needs scikit-learn: pip install 'wafergpt[demo]'"


def require_comparable(recipe: Recipe) -> None:
    """Check that baselines can be trained for a recipe's task.

    Raises:
        InputError: if the task is a regression, or scikit-learn is not installed.
    """
    if recipe.task is not None and recipe.task.name != "classify":
        raise InputError(
            f"the baselines are classifiers, and task.name={recipe.task.name} is another task: "
            "omit the baselines"
        )
    if recipe.task is not None and not recipe.task.holds_out:
        raise InputError(
            "baselines stop by validation rows, and task.held_out=0 leaves none; after a refit, "
            "NAME-held-out has them"
        )
    if find_spec("sklearn") is None:
        raise InputError(NEEDS_SKLEARN)
