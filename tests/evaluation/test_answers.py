"""Exact match and F1 as SQuAD's official script computes them."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wafergpt.evaluation.answers import (
    answer_examples,
    answer_metrics,
    best_margin,
    exact_match,
    token_f1,
)

# The values of SQuAD's script, as transformers has it in squad_metrics.py up to version 4.
SCORED = [
    ("the cat", "A cat!", 1, 1.0), ("cats", "cat", 0, 0), ("in the U.S. of America", "US", 0, 0.4),
    ("", "", 1, 1), ("", "cat", 0, 0), ("the", "", 1, 1), ("the", "a an", 1, 1),
    ("1998, 1999", "1999", 0, 2 / 3), ("Zoë's  cat\tcat", "zoës cat", 0, 0.8),
    ("東京 tower", "東京", 0, 2 / 3), ("a-b", "ab", 1, 1.0), ("«cat»", "cat", 0, 0),
    ("cat cat dog", "cat dog dog", 0, 2 / 3), ("theatre", "atre", 0, 0),
]  # fmt: skip


@pytest.mark.parametrize(("answer", "true", "exact", "f1"), SCORED)
def test_scores_are_those_of_the_script(answer: str, true: str, exact: int, f1: float) -> None:
    assert exact_match(answer, true) == exact
    assert token_f1(answer, true) == pytest.approx(f1)


def test_means_are_those_of_the_script() -> None:
    draw, words = random.Random(0), ["the", "cat", "U.S.", "1998", "東京", "a"]
    true = [[" ".join(draw.choices(words, k=2)) for _ in range(draw.randint(0, 3))]
            for _ in range(60)]  # fmt: skip
    answers = [draw.choice([*texts, "cat", "", "cat 1998"]) for texts in true]
    found = answer_metrics(answers, true)
    assert found["exact_match"] == pytest.approx(0.4)
    assert found["f1"] == pytest.approx(0.475)
    assert found["answered_f1"] == pytest.approx(0.5113636363636364)
    assert found["no_answer_accuracy"] == pytest.approx(0.375)
    assert found["f1_interval"][0] < found["f1"] < found["f1_interval"][1]


@given(st.text(max_size=20), st.text(max_size=20))
def test_f1_is_one_where_texts_are_the_same(answer: str, true: str) -> None:
    assert token_f1(answer, answer) == 1
    assert 0 <= token_f1(answer, true) == token_f1(true, answer) <= 1
    assert not exact_match(answer, true) or token_f1(answer, true) == 1


@given(st.lists(st.tuples(st.integers(-9, 9), st.floats(-1, 1)), min_size=1, max_size=12))
def test_no_margin_gains_more_than_the_best_one(gains: list[tuple[int, float]]) -> None:
    every = sorted({likelier for likelier, _ in gains})
    between = [(a + b) / 2 for a, b in itertools.pairwise([-9.0, *every, 9.0])]
    gained = [
        sum(gain for likelier, gain in gains if likelier <= margin)
        for margin in (best_margin(gains), *between)
    ]
    assert gained[0] == pytest.approx(max(gained), abs=1e-9)


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
