"""What unpacks to more than a machine has: refused in little memory and little time."""

from __future__ import annotations

import gzip
import lzma
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

CHILD = """
import resource, sys
limit = int(sys.argv[3]) << 20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
resource.setrlimit(resource.RLIMIT_CPU, (20, 20))
from pathlib import Path
from wafergpt.config import load_recipe
from wafergpt.data.labelled_rows import read_table, read_texts
from wafergpt.data.tokenizer import Tokenizer
from wafergpt.errors import InputError
from wafergpt.files import read_json
from wafergpt.runs.run import Run
path = Path(sys.argv[2])
try:
    print("loaded", eval(sys.argv[1]))
except InputError as error:
    print("refused:", str(error)[-200:])
"""


def repeated(data: bytes, times: int) -> Callable[[Path], None]:
    """Write members that unpack to much: a megabyte of ``data`` so many times."""
    piece = data * ((1 << 20) // len(data))

    def write(path: Path) -> None:
        pack = gzip.compress if path.suffix == ".gz" else lzma.compress
        path.write_bytes(pack(b"text,label\n") + pack(piece) * times)

    return write


def large_dictionary(path: Path) -> None:
    data = bytearray(lzma.compress(b"text,label\na,b\n"))
    start, size = 12, (data[12] + 1) * 4
    data[data.index(b"\x21\x01", start) + 2] = 40
    data[start + size - 4 : start + size] = struct.pack(
        "<I", zlib.crc32(data[start : start + size - 4])
    )
    path.write_bytes(data)


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 36)


def laughs(path: Path) -> None:
    levels = [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)]
    path.write_text("a0: &a0 [lol]\n" + "".join(levels) + "model: *a11\n")


BOMBS: dict[str, tuple[str, str, Callable[[Path], None], str]] = {
    "rows.csv.gz": ("read_table(path)", "a.csv.gz", repeated(b"a,b\n", 8), "100 times the memory"),
    "lines": ("read_texts(path)", "a.txt.gz", repeated(b"\n", 8), "100 times the memory"),
    "long rows": (
        "read_texts(path)",
        "a.csv.gz",
        repeated(b"x" * 65_000 + b",b\n", 40),
        "100 times the memory",
    ),
    "one line": ("read_texts(path)", "a.txt.gz", repeated(b"a", 90), "longer than 64 MiB"),
    "dictionary": ("read_table(path)", "a.csv.xz", large_dictionary, "broken archive"),
    "a line without an end": ("read_texts(path)", "a.txt", sparse, "longer than 64 MiB"),
    "a row without an end": ("Run(path.parent).metrics()", "metrics.jsonl", sparse, "longer than"),
    "a result without an end": ("Run(path.parent).read('result')", "result.json", sparse, "limit"),
    "a recipe without an end": ("load_recipe(path)", "a.yaml", sparse, "too large"),
    "a tokenizer without an end": ("Tokenizer.load(path)", "tokenizer.json", sparse, "too large"),
    "a packed tokenizer": (
        "Tokenizer.load(path)", "tokenizer.json.gz", repeated(b" ", 90), "too large"
    ),
    "laughs": ("load_recipe(path)", "a.yaml", laughs, "more than 100,000 values"),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("code", "name", "make", "message"), BOMBS.values(), ids=BOMBS)
def test_a_bomb_is_refused(
    tmp_path: Path, code: str, name: str, make: Callable[[Path], None], message: str
) -> None:
    make(tmp_path / name)
    done = subprocess.run(
        [sys.executable, "-c", CHILD, code, str(tmp_path / name), "700"],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("refused:"), done.stdout
    assert message in done.stdout
