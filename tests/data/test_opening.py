from __future__ import annotations

import bz2
import gzip
import lzma
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wafergpt.data.documents import documents
from wafergpt.data.labelled_rows import read_lines, read_table, read_texts
from wafergpt.data.opening import NotTextError, lines
from wafergpt.errors import InputError


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def refused(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        list(lines(path))
    assert "\n" not in str(caught.value)
    return str(caught.value)


TABLE = "text,label\r\nhéllo 漢字,x\r\nworld,y\r\n"


@pytest.mark.parametrize(
    "encoding",
    ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"],
)
def test_encodings_that_are_certain_are_read(tmp_path: Path, encoding: str) -> None:
    table = read_table(write(tmp_path / "a.csv", TABLE.encode(encoding)))
    assert table.texts == ["héllo 漢字", "world"]
    assert read_lines(TABLE.encode(encoding), "stdin")[1] == "héllo 漢字,x"


@given(st.lists(st.sampled_from(["a", "\x85", "\u2028", "\x0b", "\x0c", "\n", "\r\n", "\r"])))
def test_lines_end_at_what_python_calls_line_ends_and_nowhere_else(parts: list[str]) -> None:
    text = "".join(parts)
    found = [line for _, line in lines(Path("stdin"), data=text.encode())]
    assert "".join(found) == text
    wanted = re.sub("\r\r\n|\r\n|\r", "\n", text).split("\n")
    assert [line.rstrip("\r\n") for line in found] == (wanted if wanted[-1] else wanted[:-1])


def test_line_ends_of_old_macs_and_of_more_than_one_system(tmp_path: Path) -> None:
    assert read_texts(write(tmp_path / "a.txt", b"one\rtwo\rthree\r")) == ["one", "two", "three"]
    assert read_texts(write(tmp_path / "a.csv", b'text\rone\r"t\nwo"\r')) == ["one", "t\nwo"]
    assert read_texts(write(tmp_path / "b.csv", b"text\r\r\none\r\r\ntwo\n")) == ["one", "two"]
    assert read_texts(write(tmp_path / "a.jsonl", b'{"text":"a"}\r{"text":"b"}')) == ["a", "b"]
    assert read_lines(b"one\rtwo\r\nthree", "stdin") == ["one", "two", "three"]


PACK: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".xz": lzma.compress,
    ".bz2": bz2.compress,
}


@pytest.mark.parametrize("named", PACK)
@pytest.mark.parametrize("packed", PACK)
def test_archives_are_detected_by_their_content(tmp_path: Path, named: str, packed: str) -> None:
    path = write(tmp_path / f"a.csv{named}", PACK[packed](TABLE.encode()))
    assert read_table(path).labels == ["x", "y"]


@pytest.mark.parametrize("name", ["a.txt", "a b's.csv", "a.txt.gz"])
def test_the_command_that_is_proposed_mends_another_encoding(tmp_path: Path, name: str) -> None:
    content = "fine\nna\u00efve caf\u00e9\n".encode("cp1252")
    path = write(tmp_path / name, gzip.compress(content) if name.endswith("gz") else content)
    said = refused(path)
    assert f"{name}, line 2: not UTF-8 (byte 0xef)" in said
    command = said.partition("convert it: ")[2].partition(" (Chinese")[0]
    subprocess.run(command, shell=True, check=True, cwd=tmp_path)
    (mended,) = tmp_path.glob("*.utf-8.*")
    assert mended.read_text() == "fine\nnaïve café\n"


def test_replacing_is_proposed_only_where_it_can_be_asked_for(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "text,label\ncafé,x\n".encode("cp1252"))
    for read in (read_table, read_texts):
        with pytest.raises(NotTextError) as caught:
            read(path)
        assert "--errors" not in str(caught.value)
    with pytest.raises(InputError, match=r"line 2: not UTF-8 .* or add --errors replace"):
        list(documents([path]))
    assert [d.text for d in documents([path], errors="replace")] == ["caf\ufffd"]


def test_a_stream_is_converted_in_its_pipe() -> None:
    with pytest.raises(
        NotTextError, match=r"stdin, line 1: .* \| iconv -f WINDOWS-1252 -t UTF-8 \|"
    ):
        read_lines(b"caf\xe9", "stdin")


def test_nuls_are_no_text(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", b"fine\nb\0d\n")
    said = refused(path)
    assert "a.txt, line 2: a NUL byte" in said
    subprocess.run(said.partition("remove them: ")[2], shell=True, check=True, cwd=tmp_path)
    assert (tmp_path / "a.utf-8.txt").read_bytes() == b"fine\nbd\n"
    assert [line for _, line in lines(path, "replace")] == ["fine\n", "b\ufffdd\n"]
    json = write(tmp_path / "a.jsonl", b'[{"text":\n"a\0"}]')
    with pytest.raises(InputError, match="line 2: a NUL byte"):
        read_texts(json)


def test_the_place_of_what_is_wrong_is_found_far_into_a_file(tmp_path: Path) -> None:
    for ends in ("\n", "\r", "\r\n"):
        text = "".join(f"line {n}é{ends}" for n in range(1, 40_001)).encode()
        assert "line 40001: not UTF-8 (byte 0xff)" in refused(write(tmp_path / "a", text + b"\xff"))
    cut = TABLE.encode("utf-16")[:-1]
    said = refused(write(tmp_path / "a.csv", cut))
    assert "line 4: not UTF-16 (byte 0x0a): the file is damaged or cut short" in said


FOREIGN = {
    "a.xlsx": (b"PK\x03\x04\x14\0", "a damaged spreadsheet"),
    "a.csv": (b"PK\x03\x04\x14\0", "a zip archive: unzip"),
    "a.docx": (b"PK\x03\x04\x14\0", "save it as plain text"),
    "a.parquet": (b"PAR1\x15\0", "damaged"),
    "b.csv": (b"PAR1\x15\0", "damaged"),
    "a.pdf": (b"%PDF-1.7\n", "pdftotext"),
    "a.txt.zst": (b"\x28\xb5\x2f\xfd\0", "zstd -d"),
    "b.xlsx": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "protected by a password"),
    "a.xls": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Office file"),
    "a.tar.gz": (gzip.compress(b"a.txt".ljust(257, b"\0") + b"ustar\0"), "tar xf"),
    "a.png": (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "line 1: not text (byte 0x89)"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_other_formats_are_called_by_their_names(tmp_path: Path, name: str) -> None:
    content, message = FOREIGN[name]
    said = refused(write(tmp_path / name, content))
    assert name in said
    assert message in said
