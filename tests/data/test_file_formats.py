from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wafergpt.data import documents as sources
from wafergpt.data import opening, prepare
from wafergpt.data.documents import documents, find_files
from wafergpt.data.file_formats import rows
from wafergpt.errors import InputError


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def texts(path: Path, **options: str) -> list[str]:
    return [d.text for d in documents(find_files([path]), **options)]  # type: ignore[arg-type]


PACK: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".xz": lzma.compress,
    ".bz2": bz2.compress,
}


@pytest.mark.parametrize("suffix", PACK)
@pytest.mark.parametrize("kind", ["jsonl", "csv", "tsv"])
def test_every_kind_gives_the_same_documents(tmp_path: Path, kind: str, suffix: str) -> None:
    wanted = ["plain", 'quotes " and, commas\tand tabs', "two\nlines", "emoji 🙂 and 漢字"]
    if kind == "jsonl":
        content = "".join(json.dumps({"n": 1, "text": text}) + "\n" for text in wanted)
    else:
        buffer = io.StringIO()
        writer = csv.writer(buffer, delimiter="," if kind == "csv" else "\t")
        writer.writerows([["n", "text"], *([1, text] for text in wanted)])
        content = buffer.getvalue()
    packed = PACK[suffix](content.encode())
    assert texts(write(tmp_path / f"a.{kind}{suffix}", packed)) == wanted


@given(st.lists(st.text(alphabet="ab \n\r\t", max_size=60), max_size=40))
def test_a_text_file_is_the_sum_of_its_documents(
    tmp_path_factory: pytest.TempPathFactory, parts: list[str]
) -> None:
    content = "x" + "\n".join(parts)
    path = write(tmp_path_factory.mktemp("t") / "a.txt", content.encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "DOCUMENT_CHARACTERS", 40)
        patch.setattr(sources, "LONGEST_DOCUMENT", 100)
        pieces = texts(path)
    # What holds only white space is passed over, nothing else is lost or moved.
    assert "".join("".join(pieces).split()) == "".join(content.split())
    assert all(piece in content for piece in pieces)


def test_shakespeare_is_whole(real_data: Path) -> None:
    path = real_data / "tinyshakespeare" / "input.txt.gz"
    pieces = texts(path)
    assert "".join(pieces) == gzip.decompress(path.read_bytes()).decode()
    assert len(pieces) > 50


BAD = {
    "empty.txt": (b"", "contains no text"),
    "blank.txt": (b" \n\t\n  ", "contains no text"),
    "blank.jsonl": (b'{"text": "  "}\n', "contains no text"),
    "binary.txt": (b"fine\nbad \xff\xfe\n", "line 2: not UTF-8 (byte 0xff)"),
    "cut.txt.gz": (gzip.compress(b"a" * 10_000)[:20], "broken archive"),
    "no.txt.gz": (
        b"plain \xff",
        "line 1: not text (byte 0xff), nor the archive that its name says",
    ),
    "bad.jsonl.xz": (b"plain", "line 1: not JSON"),
    "cut.txt.bz2": (bz2.compress(b"a" * 10_000)[:-20], "broken archive"),
    "list.jsonl": (b"[1, 2]\n", "line 1: not a JSON object"),
    "text.jsonl": (b"hello\n", "line 1: not JSON"),
    "deep.jsonl": (b"[" * 100_000 + b"]" * 100_000 + b"\n", "line 1: not JSON"),
    "column.jsonl": (b'{"txet": "a"}\n', "no column 'text'; did you mean 'txet'?"),
    "number.jsonl": (b'{"text": 3}\n', "column 'text' is not text"),
    "surrogate.jsonl": (b'{"text": "\\ud800"}\n', "lone surrogate"),
    "column.csv": (b"a,b\n1,2\n", "no column 'text' (columns: 'a', 'b')"),
    "ragged.csv": (b"text,b\n1,2,3\n", "line 2: 3 columns, but the header has 2"),
    "header.csv": (b"text,b\n", "contains no text"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_get_one_line(tmp_path: Path, name: str) -> None:
    content, message = BAD[name]
    with pytest.raises(InputError) as caught:
        texts(write(tmp_path / name, content))
    assert message in str(caught.value)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_invalid_bytes_can_be_replaced(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", b"bad \xff here")
    assert texts(path, errors="replace") == ["bad \ufffd here"]
    path = write(tmp_path / "a.jsonl", b'{"text": "x\\ud800"}\n')
    assert texts(path, errors="replace") == ["x?"]


def test_endless_lines_and_fields_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "LINE_CHARACTERS", 1000)
    with pytest.raises(InputError, match="line 1: longer than"):
        texts(write(tmp_path / "a.txt", b"a" * 5000))
    quoted = b'text\n"' + b"x\n" * 2000 + b'"\n'
    with pytest.raises(InputError, match="field larger than field limit"):
        list(rows(write(tmp_path / "a.csv", quoted)))


def test_sources_are_files_folders_and_globs_each_file_once(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    first = write(tmp_path / "b.txt", b"b")
    second = write(tmp_path / "deep" / "a.jsonl.gz", b"")
    write(tmp_path / "deep" / "notes.md", b"")
    assert find_files([tmp_path]) == [first, second]
    assert find_files([tmp_path / "*.txt", tmp_path, first]) == [first, second]
    (tmp_path / "again.txt").symlink_to(first)
    assert find_files([first, tmp_path / "again.txt", tmp_path / "deep" / ".." / "b.txt"]) == [
        first
    ]
    with pytest.raises(InputError, match="nothing to read at"):
        find_files([tmp_path / "*.csv"])
    with pytest.raises(InputError, match="no such file"):
        find_files([tmp_path / "deep" / "none.md"])


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    assert texts(write(tmp_path / "a.csv", b"\xef\xbb\xbftext\nhello\n")) == ["hello"]


def test_what_a_folder_holds_besides_is_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a.txt", "b.md", "c.md.gz", "d.json", "LICENSE", ".hidden", "e.PNG"):
        write(tmp_path / name, b"text")
    assert [p.name for p in find_files([tmp_path])] == ["a.txt"]
    said = capsys.readouterr().err
    assert "1 file read, 5 skipped (2 .md, " in said
    for kind in ("1 .json", "1 .png", "1 without ending"):
        assert kind in said
    found = [p.name for p in find_files([tmp_path], "txt")]
    assert found == ["LICENSE", "a.txt", "b.md", "c.md.gz", "d.json", "e.PNG"]


def test_files_that_are_named_need_no_ending(tmp_path: Path) -> None:
    text = write(tmp_path / "LICENSE", b"Permission is\nhereby granted\n")
    table = write(tmp_path / "reviews", b"text;label\nfine, really;x\n")
    lines = write(tmp_path / "rows.log", b'{"text": "a"}\n{"text": "b"}\n')
    assert texts(text) == ["Permission is\nhereby granted\n"]
    assert texts(table) == ["fine, really"]
    assert texts(lines) == ["a", "b"]
    assert texts(lines, file_format="txt") == ['{"text": "a"}\n{"text": "b"}\n']
    image = write(tmp_path / "image", b"\x89PNG\r\n\x1a\n\0\0\0\r")
    with pytest.raises(InputError, match="image, line 1: not text"):
        texts(image)


def test_each_file_of_a_corpus_is_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = write(tmp_path / "a.tsv", b'text\tlabel\n"a\tx\nb\ty\n')
    write(tmp_path / "notes", b"words")
    reader = prepare._Reader([first, tmp_path / "notes"], "text", "strict")
    assert prepare._survey(reader).documents == 3
    said = capsys.readouterr().err
    assert f"{first}: 2 documents (quotes are part of the text)\n" in said
    assert "notes: 1 document (read as txt)\n" in said
    capsys.readouterr()
    prepare._survey(prepare._Reader([first] * 30, "text", "strict"))
    said = capsys.readouterr().err
    assert said.count("a.tsv") == prepare.LISTED
    assert said.endswith("… 30 files: 60 documents\n")
