from __future__ import annotations

import csv
import io
import re
import subprocess
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from wafergpt.data import dialects
from wafergpt.data.dialects import AmbiguousFault, Fault, Format, detect
from wafergpt.data.file_formats import counted, rows
from wafergpt.data.labelled_rows import read_table, read_texts
from wafergpt.data.opening import lines
from wafergpt.errors import InputError


def table_format(content: str, preferred: str) -> Format:
    return detect(lambda: lines(Path("a"), data=content.encode()), preferred)


def read(content: str, preferred: str) -> list[list[str]]:
    table = dialects.Table(
        lines(Path("a"), data=content.encode()), table_format(content, preferred).dialect
    )
    return [row.values for row in table if row.values]


CASES: dict[str, tuple[str, str, list[list[str]]]] = {
    "a quote that nothing closes": ("\t", 'x\t"a\ny\tb\n', [["x", '"a'], ["y", "b"]]),
    "quotes that something follows": (
        "\t", '"a\tx\nb\ty\n"c\tx\nd\ty\n', [['"a', "x"], ["b", "y"], ['"c', "x"], ["d", "y"]]
    ),
    "a title in quotes": (",", '"Up" again,x\nb,y\n', [['"Up" again', "x"], ["b", "y"]]),
    "quotes inside lines say that quotes are text": (
        "\t", '"a\tx\nb"\ty\nso "c" said\tx\n', [['"a', "x"], ['b"', "y"], ['so "c" said', "x"]]
    ),
    "line ends in quotes": (",", '"a, b\n\n""d""",x\nb,y\n', [['a, b\n\n"d"', "x"], ["b", "y"]]),
    "semicolons": (";", '"a;b";x\nc, d;y\n', [["a;b", "x"], ["c, d", "y"]]),
    "tabs": ("\t", 'a, "b"\tx\n', [['a, "b"', "x"]]),
    "spaces before quotes": (",", '"a, b", "x"\nc, d\n', [["a, b", "x"], ["c", "d"]]),
    "backslashes before quotes": (
        ",", '"a \\"b\\", c",x\n"d ""e"" \\\\",y\n', [['a "b", c', "x"], ['d "e" \\', "y"]]
    ),
    "backslashes and no delimiter": (
        ",", '"a \\"b\\" c",x\n"\\"",y\n', [['a "b" c', "x"], ['"', "y"]]
    ),
    "nothing but quotes": ("\t", '"\t"\n"\t"\n', [['"', '"'], ['"', '"']]),
    "backslashes before delimiters": (",", "a\\, b,x\nc,y\n", [["a, b", "x"], ["c", "y"]]),
    "backslashes before nothing of ours": ("\t", "C:\\new\tx\n", [["C:\\new", "x"]]),
    "delimiters at the end": (",", "a,x,\nb,y,,\n", [["a", "x"], ["b", "y"]]),
    "blank lines": (",", "\na,x\n  \nb,y\n\n", [["a", "x"], ["b", "y"]]),
    "inches": (",", '5" pipe,x\n"a, b",y\n', [['5" pipe', "x"], ["a, b", "y"]]),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_what_is_certain_is_read(name: str) -> None:
    delimiter, content, wanted = CASES[name]
    for preferred in (delimiter, ",", ""):
        assert read(f"t{delimiter}l\n{content}", preferred) == [["t", "l"], *wanted]
    ends = content.replace("\n", "\r\n")
    kept = [[value.replace("\n", "\r\n") for value in row] for row in wanted]
    assert read(f"\r\nt{delimiter}l\r\n{ends}", delimiter) == [["t", "l"], *kept]


REFUSED = {
    "closed nowhere": ('"a, b",x\n"c d,y\ne,z\n', 3, "a quote opens a field here and is never"),
    "closed too late": ('"a, b",x\n"c\nd,y\n"e, f",z\n', 3, "closes it in line 5, but 'e, f\",z'"),
    "opened later in its row": ('"a, b",x\n"c\nd","e,y\nf,z\n', 4, "a quote opens a field here"),
    "followed by a space": ('"a" ,x\n"b, c",y\n', 2, "closes it here, but ' ,x' follows"),
    "too many columns": ("a,x\nb, c,y\n", 3, "3 columns, but the header has 2"),
    "too few": ("a,x\nb\n", 3, "1 column, but the header has 2"),
    "too many after line ends in quotes": ('"a, b",x\n"c\n\nd",e,y\n', 3, "from here to line 5"),
    "an escape of what": ("a\\, b,x\nc\\n,y\n", 3, "is '\\n' an escape?"),
    "quotes of no meaning": ('"a,x\nb,y\nc,d,z\n', 4, "3 columns, but the header has 2"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_the_rest_is_refused_where_it_begins(name: str) -> None:
    content, line, message = REFUSED[name]
    with pytest.raises(Fault) as caught:
        table_format(f"t,l\n{content}", ",")
    assert message in caught.value.reason
    assert caught.value.line == line


def test_two_readings_of_a_tsv_are_refused_and_either_can_be_had(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text('text\tlabel\nx\ty\n"a\tx\nb"\ty\n\tz\n')
    with pytest.raises(
        InputError, match=r"tsv, line 3: .* ends in line 4, or .* part of"
    ) as caught:
        list(rows(path))
    command = str(caught.value).rpartition(": ")[2]
    command = command.replace("FILE", "a.tsv").replace("NEW", "b.tsv")
    subprocess.run(command, shell=True, check=True, cwd=tmp_path)
    assert [list(row.values()) for _, row in rows(tmp_path / "b.tsv")] == [
        ["x", "y"], ['"a', "x"], ['b"', "y"], ["", "z"]
    ]  # fmt: skip
    path.write_text('"text"\t"label"\n"a\tx\nb"\ty\n')
    assert [row for _, row in rows(path)] == [{"text": "a\tx\nb", "label": "y"}]


FIELDS = st.text(st.sampled_from("ab ,;\t\"'\\\n\r|é") | st.characters(codec="utf-8"), max_size=12)
WRITERS: list[tuple[str, dict[str, object]]] = [
    (",", {"dialect": "excel"}),
    (",", {"quoting": csv.QUOTE_ALL, "lineterminator": "\n"}),
    (";", {"delimiter": ";"}),
    (";", {"delimiter": ";", "quoting": csv.QUOTE_NONNUMERIC}),
    ("\t", {"dialect": "excel-tab"}),
    ("\t", {"delimiter": "\t", "quoting": csv.QUOTE_ALL}),
    (",", {"doublequote": False, "escapechar": "\\", "quoting": csv.QUOTE_ALL}),
]


@given(
    st.sampled_from(WRITERS),
    st.integers(1, 4).flatmap(
        lambda n: st.lists(st.lists(FIELDS, min_size=n, max_size=n), min_size=1, max_size=6)
    ),
)
@settings(max_examples=400)
def test_what_python_writes_is_read_as_it_was(
    writer: tuple[str, dict[str, object]], table: list[list[str]]
) -> None:
    delimiter, options = writer
    # A backslash written twice differs from two only beside one that escapes a quote.
    gone = "\0\\" if "escapechar" in options else "\0"
    table = [["".join(c for c in v if c not in gone) for v in row] for row in table]
    header = [f"c{n}" for n in range(len(table[0]))]
    buffer = io.StringIO()
    csv.writer(buffer, **options).writerows([header, *table])  # type: ignore[arg-type]
    content = buffer.getvalue()
    try:
        found = read(content, delimiter)
    except AmbiguousFault:
        # Only where the lines of a quoted field look like rows.
        assert delimiter == "\t"
        assert any("\t" in value for row in table for value in row)
        return
    assert found == [header, *table]


@given(
    st.lists(
        st.lists(st.text(st.sampled_from("ab ,;\"'\\é"), min_size=1, max_size=9), min_size=2,
                 max_size=2), min_size=1, max_size=8,
    )
)  # fmt: skip
@settings(max_examples=300)
@example([[";", '"\\""']])
@example([[";", ' ""']])
@example([[";", ' ""'], [" a", "b"]])
@example([["\\\\", '"\\""']])
def test_a_tsv_without_quoting_loses_no_row(table: list[list[str]]) -> None:
    content = "".join("\t".join(row) + "\n" for row in [["t", "l"], *table])
    try:
        found = read(content, "\t")
    except AmbiguousFault:
        return
    assert len(found) == 1 + len(table)
    # Quotes behind a space mean that spaces before a field are none of it, in the whole table.
    spaced = any(re.fullmatch(r' +".*"', value) for row in table for value in row)
    # A backslash before a quote inside quotes means that it escapes everywhere.
    escapes = any(re.fullmatch(r' *".*\\".*"', value) for row in table for value in row)
    for row, values in zip(table, found[1:], strict=True):
        for value, got in zip(row, values, strict=True):
            bare = value.lstrip(" ") if spaced else value
            # A field that stands in quotes as a whole reads as one that was quoted.
            allowed = [value, bare]
            if escapes:
                allowed.append(re.sub(r"\\(.)", r"\1", bare))
            if re.fullmatch(r'".*"', bare):
                inner = bare[1:-1]
                escaped = re.sub(r'\\(.)|""', lambda found: found[1] or '"', inner)
                allowed += [inner.replace('""', '"'), escaped]
            assert got in allowed


def test_rows_are_counted_and_what_is_unusual_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    files = {
        "plain.csv": ("text,label\na,x\nb,y\n", "plain.csv: 2 rows\n"),
        "one.csv": ("text,label\na,x\n", "one.csv: 1 row\n"),
        "quotes.tsv": ('text\tlabel\n"a\tx\n', "quotes.tsv: 1 row (quotes are part of the text)\n"),
        "excel.csv": ("sep=;\r\ntext;label\r\na, b;x\r\n", "excel.csv: 1 row (separated by ';')\n"),
        "tabs.csv": ("text\tlabel\na\tx\n", "tabs.csv: 1 row (separated by tabs)\n"),
        "long.csv": (
            'text,label\n"' + "a\n" * 29 + '",x\n',
            "long.csv: 1 row (the row from line 2 on has 30 lines)\n",
        ),
        "train": ("text;label\na, b;x\n", "train: 1 row (read as csv, separated by ';')\n"),
        "train.txt": ("label\ttext\nx\ta\n", "train.txt: 1 row (read as csv, separated by tabs)\n"),
        "list": ('[{"text": "a",\n"label": 1}]\n', "list: 1 row (read as jsonl)\n"),
        "rows": ('{"text": "a", "label": 1}\n', "rows: 1 row (read as jsonl)\n"),
    }
    for name, (content, wanted) in files.items():
        Path(name).write_text(content)
        read_table(name)
        assert capsys.readouterr().err == wanted
    Path("wide.csv").write_text("text\nä\n", encoding="utf-16")
    assert read_texts("wide.csv") == ["ä"]
    assert capsys.readouterr().err == "wide.csv: 1 row (UTF-16)\n"
    Path("notes.md").write_text("a\nb\n")
    assert read_texts("notes.md") == ["a", "b"]
    assert capsys.readouterr().err == "notes.md: 2 rows (read as txt)\n"
    with pytest.raises(InputError, match=r"notes.md has no columns: .* names in the first line"):
        read_table("notes.md")


def test_columns_that_stand_twice(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text,label,label\na,x,y\n")
    with pytest.raises(InputError, match="more than one column 'label'"):
        read_table(path)
    assert read_texts(path) == ["a"]
    path.write_text("text,label,,,\na,x,,,\n,,,,\nb,y,,,\n")
    assert [row["text"] for _, row in rows(path)] == ["a", "", "b"]


def test_columns_in_other_case_or_with_spaces_are_proposed(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    for header, name in (("TEXT", "TEXT"), (" text ", " text ")):
        path.write_text(f"{header},label\na,x\n")
        with pytest.raises(InputError, match=f"no column 'text'; did you mean '{name}'"):
            read_table(path)


def test_the_dialect_of_what_unpacks_to_too_much_is_detected_from_its_start() -> None:
    content = "t,l\n" + '"a, b",x\n' * 1000 + "a,b,c\n"
    found = detect(lambda: lines(Path("a"), data=content.encode()), ",", 1000)
    assert found.dialect == dialects.Dialect(",")
    with pytest.raises(Fault, match="3 columns"):
        read(content, ",")


def test_a_dialect_is_detected_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text,label\na,x\n")
    assert len(list(rows(path))) == 1
    monkeypatch.setattr(dialects, "detect", None)
    assert len(list(rows(path))) == 1
    assert counted(path, 1) == f"{path}: 1 row"
