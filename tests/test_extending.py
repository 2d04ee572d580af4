"""The task and the engine of docs/extending.md, as they stand there."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

import pytest

from benchmarks import soak
from wafergpt.api import export
from wafergpt.config.registry import ENGINES, TASKS

PAGE = Path(__file__).parents[1] / "docs" / "extending.md"
SMALL = [
    "model.n_layers=1", "model.d_model=32", "model.n_heads=2", "model.seq_len=48",
    "system.threads=1", "system.compile=off", "system.precision=fp32",
]  # fmt: skip


@pytest.fixture
def examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Write the page's modules where they are imported from; return its other blocks."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    for block in blocks:
        if named := re.match(r"# (\w+\.py)\n", block):
            assert len(block.splitlines()) <= 75
            (tmp_path / named[1]).write_text(block, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    # Both are as they were when the test is over.
    monkeypatch.setitem(TASKS, "share", "")
    monkeypatch.setitem(ENGINES, "plain", "")
    return {"task": blocks[1], "engine": blocks[3]}


@pytest.mark.slow
def test_the_task_of_the_page_learns(examples: dict[str, Any], tmp_path: Path) -> None:
    rng = random.Random(0)
    rows = []
    for _ in range(300):
        words = rng.choices(["good", "bad"], k=8)
        rows.append({"text": " ".join(words), "label": words.count("good") / 8})
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "shares.jsonl").write_text(text, encoding="utf-8")
    settings = [*SMALL, "train.epochs=8", "optimizer.lr=1e-2", "task.name=share", "task.margin=0.2"]
    names: dict[str, Any] = {"overrides": [*settings, "model.vocab_size=262", "task.ngrams=none"]}
    exec(examples["task"], names)
    metrics = names["shares"].run.read("result")["metrics"]
    assert metrics["within_margin"] > 0.9
    high, low = names["shares"].predict(["good good good good", "bad bad bad bad"])
    assert high["share"] > 0.8
    assert low["share"] < 0.2
    pytest.importorskip("onnxruntime", reason="the task is exported to ONNX")
    result = export(names["shares"].run, tmp_path / "onnx", "onnx")
    assert result["compared_on"] == "validation data"
    assert {"val_loss", "val_within_margin"} <= names["shares"].run.metrics()[-1].keys()


def test_the_engine_of_the_page_trains_and_resumes(
    examples: dict[str, Any], tmp_path: Path
) -> None:
    import wafergpt as wg

    corpus = soak.corpus(tmp_path)
    overrides = [*SMALL, f"data.corpus={corpus}", "train.steps=20", "optimizer.lr=0.5"]
    names: dict[str, Any] = {"overrides": [*overrides, "name=plain", "evaluate.batches=2"]}
    exec(examples["engine"], names)
    run = wg.Run.find("plain")
    losses = [row["loss"] for row in run.metrics()]
    assert losses[-1] < losses[0] - 0.5
    assert run.recipe.system.device == "plain"
    wg.pretrain(resume="plain", overrides=["train.steps=24"])
    assert [row["step"] for row in run.metrics()] == list(range(1, 25))
