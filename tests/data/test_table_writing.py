"""Tables that are written are read again as they were."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wafergpt.data.file_formats import rows
from wafergpt.data.table_writing import TableKind, header_line, row_line, table_kind
from wafergpt.errors import InputError

TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
ROWS = st.lists(st.tuples(TEXTS, TEXTS, TEXTS), min_size=1, max_size=5)
NAMES = ("text", "label", "a b")


def written(kind: TableKind, table: list[tuple[str, str, str]]) -> str:
    lines = [row_line(kind, NAMES, dict(zip(NAMES, row, strict=True))) for row in table]
    return header_line(kind, NAMES) + "".join(lines)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(ROWS, st.sampled_from(["csv", "tsv"]))
def test_python_reads_what_was_written(
    tmp_path: Path, table: list[tuple[str, str, str]], kind: TableKind
) -> None:
    path = tmp_path / f"a.{kind}"
    path.write_bytes(written(kind, table).encode())
    with path.open(encoding="utf-8", newline="") as file:
        found = list(csv.reader(file, delimiter="," if kind == "csv" else "\t"))
    assert found == [list(NAMES), *map(list, table)]


LINES = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=20)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(
    st.lists(st.tuples(LINES, st.sampled_from(["one\ntwo", 'a "b', "a,b", "a\tb"]), LINES),
             min_size=1, max_size=5),
    st.sampled_from(["csv", "tsv", "jsonl"]),
)  # fmt: skip
def test_we_read_what_was_written(
    tmp_path: Path, table: list[tuple[str, str, str]], kind: TableKind
) -> None:
    path = tmp_path / f"a.{kind}"
    path.write_bytes(written(kind, table).encode())
    assert [tuple(row.values()) for _, row in rows(path)] == table


def test_values_that_are_no_texts_are_json() -> None:
    row = {"text": None, "label": [{"a": "ä"}], "a b": 0.5}
    assert row_line("csv", NAMES, row) == ',"[{""a"": ""ä""}]",0.5\n'
    assert json.loads(row_line("jsonl", (), row)) == row
    half = row_line("jsonl", (), {"a": ["\ud83d"]})
    assert half.encode() == b'{"a": ["\\ud83d"]}\n'
    assert row_line("tsv", NAMES, {"text": float("nan"), "label": True}) == "\ttrue\t\n"


def test_another_name_is_refused() -> None:
    assert table_kind(Path("a.CSV")) == "csv"
    with pytest.raises(InputError, match=r"must end in .csv, .tsv or .jsonl"):
        table_kind(Path("a.xlsx"))
