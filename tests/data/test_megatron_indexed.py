from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wafergpt.data.megatron_indexed import IndexedTokens, IndexedWriter
from wafergpt.errors import InputError

DOCUMENTS = st.lists(st.lists(st.integers(0, 300), min_size=1, max_size=20), max_size=12)


@given(documents=DOCUMENTS, vocab_size=st.sampled_from([301, 65499, 65500, 128_000]))
@settings(max_examples=40)
def test_the_bytes_are_megatrons(
    tmp_path_factory: pytest.TempPathFactory, documents: list[list[int]], vocab_size: int
) -> None:
    prefix = tmp_path_factory.mktemp("x") / "data"
    with IndexedWriter(prefix, vocab_size) as writer:
        for document in documents:
            writer.add(document)
    code, letter, width = (8, "H", 2) if vocab_size < 65500 else (4, "i", 4)
    n, flat = len(documents), [token for document in documents for token in document]
    lengths = [len(document) for document in documents]
    starts = [sum(lengths[:i]) * width for i in range(n)]
    assert prefix.with_suffix(".bin").read_bytes() == struct.pack(f"<{len(flat)}{letter}", *flat)
    assert prefix.with_suffix(".idx").read_bytes() == b"MMIDIDX\x00\x00" + struct.pack(
        f"<QBQQ{n}i{n}q{n + 1}q", 1, code, n, n + 1, *lengths, *starts, *range(n + 1)
    )
    data = IndexedTokens(prefix)
    assert data.tokens.tolist() == flat
    assert data.lengths.tolist() == lengths


@given(cut=st.integers(0, 200), place=st.integers(0, 85), bit=st.integers(0, 7))
@settings(max_examples=150)
def test_a_damaged_index_is_refused_or_harmless(
    tmp_path_factory: pytest.TempPathFactory, cut: int, place: int, bit: int
) -> None:
    prefix = tmp_path_factory.mktemp("x") / "data"
    with IndexedWriter(prefix, 500) as writer:
        writer.add([1, 2, 3])
        writer.add([4, 5])
    index = prefix.with_suffix(".idx")
    whole = index.read_bytes()
    damaged = bytearray(whole[:cut])
    if place < len(damaged):
        damaged[place] ^= 1 << bit
    index.write_bytes(damaged)
    try:
        data = IndexedTokens(prefix)
    except InputError:
        assert bytes(damaged) != whole
    else:
        # Only the document numbers, which nothing here reads, may differ unnoticed.
        assert bytes(damaged[:58]) == whole[:58]
        assert data.tokens.tolist() == [1, 2, 3, 4, 5]


def test_huge_counts_allocate_nothing(tmp_path: Path) -> None:
    (tmp_path / "data.bin").write_bytes(b"")
    for count in (1 << 62, (1 << 64) - 1):
        head = struct.pack("<9sQBQQ", b"MMIDIDX\x00\x00", 1, 8, count, count)
        (tmp_path / "data.idx").write_bytes(head)
        with pytest.raises(InputError, match="is damaged"):
            IndexedTokens(tmp_path / "data")


def test_missing_tokens_are_noticed(tmp_path: Path) -> None:
    with IndexedWriter(tmp_path / "data", 500) as writer:
        writer.add(np.arange(100).tolist())
    data = (tmp_path / "data.bin").read_bytes()
    (tmp_path / "data.bin").write_bytes(data[:-1])
    with pytest.raises(InputError, match="does not have the 100 tokens"):
        IndexedTokens(tmp_path / "data")
