from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wafergpt.data import json_rows
from wafergpt.data.file_formats import column, rows
from wafergpt.data.labelled_rows import read_table, read_texts
from wafergpt.errors import InputError


def write(tmp_path: Path, content: str) -> Path:
    path = tmp_path / "a.json"
    path.write_text(content)
    return path


ROWS = [{"text": "a", "n": 1}, {"text": "b\n], {", "n": [1, {}]}, {"text": "c 漢", "n": None}]
WRITTEN = {
    "lines": "".join(json.dumps(row) + "\n" for row in ROWS),
    "a list": json.dumps(ROWS),
    "an indented list": json.dumps(ROWS, indent=2, ensure_ascii=False),
    "a list a line each": "[\n" + ",\n".join(map(json.dumps, ROWS)) + ",\n]\n",
    "indented objects": "\n".join(json.dumps(row, indent=2) for row in ROWS),
    "lines with commas": "".join(json.dumps(row) + ",\r\n" for row in ROWS),
    "old line ends": "\r".join(map(json.dumps, ROWS)),
}


@pytest.mark.parametrize("name", WRITTEN)
@pytest.mark.parametrize("chunk", [1, 7, 1 << 20])
def test_rows_of_json_however_written(
    tmp_path: Path, name: str, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_rows, "CHUNK", chunk)
    assert [row for _, row in rows(write(tmp_path, WRITTEN[name]))] == ROWS


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@pytest.mark.slow
@given(
    st.lists(st.dictionaries(st.text(max_size=4), VALUES, min_size=1), min_size=1, max_size=5),
    st.sampled_from([None, 1]),
    st.integers(1, 40),
    st.booleans(),
)
@settings(max_examples=60)
def test_what_json_writes_is_read_as_it_was(
    tmp_path_factory: pytest.TempPathFactory,
    values: list[dict[str, object]],
    indent: int | None,
    chunk: int,
    listed: bool,
) -> None:
    path = tmp_path_factory.mktemp("j") / "a.json"
    parts = [json.dumps(value, indent=indent) for value in values]
    path.write_text(json.dumps(values, indent=indent) if listed else "\n".join(parts))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_rows, "CHUNK", chunk)
        found = list(rows(path))
    assert [row for _, row in found] == values
    if not listed:
        numbers = [1 + sum(p.count("\n") + 1 for p in parts[:n]) for n in range(len(parts))]
        assert [number for number, _ in found] == numbers


BAD = {
    '[{"text": "a"},\n {"text": b}]': "line 2: not JSON: Expecting value",
    '[{"text": "a"},\n {"text": "b"}': "line 2: not JSON: the list is not closed",
    '[{"text": "a"}]\n[]': "line 2: not JSON: more after the list",
    '[{"text": "a"},\n{"text": "b': "line 2: not JSON: Unterminated string",
    '{"text": "a"}\n{"text": "b"} x\n': "line 2: not JSON: Extra data",
    '{"text": "a"}\n["b"]\n': "line 2: not a JSON object",
    "[1]": "line 1: not a JSON object",
    "[" * 100_000: "line 1: not JSON: too deep",
    '{"a": {"text": "b"}}': "no column 'text' (columns: 'a')",
}


@pytest.mark.parametrize("content", BAD, ids=range(len(BAD)))
def test_what_is_no_row_is_named(tmp_path: Path, content: str) -> None:
    with pytest.raises(InputError) as caught:
        read_texts(write(tmp_path, content))
    assert BAD[content] in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_list_is_read_piece_by_piece(tmp_path: Path) -> None:
    path = write(tmp_path, json.dumps([{"text": "some words " * 10}] * 100_000))
    tracemalloc.start()
    try:
        assert sum(1 for _ in rows(path)) == 100_000
        assert tracemalloc.get_traced_memory()[1] < 0.7 * path.stat().st_size
    finally:
        tracemalloc.stop()


def test_a_syntax_error_is_found_without_reading_on(tmp_path: Path) -> None:
    path = write(tmp_path, '[{"text": "a"},\n{"text" "b"},' + '{"text": "c"},\n' * 200_000 + "]")
    with pytest.raises(InputError, match="line 2: not JSON: Expecting ':'"):
        read_texts(path)


def test_names_that_stand_twice(tmp_path: Path) -> None:
    path = write(tmp_path, '{"text": "a", "label": 1, "label": 2, "x": 1, "x": 2}\n')
    with pytest.raises(InputError, match="line 1: more than one column 'label'"):
        read_table(path)
    assert read_texts(path) == ["a"]
    (row,) = (row for _, row in rows(path))
    with pytest.raises(InputError, match="more than one column 'x'"):
        column(row, "x", path, 1, "--column COLUMN")
