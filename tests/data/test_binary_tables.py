"""Excel's and Parquet's tables, as people have them."""

from __future__ import annotations

import datetime
import json
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from wafergpt.data.dialogues import read_dialogues
from wafergpt.data.documents import documents
from wafergpt.data.file_formats import require_kind, rows
from wafergpt.data.labelled_rows import read_table, read_texts
from wafergpt.data.tagged_rows import read_sentences
from wafergpt.errors import InputError

openpyxl: Any = pytest.importorskip("openpyxl", reason="needs wafergpt[tables]")
pa: Any = pytest.importorskip("pyarrow", reason="needs wafergpt[tables]")
parquet: Any = pytest.importorskip("pyarrow.parquet", reason="needs wafergpt[tables]")


def workbook(path: Path, *table: list[Any], hidden: bool = False) -> Path:
    book = openpyxl.Workbook()
    if hidden:
        book.active.title, book.active.sheet_state = "Secret", "hidden"
        book.active.append(["text", "label"])
        book.active.append(["wrong", "x"])
        book.create_sheet("Data")
    for row in table:
        book.worksheets[-1].append(row)
    book.save(path)
    return path


def test_cells_are_those_of_a_csv(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    day = datetime.datetime(2024, 5, 1)
    path = workbook(
        tmp_path / "a.xlsx",
        [" text ", "label", None, "when", None, "done"],
        ["one\ntwo", 1.0, "unnamed", day, None, True, "a note"],
        ["  ", 2, None, day.replace(hour=9), None, None],
        [3, 0.5, None, None, None, "#N/A"],
        ["=1+1", 7],
    )
    found = list(rows(path))
    assert found[0] == (
        2, {"text": "one\ntwo", "label": "1", "when": "2024-05-01", "done": "TRUE"},
    )  # fmt: skip
    assert found[1][1]["when"] == "2024-05-01 09:00:00"
    assert found[2][1] == {"text": "3", "label": "0.5", "when": "", "done": "#N/A"}
    # A formula that no program has computed has no value.
    assert found[3][1] == {"text": "", "label": "7", "when": "", "done": ""}
    table = read_table(path)
    assert (table.texts, table.labels, list(table.lines)) == (
        ["one\ntwo", "3"], ["1", "0.5"], [2, 4],
    )  # fmt: skip
    assert "2 of 4 rows have no text" in table.notes[0]
    said = capfd.readouterr().err
    assert said.count("a.xlsx, line 2: a cell of a column without a name; such columns") == 1


def test_an_index_without_a_name_is_a_column(tmp_path: Path) -> None:
    path = workbook(tmp_path / "a.xlsx", [None, "text", None], [7, "one", None], [None, "two"])
    assert list(rows(path)) == [(2, {"": "7", "text": "one"}), (3, {"": "", "text": "two"})]
    with pytest.raises(InputError, match=r"a\.xlsx is xlsx, not csv"):
        list(rows(path, file_format="csv"))
    path = workbook(tmp_path / "b.xlsx", [" ", None], ["text", "label"], ["a", "x"])
    assert list(rows(path)) == [(3, {"text": "a", "label": "x"})]


def test_empty_rows_keep_their_place_but_not_at_the_end(tmp_path: Path) -> None:
    empty: list[Any] = [None, None]
    path = workbook(
        tmp_path / "a.xlsx", empty, ["text", "label"], ["a", "x"], empty, ["b", "y"], [" "], empty
    )
    assert read_texts(path) == ["a", "", "b", " "]
    path = workbook(tmp_path / "b.xlsx", ["text"], ["a"], [None], [""], [None])
    assert read_texts(path) == ["a"]


def test_a_hidden_sheet_is_not_read(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = workbook(tmp_path / "a.xlsx", ["text", "label"], ["right", "y"], hidden=True)
    assert read_table(path).texts == ["right"]
    assert "a.xlsx: 1 row (sheet 'Data' of 2)" in capfd.readouterr().err


def test_columns_twice_and_merged_heads(tmp_path: Path) -> None:
    path = workbook(tmp_path / "a.xlsx", ["text", "label", "label"], ["a", "x", "y"])
    with pytest.raises(InputError, match="more than one column 'label'"):
        read_table(path)
    book = openpyxl.load_workbook(path)
    book.active["C1"] = None
    book.active.merge_cells("B1:C1")
    book.save(path)
    assert read_table(path).labels == ["x"]


def test_the_content_decides_what_a_file_is(tmp_path: Path) -> None:
    real = workbook(tmp_path / "a.xlsx", ["text", "label"], ["a", "x"])
    assert read_table(real.rename(tmp_path / "renamed.csv")).texts == ["a"]
    fake = tmp_path / "fake.xlsx"
    fake.write_text("text,label\nb,y\n")
    assert read_table(fake).texts == ["b"]
    fake.write_text('{"text": "c", "label": "y"}\n')
    assert read_table(fake).texts == ["c"]
    fake.rename(tmp_path / "fake.parquet")
    assert read_texts(tmp_path / "fake.parquet") == ["c"]


def test_a_workbook_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = workbook(tmp_path / "a.xlsx", ["text", "label"], ["a", "x"])
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"a\.xlsx is a damaged spreadsheet"):
        read_table(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("xl/workbook.xml", "<no")
    with pytest.raises(InputError, match=r"a\.xlsx: a damaged table: "):
        read_table(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("xl/workbook.xml", " " * (65 << 20))
    with pytest.raises(InputError, match="unpacks to 65 MiB"):
        read_table(path)
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    with pytest.raises(InputError, match=r"pip install 'wafergpt\[tables\]'"):
        read_table(path)


def write(path: Path, **columns: Any) -> Path:
    parquet.write_table(pa.table(columns), path, row_group_size=2)
    return path


def test_columns_of_any_type(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.parquet",
        text=pa.array(["a", None, "c", "d"], pa.large_string()),
        label=pa.array(["x", "y", "x", "y"]).dictionary_encode(),
        number=[1.5, float("nan"), 2.0, None],
        day=[datetime.date(2024, 5, 1)] * 4,
        raw=[b"\xc3\xa4"] * 4,
        tags=[[{"a": 1}], [], None, []],
    )
    found = [row for _, row in rows(path)]
    assert found[0] == {
        "text": "a", "label": "x", "number": 1.5, "day": "2024-05-01", "raw": "ä",
        "tags": [{"a": 1}],
    }  # fmt: skip
    assert [row["number"] for row in found] == [1.5, None, 2.0, None]
    assert json.dumps(found)
    table = read_table(path.rename(tmp_path / "shard-0001"))
    assert (table.texts, table.labels) == (["a", "c", "d"], ["x", "x", "y"])


def test_words_messages_and_documents(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.parquet",
        tokens=[["Ann", "left"], ["Oslo"]],
        tags=[["B-PER", "O"], ["B-LOC"]],
        messages=[[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo"}]] * 2,
        text=["one", "two"],
    )
    assert read_sentences(path).words == [("Ann", "left"), ("Oslo",)]
    assert read_dialogues(path, "messages").labels == ["Yo", "Yo"]
    assert [one.text for one in documents([path])] == ["one", "two"]


def test_a_parquet_file_that_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a.parquet", text=["a", "b"], label=["x", "y"])
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(InputError, match=r"a\.parquet: a damaged table: "):
        read_table(path)
    assert require_kind(path) == "parquet"
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InputError, match=r"pip install 'wafergpt\[tables\]'"):
        read_table(path)
