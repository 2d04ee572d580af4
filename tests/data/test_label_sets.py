"""Rows with any number of labels, in every form that people write them in."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wafergpt.data.label_sets import (
    encode_label_sets,
    hold_out_label_sets,
    label_set,
    label_set_names,
    labels_of,
    settle_label_sets,
)
from wafergpt.data.labelled_rows import Table, read_table
from wafergpt.data.text_columns import BETWEEN
from wafergpt.errors import InputError


def sets(*rows: tuple[str, ...]) -> Table:
    return Table([f"text {i}" for i in range(len(rows))], [BETWEEN.join(row) for row in rows])


def read(path: Path, content: str, label: str | tuple[str, ...] = "label") -> list[list[str]]:
    path.write_text(content)
    (table,), _ = settle_label_sets([read_table(path, "text", label, label_set)], "", "refuse")
    return [labels_of(one) for one in table.labels]


WANTED = [["joy", "love"], [], ["joy"], ["fear"], ["fear", "joy"]]


@pytest.mark.parametrize("mark", ["|", ";", ", "])
def test_a_cell_with_a_separator(tmp_path: Path, mark: str) -> None:
    cells = [mark.join(labels) for labels in ([*WANTED[:1], *WANTED[1:]])]
    rows = "".join(f'text {i},"{cell}"\n' for i, cell in enumerate(cells))
    assert read(tmp_path / "rows.csv", f"text,label\n{rows}") == WANTED


def test_a_list_in_json_is_taken_as_it_is(tmp_path: Path) -> None:
    lines = ['{"text": "a", "label": ["x, y", "z|"]}', '{"text": "b", "label": []}',
             '{"text": "c", "label": null}', '{"text": "d", "label": ["z|", "z|", 5]}']  # fmt: skip
    found = read(tmp_path / "rows.jsonl", "\n".join(lines))
    assert found == [["x, y", "z|"], [], [], ["5", "z|"]]


def test_a_column_for_each_label(tmp_path: Path) -> None:
    content = "text,joy,fear\na,1,0\nb,0,0\nc,true,1.0\nd,,1\n"
    found = read(tmp_path / "rows.csv", content, ("joy", "fear"))
    assert found == [["joy"], [], ["fear", "joy"], ["fear"]]
    with pytest.raises(InputError, match=r"line 2: column 'fear' of task.label holds 'yes'"):
        read(tmp_path / "rows.csv", "text,joy,fear\na,1,yes\n", ("joy", "fear"))


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        (["a|b", "c;d"], "may be separated by | or ;"),
        (["Smith, John", "Doe, Jane", "x"], "may be one label or several"),
        (["", ""], "no training row has a label"),
        (["joy", "Joy|b"], "labels that differ only in spelling"),
        (["x" * 1001, "b"], "too long for a label"),
    ],
)
def test_what_is_not_certain_is_refused(cells: list[str], message: str) -> None:
    table = Table([str(i) for i in range(len(cells))], cells)
    with pytest.raises(InputError) as refused:
        settle_label_sets([table], "", "refuse")
    assert message in str(refused.value)


def test_a_named_separator_is_taken() -> None:
    table = Table(["1", "2"], ["a, b|c", "a"])
    (found,), notes = settle_label_sets([table], "|", "refuse")
    assert [labels_of(one) for one in found.labels] == [["a, b", "c"], ["a"]]
    assert notes[0].startswith(
        "3 labels, separated by '|'; 1.50 per training row on average, 0 rows"
    )
    (merged,), _ = settle_label_sets([Table(["1", "2"], ["Joy|joy", "joy"])], "|", "merge")
    assert merged.labels == ["joy", "joy"]


def test_answers_are_zeros_and_ones() -> None:
    table = sets(("b", "a"), (), ("a",))
    names = label_set_names(table)
    assert names == ("a", "b")
    assert encode_label_sets(table, names, "train").tolist() == [[1, 1], [0, 0], [1, 0]]
    with pytest.raises(InputError, match="the test rows have the label 'c', which no training row"):
        encode_label_sets(sets(("c",)), names, "test")
    assert label_set_names(sets(("a",), ())) == ("a",)
    with pytest.raises(InputError, match="all rows have the label 'a'"):
        label_set_names(sets(("a",), ("a",)))


@given(st.lists(st.sets(st.sampled_from("abcde")), min_size=2, max_size=60))
def test_every_label_stays_in_training(rows: list[set[str]]) -> None:
    table = sets(*(tuple(sorted(row)) for row in rows))
    try:
        kept, held, without = hold_out_label_sets(table, 0.3)
    except InputError:
        return
    assert sorted([*kept.texts, *held.texts]) == sorted(table.texts)
    assert held.texts
    left = {label for row in kept.labels for label in labels_of(row)}
    assert left == {label for row in rows for label in row}
    outside = {label for row in held.labels for label in labels_of(row)}
    assert set(without) == left - outside
