"""What is held out, beside scikit-learn's shares of classes."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wafergpt.data.labelled_rows import Table
from wafergpt.data.labelled_split import (
    classes_kept,
    hold_out,
    hold_out_of_each_class,
    normalized,
    same_texts,
)
from wafergpt.errors import InputError


@given(st.lists(st.text(min_size=1, max_size=5), min_size=30, max_size=60, unique=True))
def test_a_text_falls_on_the_same_side_wherever_it_stands(texts: list[str]) -> None:
    table = Table(texts, [str(i) for i in range(len(texts))])
    try:
        kept, held = hold_out(table, 0.5)
    except InputError:
        return
    again, held_again = hold_out(Table(texts[::-1] * 2, table.labels[::-1] * 2), 0.5)
    assert set(kept.texts) == set(again.texts)
    assert set(held.texts) == set(held_again.texts)
    assert sorted(kept.texts + held.texts) == sorted(texts)


def test_held_out_share_and_seeds() -> None:
    table = Table([f"text {i}" for i in range(20_000)], ["a"] * 20_000)
    _, held = hold_out(table, 0.1)
    assert len(held.texts) == pytest.approx(2000, rel=0.1)
    _, other = hold_out(table, 0.1, seed=1)
    assert len({*held.texts} & {*other.texts}) < 400
    with pytest.raises(InputError, match="too few to hold out"):
        hold_out(table.take([0]), 0.1)


TABLES = st.lists(
    st.tuples(st.integers(0, 12).map(str), st.sampled_from("abcd")), min_size=2, max_size=40
)


@given(TABLES, st.randoms(use_true_random=False))
def test_each_class_keeps_rows_and_no_text_is_on_both_sides(
    rows: list[tuple[str, str]], rng: random.Random
) -> None:
    table = Table([text for text, _ in rows], [label for _, label in rows])
    try:
        kept, held, without = hold_out_of_each_class(table, 0.3)
    except InputError:
        # Each class, told by the first label of a text, has one text, or labels would be lost.
        return
    assert sorted(kept.texts + held.texts) == sorted(table.texts)
    assert not set(kept.texts) & set(held.texts)
    assert set(kept.labels) == set(table.labels)
    assert set(without) == set(table.labels) - set(held.labels)
    order = list(range(len(rows)))
    rng.shuffle(order)
    again, held_again, _ = hold_out_of_each_class(table.take(order), 0.3)
    assert (set(again.texts), set(held_again.texts)) == (set(kept.texts), set(held.texts))


def test_shares_are_those_of_scikit_learn() -> None:
    split = pytest.importorskip("sklearn.model_selection").train_test_split
    rng = random.Random(0)
    labels = rng.choices("abcdefgh", weights=[1000, 500, 250, 100, 50, 30, 20, 10], k=2000)
    table = Table([f"text {n}" for n in range(2000)], labels)
    _, held, without = hold_out_of_each_class(table, 0.1)
    _, theirs = split(labels, test_size=0.1, stratify=labels, random_state=0)
    ours, theirs = Counter(held.labels), Counter(theirs)
    assert ours.total() == theirs.total() == 200
    assert all(abs(ours[label] - theirs[label]) <= 1 for label in "abcdefgh")
    assert without == []


def test_a_class_of_one_row_stays_in_training_and_is_named() -> None:
    # Whatever its text is: one of many would fall among the held.
    for n in range(30):
        labels = ["a"] * 50 + ["b"] * 40 + ["odd-39", "rare", "rare"]
        kept, held, without = hold_out_of_each_class(
            Table([f"text {n} {i}" for i in range(93)], labels), 0.1
        )
        assert Counter(held.labels) == {"a": 5, "b": 4}
        assert without == ["odd-39", "rare"]
    assert classes_kept(without, kept) == (
        "2 classes with too few different texts to hold one out for validation stay in training: "
        "'odd-39' (1 row), 'rare' (2 rows)"
    )


@pytest.mark.parametrize(
    ("labels", "texts", "held"),
    [
        ("aab", "123", 1),
        ("aaaaabbbbb", "0123456789", 1),
        ("abab" * 5, "x" * 20, 0),
        ("ab", "12", 0),
        ("abcdefghij", "0123456789", 0),
        # Almost all rows are of one text: it stays, and its copies with it.
        ("a" * 100, "x" * 91 + "123456789", 1),
    ],
)
def test_tiny_and_odd_tables(labels: str, texts: str, held: int) -> None:
    table = Table(list(texts), list(labels))
    if not held:
        with pytest.raises(InputError, match="too few to hold out 10% of them: name a validation"):
            hold_out_of_each_class(table, 0.1)
    else:
        assert len(hold_out_of_each_class(table, 0.1)[1].labels) == held


def test_three_rows_each() -> None:
    table = Table([f"text {n}" for n in range(30)], [str(n // 3) for n in range(30)])
    _, held, without = hold_out_of_each_class(table, 0.1)
    assert len(held.labels) == len(set(held.labels)) == 3
    assert len(without) == 7


@given(st.lists(st.text(max_size=4), max_size=30))
def test_texts_that_differ_in_nothing_that_matters_have_one_name(texts: list[str]) -> None:
    names = same_texts(texts)
    assert {*names} <= {*texts}
    for text, name in zip(texts, names, strict=True):
        assert normalized(text) == normalized(name)
    assert len({*names}) == len({*map(normalized, texts)})
    # The order makes no difference, and texts that differ are their own names.
    assert same_texts(texts[::-1]) == names[::-1]
    assert same_texts(names) == names
