"""A fixed set of small runs, as numbers that a change of structure must not change.

    python tests/parity/fixed_runs.py record FILE     writes them
    python tests/parity/fixed_runs.py compare FILE    exits with 1 if one differs

Hashes are of bytes and not of names, so that parameters may be renamed. Bits are those of one
processor and one torch: record and compare on the same machine. Losses agree on others, closely.
"""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

import wafergpt as wg

SMALL = [
    "seed=3", "model.n_layers=2", "model.d_model=32", "model.n_heads=2", "model.seq_len=32",
    "train.steps=12", "train.batch_size=8", "optimizer.lr=5e-3", "evaluate.every=4",
    "evaluate.batches=2", "system.threads=1", "system.precision=fp32", "system.compile=off",
    "system.device=cpu",
]  # fmt: skip

PRETRAINED: dict[str, list[str]] = {
    "plain": ["evaluate.prompts=[the film]"],
    "dropout": ["model.dropout=0.1", "data.document_mask=true", "train.micro_batch_size=2"],
    "muon": ["optimizer.name=muon", "schedule.name=wsd", "schedule.warmup=2"],
    "mup": ["model.parametrization=mup", "model.base_d_model=16", "model.output_scale=2"],
    "sgd": ["optimizer.name=sgd", "optimizer.weight_decay=0", "optimizer.l2=0.01"],
    "sampled": ["train.sampled_softmax=16", "model.tied=false", "system.precision=bf16"],
    "ngrams": ["model.ngrams=[2, 3]", "model.ngram_rows=499", "train.micro_batch_size=4"],
    "phases": ["train.first_steps=4", "train.first_batch_size=4", "guard.spike=0.5"],
}
FINETUNED: dict[str, list[str]] = {
    "last": ["task.word_dropout=0.1", "model.dropout=0.1"],
    "mean": ["task.pooling=mean", "task.label_smoothing=0.1", "evaluate.metric=accuracy"],
    "max": ["task.pooling=max", "task.class_weights=balanced", "task.cut=start"],
    "all": ["task.pooling=mean_max_last", "evaluate.metric=macro_f1", "task.cut=middle"],
    "binary": ["task.loss=binary", "evaluate.patience=1"],
    "numbers": ["task.loss=squared_error", "task.label=score"],
}
VARIABLE = {
    "run", "seconds", "tokens_per_second", "mfu", "peak_memory_bytes", "weights_sha256",
    "pretrained", "imported", "averaged", "checkpoint", "path", "compared_with", "elapsed", "time",
}  # fmt: skip
"""Keys of a result that say where or how fast, and a hash that has names in it."""


def sentences(n: int, seed: int) -> Iterator[dict[str, Any]]:
    """Yield rows whose last word says the answer."""
    rng = random.Random(seed)
    words = [
        "the",
        "a",
        "film",
        "plot",
        "cast",
        "was",
        "is",
        "it",
        "and",
        "of",
        "slow",
        "bright",
        "story",
        "scene",
    ]
    for _ in range(n):
        good = rng.random() < 0.6
        text = " ".join(rng.choices(words, k=rng.randint(3, 40)))
        yield {
            "text": f"{text} {'lovely' if good else 'dreary'}",
            "label": "good" if good else "bad",
            "score": rng.randint(6, 9) if good else rng.randint(1, 4),
        }


def _rows(path: Path, n: int, seed: int) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in sentences(n, seed)))
    return path


def _bytes_of(folder: Path) -> str:
    """Hash the tensors of a checkpoint or of a Hugging Face folder, whatever they are called."""
    tensors = [
        hashlib.sha256(f"{value.dtype}{value.shape}".encode() + value.tobytes()).hexdigest()
        for file in folder.glob("*.safetensors")
        for value in load_file(file).values()
    ]
    return hashlib.sha256("".join(sorted(tensors)).encode()).hexdigest()


def _facts(run: wg.Run) -> dict[str, Any]:
    rows = run.metrics()
    result = {k: v for k, v in run.read("result").items() if k not in VARIABLE}
    steps = [p for p in sorted(run.checkpoints.iterdir()) if (p / "manifest.json").is_file()]
    return {
        "losses": [row.get("loss") for row in rows],
        "evaluations": [row["val_loss"] for row in rows if "val_loss" in row],
        "bytes": {step.name: _bytes_of(step) for step in steps},
        "result": result,
    }


def pretrained(home: Path) -> dict[str, Any]:
    """Prepare a corpus and pretrain on it in several ways."""
    corpus = wg.prepare(_rows(home / "text.jsonl", 600, 0), home / "corpus", vocab_size=300)
    found = {"corpus": {"fingerprint": corpus.fingerprint}}
    common = [*SMALL, f"data.corpus={home / 'corpus'}"]
    for name, more in PRETRAINED.items():
        found[name] = _facts(wg.pretrain(None, [*common, *more, f"name={name}"], root=home))
    wg.pretrain(None, [*common, "model.dropout=0.1", "name=resumed"], root=home)
    overrides = ["train.steps=18", "checkpoint.every=3"]
    found["resumed"] = _facts(wg.pretrain(resume="resumed", overrides=overrides, root=home))
    overrides = [*common, "name=continued", "optimizer.lr=1e-3"]
    found["continued"] = _facts(wg.pretrain(None, overrides, start="plain", root=home))
    found["average"] = _facts(wg.average("plain", "average", last=2, root=home))
    return found


def finetuned(home: Path) -> dict[str, Any]:
    """Fine-tune the plain run in several ways, predict, and carry it to other formats and back."""
    rows = [f"task.train={_rows(home / 'rows.jsonl', 120, 1)}"]
    rows += [f"task.test={_rows(home / 'test.jsonl', 40, 2)}"]
    found: dict[str, Any] = {}
    texts = [row["text"] for row in sentences(8, 4)]
    for name, more in FINETUNED.items():
        overrides = [*SMALL, *rows, *more, f"name={name}-task"]
        classifier = wg.finetune("plain", None, overrides, root=home)
        found[name] = {**_facts(classifier.run), "predicted": classifier.predict(texts)}
    overrides = [*SMALL, *rows, "model.vocab_size=300", "name=fresh"]
    found["fresh"] = _facts(wg.finetune("scratch", None, overrides, root=home).run)
    for name in ("plain", "mup", "last-task"):
        wg.export(name, home / f"{name}-hf", "hf", home)
        found[f"{name}-hf"] = {"bytes": _bytes_of(home / f"{name}-hf")}
    found["imported"] = _facts(wg.import_model(home / "mup-hf", "imported", home))
    wg.export("plain", home / "plain.gguf", "gguf", home)
    digest = hashlib.sha256((home / "plain.gguf").read_bytes()).hexdigest()
    found["gguf"] = {"bytes": digest}
    return found


def shared(home: Path) -> dict[str, Any]:
    """Pretrain in two processes, with copies of the weights and with shards."""
    found = {}
    command = [sys.executable, "-m", "wafergpt", "pretrain", "--runs", str(home)]
    command += ["--nproc", "2", *SMALL, f"data.corpus={home / 'corpus'}", "model.dropout=0.1"]
    for name, more in {"copies": [], "shards": ["system.shard=0"]}.items():
        subprocess.run([*command, f"name={name}", *more], check=True, capture_output=True)
        found[name] = _facts(wg.Run.find(name, home))
    return found


def every(home: Path) -> dict[str, Any]:
    """Make all runs in a folder and return their numbers."""
    found = pretrained(home) | finetuned(home) | shared(home)
    return dict(json.loads(json.dumps(found, default=float)))


def differences(before: Any, now: Any, where: str = "") -> list[str]:
    """Return what differs, a line each."""
    if isinstance(before, dict) and isinstance(now, dict):
        keys = sorted(before.keys() | now.keys())
        return [
            line
            for key in keys
            for line in differences(before.get(key), now.get(key), f"{where}/{key}")
        ]
    same = before == now or (before != before and now != now)
    return [] if same else [f"{where}: {str(before)[:70]} → {str(now)[:70]}"]


def main() -> None:
    """Record or compare."""
    what, path = sys.argv[1], Path(sys.argv[2])
    np.seterr(all="raise")
    with tempfile.TemporaryDirectory() as folder:
        found = every(Path(folder))
    if what == "record":
        path.write_text(json.dumps(found, indent=1))
        return
    lines = differences(json.loads(path.read_text()), found)
    print("\n".join(lines) or f"all the same: {len(found)} runs")
    sys.exit(bool(lines))


if __name__ == "__main__":
    main()
