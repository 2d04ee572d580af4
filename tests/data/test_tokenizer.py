from __future__ import annotations

import gzip
import itertools
import json
import shutil
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wafergpt.data.tokenizer import Tokenizer
from wafergpt.errors import InputError

HARD = [
    "",
    " ",
    "Hello, world!  It's   we've I'LL don't 2024's",
    "emoji 🙂🏳️‍🌈👩‍👩‍👧‍👦 and 漢字かな混じり文 and العربية and हिन्दी",
    "control \x00\x01\x1b[31m\x7f\u0085\u200b\u2028\ufeff\ufffd characters",
    "a" * 3000,
    " " * 700 + "\n" * 300 + "\t\r\n" * 50,
    "^" * 999 + "é" * 500 + "e\u0301" * 200,
    "<|endoftext|> is <|endoftext|>text",
    "def f(x):\n    return x**2  # ½ ٣ Ⅷ\n",
]


@cache
def trained() -> Tokenizer:
    words = [f"word{i} and number {i * i}, the quick brown fox" for i in range(500)]
    return Tokenizer.train(words, 400)


@pytest.fixture(scope="session")
def gpt2(real_data: Path) -> Tokenizer:
    return Tokenizer.load(real_data / "gpt2_bpe")


@pytest.fixture(scope="session")
def merge_ranks(real_data: Path) -> dict[tuple[str, str], int]:
    lines = (real_data / "gpt2_bpe" / "vocab.bpe").read_text("utf-8").split("\n")[1:-1]
    return {(a, b): rank for rank, (a, b) in enumerate(line.split(" ") for line in lines)}


def reference_ids(text: str, ids: dict[str, int], ranks: dict[tuple[str, str], int]) -> list[int]:
    """Encode by the definition: split, map bytes to letters, merge the best pair till none is."""
    regex = pytest.importorskip("regex", reason="the reference splitting needs regex")
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [b for b in range(256) if b not in visible]
    letters = {b: chr(b) for b in visible} | {b: chr(256 + n) for n, b in enumerate(hidden)}
    split = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
    result = []
    for word in regex.findall(split, text):
        symbols = [letters[b] for b in word.encode()]
        while len(symbols) > 1:
            pairs = list(itertools.pairwise(symbols))
            best = min(pairs, key=lambda pair: ranks.get(pair, 1 << 30))
            if best not in ranks:
                break
            merged: list[str] = []
            done = False
            for symbol in symbols:
                if merged and (merged[-1], symbol) == best and not done:
                    merged[-1] += symbol
                    done = True
                else:
                    merged.append(symbol)
                    done = False
            symbols = merged
        result += [ids[s] for s in symbols]
    return result


@pytest.mark.parametrize("text", HARD)
def test_ids_equal_the_reference(
    gpt2: Tokenizer, merge_ranks: dict[tuple[str, str], int], real_data: Path, text: str
) -> None:
    encoder = json.loads(gzip.decompress((real_data / "gpt2_bpe/encoder.json.gz").read_bytes()))
    assert gpt2.encode(text) == reference_ids(text, encoder, merge_ranks)
    assert gpt2.encode_batch([text])[0] == gpt2.encode(text)


def test_gpt2_is_gpt2(gpt2: Tokenizer) -> None:
    assert (gpt2.vocab_size, gpt2.end_of_text) == (50257, 50256)
    assert gpt2.encode("Hello world") == [15496, 995]


@given(st.text(max_size=60))
def test_round_trip(text: str) -> None:
    tokenizer = trained()
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.end_of_text not in ids
    assert all(0 <= i < tokenizer.vocab_size for i in ids)


@pytest.mark.parametrize("text", HARD)
def test_special_tokens_in_a_text_are_text(gpt2: Tokenizer, text: str) -> None:
    for tokenizer in (gpt2, trained()):
        ids = tokenizer.encode(text)
        assert tokenizer.end_of_text not in ids
        assert tokenizer.decode(ids) == text


@pytest.mark.slow
def test_saved_and_loaded_it_is_the_same(tmp_path: Path, gpt2: Tokenizer) -> None:
    for tokenizer in (gpt2, trained()):
        tokenizer.save(tmp_path / "tokenizer.json")
        for where in (tmp_path, tmp_path / "tokenizer.json"):
            again = Tokenizer.load(where)
            assert again.encode_batch(HARD) == tokenizer.encode_batch(HARD)
            assert again.sha256() == tokenizer.sha256()
            assert again.end_of_text == tokenizer.end_of_text


@pytest.mark.slow
def test_gpt2_loads_from_plain_files_too(tmp_path: Path, real_data: Path) -> None:
    source = real_data / "gpt2_bpe"
    shutil.copyfile(source / "vocab.bpe", tmp_path / "vocab.bpe")
    packed = (source / "encoder.json.gz").read_bytes()
    (tmp_path / "encoder.json").write_bytes(gzip.decompress(packed))
    assert Tokenizer.load(tmp_path / "encoder.json").encode("Hello world") == [15496, 995]


def test_vocabulary_sizes() -> None:
    assert trained().vocab_size == 400
    assert Tokenizer.train(["ab"], 257).vocab_size == 257
    with pytest.raises(InputError, match="at least 257"):
        Tokenizer.train(["ab"], 256)
    with pytest.raises(InputError, match="it gives at most 259 tokens"):
        Tokenizer.train(["ab ab"], 5000)


@pytest.mark.parametrize(
    "content",
    [
        b"", b"{}", b"[]", b"null", b"not json", b"\xff", b"[" * 10_000,
        b'{"model": {"vocab": {}}}',
        b'{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [["b", "c"]]}}',
        b'{"model": {"type": "BPE", "vocab": {"a": 0, "b": 99999999}, "merges": []}}',
    ],
)  # fmt: skip
def test_hostile_tokenizers(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        Tokenizer.load(path)
    assert "\n" not in str(caught.value)


def test_no_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no tokenizer at"):
        Tokenizer.load(tmp_path)
