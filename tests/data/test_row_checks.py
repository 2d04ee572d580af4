"""What is wrong with labelled rows, against plain sets of normalized texts."""

from __future__ import annotations

import unicodedata
from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wafergpt.data.labelled_rows import Table
from wafergpt.data.labelled_split import normalized
from wafergpt.data.row_checks import (
    RowChecks,
    largest_share,
    suspicious_texts,
    too_long,
)
from wafergpt.data.tokenizer import Tokenizer

TEXTS = st.sampled_from(
    ["a", "A", " a ", "b", "B\t", "b b", "b  B", "é", "e\u0301", "É", "ß", "ss"]
)
SPLIT = st.lists(st.tuples(TEXTS, st.sampled_from("xy")), max_size=8)


def table(rows: list[tuple[str, str]]) -> Table:
    return Table([text for text, _ in rows], [label for _, label in rows])


def test_what_makes_no_difference() -> None:
    assert normalized(" Caf\u0065\u0301 \n AU ") == normalized("café au")
    assert normalized("cafe") != normalized("café")
    assert unicodedata.normalize("NFC", "e\u0301") == "é"


@given(SPLIT, SPLIT, SPLIT)
def test_counts_are_those_of_sets(
    train: list[tuple[str, str]], validation: list[tuple[str, str]], test: list[tuple[str, str]]
) -> None:
    splits = {"train": train, "validation": validation, "test": test}
    checks = RowChecks({name: table(rows) for name, rows in splits.items()})
    texts = {name: [normalized(text) for text, _ in rows] for name, rows in splits.items()}
    for name, found in texts.items():
        assert checks.rows[name] == len(found)
        assert checks.distinct[name] == len(set(found))
    for name in ("validation", "test"):
        assert checks.in_train[name] == sum(text in texts["train"] for text in texts[name])
    across = {one.text.split(" (")[0]: one.count for one in checks.across()}
    assert sum(across.values()) == sum(checks.in_train.values()) + sum(
        text in texts["validation"] for text in texts["test"]
    )
    labels = defaultdict(set)
    for text, label in [*train, *validation, *test]:
        labels[normalized(text)].add(label)
    several = sum(len(found) > 1 for found in labels.values())
    assert [one.count for one in checks.contradictory()] == [several] * bool(several)
    repeated = {one.text: one.count for one in checks.repeated()}
    assert sum(repeated.values()) == sum(len(f) - len(set(f)) for f in texts.values())


def test_places_are_named() -> None:
    train, test = table([("a", "x"), ("b", "y"), ("a", "y")]), table([("c", "x"), ("B", "x")])
    checks = RowChecks({"train": train, "test": test})
    (across,) = checks.across()
    assert across.text == "1 of 2 test texts are also in train (first: row 2, and row 2)"
    (mixed,) = checks.contradictory()
    assert mixed.text.startswith("2 texts have several labels (first: 'x' in row 1 and 'y' in row")


def test_one_label_for_nearly_all_rows() -> None:
    assert not list(largest_share(["a"] * 17 + ["b"] * 3, 20))
    (found,) = largest_share(["a"] * 19 + ["b"], 20)
    assert found.text == "95.0% of the train rows have the label 'a'"
    assert not list(largest_share([], 0))


@pytest.mark.parametrize(
    ("texts", "kinds"),
    [
        ([f"{n}" for n in range(30)], ["ids"]),
        ([f"3f2a-{n:04x}-9" for n in range(30)], ["ids"]),
        ([f"2024-01-{n:02}" for n in range(30)], ["ids"]),
        (["added", "a bad cafe", "faced"] * 10, []),
        (["一个文本", "另一个", "文本三"] * 10, []),
        ([f"Positive: text {n}" for n in range(30)], ["leak"]),
        ([f"text {n}" for n in range(30)], []),
        (["1"] * 10, []),
    ],
)
def test_columns_that_are_no_texts(texts: list[str], kinds: list[str]) -> None:
    assert [one.kind for one in suspicious_texts(texts, ["positive"] * len(texts))] == kinds


def test_texts_of_more_tokens_than_the_context() -> None:
    tokenizer = Tokenizer.train(["ab cd"] * 10, 260)
    texts = ["ab", "z" * 50, "ab " * 50]
    (found,) = too_long("test", texts, tokenizer, 20)
    assert found.count == sum(len(ids) > 20 for ids in tokenizer.encode_batch(texts)) == 2
