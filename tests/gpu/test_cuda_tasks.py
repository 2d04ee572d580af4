"""Every task on a GPU: the CPU's losses and answers, evaluation, and tuning."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.gpu.device import DEVICE, NEEDS_DEVICE, losses
from tests.tasks.test_combinations import KEYS, rows_of, write
from wafergpt.api import evaluate, export, finetune, predict, tune
from wafergpt.runs.run import Run

pytestmark = NEEDS_DEVICE
SMALL = [
    "model.n_layers=2", "model.d_model=64", "model.n_heads=2", "model.seq_len=64",
    "model.vocab_size=270", "model.dropout=0", "system.threads=1", "system.compile=off",
    "system.precision=fp32", "optimizer.lr=2e-3", "train.steps=16", "train.batch_size=8",
]  # fmt: skip
WORDS = {"red": "rot", "old": "alt", "new": "neu", "cat": "katze", "dog": "hund"}
KINDS: dict[str, tuple[str, list[str]]] = {
    **{task: (task, keys) for task, keys in KEYS.items()},
    "translate": ("translate", ["task.name=translate", "task.written=4"]),
    "dialogue": ("dialogue", ["task.name=dialogue", "task.written=4"]),
    "consistent copies": ("classify", ["task.augment=[typos,case]", "task.consistency=1"]),
    "adversarial": ("classify", ["task.adversarial=0.1", "task.ngrams=none"]),
    "ngrams of tokens": ("classify", ["model.ngrams=[2]", "model.ngram_rows=512"]),
}
"""Rows, and what differs from the plain recipe."""


def rows(kind: str) -> list[dict[str, Any]]:
    pairs = [(f"{a} {b}", f"{WORDS[a]} {WORDS[b]}") for a in WORDS for b in WORDS] * 2
    if kind == "translate":
        return [{"source": source, "target": target} for source, target in pairs]
    if kind == "dialogue":
        return [{"messages": [["user", said], ["bot", reply]]} for said, reply in pairs]
    return rows_of(kind, 60)


def asked_of(row: dict[str, Any]) -> Any:
    """Return what `predict` takes of a row."""
    if "messages" in row:
        return row["messages"][0][1]
    if "tokens" in row:
        return row["tokens"]
    if "question" in row:
        return {key: row[key] for key in ("question", "context")}
    if "positive" in row:
        return row["positive"]
    if "query" in row:
        return {key: row[key] for key in ("query", "text")}
    return row.get("source", row.get("text"))


def close(ours: Any, theirs: Any) -> bool:
    """Return whether two answers are the same but for rounding."""
    if isinstance(ours, dict):
        return ours.keys() == theirs.keys() and all(close(ours[k], theirs[k]) for k in ours)
    if isinstance(ours, list | tuple):
        return len(ours) == len(theirs) and all(map(close, ours, theirs))
    if isinstance(ours, float):
        return math.isclose(ours, theirs, rel_tol=1e-2, abs_tol=5e-3)
    return bool(ours == theirs)


@pytest.mark.parametrize("kind", KINDS)
def test_a_task_learns_and_answers_as_on_the_cpu(kind: str, tmp_path: Path) -> None:
    of, keys = KINDS[kind]
    train = write(tmp_path / "rows.jsonl", rows(of))
    same = [*SMALL, *keys, f"task.train={train}", f"task.validation={train}"]
    there, here = (
        finetune("scratch", None, [*same, f"system.device={device}", f"name={name}"],
                 root=tmp_path).run
        for name, device in (("there", DEVICE), ("here", "cpu"))
    )  # fmt: skip
    assert losses(there) == pytest.approx(losses(here), rel=5e-3)
    some = [asked_of(row) for row in rows(of)[:12]]
    answers = [predict(there, some, device=device) for device in (DEVICE, "cpu")]
    for ours, theirs in zip(*answers, strict=True):
        assert close(ours, theirs), (ours, theirs)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Run:
    home = tmp_path_factory.mktemp("home")
    write(home / "rows.jsonl", rows_of("classify", 300))
    asked = [*SMALL, "train.steps=60", f"system.device={DEVICE}", "system.precision=auto",
             f"task.train={home / 'rows.jsonl'}", f"task.test={home / 'rows.jsonl'}"]  # fmt: skip
    return finetune("scratch", None, [*asked, "name=clf"], root=home).run


def test_adapters_go_on_as_on_the_cpu(classifier: Run, tmp_path: Path) -> None:
    train = write(tmp_path / "rows.jsonl", rows_of("classify", 60))
    asked = ["lora.rank=4", "train.steps=12", "train.batch_size=8", "model.dropout=0",
             "system.precision=fp32", "system.compile=off", f"task.train={train}"]  # fmt: skip
    there, here = (
        finetune(classifier, None, [*asked, f"system.device={device}", f"name={name}"],
                 root=tmp_path).run
        for name, device in (("there", DEVICE), ("here", "cpu"))
    )  # fmt: skip
    assert losses(there) == pytest.approx(losses(here), rel=5e-3)


def test_all_suites_run_there(classifier: Run) -> None:
    suites = ["rows", "calibration", "robustness", "cost", "card"]
    found = evaluate(classifier, suites, rows=20, root=classifier.path.parent)
    assert found["rows"]["sets"]["test"]["metrics"]["accuracy"] > 0.9
    cost = found["cost"]
    assert cost["device"] == (torch.cuda.get_device_name() if DEVICE == "cuda" else "cpu")
    (model,) = cost["models"].values()
    assert 0 < model["weights_bytes"] <= model["memory_bytes"]
    assert model["joules_per_text"] > 0
    assert DEVICE == "cpu" or "GPU" in model["energy_source"]


def test_a_classifier_from_there_is_exported(classifier: Run, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript", reason="onnxscript writes ONNX")
    export(classifier, tmp_path / "onnx", "onnx")
    assert (tmp_path / "onnx" / "model.onnx").is_file()


def test_trials_side_by_side_share_a_gpu(tmp_path: Path) -> None:
    pytest.importorskip("optuna", reason="optuna tunes")
    train = write(tmp_path / "rows.jsonl", rows_of("classify", 120))
    asked = [*SMALL, f"task.train={train}", f"system.device={DEVICE}", "name=t",
             "optimizer.lr=1e-4..1e-1:log"]  # fmt: skip
    study = tune("scratch", None, asked, trials=4, workers=2, root=tmp_path)
    result = study.read("result")
    ended = [one for one in result["outcomes"] if one["values"] is not None]
    assert len(ended) >= 2
    trained = [Run(study.path / one["run"]).read("result") for one in ended]
    assert all(one["metrics"]["loss"] > 0 for one in trained)
