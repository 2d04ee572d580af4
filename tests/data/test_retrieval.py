"""Rows and batches of retrieval."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wafergpt.data.retrieval_batches import ListBatches, PairBatches
from wafergpt.data.retrieval_rows import (
    Candidate,
    RankedColumns,
    read_query_pairs,
    read_ranked_lists,
    stream_candidates,
)
from wafergpt.errors import InputError

COLUMNS = RankedColumns("query", "text", "label")


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_pairs_are_read_with_their_negatives(tmp_path: Path) -> None:
    rows = [
        {"query": "a", "positive": "A", "negative": ["B", "", "A2"]},
        {"query": "a", "positive": "A2", "negative": None},
        {"query": " ", "positive": "A"},
        {"query": "b", "positive": "B", "negative": "C"},
    ]
    path = write(tmp_path / "pairs.jsonl", "\n".join(map(json.dumps, rows)))
    found = read_query_pairs(path, "query", "positive")
    assert found.texts == ["a", "a", "b"]
    assert found.positives == ["A", "A2", "B"]
    # A2 is right for the same query.
    assert found.negatives == [("B",), (), ("C",)]
    assert [note.partition(": ")[2] for note in found.notes] == [
        "1 of 4 rows lack a query or a positive and are skipped (first: line 3)",
        "1 negatives are right for the same query and are skipped",
    ]
    assert found.take([2]).labels == ['["B", "C"]']


def test_named_columns_of_negatives_are_read(tmp_path: Path) -> None:
    path = write(tmp_path / "pairs.csv", "q,p,n1,n2\na,A,B,C\nb,B,,A\n")
    assert read_query_pairs(path, "q", "p", ("n1", "n2")).negatives == [("B", "C"), ("A",)]
    # The column that is looked for by itself is not there.
    assert read_query_pairs(path, "q", "p").negatives == [(), ()]


@pytest.mark.parametrize(
    ("text", "more", "message"),
    [
        ("question,positive\na,b\n", (), "line 2: no column 'query'.*task.query=COLUMN"),
        ("query,answer\na,b\n", (), "line 2: no column 'positive'"),
        ("query,positive\na,b\n", ("hard",), r"no column 'hard'.*task.negative=\[COLUMN\]"),
        ("query,positive\n,b\na,\n", (), "no rows with a query and a positive"),
        ("query,positive\n", (), "no rows"),
    ],
)
def test_pairs_that_are_none_are_one_line(
    tmp_path: Path, text: str, more: tuple[str, ...], message: str
) -> None:
    path = write(tmp_path / "pairs.csv", text)
    with pytest.raises(InputError, match=message):
        read_query_pairs(path, "query", "positive", more or ("negative",))


def test_lists_are_grouped_by_their_query(tmp_path: Path) -> None:
    text = "query,text,label\na,A,2\nb,B,1\na,C,0\nb,D,0.5\nc,E,1\nd,F,1\nd,G,1\n ,H,1\n"
    path = write(tmp_path / "lists.csv", text)
    found = read_ranked_lists(path, COLUMNS).usable()
    assert found.texts == ["a", "b"]
    assert found.relevance == [[2, 0], [1, 0.5]]
    assert [[one.text for one in some] for some in found.candidates] == [["A", "C"], ["B", "D"]]
    assert [note.partition(": ")[2] for note in found.notes] == [
        "1 of 8 rows lack a query or a text and are skipped (first: line 9)",
        "1 of 4 queries have one candidate and are skipped",
        "1 of 4 queries have candidates of equal relevance and are skipped",
    ]


def test_a_column_of_groups_takes_the_place_of_the_query(tmp_path: Path) -> None:
    text = "query,text,label,session\nq,A,1,1\nq,B,0,1\nq,C,0,2\nq,D,1,2\n"
    path = write(tmp_path / "lists.csv", text)
    columns = RankedColumns("query", "text", "label", "session")
    found = read_ranked_lists(path, columns)
    assert [[one.text for one in some] for some in found.candidates] == [["A", "B"], ["C", "D"]]
    assert [*stream_candidates(path, columns)][2][2] == Candidate("q", "C", "2")
    write(path, "query,text,label,session\nq,A,1,\n")
    with pytest.raises(InputError, match="line 2: an empty group in column 'session'"):
        read_ranked_lists(path, columns)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("a,A,-1", "line 2: column 'label' has the label '-1': a relevance is 0 or more"),
        ("a,A,good", "line 2: column 'label' has the label 'good', not a number"),
        ("a,A,nan", "not a number"),
        ("a,A,inf", "not a number"),
        ("a,A,", "line 2: column 'label' has no label"),
        ("a,A,1\nb,B,0", "2 of 2 queries have one candidate: nothing to rank"),
        ("a,A,1\na,B,1\nb,C,0", "1 of 2 .* one candidate and 1 of 2 .* equal relevance: nothing"),
    ],
)
def test_lists_that_are_none_are_one_line(tmp_path: Path, rows: str, message: str) -> None:
    path = write(tmp_path / "lists.csv", f"query,text,label\n{rows}\n")
    with pytest.raises(InputError, match=message):
        read_ranked_lists(path, COLUMNS).usable()


@settings(max_examples=60)
@given(st.integers(0, 10_000))
def test_what_is_right_for_a_query_is_never_wrong_for_it(seed: int) -> None:
    random = np.random.default_rng(seed)
    texts = [np.arange(n % 5 + 1) for n in range(12)]
    queries, positives = random.integers(0, 4, 9), random.integers(4, 8, 9)
    negatives = [random.integers(4, 12, random.integers(0, 3)) for _ in range(9)]
    batches = PairBatches(texts, queries, positives, negatives, 5, seed)
    right = {(q, p) for q, p in zip(queries.tolist(), positives.tolist(), strict=True)}
    found = batches.pairing(2, 6)
    assert len(found.candidates) >= 6
    for row, query in enumerate(found.queries.tolist()):
        for place, text in enumerate(found.candidates.tolist()):
            assert found.ignored[row, place] == ((query, text) in right and row != place)
        assert (query, found.candidates[row]) in right
    batch = batches.batch(2, 6)
    for row, text in enumerate(found.candidates):
        assert batch["tokens"][row, : len(texts[text])].tolist() == texts[text].tolist()
    assert batch["tokens"].numel() <= 6 * batches.length(2, 6)


@settings(max_examples=60)
@given(st.integers(0, 1000), st.integers(2, 9))
def test_long_lists_are_drawn_anew_and_keep_both_kinds(seed: int, most: int) -> None:
    random = np.random.default_rng(seed)
    known: list[list[float]] = []
    for _ in range(6):
        some = random.integers(0, 3, random.integers(2, 30)).astype(float).tolist()
        known.append([*some, 0.0, 1.0])
    # The first token of a candidate says which one it is.
    lists = [[np.array([100 * q + c, 1]) for c in range(len(k))] for q, k in enumerate(known)]
    batches = ListBatches(lists, known, 3, seed, most)
    drawn: list[set[int]] = [set(), set()]
    for first in range(0, 12, 3):
        batch = batches.batch(first, 3)
        assert batch.weight == 3
        for places, relevance in zip(batch["places"], batch["relevance"], strict=True):
            there = relevance >= 0
            tokens = batch["tokens"][places[there], 0].tolist()
            own = {token // 100 for token in tokens}
            assert len(own) == 1
            query = own.pop()
            assert len(tokens) == len(set(tokens)) == min(most, len(known[query]))
            values = [known[query][token % 100] for token in tokens]
            assert values == relevance[there].tolist()
            assert min(values) == min(known[query]) < max(values)
            drawn[first // 6].update(tokens)
        assert batch["tokens"].numel() <= 3 * batches.length(first, 3)
    if sum(map(len, known)) > 2 * 6 * most:
        assert drawn[0] != drawn[1]
