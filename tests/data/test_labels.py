from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from wafergpt.data.labelled_rows import Table, read_table
from wafergpt.data.labels import doubts, settle_classes, settle_numbers
from wafergpt.errors import InputError


def table(path: Path, labels: list[Any]) -> Table:
    rows = [(f"text {n}", label) for n, label in enumerate(labels)]
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps({"text": t, "label": y}) + "\n" for t, y in rows))
    else:
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("text", "label"), *rows])
    return read_table(path)


def settled(folder: Path, files: dict[str, list[Any]], similar: Any = "refuse") -> list[list[str]]:
    tables = [table(folder / name, labels) for name, labels in files.items()]
    return [found.labels for found in settle_classes(tables, similar)]


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"a.jsonl": [1, 1.0, 2.0, 2, 2.0]}, [["1", "1", "2.0", "2.0", "2.0"]]),
        ({"a.jsonl": [1.0, 2.0], "b.jsonl": [2, 1]}, [["1.0", "2.0"], ["2.0", "1.0"]]),
        ({"a.jsonl": [1, 2], "b.csv": ["1.0", "2"]}, [["1", "2"], ["1", "2"]]),
        ({"a.csv": ["1.0", "0.0"], "b.jsonl": [1, 0]}, [["1.0", "0.0"], ["1.0", "0.0"]]),
        ({"a.jsonl": [1e16, 1], "b.jsonl": [10**16]}, [["1e+16", "1"], ["1e+16"]]),
        ({"a.csv": ["True", "False", "TRUE", "True"]}, [["True", "False", "True", "True"]]),
        ({"a.csv": ["TRUE", "FALSE"], "b.jsonl": [True, False]}, [["TRUE", "FALSE"]] * 2),
        ({"a.jsonl": [True, "true", "True"]}, [["true"] * 3]),
        ({"a.csv": ["good", "good \u00a0", " good"]}, [["good"] * 3]),
        ({"a.csv": ["caf\u00e9", "cafe\u0301", "caf\u00e9"]}, [["caf\u00e9"] * 3]),
        # One spelling throughout is what it is.
        ({"a.csv": ["1,0", "2,0"], "b.csv": ["1,0"]}, [["1,0", "2,0"], ["1,0"]]),
        (
            {"a.csv": ["c", "c++", "c#", "-1", "1", "1,000"]},
            [["c", "c++", "c#", "-1", "1", "1,000"]],
        ),
    ],
)
def test_what_is_certainly_one_class(
    tmp_path: Path, files: dict[str, list[Any]], expected: list[list[str]]
) -> None:
    assert settled(tmp_path, files) == expected


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Positive", "positive"), ("1", "1.0"), ("1", "1,0"), ("1", "\uff11"), ("1", "01"),
        ("very good", "very\u00a0good"), ("very good", "very  good"), ("good", "\ufeffgood"),
        ("very good", "very_good"), ("STRASSE", "straße"), ("1", "true"),
    ],
)  # fmt: skip
def test_what_may_be_one_class_is_named_with_its_lines(
    tmp_path: Path, one: str, other: str
) -> None:
    labels = [one, one, "else", other]
    with pytest.raises(InputError) as caught:
        settled(tmp_path, {"a.csv": labels})
    message = str(caught.value)
    assert f"{one!r} (2 rows, first: {tmp_path}/a.csv, line 2)" in message
    assert f"{other!r} (1 row, first: {tmp_path}/a.csv, line 5)" in message
    assert "task.similar_labels=merge; task.similar_labels=keep" in message
    assert settled(tmp_path, {"a.csv": labels}, "merge") == [[one, one, "else", one]]
    assert settled(tmp_path, {"a.csv": labels}, "keep") == [labels]


def test_a_test_label_that_is_almost_one_of_training(tmp_path: Path) -> None:
    files = {"a.csv": ["Positive", "neg"], "b.csv": ["neg", "positive", "positive"]}
    with pytest.raises(InputError) as caught:
        settled(tmp_path, files)
    there = f"'positive' (2 rows, first: {tmp_path}/b.csv, line 3; none in training)"
    assert there in str(caught.value)
    # Kept apart it would be a label that training never saw.
    assert "similar_labels=keep" not in str(caught.value)
    assert settled(tmp_path, files, "merge")[1] == ["neg", "Positive", "Positive"]


def test_doubts(tmp_path: Path) -> None:
    assert doubts([Table(["a", "b"], ["none", "x"])]) == []
    (line,) = doubts([table(tmp_path / "a.csv", ["x", "NaN", "NaN"])])
    assert line.startswith(
        f"warning: the label 'NaN' (2 rows, first: {tmp_path}/a.csv, line 3) counts as a class"
    )
    (line,) = doubts([Table([""] * 202, [str(n / 7) for n in range(101)] * 2)])
    assert "101 different labels in 202 rows" in line
    assert "task.name=regress" in line


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ([["1.5", "2", "-3e2", "1_000"]], [["1.5", "2", "-3e2", "1_000"]]),
        ([["1,5", "2"]], [["1.5", "2"]]),
        ([["1,234.5", "7"]], [["1234.5", "7"]]),
        ([["1.234,5", "1.234"]], [["1234.5", "1234.0"]]),
        ([["1,234", "1.5"]], [["1234.0", "1.5"]]),
        ([["1,234,567", "0"]], [["1234567.0", "0"]]),
        ([["0,500", "1,250"]], [["0.5", "1.25"]]),
        ([["1 234,5", "1\u00a0000"]], [["1234.5", "1000.0"]]),
        ([["1'234.5", "\u22121.5"]], [["1234.5", "-1.5"]]),
        # Another file of the same kind decides.
        ([["1,5"], ["1,234"]], [["1.5"], ["1.234"]]),
        ([["1.5"], ["1,234"]], [["1.5"], ["1234.0"]]),
    ],
)
def test_numbers_as_spreadsheets_write_them(
    tmp_path: Path, files: list[list[str]], expected: list[list[str]]
) -> None:
    tables = [table(tmp_path / f"{n}.csv", labels) for n, labels in enumerate(files)]
    found, notes = settle_numbers(tables)
    assert [t.labels for t in found] == expected
    changed = [n for n, t in enumerate(tables) if t.labels != expected[n]]
    assert [note.split(":")[0] for note in notes] == [str(tables[n].path) for n in changed]


def test_numbers_of_json_say_nothing_of_a_csv(tmp_path: Path) -> None:
    tables = [table(tmp_path / "a.jsonl", [1.5, 2]), table(tmp_path / "a.csv", ["1,5"])]
    assert [t.labels for t in settle_numbers(tables)[0]] == [["1.5", "2"], ["1.5"]]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["1", "1,234"], "line 3: the label '1,234' may be 1234 or 1.234: write one of these"),
        (["1.5", "1,5"], "line 3: the label '1,5' has a decimal comma"),
        (["1", "12%"], "line 3: the label '12%' is not a number"),
        (["1", "nan"], "line 3: the label 'nan' is not a number"),
        (["1", "5\u00b2"], "is not a number"),
        (["1,2,3"], "is not a number"),
    ],
)
def test_numbers_that_are_none(tmp_path: Path, labels: list[str], message: str) -> None:
    with pytest.raises(InputError) as caught:
        settle_numbers([table(tmp_path / "a.csv", labels)])
    assert message in str(caught.value)
