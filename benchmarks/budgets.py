"""What a budget of time chose, beside its neighbours: each shape is trained for the same time.

The shapes, batches and tokens are those of ``wafergpt plan --budget``; a shape's tokens are what
its measured speed reads in the budget, so the losses do not depend on what else runs.

    python benchmarks/budgets.py --out budgets --budgets 2m 10m
    python benchmarks/budgets.py --out budgets --table
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from pathlib import Path
from typing import Any

from wafergpt import atomic_files
from wafergpt.api import plan, pretrain
from wafergpt.config import Recipe, recipe_from
from wafergpt.data.prepare import prepare
from wafergpt.planning.budget import best

DATA = Path(os.environ.get("WAFERGPT_DATA", "../shared/data"))
SOURCES = {
    "wiki": DATA / "wikipedia_en" / "articles.jsonl.xz",
    "novels": DATA / "english_novels" / "novels.jsonl.xz",
}
VOCABULARY = 8192
BATCHES = 100
"""Validation batches of the last evaluation, the only one."""


def chosen(corpus: str, budget: str, out: Path) -> dict[str, Any]:
    """Plan a budget; return its candidates, the chosen one first."""
    folder = out / corpus
    if not folder.exists():
        prepare(SOURCES[corpus], folder, vocab_size=VOCABULARY)
    found = plan(None, [f"data.corpus={folder}"], budget=budget)
    first = best(found.candidates)
    others = [one for one in found.candidates if one is not first]
    recipes = [found.recipe(), *(one.recipe for one in others)]
    return {"seconds": found.seconds, "recipes": [r.model_dump(mode="json") for r in recipes]}


def loss(recipe: Recipe, out: Path) -> dict[str, Any]:
    """Train by a recipe; return its validation loss and what it took."""
    shutil.rmtree(out / "runs" / "run", ignore_errors=True)
    once = {"every": 1 << 40, "batches": BATCHES}
    recipe = recipe.replace(name="run", evaluate=once, checkpoint={"every": 1 << 40, "keep": 1})
    result = pretrain(recipe, root=out / "runs").read("result")
    return {key: result[key] for key in ("val_loss", "tokens", "parameters", "elapsed")}


def table(cells: dict[str, Any]) -> str:
    """Return all results as Markdown."""
    lines = [
        "| corpus, budget | planned | chosen | its loss | best neighbour | ratio |",
        "|---" * 6,
    ]
    lines[1] += "|"
    for name, cell in cells.items():
        losses = cell["losses"]
        if len(losses) < len(cell["recipes"]):
            lines.append(f"| {name} | {len(losses)} of {len(cell['recipes'])} trained | | | | |")
            continue
        shapes = [f"{r['model']['n_layers']} × {r['model']['d_model']}" for r in cell["recipes"]]
        values = [one["val_loss"] for one in losses]
        place = min(range(1, len(values)), key=values.__getitem__)
        lines.append(
            f"| {name} | {cell['seconds']:.0f} s, took {losses[0]['elapsed']:.0f} s | {shapes[0]} "
            f"| {values[0]:.3f} | {shapes[place]}: {values[place]:.3f} "
            f"| {values[0] / min(values):.4f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Train what has not been trained yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("budgets"))
    parser.add_argument("--budgets", nargs="*", default=["2m", "10m"])
    parser.add_argument("--corpora", nargs="*", choices=SOURCES, default=list(SOURCES))
    parser.add_argument("--table", action="store_true", help="Only print what is there.")
    asked = parser.parse_args()
    out = asked.out.resolve()
    file = out / "cells.json"
    cells: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    wanted = [] if asked.table else [(c, b) for b in asked.budgets for c in asked.corpora]
    for corpus, budget in wanted:
        out.mkdir(parents=True, exist_ok=True)
        name = f"{corpus}, {budget}"
        if name not in cells:
            cells[name] = {**chosen(corpus, budget, out), "losses": []}
            atomic_files.write_json(file, cells)
        cell = cells[name]
        for recipe in cell["recipes"][len(cell["losses"]) :]:
            cell["losses"].append(loss(recipe_from(recipe), out))
            atomic_files.write_json(file, cells)
            print(name, cell["losses"][-1], flush=True)
    print(table(cells))


if __name__ == "__main__":
    main()
