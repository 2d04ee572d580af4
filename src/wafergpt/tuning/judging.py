"""The best trial and the default on the same test rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from wafergpt.inference.evaluation import judged
from wafergpt.runs.run import Run
from wafergpt.train.run import write_mistakes


def judge(best: Run, default: Run, rows: Path, metric: str) -> dict[str, Any]:
    """Evaluate two runs on test rows.

    Args:
        best: whose result, outputs and mistakes are completed.
        default: to compare with.
        rows: the file of test rows.
        metric: the objective.

    Returns:
        ``test`` and ``default_test``, the metrics of both; ``difference``, how far the best is
        above the default by the objective, with its interval, where the task can tell.

    Raises:
        InputError: if the rows are unusable.
    """
    ours = judged(best, rows)
    recipe = best.recipe.replace(task={"test": rows.resolve()})
    best.save_recipe(recipe)
    kept = {f"test/{name}": values for name, values in ours.outputs.items()}
    best.write_outputs({**best.read_outputs(), **kept})
    best.write("result", {**best.read("result"), "test": ours.metrics})
    write_mistakes(best, ours.task.mistakes(ours.outputs, ours.evaluated))
    theirs = judged(default, rows)
    found = {"test": ours.metrics, "default_test": theirs.metrics, "difference": None}
    samples = [one.task.resampled(one.outputs, one.evaluated.references) for one in (ours, theirs)]
    one, other = samples
    if one is not None and other is not None and metric in one.whole:
        found["difference"] = one.minus(other, metric).to_dict()
    return found
