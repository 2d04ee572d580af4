"""Pairs from tables, and from two files with a line for each."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from wafergpt.data.pairs import read_pairs
from wafergpt.errors import InputError


def test_pairs_are_two_columns_of_a_table(tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text('en,de,id\nA dog.,"Ein ""Hund"".",1\n,Nichts,2\nTwo cats.,Zwei Katzen.,3\n')
    table = read_pairs(path, "en", "de")
    assert table.texts == ["A dog.", "Two cats."]
    assert table.labels == ['Ein "Hund".', "Zwei Katzen."]
    (note,) = table.notes
    assert "1 of 3 pairs lack a text" in note
    assert "line 3" in note


def test_targets_may_be_long(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps({"source": "a " * 2000, "target": "b " * 2000}) + "\n")
    assert len(read_pairs(path, "source", "target").labels[0]) == 4000


@pytest.mark.parametrize(
    "name", ["train.en", "train.en.txt", "my.en.train.en.txt.gz", "x.en-de.en"]
)
def test_pairs_are_lines_of_two_files(tmp_path: Path, name: str) -> None:
    head, _, tail = name.rpartition("en")
    for language, text in (("en", "one\ntwo\r\n\nfour"), ("de", "eins\nzwei\ndrei\nvier\n")):
        data = text.encode()
        path = tmp_path / f"{head}{language}{tail}"
        path.write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    table = read_pairs(tmp_path / name, "en", "de")
    assert list(zip(table.texts, table.labels, strict=True)) == [
        ("one", "eins"), ("two", "zwei"), ("four", "vier"),
    ]  # fmt: skip
    assert list(table.lines) == [1, 2, 4]


def test_files_of_two_lengths_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.en").write_text("one\ntwo\n")
    (tmp_path / "a.de").write_text("eins\nzwei\ndrei\n")
    with pytest.raises(InputError, match=r"has 2 lines, .*a\.de 3: a pair is a line of each"):
        read_pairs(tmp_path / "a.en", "en", "de")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a.en", "expected in .*a.fr, which does not exist"),
        ("a.txt", "no columns, and no '.en' in its name: .* task.source=en task.target=de"),
        ("a.jsonl", "no column 'fr'"),
        ("missing.en", "no such file"),
        ("blank.jsonl", "no pairs of a en and a fr"),
    ],
)
def test_what_is_no_pairs_is_refused(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "a.en").write_text("one\n")
    (tmp_path / "a.txt").write_text("one\n")
    (tmp_path / "a.jsonl").write_text('{"en": "one", "de": "eins"}\n')
    (tmp_path / "blank.jsonl").write_text('{"en": "one", "fr": " "}\n')
    with pytest.raises(InputError, match=message):
        read_pairs(tmp_path / name, "en", "fr")


def test_a_text_is_no_translation_of_itself(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="are both en"):
        read_pairs(tmp_path / "a.jsonl", "en", "en")


def test_a_number_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"source": "one", "target": 1}\n')
    with pytest.raises(InputError, match="line 1: column 'target' holds a number"):
        read_pairs(path, "source", "target")
