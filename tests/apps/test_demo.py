"""How long the demo fine-tunes: what pretraining, and what comes beside it, has left."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from wafergpt.apps import demo
from wafergpt.config import load_recipe
from wafergpt.runs.run import Run


@pytest.mark.parametrize(
    ("elapsed", "updates", "seconds"),
    [
        # 20 s beside 100 s of updates: 40 s beside those of fine-tuning, and 60 s of the BiLSTM.
        (120.0, 100.0, (300 - 120 - 60 - 40) / 1.125),
        # A slow machine.
        (200.0, 100.0, demo.LEAST_SECONDS),
    ],
)
def test_finetuning_has_what_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, elapsed: float, updates: float, seconds: float
) -> None:
    run = Run.create(load_recipe("demo"), tmp_path)
    run.write("result", {"seconds": updates})
    monkeypatch.setattr(demo, "time", SimpleNamespace(perf_counter=lambda: 7.0 + elapsed))
    assert demo._left_for_finetuning(7.0, run) == pytest.approx(seconds)


@pytest.mark.slow
def test_the_whole_pipeline_on_rows_of_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = ["model.n_layers=1", "model.d_model=16", "model.n_heads=2", "model.seq_len=32",
             "model.ngram_rows=512", "train.sampled_softmax=64"]  # fmt: skip
    quick = {
        "demo": [*small, "train.tokens=8000", "train.seconds=null"],
        "demo-classify": ["task.ngram_rows=512", "train.epochs=1"],
    }
    monkeypatch.setattr(demo, "VOCABULARY", 300)
    monkeypatch.setattr(demo, "BILSTM_SECONDS", 1.0)
    monkeypatch.setattr(
        demo, "load_recipe", lambda name, more=(): load_recipe(name, [*quick[name], *more])
    )
    data = tmp_path / "rows.csv"
    words = {"praise": "lovely", "blame": "dull"}
    rows = [f"film {n} is {words[topic]} to the end,{topic}" for n in range(100) for topic in words]
    data.write_text("body,topic\n" + "\n".join(rows) + "\n")
    result = demo.demo(data, tmp_path / "runs", text="body", label="topic")
    parts = {}
    for part in ("train", "validation", "test"):
        lines = (tmp_path / "runs" / "demo-data" / f"{part}.jsonl").read_text().splitlines()
        parts[part] = {json.loads(line)["text"] for line in lines}
    assert sum(map(len, parts.values())) == len(set().union(*parts.values())) == 200
    assert 20 <= len(parts["test"]) <= 28
    for kind in ("gpt", "tfidf", "bilstm"):
        assert 0 <= result[kind]["accuracy"] <= 1
        assert result[kind]["loss"] > 0
    assert "demo" in Path(result["report"]).read_text(encoding="utf-8")
    assert result["gpt"]["pretraining_tokens"] > 0
