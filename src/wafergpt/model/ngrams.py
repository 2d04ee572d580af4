"""Embeddings of the last few tokens together, looked up in hashed tables."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wafergpt import config
from wafergpt.shapes.counts import table_rows
from wafergpt.shapes.hashing import FACTOR, PRIME


def use_sparse_gradients(network: nn.Module) -> None:
    """Have tables of n-grams give the gradients of the rows that a batch reads, and no others."""
    for module in network.modules():
        if isinstance(module, nn.EmbeddingBag):
            module.sparse = True
        if isinstance(module, NgramEmbedding):
            for table in module.tables:
                assert isinstance(table, nn.Embedding)
                table.sparse = True


class KeptRows(nn.Module):
    """The rows that are left of a hashed table, of which all others are a row of zeros, row 0.

    Args:
        count: of those left.
    """

    rows: Tensor

    def __init__(self, count: int) -> None:
        super().__init__()
        # Their numbers in the whole table, ascending.
        self.register_buffer("rows", torch.zeros(count, dtype=torch.int32))

    def forward(self, numbers: Tensor) -> Tensor:
        """Map rows of the whole table to rows of what is left of it, of any shape."""
        numbers = numbers.to(self.rows.dtype)
        places = torch.searchsorted(self.rows, numbers)
        found = self.rows[places.clamp(max=len(self.rows) - 1)] == numbers
        return torch.where(found, places + 1, 0)


class NgramEmbedding(nn.Module):
    """The sum of one embedding per order: of the last two tokens, of the last three, and so on.

    In the manner of N-Grammer (arXiv:2207.06366) and of over-tokenized inputs (arXiv:2501.16975).
    A row's number is a hash of the tokens, so n-grams may share a row. The tables start at zero:
    an n-gram that training has not read adds nothing, unless another one has its row. So does one
    whose row was taken out.
    """

    ids: Tensor | None

    def __init__(self, model: config.Model) -> None:
        super().__init__()
        self.orders, self.rows = model.ngrams, model.ngram_rows
        padding = 0 if model.ngram_kept else None
        self.tables = nn.ModuleList(
            nn.Embedding(rows, model.d_model, padding) for rows in table_rows(model)
        )
        self.kept = nn.ModuleList(map(KeptRows, model.ngram_kept))
        ids = torch.zeros(model.vocab_size, dtype=torch.int32) if model.ngram_ids else None
        self.register_buffer("ids", ids)

    @property
    def memory(self) -> int:
        """How many earlier tokens an embedding depends on."""
        return max(self.orders) - 1

    def forward(self, tokens: Tensor, place: Tensor, earlier: Tensor | None = None) -> Tensor:
        """Return the embeddings ``[batch, length, d_model]``.

        Args:
            tokens: ``[batch, length]``.
            place: of each token in its document, ``[length]`` or ``[batch, length]``; what an
                n-gram would take from before its document counts as one special token.
            earlier: ``[batch, n]``, the last tokens before these.
        """
        rows = self.rows_of(tokens, place, earlier)
        total, *others = (table(numbers) for table, numbers in zip(self.tables, rows, strict=True))
        for other in others:
            total = total + other
        result: Tensor = total
        return result

    def rows_of(
        self, tokens: Tensor, place: Tensor, earlier: Tensor | None = None
    ) -> Iterator[Tensor]:
        """Yield for each table the rows ``[batch, length]`` of the n-grams; see ``forward``."""
        numbers = self.numbers(tokens, place, earlier)
        if not self.kept:
            yield from numbers
            return
        for kept, rows in zip(self.kept, numbers, strict=True):
            yield kept(rows)

    def numbers(
        self, tokens: Tensor, place: Tensor, earlier: Tensor | None = None
    ) -> Iterator[Tensor]:
        """Yield for each order the rows ``[batch, length]`` of a whole table, by the n-gram's hash.

        The hash of tokens t₁ … tₙ, the last one first, is ((tₙ + 1)·a + tₙ₋₁ + 1)·a + … modulo a
        prime, and then modulo the rows.
        """
        read = tokens if earlier is None else torch.cat((earlier, tokens), 1)
        if self.ids is not None:
            read = self.ids[read]
        # 0 stands for what is before the document.
        read = F.pad(read.long() + 1, (self.memory, 0))
        length, end = tokens.shape[1], read.shape[1]
        hashes = read[:, end - length :]
        for back in range(1, self.memory + 1):
            previous = read[:, end - length - back : end - back].masked_fill(place < back, 0)
            hashes = (hashes * FACTOR + previous) % PRIME
            if back + 1 in self.orders:
                yield hashes % self.rows
