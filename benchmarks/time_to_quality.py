"""Time to a fixed validation loss, beside a plain GPT-2 of the same size.

The rival is what a nanoGPT user trains: AdamW, a cosine, compiled, bf16 where that is faster; its
learning rate is the best of several on the validation text, and its last loss is the target. Then
ours is trained with ever shorter horizons, and with one ingredient less at the shortest horizon
that reached the target. Seconds are those of updates: start-up, compiling and evaluation are left
out of both, so compiling is free for whoever profits from it. Cells are kept and not run again.

    python benchmarks/time_to_quality.py --out ttq            # about an hour and a half
    python benchmarks/time_to_quality.py --out ttq --table
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.cells import Cell, Cells, parser
from wafergpt.api import pretrain
from wafergpt.config import load_recipe
from wafergpt.data.prepare import prepare

DATA = Path(os.environ.get("WAFERGPT_DATA", "../shared/data"))
CORPORA: dict[str, tuple[Path, int, list[str], int]] = {
    # The published CPU setting of nanoGPT on characters: 4 layers, 2,000 updates of 12 × 64 tokens.
    "shakespeare": (
        DATA / "tinyshakespeare" / "input.txt.gz", 257,
        ["model.n_layers=4", "model.d_model=128", "model.n_heads=4", "model.seq_len=64",
         "train.batch_size=12"],
        2000 * 12 * 64,
    ),
    "wikipedia": (
        DATA / "wikipedia_en" / "articles.jsonl.xz", 8192,
        ["model.n_layers=4", "model.d_model=256", "model.n_heads=4", "model.seq_len=256",
         "train.batch_size=16"],
        4_000_000,
    ),
}  # fmt: skip
"""Source, vocabulary, shape and batch, and the rival's tokens."""

RIVAL = [
    "optimizer.name=adamw", "optimizer.beta2=0.99", "schedule.name=cosine", "schedule.warmup=5%",
    "schedule.final=0.1",
]  # fmt: skip
RATES = (5e-4, 1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2)
"""Tried in this order, until the loss rises."""

NGRAMS = {
    "shakespeare": ["model.ngrams=[2, 3, 4, 5]", "model.ngram_rows=65536"],
    "wikipedia": ["model.ngrams=[2, 3]", "model.ngram_rows=262144"],
}
"""Of characters, of which there are few, longer ones."""

OURS: dict[str, list[str]] = {
    "Muon": ["optimizer.name=muon"],
    "linear decay to zero": ["schedule.name=linear", "schedule.final=0"],
    "sampled softmax": ["train.sampled_softmax=1024"],
}
SHARES = (0.5, 0.33, 0.25, 0.17, 0.12, 0.09, 0.06)
"""Horizons of ours, in the rival's tokens."""


def trained(corpus: str, settings: list[str], tokens: int, out: Path) -> dict[str, Any]:
    """Train once; return the validation loss, the seconds of the updates and the parameters."""
    source, vocabulary, shape, _ = CORPORA[corpus]
    folder = out / corpus
    if not folder.exists():
        prepare(source, folder, vocab_size=vocabulary)
    shutil.rmtree(out / "runs" / "run", ignore_errors=True)
    once = [f"evaluate.every={1 << 40}", "evaluate.batches=100", f"checkpoint.every={1 << 40}"]
    fixed = [f"data.corpus={folder}", f"train.tokens={tokens}", "system.compile=on", "name=run"]
    recipe = load_recipe(None, [*shape, *fixed, *once, *settings])
    result = pretrain(recipe, root=out / "runs").read("result")
    return {
        "loss": result["val_loss"],
        "seconds": result["time"]["updates"],
        "parameters": result["parameters"],
    }


def cell_of(cells: Cells, corpus: str, what: str, settings: list[str], tokens: int) -> Cell:
    """Return a cell, which is trained if it was not yet with these settings."""
    name, asked = f"{corpus}: {what}", {"settings": settings, "tokens": tokens}
    if cells.get(name, {}).get("asked") != asked:
        cells.pop(name, None)
    cells.measure(name, lambda: {**trained(corpus, settings, tokens, cells.out), "asked": asked})
    return cells[name]


def _ingredients(corpus: str) -> dict[str, list[str]]:
    """Return the ingredients of ours; a softmax of few tokens leaves nothing to sample from."""
    few = CORPORA[corpus][1] <= 1024
    others = {name: some for name, some in OURS.items() if name != "sampled softmax" or not few}
    return {"n-grams": NGRAMS[corpus], **others}


def _ours(but: str | None, corpus: str) -> list[str]:
    """Return the settings of ours, but for one ingredient."""
    parts = [some for name, some in _ingredients(corpus).items() if name != but]
    return [*RIVAL, *(setting for some in parts for setting in some)]


def _tuned(
    corpus: str, what: str, settings: list[str], tokens: int, rates: Sequence[float], cells: Cells
) -> tuple[float, float]:
    """Return the lowest loss over learning rates, and its rate."""
    found: list[tuple[float, float]] = []
    for rate in rates:
        asked = [*settings, f"optimizer.lr={rate}"]
        found.append((cell_of(cells, corpus, f"{what}, lr {rate:g}", asked, tokens)["loss"], rate))
        if len(found) > 1 and found[-1] > found[-2]:
            break
    return min(found)


def measure(corpus: str, cells: Cells) -> None:
    """Train the rival, ours at shorter horizons, and ours with one ingredient less."""
    tokens = CORPORA[corpus][3]
    target, _ = _tuned(corpus, "rival", RIVAL, tokens, RATES, cells)
    reached: tuple[float, float] | None = None
    for share in SHARES:
        what, ours = f"ours, {share:g} of the tokens", _ours(None, corpus)
        loss, rate = _tuned(corpus, what, ours, round(share * tokens), RATES[1:], cells)
        if loss > target:
            break
        reached = share, rate
    if reached is None:
        return
    share, rate = reached
    for but in _ingredients(corpus):
        settings = [*_ours(but, corpus), f"optimizer.lr={rate}"]
        cell_of(cells, corpus, f"ours without {but}, {share:g}", settings, round(share * tokens))


def table(cells: Mapping[str, Cell]) -> str:
    """Return all results as Markdown."""
    lines = ["| | loss | updates | parameters |", "|---|---|---|---|"]
    for name, cell in cells.items():
        seconds = f"{cell['seconds']:.0f} s"
        lines.append(f"| {name} | {cell['loss']:.3f} | {seconds} | {cell['parameters']:,} |")
    return "\n".join(lines)


def main() -> None:
    """Train what has not been trained yet, and print the table."""
    options = parser(__doc__, "ttq")
    options.add_argument("--corpora", nargs="*", choices=CORPORA, default=list(CORPORA))
    asked = options.parse_args()
    cells = Cells(asked.out)
    for corpus in [] if asked.table else asked.corpora:
        measure(corpus, cells)
    print(table(cells))


if __name__ == "__main__":
    main()
