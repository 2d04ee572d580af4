"""The confusion matrix, the comparison and the words about them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from wafergpt.config import recipe_from
from wafergpt.reports.classification_metrics import comparison_chart, confusion_chart, ranked
from wafergpt.reports.formatting import points
from wafergpt.reports.sections import Chapter, ClassifierMetrics
from wafergpt.reports.texts import NO_LAW, planned, settings, tiles, verdict
from wafergpt.runs.run import Run


def chapter(task: bool = True, rows: Any = (), plan: Any = None, **result: Any) -> Chapter:
    recipe = recipe_from({"task": {}} if task else {})
    return Chapter("key", "Title", Run(Path("x")), recipe, list(rows), plan or {}, result)


def row(name: str, kind: str, accuracy: float | None, **more: Any) -> dict[str, Any]:
    return {"name": name, "kind": kind, "accuracy": accuracy, **more}


def paired(baseline: dict[str, Any], p: float) -> dict[str, Any]:
    gap = {"value": 0.87 - baseline["accuracy"], "low": -0.1, "high": 0.1, "p": p}
    return {**baseline, "gpt_minus_this": {"accuracy": gap}}


GPT, LSTM, TFIDF = (
    row("GPT", "gpt", 0.87),
    row("BiLSTM", "bilstm", 0.84),
    row("TF-IDF", "tfidf", 0.91),
)


def test_confusion_shows_counts_and_shares_of_the_true_label() -> None:
    test = ClassifierMetrics.of({"labels": ["neg", "pos"], "confusion": [[30, 10], [0, 60]]})
    chart = confusion_chart(test)
    assert chart is not None
    assert chart.data[0]["z"] == [[0.75, 0.25], [0, 1]]
    assert chart.data[0]["text"][0] == ["<b>30</b><br>75.0%", "<b>10</b><br>25.0%"]
    assert chart.layout["yaxis"]["ticktext"] == ["neg", "pos"]
    assert chart.layout["yaxis"]["autorange"] == "reversed"
    assert chart.caption.startswith("90 of 100 held-out rows")


def test_a_class_without_rows_does_not_divide_by_zero() -> None:
    chart = confusion_chart(
        ClassifierMetrics.of({"labels": ["a", "b"], "confusion": [[0, 0], [1, 3]]})
    )
    assert chart is not None
    assert chart.data[0]["z"] == [[0, 0], [0.25, 0.75]]


@pytest.mark.parametrize(
    "test",
    [
        None,
        {},
        {"labels": ["a", "b"], "confusion": [[1, 2]]},
        {"labels": ["a"], "confusion": [[0]]},
        {"labels": [str(i) for i in range(41)], "confusion": [[1] * 41] * 41},
    ],
)
def test_no_confusion_chart_where_none_can_be_drawn(test: Any) -> None:
    assert confusion_chart(ClassifierMetrics.of(test)) is None


def test_the_best_is_on_top_and_the_gpt_has_the_accent() -> None:
    chart = comparison_chart(ranked([GPT, row("broken", "gpt", None), LSTM, TFIDF]))
    assert chart is not None
    (bars,) = chart.data
    assert bars["x"] == [0.91, 0.87, 0.84]
    assert bars["marker"]["color"] == ["var(--quiet)", "var(--accent)", "var(--quiet)"]
    assert chart.layout["xaxis"]["range"][0] == 0


def test_no_comparison_without_rows() -> None:
    assert comparison_chart(ranked(None)) is None


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (
            [GPT, LSTM, TFIDF],
            "The GPT labels 87.0% of the held-out rows correctly, "
            "4.0 points below TF-IDF and 3.0 points above BiLSTM.",
        ),
        (
            [GPT, LSTM],
            "The GPT labels 87.0% of the held-out rows correctly, 3.0 points above BiLSTM.",
        ),
        (
            [row("TF-IDF", "tfidf", 0.87), GPT, LSTM],
            "The GPT labels 87.0% of the held-out rows correctly, "
            "level with TF-IDF and 3.0 points above BiLSTM.",
        ),
        (
            [GPT, paired(LSTM, 0.06), paired(TFIDF, 0.04)],
            "The GPT labels 87.0% of the held-out rows correctly, "
            "4.0 points below TF-IDF and 3.0 points above BiLSTM (not significant).",
        ),
    ],
)
def test_the_verdict_compares_the_gpt_with_the_best(rows: list[dict[str, Any]], words: str) -> None:
    assert verdict(chapter(step=5, test={"accuracy": 0.87}), ranked(rows)) == words


def test_differences_are_shown_in_points() -> None:
    gap = {"value": 0.004, "low": -0.0054, "high": 0.0132, "p": 0.4}
    shown = points({"gpt_minus_this": {"accuracy": gap}})
    assert shown == "+0.4 (−0.5 to 1.3)"
    for damaged in ({}, {"gpt_minus_this": 3}, {"gpt_minus_this": {"accuracy": {"value": 1}}}):
        assert points(damaged) == ""


def test_the_verdict_without_a_comparison() -> None:
    test = {"accuracy": 0.9, "labels": ["a", "b"], "confusion": [[30, 10], [0, 60]]}
    assert verdict(chapter(step=5, test=test), []) == (
        "The GPT labels 90.0% of 100 held-out rows correctly; "
        "always predicting the most frequent label gets 60.0%."
    )
    assert "no test was held out" in verdict(chapter(step=5, metrics={"accuracy": 0.9}), [])


def test_the_verdict_on_a_language_model() -> None:
    words = verdict(
        chapter(
            task=False,
            rows=[{"step": 9, "val_bits_per_byte": 1.25}],
            tokens=4_100_000,
            seconds=65.0,
            val_loss=3.9,
            best_val_loss=3.8,
        ),
        [],
    )
    assert words == (
        "After 4.10M tokens in 1m05s the validation loss is 3.900, 1.250 bits per byte; "
        "its lowest was 3.800."
    )


def test_four_to_six_tiles_with_what_is_known() -> None:
    test = {"accuracy": 0.9, "macro_f1": 0.89, "loss": 0.3}
    shown = tiles(chapter(test=test, seconds=12.0, parameters=1e6, tokens_per_second=100.0))
    assert [name for name, _, _ in shown] == [
        "Test accuracy",
        "Macro-F1",
        "Test loss",
        "Training time",
        "Parameters",
        "Throughput",
    ]
    assert tiles(chapter()) == []


def test_planned_and_measured() -> None:
    plan: dict[str, Any] = {"seconds": 100.0, "tokens": 1000, "memory_bytes": 2e9}
    done: dict[str, Any] = {
        "seconds": 110.0,
        "tokens": 1000,
        "peak_memory_bytes": 1.5e9,
        "val_loss": 3.5,
    }
    assert planned(chapter(plan=plan, **done)) == [
        ("Time", "1m40s", "1m50s", "+10.0%"),
        ("Tokens", "1,000", "1,000", "as planned"),
        ("Memory", "2.0 GB", "1.5 GB", "−25.0%"),
        ("Validation loss", "–", "3.500", "–"),
    ]
    timed = planned(chapter(plan=plan, **done, elapsed=120.0))
    assert timed[0] == ("Time", "1m40s", "2m00s", "+20.0%")
    parts = {"startup": 0.2, "updates": 90.0, "saving": "?"}
    plan["time"], done["time"] = parts, {**parts, "updates": 99.0}
    timed = planned(chapter(plan=plan, **done, elapsed=120.0))
    assert timed[1] == ("– updates", "1m30s", "1m39s", "+10.0%")
    assert timed[2][0] == "Tokens"
    so_far = [{"step": 1, "seconds": 5.0, "memory_bytes": 1e9}]
    assert planned(chapter(plan=plan, rows=so_far))[0] == ("Time", "1m40s", "5.0s", "–")
    assert "No law was fitted for this corpus" in NO_LAW


def test_settings_say_where_it_started_and_why_it_stopped() -> None:
    words = settings(chapter(init="scratch", stopped_early=True))
    assert "from scratch" in words
    assert "stopped early" in words


def test_settings_and_tiles_say_what_adapters_train() -> None:
    recipe = recipe_from({"task": {}, "lora": {"rank": 8}})
    result = {"parameters": 7_500_000, "trained_parameters": 70_000}
    adapted = Chapter("key", "Title", Run(Path("x")), recipe, [], {}, result)
    assert "LoRA of rank 8" in settings(adapted)
    assert ("Parameters", "7.50M", "70.0k trained") in tiles(adapted)


def test_any_number_of_labels_without_test_rows() -> None:
    shown = tiles(chapter(metrics={"accuracy": 0.5, "micro_f1": 0.75}))
    assert [tile[:2] for tile in shown] == [
        ("Validation micro-F1", "75.0%"),
        ("Validation exact match", "50.0%"),
    ]
