"""Entity metrics beside nervaluate's strict ones."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wafergpt.data.tag_schemes import Tag, entities, parsed
from wafergpt.evaluation.entities import entity_metrics

TAGS = ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]


def found(tags: list[str]) -> tuple[tuple[int, int, str], ...]:
    return entities([parsed(tag) or Tag("O", "") for tag in tags])


def legal(tags: list[str]) -> list[str]:
    before = "O"
    for place, tag in enumerate(tags):
        if tag[0] == "I" and before[2:] != tag[2:]:
            tags[place] = f"B{tag[1:]}"
        before = tags[place]
    return tags


PAIRS = st.lists(st.tuples(st.sampled_from(TAGS), st.sampled_from(TAGS)), min_size=1, max_size=9)


@pytest.mark.slow
@given(st.lists(PAIRS, min_size=1, max_size=4))
def test_it_is_nervaluates_strict(rows: list[list[tuple[str, str]]]) -> None:
    from nervaluate import Evaluator

    true = [legal([a for a, _ in row]) for row in rows]
    ours = [legal([b for _, b in row]) for row in rows]
    metrics = entity_metrics(list(map(found, ours)), list(map(found, true)), ["LOC", "PER"])
    theirs = Evaluator(true, ours, tags=["LOC", "PER"], loader="list").evaluate()
    strict = theirs["overall"]["strict"]
    for key in ("precision", "recall", "f1"):
        assert metrics[key] == pytest.approx(getattr(strict, key))
    for row in metrics["per_class"]:
        one = theirs["entities"].get(row["label"])
        if one is not None:
            assert row["f1"] == pytest.approx(one["strict"].f1)


def test_numbers_counted_by_hand() -> None:
    # Two phrases, of which one is found, and three found ones.
    true = found(["B-PER", "I-PER", "O", "B-LOC"])
    ours = found(["B-PER", "O", "B-PER", "B-LOC"])
    metrics = entity_metrics([ours], [true], ["LOC", "PER"])
    assert metrics["precision"] == pytest.approx(1 / 3)
    assert metrics["recall"] == pytest.approx(1 / 2)
    assert metrics["f1"] == pytest.approx(0.4)
    assert metrics["entities"] == 2
    assert metrics["f1_interval"] == pytest.approx([0.4, 0.4])


def test_nothing_there_and_nothing_found() -> None:
    metrics = entity_metrics([()], [()], ["A"])
    assert (metrics["precision"], metrics["recall"], metrics["f1"]) == (0, 0, 0)
