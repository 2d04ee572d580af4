"""Small good folders of every kind, to be spoilt."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from benchmarks.soak import Trained
from wafergpt import config, files
from wafergpt.checkpoint.format import MOMENTS, SHARDS, WEIGHTS, Stored
from wafergpt.config import Model, recipe_from
from wafergpt.data.prepare import prepare
from wafergpt.data.tokenizer import Tokenizer
from wafergpt.interop.gpt2 import hugging_face_names, is_transposed
from wafergpt.model.gpt import GPT
from wafergpt.runs.run import Run

SHAPE = Model(n_layers=1, d_model=8, n_heads=2, seq_len=12, vocab_size=270)
HF_CONFIG: dict[str, Any] = {
    "model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "n_layer": 1, "n_embd": 8,
    "n_head": 2, "n_positions": 12, "vocab_size": 270, "activation_function": "gelu",
    "resid_pdrop": 0.1, "id2label": {"0": "a", "1": "b"}, "n_inner": 32,
}  # fmt: skip
RECIPE: dict[str, Any] = {
    "name": "r", "seed": 3, "data": {"corpus": "somewhere"},
    "model": {"n_layers": 1, "d_model": 8, "n_heads": 2, "seq_len": 12, "vocab_size": 270},
    "train": {"steps": 100, "batch_size": 4}, "optimizer": {"name": "adamw", "lr": 0.01},
    "schedule": {"warmup": "5%"}, "system": {"compile": "off", "threads": 1},
    "task": {"labels": ["a", "b"], "train": "rows.csv"},
}  # fmt: skip
PARTS = "-00000-of-00001.safetensors"


def state(seed: int = 0) -> Trained:
    gpt = GPT(SHAPE).initialize(seed)
    state = Trained(gpt, config.Optimizer())
    state.step = 2
    for parameter in gpt.parameters():
        parameter.grad = torch.ones_like(parameter)
    state.optimizer.step(1e-3)
    return state


def make_run(root: Path) -> Run:
    run = Run.create(recipe_from({**RECIPE, "start": str(root / "first")}), root)
    state().save(run, keep=2)
    for step in range(1, 61):
        run.log({"step": step, "tokens": 48 * step, "seconds": step / 2, "loss": 9 / step,
                 "val_loss": 2.0, "val_accuracy": 0.5, "grad_norm": 1.0, "mfu": 0.1,
                 "tokens_per_second": 96.0, "memory_bytes": 5e8})  # fmt: skip
    (run.path / "samples.md").write_text("## step 2 · validation\n\n> **a** text\n")
    for name, value in RESULTS.items():
        run.write(name, value)
    return run


_TEST = {
    "accuracy": 0.75, "macro_f1": 0.7, "loss": 0.4, "labels": ["a", "b"],
    "confusion": [[3, 1], [1, 3]],
    "per_class": [{"label": "a", "precision": 0.7, "recall": 0.7, "f1": 0.7, "support": 4}],
}  # fmt: skip
RESULTS: dict[str, Any] = {
    "result": {
        "step": 60, "tokens": 2880, "loss": 1.2, "val_loss": 2.0, "best_val_loss": 1.9,
        "seconds": 30.0, "parameters": 3000, "tokens_per_second": 96.0, "peak_memory_bytes": 5e8,
        "stopped_early": True, "steps": [1, 2], "init": "first", "pretrained": "first",
        "metrics": {"accuracy": 0.7}, "test": _TEST,
    },
    "plan": {"seconds": 31.0, "tokens": 2880, "memory_bytes": 4e8, "predicted_loss": 1.0},
    "comparison": [
        {"name": "GPT", "kind": "gpt", "accuracy": 0.75, "loss": 0.5, "seconds": 9, "test": _TEST},
        {"name": "TF-IDF", "kind": "tfidf", "accuracy": 0.7, "loss": 0.6, "seconds": 1.0},
    ],
}  # fmt: skip


def in_parts(folder: Path) -> None:
    """Give a checkpoint the form that several processes write, with one of them."""
    index: dict[str, Any] = {}
    for kind in (WEIGHTS, MOMENTS):
        whole = folder / f"{kind}.safetensors"
        tensors = Stored(folder, kind)
        index[kind] = {
            name: {
                "shape": list(tensor.shape),
                "parts": [
                    {"file": kind + PARTS, "start": 0, "rows": len(tensor) if tensor.dim() else 1}
                ],
            }
            for name, tensor in tensors.items()
        }
        whole.rename(folder / (kind + PARTS))
    (folder / SHARDS).write_text(json.dumps(index))
    agree(folder)


def agree(folder: Path) -> None:
    """Let the manifest say what is there: nobody but its writer vouches for a checkpoint."""
    there = [p for p in folder.iterdir() if p.name != "manifest.json"]
    manifest = {p.name: {"bytes": p.stat().st_size, "sha256": files.sha256(p)} for p in there}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def make_hugging_face(folder: Path, index: bool = False) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(HF_CONFIG))
    weights = GPT(SHAPE).initialize(0).state_dict()
    tensors = {
        theirs: (weights[ours].T if is_transposed(ours) else weights[ours]).contiguous()
        for ours, theirs in hugging_face_names(SHAPE).items()
    }
    name = "model-1.safetensors" if index else "model.safetensors"
    save_file(tensors, folder / name)
    if index:
        mapped = {"weight_map": dict.fromkeys(tensors, name)}
        (folder / "model.safetensors.index.json").write_text(json.dumps(mapped))
    tokenizer().save(folder / "tokenizer.json")
    return folder


def tokenizer() -> Tokenizer:
    return Tokenizer.train(["a few words to count the pairs of, and the end"] * 3, 262)


def make_corpus(folder: Path) -> Path:
    source = folder.with_name("rows.jsonl")
    rows = [json.dumps({"text": f"the text {n} of a few words"}) for n in range(12)]
    source.write_text("\n".join(rows))
    prepare(source, folder, vocab_size=262)
    return folder
