"""Rows dealt into folds."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wafergpt.data.folds import dealt
from wafergpt.errors import InputError

model_selection = pytest.importorskip("sklearn.model_selection", reason="it is the reference")


@given(st.lists(st.integers(2, 30), min_size=1, max_size=5), st.data())
def test_folds_are_as_even_as_scikit_learns(sizes: list[int], data: st.DataObject) -> None:
    folds = data.draw(st.integers(2, min(sizes)))
    classes = [str(label) for label, size in enumerate(sizes) for _ in range(size)]
    random.Random(0).shuffle(classes)
    texts = [f"text {n}" for n in range(len(classes))]
    fold = dealt(texts, folds, classes)
    split = model_selection.StratifiedKFold(folds).split(texts, classes)
    theirs = np.empty(len(texts), dtype=int)
    for place, (_, held) in enumerate(split):
        theirs[held] = place

    def sizes_of(found: np.ndarray, label: str | None = None) -> Counter[int]:
        rows = [label in (None, one) for one in classes]
        counts = np.bincount(found[rows], minlength=folds)
        return Counter(counts.tolist())

    for label in (None, *set(classes)):
        counts = sizes_of(fold, label)
        assert max(counts) - min(counts) <= 1
        assert counts == sizes_of(theirs, label)
    assert np.bincount(fold).argmin() == 0


@given(st.lists(st.sampled_from("abcdefgh"), min_size=8, max_size=60), st.randoms())
def test_a_text_is_in_one_fold_whatever_the_order(texts: list[str], rng: random.Random) -> None:
    texts = [*"abcdefgh", *texts]
    fold = dealt(texts, 3)
    of_text = dict(zip(texts, fold.tolist(), strict=True))
    assert [of_text[text] for text in texts] == fold.tolist()
    assert set(fold.tolist()) == {0, 1, 2}
    order = list(range(len(texts)))
    rng.shuffle(order)
    assert (dealt([texts[i] for i in order], 3) == fold[order]).all()


def test_a_text_with_two_labels_counts_for_the_rarer_one() -> None:
    texts = ["both", "both", "a1", "a2", "a3", "b1"]
    classes = ["a", "b", "a", "a", "a", "b"]
    fold = dealt(texts, 2, classes)
    assert fold[0] == fold[1]
    assert fold[5] != fold[0]


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        (None, "5 folds are more than the 4 different texts: 4 folds at most"),
        (
            ["a", "a", "a", "b"],
            "more than the 1 different text of the class 'b'; or add rows of it",
        ),
    ],
)
def test_too_few_texts_are_named(classes: list[str] | None, said: str) -> None:
    with pytest.raises(InputError, match=said):
        dealt(["one", "two", "three", "four"], 5, classes)
