"""Tags to entities and back: as nervaluate and conlleval read them."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wafergpt.data.tag_schemes import (
    Entity,
    Tag,
    allowed,
    entities,
    fault,
    parsed,
    scheme_of,
    tag_names,
    tags_of,
    written,
)

LABELS = ("LOC", "PER")
ANY = st.lists(st.sampled_from(["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]), max_size=12)


def of(*tags: str) -> tuple[Entity, ...]:
    return entities([tag for text in tags if (tag := parsed(text))])


@given(ANY)
def test_entities_are_those_of_nervaluate(tags: list[str]) -> None:
    from nervaluate.loaders import ConllLoader

    # Its loader reads an I of another label as going on; conlleval does not.
    if any(a[2:] != b[2:] for a, b in zip(["O", *tags], tags, strict=False) if b[0] == "I"):
        return
    lines = "\n".join(f"w\t{tag}" for tag in tags)
    theirs = ConllLoader().load(f"{lines}\n\n") if tags else [[]]
    assert [(e.start, e.end + 1, e.label) for e in theirs[0]] == list(map(tuple, of(*tags)))


def test_an_inside_that_continues_nothing_begins_an_entity() -> None:
    assert of("I-PER", "I-LOC", "O", "I-LOC") == (
        Entity(0, 1, "PER"), Entity(1, 2, "LOC"), Entity(3, 4, "LOC"),
    )  # fmt: skip
    assert of("I-PER", "B-PER") == (Entity(0, 1, "PER"), Entity(1, 2, "PER"))
    assert of("S-PER", "E-PER", "B-PER") == tuple(Entity(i, i + 1, "PER") for i in range(3))


@given(ANY)
def test_there_and_back(tags: list[str]) -> None:
    found = of(*tags)
    again = entities([tag_names(LABELS)[i] for i in tags_of(found, len(tags), LABELS)])
    assert again == found == of(*written(found, len(tags)))


@given(ANY)
def test_own_tags_are_allowed(tags: list[str]) -> None:
    may, path = allowed(LABELS), tags_of(of(*tags), len(tags), LABELS)
    places = [-1, *path, -1]
    assert all(may[a, b] for a, b in pairwise(places))


def test_what_bioes_forbids() -> None:
    may, names = allowed(LABELS), tag_names(LABELS)
    assert may.shape == (10, 10)
    wanted = {
        "O": "OBS", "B": "IE", "I": "IE", "E": "OBS", "S": "OBS",
    }  # fmt: skip
    for i, one in enumerate(names):
        for j, other in enumerate(names):
            inside = other.letter in "IE"
            fits = other.letter in wanted[one.letter] and (not inside or one.label == other.label)
            assert may[i, j] == fits, (one, other)
    assert may[-1].tolist() == [name.letter in "OBS" for name in names] + [True]


@pytest.mark.parametrize(
    ("text", "tag"),
    [("O", Tag("O", "")), ("B-PER", Tag("B", "PER")), ("I_x-y", Tag("I", "x-y")),
     ("U-A", Tag("S", "A")), ("L-A", Tag("E", "A")), ("M-A", Tag("I", "A")),
     ("B", Tag("B", "entity")), ("NN", None), ("o", None), ("", None), ("B-", None), ("0", None)],
)  # fmt: skip
def test_a_tag_as_written(text: str, tag: Tag | None) -> None:
    assert parsed(text) == tag


def pairs(*tags: str) -> dict[tuple[Tag, Tag], int]:
    read = [parsed(tag) or Tag("O", "") for tag in ("O", *tags, "O")]
    return dict.fromkeys(pairwise(read), 1)


@pytest.mark.parametrize(
    ("tags", "scheme", "faults"),
    [
        (["B-A", "I-A", "O"], "BIO", 0),
        (["I-A", "I-A", "B-A", "O"], "IOB1", 0),
        (["B-A", "E-A", "S-A"], "BIOES", 0),
        (["B-A", "O", "B-B", "O", "I-B"], "BIO", 1),
        (["B-A", "O", "S-A"], "BIOES", 1),
        (["O", "O"], "BIO", 0),
    ],
)
def test_a_scheme_is_found_in_all_tags(tags: list[str], scheme: str, faults: int) -> None:
    found = scheme_of(pairs(*tags))
    assert found == scheme
    assert sum(fault(*pair, found) for pair in pairs(*tags)) == faults


def test_tags_are_numbers() -> None:
    assert np.array_equal(tags_of([Entity(0, 1, "PER"), Entity(2, 5, "LOC")], 6, LABELS),
                          [8, 0, 1, 2, 3, 0])  # fmt: skip
