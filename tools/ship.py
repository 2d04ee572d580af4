"""Makes a trained language model one that comes with the package: int8 weights, and its card.

    python tools/ship.py runs/base

writes src/wafergpt/shipped/base, which ``wafergpt finetune base`` finds where no run has the name.
The card is tools/base.md, with the run's own numbers filled in.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path
from typing import Any

from wafergpt import atomic_files
from wafergpt.checkpoint import store
from wafergpt.checkpoint.format import WEIGHTS, Stored, as_int8, weights_sha256
from wafergpt.config import Recipe
from wafergpt.config.system import System
from wafergpt.data.tokenizer import Tokenizer
from wafergpt.decoding.generator import Sampling
from wafergpt.inference.writer import Writer
from wafergpt.runs.run import SHIPPED, Run

LIMIT = 16_000_000
"""Bytes of all files of one model."""

PROMPTS = ("The history of the city", "She looked at him and said")


def ship(run: Run, card: str) -> Path:
    """Write the shipped form of a run; it appears whole or not at all.

    Args:
        run: a finished language model.
        card: the text of its card, in which ``{facts}``, ``{curve}`` and ``{samples}`` are
            replaced.

    Returns:
        The folder.
    """
    result = run.read("result")
    curve = [row for row in run.metrics() if "val_loss" in row]
    facts = {key: result[key] for key in ("step", "tokens", "parameters", "val_loss", "loss")}
    target, built = SHIPPED / run.name, SHIPPED / f"{run.name}.new"
    with atomic_files.appearing(built) as temporary:
        made = Run(temporary)
        made.checkpoints.mkdir()
        # Paths and devices of this machine are nobody else's.
        made.save_recipe(run.recipe.replace(data={"corpus": None}, system=System().model_dump()))
        Tokenizer.load(run.tokenizer).save(made.tokenizer)
        weights = as_int8(dict(store.weights(run)))
        folder = store.save_weights(weights, made, result["step"])
        for tensors in folder.glob("*.safetensors"):
            # safetensors writes files for the owner only.
            tensors.chmod(0o644)
        for row in curve:
            made.log(row)
        sha256 = weights_sha256(Stored(folder, WEIGHTS))
        made.write("result", {"run": run.name, **facts, "weights_sha256": sha256})
        text = (
            card.replace("{facts}", _facts(run.recipe, facts))
            .replace("{curve}", _curve(curve))
            .replace("{samples}", _samples(made))
        )
        atomic_files.write_text(temporary / "README.md", text)
    shutil.rmtree(target, ignore_errors=True)
    return built.rename(target)


def _facts(recipe: Recipe, facts: dict[str, Any]) -> str:
    model = recipe.model
    rows = {
        "shape": f"{model.n_layers} layers, d_model {model.d_model}, {model.n_heads} heads, "
        f"context {model.seq_len}",
        "vocabulary": f"{model.vocab_size:,} (byte-level BPE)",
        "parameters": f"{facts['parameters']:,}, stored as int8 with one scale per row",
        "training tokens": f"{facts['tokens']:,}",
        "optimizer": f"{recipe.optimizer.name}, learning rate {recipe.optimizer.lr:g}, "
        f"{recipe.schedule.name} schedule, batches of {recipe.train.batch_size} sequences",
        "validation loss": f"{facts['val_loss']:.4f} nats per token",
    }
    return "\n".join(
        ["| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in rows.items())]
    )


def _curve(rows: list[dict[str, Any]]) -> str:
    lines = ["| tokens | validation loss | bits per byte |", "|---|---|---|"]
    for row in rows[:: max(1, len(rows) // 10)]:
        bits = row.get("val_bits_per_byte")
        shown = "" if bits is None else f"{bits:.3f}"
        lines.append(f"| {row['tokens']:,} | {row['val_loss']:.3f} | {shown} |")
    return "\n".join(lines)


def _samples(run: Run) -> str:
    writer = Writer.load(run, "cpu")
    sampling = Sampling(max_tokens=60, seed=1)
    texts = (f"{prompt}{writer.write(prompt, sampling)}" for prompt in PROMPTS)
    return "\n\n".join("> " + " ".join(text.split()) for text in texts)


def main() -> None:
    """Ship the run that is named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    run = Run.find(parser.parse_args().run)
    card = Path(__file__).with_name(f"{run.name}.md").read_text(encoding="utf-8")
    folder = ship(run, card)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    if size > LIMIT:
        sys.exit(f"{folder} has {size:,} bytes, more than {LIMIT:,}")
    print(f"{folder}: {size:,} bytes")


if __name__ == "__main__":
    main()
