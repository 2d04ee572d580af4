"""N-gram embeddings: their hash, their causality, and that they start as nothing."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tests.model.test_gpt import noisy_gpt
from wafergpt.config import Model
from wafergpt.model.cache import Cache
from wafergpt.model.gpt import GPT
from wafergpt.model.ngrams import KeptRows, NgramEmbedding

SHAPE = Model(
    n_layers=2, d_model=16, n_heads=2, d_ffn=32, seq_len=24, vocab_size=101,
    ngrams=(2, 4), ngram_rows=997,
)  # fmt: skip


def row(text: Sequence[int], order: int, rows: int) -> int:
    """Return the row of the n-gram that ends a text, by whole numbers of any size."""
    padded = [0] * order + [token + 1 for token in text]
    value = padded[-1]
    for back in range(2, order + 1):
        value = (value * 1_103_515_245 + padded[-back]) % (2**31 - 1)
    return value % rows


@given(
    st.lists(st.integers(0, 2**24 - 1), min_size=1, max_size=12),
    st.sets(st.integers(2, 8), min_size=1),
    st.integers(1, 2**20),
)
def test_rows_are_those_of_exact_arithmetic(text: list[int], orders: set[int], rows: int) -> None:
    shape = SHAPE.model_copy(update={"ngrams": tuple(sorted(orders)), "ngram_rows": 1})
    embedding = NgramEmbedding(shape)
    embedding.rows = rows
    found = list(embedding.numbers(torch.tensor([text]), torch.arange(len(text))))
    for order, numbers in zip(embedding.orders, found, strict=True):
        expected = [row(text[: end + 1], order, rows) for end in range(len(text))]
        assert numbers[0].tolist() == expected


def test_pairs_of_a_vocabulary_spread_evenly_over_the_rows() -> None:
    embedding = NgramEmbedding(SHAPE.model_copy(update={"ngrams": (2,), "ngram_rows": 1}))
    embedding.rows = rows = 1 << 16
    torch.manual_seed(0)
    # As in text, some tokens are far more frequent than others.
    pairs = (torch.rand(200_000, 2) ** 3 * 16384).long().unique(dim=0)
    (numbers,) = embedding.numbers(pairs, torch.arange(2))
    used = len(numbers[:, 1].unique())
    by_chance = rows * (1 - (1 - 1 / rows) ** len(pairs))
    assert abs(used / by_chance - 1) < 0.02


def test_a_fresh_network_computes_what_it_does_without_them() -> None:
    plain = GPT(SHAPE.model_copy(update={"ngrams": ()})).initialize(3)
    gpt = GPT(SHAPE).initialize(3)
    tokens = torch.randint(101, (2, 24))
    assert torch.equal(gpt(tokens), plain(tokens))


def test_a_cache_gives_what_the_whole_text_gives() -> None:
    gpt, tokens = noisy_gpt(SHAPE), torch.randint(101, (2, 20))
    whole = gpt(tokens)
    cache = Cache(2, SHAPE)
    for start, end in ((0, 1), (1, 2), (2, 9), (9, 10), (10, 11), (11, 20)):
        torch.testing.assert_close(gpt(tokens[:, start:end], cache=cache), whole[:, start:end])
    cache.clear()
    torch.testing.assert_close(gpt(tokens[:, 5:9], cache=cache), gpt(tokens[:, 5:9]))


def test_documents_do_not_see_each_other() -> None:
    gpt, tokens = noisy_gpt(SHAPE), torch.randint(101, (1, 20))
    lengths = (1, 7, 2, 10)
    documents = torch.repeat_interleave(torch.arange(4), torch.tensor(lengths))[None]
    apart = [gpt(part) for part in tokens.split(lengths, dim=1)]
    torch.testing.assert_close(gpt(tokens, documents), torch.cat(apart, 1))


@given(st.sets(st.integers(0, 996), min_size=1), st.integers(0, 2**32))
def test_rows_that_are_left_give_what_a_table_with_zeros_gives(kept: set[int], seed: int) -> None:
    torch.manual_seed(seed)
    whole, rows = NgramEmbedding(SHAPE), torch.tensor(sorted(kept))
    counts = (len(rows), len(rows))
    left = NgramEmbedding(SHAPE.model_copy(update={"ngram_kept": counts}))
    with torch.no_grad():
        for table, small, numbers in zip(whole.tables, left.tables, left.kept, strict=True):
            assert isinstance(table, nn.Embedding)
            assert isinstance(small, nn.Embedding)
            assert isinstance(numbers, KeptRows)
            weights = torch.zeros_like(table.weight)
            weights[rows] = torch.randn(len(rows), SHAPE.d_model)
            table.weight.copy_(weights)
            small.weight[1:] = weights[rows]
            numbers.rows.copy_(rows)
    tokens, place = torch.randint(101, (3, 20)), torch.arange(20)
    assert torch.equal(whole(tokens, place), left(tokens, place))
