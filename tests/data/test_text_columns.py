"""Texts of several columns: read from files, and cut where they are longest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers

from wafergpt.config import recipe_from
from wafergpt.data.labelled_batches import cut_columns
from wafergpt.data.labelled_rows import read_table, read_texts
from wafergpt.data.text_columns import BETWEEN, lengths_left, text_of_columns
from wafergpt.errors import InputError

LENGTHS = st.lists(st.integers(0, 40), min_size=2, max_size=4)


@given(st.integers(0, 30), st.integers(0, 30), st.integers(2, 50))
def test_a_pair_is_cut_as_tokenizers_cuts_it(first: int, second: int, room: int) -> None:
    backend = Backend(models.WordLevel({"a": 0}, unk_token="a"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.enable_truncation(room, strategy="longest_first")
    kept = backend.encode(" a" * first, " a" * second)
    found = lengths_left([first, second], room)
    assert found == [kept.sequence_ids.count(0), kept.sequence_ids.count(1)]


@given(LENGTHS, st.integers(4, 60))
def test_the_longest_is_cut_token_by_token(lengths: list[int], room: int) -> None:
    left = list(lengths)
    while sum(left) > room:
        # As the README of an export does it.
        left[max(range(len(left)), key=lambda i: (left[i], -lengths[i], -i))] -= 1
    assert lengths_left(lengths, room) == left


def test_each_column_is_cut_where_the_recipe_says() -> None:
    parts = [[1, 2, 3], [11, 12, 13, 14, 15, 16], []]
    row, was_cut = cut_columns(parts, [0], 99, "end")
    assert row.tolist() == [1, 2, 3, 0, *parts[1], 0]
    assert not was_cut
    for cut, kept in (("end", [11, 12, 13, 14]), ("start", [13, 14, 15, 16])):
        row, was_cut = cut_columns(parts, [0], 9, cut)  # type: ignore[arg-type]
        assert row.tolist() == [1, 2, 3, 0, *kept, 0]
        assert was_cut


def test_columns_are_read_from_rows(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(f'q,c,label\nwhy,"so\nit is",a\n,only{BETWEEN}c,b\n,,a\nx,,b\n')
    table = read_table(path, ("q", "c"))
    assert table.texts == [f"why{BETWEEN}so\nit is", f"{BETWEEN}only c", f"x{BETWEEN}"]
    assert "1 of 4 rows have no text in column 'q', 'c'" in table.notes[0]
    assert len(read_texts(path, ("q", "c"))) == 4
    with pytest.raises(InputError, match=r"no column 'd'.*task.text=COLUMN"):
        read_table(path, ("q", "d"))


@pytest.mark.parametrize(
    "value",
    [
        {"q": "why", "c": "so", "more": 1}, ["why", "so"], ("why", "so"), f"why{BETWEEN}so",
        json.dumps({"q": "why", "c": "so"}),
    ],
)  # fmt: skip
def test_an_input_in_every_form(value: Any) -> None:
    assert text_of_columns(value, ("q", "c")) == f"why{BETWEEN}so"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("why so", "is one text; the columns q, c are wanted"),
        ({"q": "why"}, "has no column 'c'"),
        (["why"], r"the columns q, c are wanted"),
        ({"q": "why", "c": 5}, "has 5 as 'c', which is no text"),
        (5, "is 5; the columns"),
    ],
)
def test_an_input_that_is_none(value: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        text_of_columns(value, ("q", "c"))


def test_the_recipe_takes_one_column_or_several() -> None:
    for given_, kept in (("a", "a"), (["a"], "a"), (["a", "b"], ("a", "b"))):
        assert recipe_from({"task": {"text": given_}}).task.text == kept  # type: ignore[union-attr]
    for wrong in ([], ["a", "a"], ["a", "label"]):
        with pytest.raises(InputError, match=r"task\.|task:"):
            recipe_from({"task": {"text": wrong}})
