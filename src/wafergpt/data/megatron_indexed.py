"""Megatron's indexed datasets: ``.bin`` holds the tokens, ``.idx`` where each document is."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from wafergpt import atomic_files
from wafergpt.errors import InputError

MAGIC = b"MMIDIDX\0\0"
VERSION = 1
DTYPES: dict[int, type[np.integer]] = {4: np.int32, 8: np.uint16}
HEADER = struct.Struct("<9sQBQQ")


def dtype_code(vocab_size: int) -> int:
    """Return Megatron's code of the integer type for ids below ``vocab_size``."""
    return 8 if vocab_size < 65500 else 4


class IndexedWriter:
    """Writes one dataset document by document, in bounded memory.

    Args:
        prefix: of the two files, without ``.bin`` and ``.idx``.
        vocab_size: determines the integer type of the tokens.
    """

    def __init__(self, prefix: Path, vocab_size: int) -> None:
        self._code = dtype_code(vocab_size)
        self._index_path = prefix.with_name(prefix.name + ".idx")
        self._file = prefix.with_name(prefix.name + ".bin").open("wb")
        self._lengths: list[int] = []

    def add(self, tokens: Sequence[int]) -> None:
        """Append one document."""
        self._file.write(np.asarray(tokens, dtype=DTYPES[self._code]).tobytes())
        self._lengths.append(len(tokens))

    @property
    def tokens(self) -> int:
        """The number of tokens written so far."""
        return sum(self._lengths)

    def close(self) -> None:
        """Flush the tokens and write the index."""
        self._file.flush()
        self._file.close()
        atomic_files.sync(Path(self._file.name))
        lengths = np.array(self._lengths, dtype="<i4")
        width = np.dtype(DTYPES[self._code]).itemsize
        pointers = np.zeros(len(lengths), dtype="<i8")
        np.cumsum(lengths[:-1].astype("<i8") * width, out=pointers[1:])
        with self._index_path.open("wb") as file:
            count = len(lengths)
            file.write(HEADER.pack(MAGIC, VERSION, self._code, count, count + 1))
            for part in (lengths, pointers, np.arange(count + 1, dtype="<i8")):
                file.write(part.tobytes())
        atomic_files.sync(self._index_path)

    def __enter__(self) -> IndexedWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self.close()
        else:
            self._file.close()


class IndexedTokens:
    """One dataset, read on demand.

    Attributes:
        tokens: all tokens, memory-mapped.
        lengths: tokens of each document.

    Raises:
        InputError: if the files are not a dataset, or do not match.
    """

    def __init__(self, prefix: Path) -> None:
        index = prefix.with_name(prefix.name + ".idx")
        data = prefix.with_name(prefix.name + ".bin")
        for path in (index, data):
            if not path.is_file():
                raise InputError(f"no such file: {path}")
        code, self.lengths = _read_index(index)
        dtype = DTYPES[code]
        total = int(self.lengths.sum(dtype=np.int64))
        if data.stat().st_size != total * np.dtype(dtype).itemsize:
            raise InputError(f"{data} does not have the {total:,} tokens that its index names")
        self.tokens: NDArray[np.integer] = (
            np.memmap(data, dtype=dtype, mode="r") if total else np.empty(0, dtype)
        )


def _read_index(path: Path) -> tuple[int, NDArray[np.int32]]:
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(HEADER.size)
        if len(head) < HEADER.size:
            raise InputError(f"{path} is not an index of tokens: too short")
        magic, version, code, count, documents = HEADER.unpack(head)
        if magic != MAGIC or version != VERSION or code not in DTYPES:
            raise InputError(f"{path} is not a token index of a supported version")
        # Check sizes before allocating anything of that size.
        if size != HEADER.size + 12 * count + 8 * documents or documents < 1:
            raise InputError(f"{path} is damaged: its size does not fit its {count} documents")
        lengths = np.frombuffer(file.read(4 * count), dtype="<i4")
        pointers = np.frombuffer(file.read(8 * count), dtype="<i8")
    width = np.dtype(DTYPES[code]).itemsize
    ends = np.cumsum(lengths, dtype=np.int64) * width
    if (lengths < 0).any() or not np.array_equal(pointers, ends - lengths.astype(np.int64) * width):
        raise InputError(f"{path} is damaged: its documents do not follow one another")
    return code, lengths
