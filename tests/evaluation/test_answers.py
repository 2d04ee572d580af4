"""Exact match and F1 as SQuAD's official script computes them."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wafergpt.evaluation.answers import (
    answer_examples,
    answer_metrics,
    exact_match,
    normalized,
    token_f1,
)

WORDS = [
    "the",
    "The",
    "a",
    "An",
    "cat",
    "cat,",
    "U.S.",
    "1998",
    "’s",
    "-",
    "",
    "über",
    "東京",
    "cats",
]

text = st.one_of(st.text(max_size=20), st.lists(st.sampled_from(WORDS)).map(" ".join))


@given(text, text)
def test_scores_are_those_of_the_script(answer: str, true: str) -> None:
    metrics = pytest.importorskip("transformers.data.metrics.squad_metrics")
    assert normalized(answer) == metrics.normalize_answer(answer)
    assert exact_match(answer, true) == metrics.compute_exact(true, answer)
    assert token_f1(answer, true) == pytest.approx(metrics.compute_f1(true, answer))


def test_means_are_those_of_the_script() -> None:
    squad = pytest.importorskip("transformers.data.metrics.squad_metrics")
    from transformers.data.processors.squad import SquadExample

    draw = random.Random(0)
    true = [[" ".join(draw.choices(WORDS, k=2)) for _ in range(draw.randint(0, 3))]
            for _ in range(60)]  # fmt: skip
    answers = [draw.choice([*texts, "cat", "", "cat 1998"]) for texts in true]
    examples = [
        SquadExample(str(n), "?", "c", None, None, "t", [{"text": text} for text in texts],
                     not texts)
        for n, texts in enumerate(true)
    ]  # fmt: skip
    wanted = squad.squad_evaluate(examples, {str(n): one for n, one in enumerate(answers)})
    found = answer_metrics(answers, true)
    assert 100 * found["exact_match"] == pytest.approx(wanted["exact"])
    assert 100 * found["f1"] == pytest.approx(wanted["f1"])
    assert 100 * found["answered_f1"] == pytest.approx(wanted["HasAns_f1"])
    assert 100 * found["no_answer_accuracy"] == pytest.approx(wanted["NoAns_exact"])
    assert found["f1_interval"][0] < found["f1"] < found["f1_interval"][1]


def test_examples_are_cut_around_their_answers() -> None:
    context = "x" * 1000 + "here" + "y" * 1000
    shown = answer_examples(
        ["a?", "b?", "c?"], [context] * 3, [[(1000, 1004)], [], [(1000, 1004)]],
        [(1000, 1004), None, (1010, 1012)],
    )  # fmt: skip
    assert [one["question"] for one in shown] == ["a?", "b?", "c?"]
    (start, end), context = shown[0]["predicted"], shown[0]["context"]
    assert context[start:end] == "here"
    assert len(context) < 500
    assert shown[1]["predicted"] is None
    assert shown[2]["true"] == [[240, 244]]
    assert shown[2]["predicted"] == [250, 252]
