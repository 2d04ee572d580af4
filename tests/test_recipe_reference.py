"""docs/recipe.md says of every key that people may set what the code says."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

from wafergpt.config.keys import keys_of
from wafergpt.config.recipe import Recipe

TOOL = Path(__file__).parents[1] / "tools" / "recipe_reference.py"


def test_the_page_is_made_from_the_code() -> None:
    tool = runpy.run_path(str(TOOL))
    assert tool["page"]() == tool["PAGE"].read_text(encoding="utf-8"), f"run python {TOOL}"


def test_every_key_has_a_meaning() -> None:
    text = runpy.run_path(str(TOOL))["page"]()
    rows = [line.split("|")[1:] for line in text.splitlines() if line.startswith("| `")]
    named = {key.strip(" `"): meaning.strip() for key, _, meaning, *_ in rows}
    assert all(named.values())
    own = {"start", "tune"} | {
        key for key in keys_of(Recipe) if re.search("sha256|fingerprint", key)
    }
    own |= {"model.ngram_kept", "model.ngram_ids"}
    assert set(keys_of(Recipe)) - own <= set(named)
    assert "task.excerpts" in named
