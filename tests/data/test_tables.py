from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wafergpt.data.tables import (
    Table,
    encode_labels,
    encode_scores,
    hold_out,
    label_names,
    read_table,
    read_texts,
)
from wafergpt.errors import InputError


def test_labels_stay_as_written(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(
        '{"text": "a", "label": 1}\n{"text": "b", "label": true}\n{"text": "c", "label": " x "}\n'
    )
    assert read_table(path) == Table(["a", "b", "c"], ["1", "true", "x"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("text,label\n", "has no rows"),
        ("text,lable\na,1\n", "no column 'label'; did you mean 'lable'?"),
        ("text,label\n ,1\n", "line 2: no text in column 'text'"),
        ("text,label\na,\n", "line 2: an empty label"),
    ],
)
def test_bad_tables(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text(content)
    with pytest.raises(InputError) as caught:
        read_table(path)
    assert message in str(caught.value)


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


def test_labels_in_order() -> None:
    assert label_names(Table(["a"] * 3, ["10", "9", "-1"])) == ("-1", "9", "10")
    assert label_names(Table(["a"] * 3, ["b", "a", "b"])) == ("a", "b")
    with pytest.raises(InputError, match="nothing to tell apart"):
        label_names(Table(["a", "b"], ["x", "x"]))


def test_unseen_labels_and_broken_numbers() -> None:
    table = Table(["a", "b"], ["yes", "no"])
    assert encode_labels(table, ("no", "yes"), "test").tolist() == [1, 0]
    with pytest.raises(InputError, match="the test rows have the label 'yes', which no training"):
        encode_labels(table, ("no", "maybe"), "test")
    assert np.array_equal(encode_scores(Table(["a"], ["-1.5"]), "test"), [-1.5])
    for label in ("nan", "inf", "much"):
        with pytest.raises(InputError, match="is no number"):
            encode_scores(Table(["a"], [label]), "test")


def test_published_counts(real_data: Path) -> None:
    train = read_table(real_data / "banking77" / "train.csv.gz", label="category")
    assert (len(train.texts), len(label_names(train))) == (10003, 77)
    phrases = real_data / "financial_phrasebank" / "Sentences_AllAgree.tsv.gz"
    table = read_table(phrases, text="sentence")
    assert [table.labels.count(x) for x in ("neutral", "positive", "negative")] == [1391, 570, 303]
    assert len(read_texts(phrases, "sentence")) == 2264
