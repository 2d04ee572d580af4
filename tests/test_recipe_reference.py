"""docs/recipe.md says of every key that people may set what the code says."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

from wafergpt.config.keys import keys_of
from wafergpt.config.recipe import Recipe
from wafergpt.config.registry import TASKS, imported

SET_BY_RUNS = {
    "start", "tune", "data.fingerprint", "lora.base_sha256", "model.ngram_ids", "model.ngram_kept",
    "train.teacher_sha256", "task.abstain_below", "task.center", "task.end_of_text", "task.known",
    "task.labels", "task.ngram_kept", "task.no_answer", "task.no_answer_margin", "task.offsets",
    "task.priors", "task.scale", "task.units",
}  # fmt: skip
"""Those that no recipe needs to have; ``tune`` is in the opening."""

TOOL = Path(__file__).parents[1] / "tools" / "recipe_reference.py"


def test_the_page_is_made_from_the_code() -> None:
    tool = runpy.run_path(str(TOOL))
    assert tool["page"]() == tool["PAGE"].read_text(encoding="utf-8"), f"run python {TOOL}"


def test_every_key_that_people_may_set_has_a_meaning() -> None:
    text = runpy.run_path(str(TOOL))["page"]()
    rows = [
        re.split(r"(?<!\\)\|", line)[1:] for line in text.splitlines() if line.startswith("| `")
    ]
    named = {key.strip(" `"): meaning.strip() for key, _, meaning, *_ in rows}
    assert all(named.values())
    assert not re.search("set by the run|set by prune|Undefined", text)
    tasks = [imported(where).Settings for where in TASKS.values()]
    keys = {*keys_of(Recipe), *(f"task.{key}" for task in tasks for key in keys_of(task))}
    # What is left are those that a run sets.
    assert keys - set(named) == SET_BY_RUNS
