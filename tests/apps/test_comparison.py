"""A classifier beside its baselines: what one of them does must not cost the others' results."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wafergpt.api import finetune
from wafergpt.apps import comparison
from wafergpt.apps.comparison import compare
from wafergpt.baselines.bilstm import train_bilstm
from wafergpt.config import recipe_from
from wafergpt.errors import InputError, Interrupted
from wafergpt.evaluation.intervals import wilson
from wafergpt.evaluation.metrics import (
    ClassificationMetrics,
    classification_metrics,
)
from wafergpt.evaluation.regression import regression_metrics
from wafergpt.inference.predictor import Predictor
from wafergpt.runs.run import Run
from wafergpt.tasks.base import task_of
from wafergpt.tasks.classify import Classify

KINDS = ["gpt", "tfidf", "bilstm"]


def write(path: Path, texts: list[str]) -> Path:
    rows = [{"text": text, "label": str(number % 2)} for number, text in enumerate(texts)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def evaluated(path: Path, test: Path | None = None, **task: Any) -> Predictor:
    """Return a classifier of which only its recipe and its run's result are there."""
    task |= {"train": path, "validation": path, "test": test, "labels": ("0", "1")}
    recipe = recipe_from({"name": "clf", "task": task})
    task_read = task_of(recipe)
    assert isinstance(task_read, Classify)
    recipe = recipe.replace(data={"fingerprint": task_read.tables.fingerprint()})
    run = Run.create(recipe, path.parent / "runs")
    scores = ClassificationMetrics(
        0.9, 0.8, 0.85, 0.7, 0.3, ("0", "1"), (), [[1, 0], [0, 1]]
    ).to_dict()
    run.write("result", {"metrics": scores, "test": scores if test else None, "seconds": 7.0})
    nothing: Any = None
    return Predictor(run, task_of(recipe), nothing, nothing, nothing)


@pytest.fixture
def classifier(tmp_path: Path) -> Predictor:
    words = ["a bad film", "a good film"]
    return evaluated(write(tmp_path / "rows.jsonl", [f"{words[n % 2]} {n}" for n in range(20)]))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        comparison, "train_bilstm", lambda *a, **k: train_bilstm(*a, **k | {"epochs": 1})
    )


@pytest.mark.slow
def test_each_model_has_a_row(classifier: Predictor, capsys: pytest.CaptureFixture[str]) -> None:
    rows = compare(classifier)
    assert [row["kind"] for row in rows] == KINDS
    assert rows[0] == {
        "name": "GPT", "kind": "gpt", "seconds": 7.0, "accuracy": 0.9, "macro_f1": 0.8,
        "loss": 0.3, "test": classifier.run.read("result")["metrics"],
    }  # fmt: skip
    for row in rows[1:]:
        for name in ("accuracy", "macro_f1", "loss"):
            low, high = row["intervals"][name]
            assert low <= row[name] <= high
        # This run kept no outputs.
        assert "gpt_minus_this" not in row
    assert classifier.run.read("comparison") == rows
    assert "warning" not in capsys.readouterr().err


def test_the_gpt_is_compared_row_by_row(classifier: Predictor) -> None:
    right = np.arange(20) % 2
    outputs = np.stack([1.0 - right, right], 1) * 0.8 + 0.1
    classifier.run.write_outputs({"validation/probabilities": outputs})
    gpt, tfidf, bilstm = compare(classifier)
    assert gpt["intervals"]["accuracy"] == list(wilson(1.0, 20))
    assert gpt["intervals"]["loss"] == pytest.approx([-math.log(0.9)] * 2)
    for row in (tfidf, bilstm):
        gap = row["gpt_minus_this"]["accuracy"]
        assert gap["value"] == pytest.approx(1.0 - row["accuracy"])
        assert gap["low"] <= gap["value"] <= gap["high"]
        # So many rows only the GPT labels right: heads each time.
        assert gap["p"] == pytest.approx(min(1.0, 2 * 0.5 ** round(20 * gap["value"])))


@pytest.mark.parametrize("test", [False, True])
@pytest.mark.parametrize("loss", ["cross_entropy", "binary", "squared_error"])
def test_a_training_keeps_the_outputs_behind_its_metrics(
    tmp_path: Path, loss: str, test: bool
) -> None:
    """In the order of the rows, whatever their lengths."""
    rows = [
        {"text": "good " * (n % 7 + 1) if n % 2 else "bad " * (n % 5 + 1) + "?", "label": n % 2}
        for n in range(60)
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    settings = [
        "model.n_layers=1", "model.d_model=16", "model.n_heads=2", "model.seq_len=32",
        "model.vocab_size=260", "train.steps=3", f"task.train={path}", f"task.validation={path}",
        "system.threads=1", "system.compile=off", "name=run",
    ]  # fmt: skip
    settings += [f"task.test={path}"] if test else []
    name = "regress" if loss == "squared_error" else "classify"
    settings += [] if name == "regress" else [f"task.loss={loss}"]
    run = finetune("scratch", None, [f"task.name={name}", *settings], root=tmp_path).run
    outputs, result = run.read_outputs(), run.read("result")
    targets = np.array([row["label"] for row in rows])
    assert {key.partition("/")[0] for key in outputs} == {"validation", *(["test"] * test)}
    for part, found in (("validation", result["metrics"]), ("test", result["test"])):
        if found is None:
            continue
        values = next(v for key, v in outputs.items() if key.startswith(part))
        if name == "classify":
            expected: Any = classification_metrics(values, targets, ["0", "1"])
        else:
            expected = regression_metrics(
                values.reshape(-1), targets.astype(float), float(targets.std())
            )
        assert found["loss"] == pytest.approx(expected.loss)
    if name == "classify":
        ours, theirs, _ = compare(Predictor.load(run, "cpu"))
        low, high = ours["intervals"]["loss"]
        assert low <= ours["loss"] <= high
        gap = theirs["gpt_minus_this"]["accuracy"]
        assert gap["value"] == pytest.approx(ours["accuracy"] - theirs["accuracy"])


@pytest.mark.parametrize("content", [b"", b"no safetensors", None])
def test_outputs_that_cannot_be_read_cost_no_result(
    classifier: Predictor, content: bytes | None
) -> None:
    path = classifier.run.path / "outputs.safetensors"
    path.mkdir() if content is None else path.write_bytes(content)
    assert [row["kind"] for row in compare(classifier) if "accuracy" in row] == KINDS
    if content == b"":
        classifier.run.write_outputs({"validation/probabilities": np.full((20, 2), np.nan)})
        assert [row["kind"] for row in compare(classifier) if "accuracy" in row] == KINDS


@pytest.mark.parametrize("failing", ["tfidf", "bilstm"])
def test_a_baseline_that_fails_costs_no_other_result(
    classifier: Predictor,
    failing: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise MemoryError("no room")

    monkeypatch.setattr(comparison, f"train_{failing}", fail)
    rows = {row["kind"]: row for row in compare(classifier)}
    assert list(rows) == KINDS
    assert rows[failing]["failed"] == "MemoryError: no room"
    assert [kind for kind in KINDS if "accuracy" in rows[kind]] == [
        k for k in KINDS if k != failing
    ]
    assert classifier.run.read("comparison") == list(rows.values())
    assert "warning: no result of the baseline" in capsys.readouterr().err


@pytest.mark.parametrize("change", ["other", "gone"])
def test_rows_that_changed_meanwhile_are_not_compared_on(
    classifier: Predictor, change: str
) -> None:
    assert classifier.recipe.task is not None
    path = classifier.recipe.task.train
    assert path is not None
    write(path, ["a film", "another film"] * 10) if change == "other" else path.unlink()
    ours, *baselines = compare(classifier)
    assert ours["accuracy"] == 0.9
    why = "not those that the GPT" if change == "other" else str(path)
    assert [why in row["failed"] for row in baselines] == [True, True]


def test_ctrl_c_keeps_what_was_judged_before(
    classifier: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(comparison, "train_bilstm", interrupted)
    with pytest.raises(Interrupted, match="interrupted in the baseline: bidirectional LSTM"):
        compare(classifier)
    assert [row["kind"] for row in classifier.run.read("comparison")] == ["gpt", "tfidf"]


def test_many_texts_of_which_nothing_is_known_are_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train = write(tmp_path / "train.jsonl", ["a good film", "a bad film"] * 10)
    test = write(tmp_path / "test.jsonl", ["a good film", "ein schlechtes Werk"] * 10)
    rows = compare(evaluated(train, test))
    assert [row.get("unread") for row in rows] == [None, 10, 10]
    said = [line for line in capsys.readouterr().err.splitlines() if "knows no word" in line]
    assert said == [
        f"warning: {name} knows no word of 10 of 20 texts, and can only guess there"
        for name in ("TF-IDF + logistic regression", "bidirectional LSTM")
    ]


def test_what_cannot_be_compared_is_refused_at_once(
    classifier: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(InputError, match=r"pip install 'wafergpt\[demo\]'"):
        compare(classifier)
    assert classifier.run.read("comparison") is None
