from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from wafergpt.data.labelled_rows import (
    Table,
    encode_labels,
    encode_scores,
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
        ("text,label\na,\nb,x\nc, \n", "line 2: an empty label in column 'label' (in 2 of 3 rows)"),
    ],
)
def test_bad_tables(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text(content)
    with pytest.raises(InputError) as caught:
        read_table(path)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('{"text": 5, "label": "x"}', "column 'text' holds a number (5), not a text"),
        ('{"text": true, "label": "x"}', "holds a truth value (True)"),
        ('{"text": ["a"], "label": "x"}', "holds a value of type list"),
        ('{"text": "a", "label": null}', "an empty label in column 'label'"),
        ('{"text": "a", "label": NaN}', "an empty label in column 'label'"),
        ('{"text": "a", "label": ["x"]}', "not a single label"),
    ],
)
def test_cells_that_are_none(tmp_path: Path, row: str, message: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "good", "label": 1}\n' + row + "\n")
    with pytest.raises(InputError) as caught:
        read_table(path)
    assert f"{path}, line 2: " in str(caught.value)
    assert message in str(caught.value)


def test_rows_without_a_text_are_skipped_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    cells = ['"a"', '" "', "null", "NaN", '"b"']
    path.write_text("".join(f'{{"text": {cell}, "label": 1}}\n' for cell in cells))
    table = read_table(path)
    assert table == Table(["a", "b"], ["1", "1"])
    assert [table.place(row) for row in (0, 1)] == [f"{path}, line 1", f"{path}, line 5"]
    (note,) = table.notes
    assert "3 of 5 rows have no text in column 'text' and are skipped (first: line 2)" in note
    path = tmp_path / "a.csv"
    # A row that a spreadsheet left without anything has no label either.
    path.write_text("text,label\na,x\n,\n\nb,y\n")
    assert read_table(path) == Table(["a", "b"], ["x", "y"])
    assert "1 of 3 rows" in read_table(path).notes[0]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.csv", "text\na\n\n  \nb\n\n\n", ["a", "", "  ", "b"]),
        ("a.csv", 'text\na\n""\nb\n', ["a", "", "b"]),
        ("a.csv", "id,text\n1,a\n\n2,\n3,b\n", ["a", "", "", "b"]),
        ("a.tsv", "id\ttext\n1\ta\n\n\t\n3\tb\n\n", ["a", "", "", "b"]),
        ("a.jsonl", '{"text": "a"}\n{"text": null}\n{"text": ""}\n', ["a", "", ""]),
        ("a.txt", "a\n\nb\n", ["a", "", "b"]),
        ("a.txt", "a\n\nb", ["a", "", "b"]),
    ],
)
def test_every_row_keeps_its_place(
    tmp_path: Path, name: str, content: str, expected: list[str]
) -> None:
    path = tmp_path / name
    path.write_text(content)
    assert read_texts(path) == expected


def test_a_column_of_free_text_is_no_label() -> None:
    texts = [f"text {n}" for n in range(1500)]
    with pytest.raises(InputError, match=r"1,500 different labels in 1,500 rows, .*task\.label="):
        label_names(Table(texts, texts))
    assert len(label_names(Table(texts * 2, texts * 2))) == 1500


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
        with pytest.raises(InputError, match="not a number"):
            encode_scores(Table(["a"], [label]), "test")


def test_published_counts(real_data: Path) -> None:
    train = read_table(real_data / "banking77" / "train.csv.gz", label="category")
    assert (len(train.texts), len(label_names(train))) == (10003, 77)
    phrases = real_data / "financial_phrasebank" / "Sentences_AllAgree.tsv.gz"
    table = read_table(phrases, text="sentence")
    assert [table.labels.count(x) for x in ("neutral", "positive", "negative")] == [1391, 570, 303]
    assert len(read_texts(phrases, "sentence")) == 2264
