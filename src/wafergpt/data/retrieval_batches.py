"""Batches of retrieval: queries with candidates for all, and lists of candidates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from wafergpt.data.batches import Batch, Ints, permute
from wafergpt.data.length_order import LengthOrder, padded

Tokens = NDArray[np.int64]


@dataclass(frozen=True)
class Pairing:
    """Which texts are the queries and the candidates of a batch.

    Attributes:
        queries: ``[n]``, indices of texts.
        candidates: ``[c]``, indices of texts; the first n are right for the queries in their order.
        ignored: ``[n, c]``, candidates that are right for a query too, but stand elsewhere.
    """

    queries: Ints
    candidates: Ints
    ignored: NDArray[np.bool_]


class PairBatches:
    """Pairs of a query and a right text, in a new keyed order each epoch.

    The candidates of a batch are the right texts of all its queries, and the negatives that are
    named; a candidate that some row calls right for a query is never a wrong one for it.

    Args:
        texts: tokens of each distinct text.
        queries: ``[n]``, the index of each row's query.
        positives: ``[n]``, of its right text.
        negatives: of its wrong ones.
        batch_size: the number of rows that are padded together.
        seed: of the run.
    """

    def __init__(
        self,
        texts: Sequence[Tokens],
        queries: Ints,
        positives: Ints,
        negatives: Sequence[Ints],
        batch_size: int,
        seed: int,
    ) -> None:
        self.samples_per_epoch = len(queries)
        self._texts, self._queries, self._positives = texts, queries, positives
        self._negatives = negatives
        self._lengths = np.array([len(text) for text in texts])
        self._right: dict[int, set[int]] = {}
        for query, text in zip(queries.tolist(), positives.tolist(), strict=True):
            self._right.setdefault(query, set()).add(text)
        longest = [
            int(self._lengths[[positive, *wrong]].max())
            for positive, wrong in zip(positives, negatives, strict=True)
        ]
        self._order = LengthOrder(np.array(longest), batch_size, seed)
        self._padded = LengthOrder(self._lengths, batch_size, None).padded

    def pairing(self, first_sample: int, n: int) -> Pairing:
        """Return the texts of samples ``first_sample …``."""
        chosen = self._order.indices(first_sample, n)
        queries = self._queries[chosen]
        wrong = [self._negatives[row] for row in chosen]
        candidates = np.concatenate([self._positives[chosen], *wrong])
        right = [self._right[query] for query in queries.tolist()]
        ignored = np.array([[text in own for text in candidates.tolist()] for own in right])
        np.fill_diagonal(ignored, False)
        return Pairing(queries, candidates, ignored)

    def batch(self, first_sample: int, n: int) -> Batch:
        """Return samples as one batch.

        ``tokens [c, longest]`` of the candidates padded with 0, their ``lengths [c]``; ``queries
        [n, longest]`` and ``query_lengths [n]``; and ``ignored [n, c]``, see ``Pairing``.
        """
        found = self.pairing(first_sample, n)
        tensors = {"ignored": torch.from_numpy(found.ignored)}
        for tokens, lengths, texts in (
            ("tokens", "lengths", found.candidates),
            ("queries", "query_lengths", found.queries),
        ):
            tensors[lengths] = torch.from_numpy(self._lengths[texts])
            tensors[tokens] = padded([self._texts[text] for text in texts], self._padded(texts))
        return Batch(tensors, weight=n)

    def length(self, first_sample: int, n: int) -> int:
        """Return the tokens of candidates for each sample of that batch, padding included."""
        candidates = self.pairing(first_sample, n).candidates
        return math.ceil(len(candidates) * self._padded(candidates) / n)


class ListBatches:
    """Queries with lists of candidates, in a new keyed order each epoch.

    Of a list of more than ``most`` candidates others are drawn in each epoch: half of them from the
    most relevant ones, as far as there are, and the rest from those of the lowest relevance.

    Args:
        lists: tokens of each query's candidates, the query's own among them.
        relevance: of each candidate; not all of a list alike.
        batch_size: the number of queries that are padded together.
        seed: of the run.
        most: candidates of a query in a batch.
    """

    def __init__(
        self,
        lists: Sequence[Sequence[Tokens]],
        relevance: Sequence[Sequence[float]],
        batch_size: int,
        seed: int,
        most: int,
    ) -> None:
        self.samples_per_epoch = len(lists)
        self._lists, self._most, self._seed = lists, most, seed
        self._relevance = [np.array(known, dtype=np.float32) for known in relevance]
        longest = [max(map(len, candidates)) for candidates in lists]
        self._order = LengthOrder(np.array(longest), batch_size, seed)

    def batch(self, first_sample: int, n: int) -> Batch:
        """Return samples as one batch.

        ``tokens [rows, longest]`` of all candidates padded with 0, and their ``lengths [rows]``;
        ``places [n, most]``, the rows of each query's candidates, and their ``relevance
        [n, most]``, -1 behind the last one.
        """
        chosen = self._order.indices(first_sample, n)
        kept = [self._drawn(first_sample + at, query) for at, query in enumerate(chosen.tolist())]
        rows = [
            self._lists[query][place]
            for query, some in zip(chosen, kept, strict=True)
            for place in some
        ]
        shape = (n, max(map(len, kept)))
        places, relevance = np.zeros(shape, dtype=np.int64), np.full(shape, -1.0, dtype=np.float32)
        before = 0
        for at, (query, some) in enumerate(zip(chosen, kept, strict=True)):
            places[at, : len(some)] = np.arange(before, before + len(some))
            relevance[at, : len(some)] = self._relevance[query][some]
            before += len(some)
        tensors = {
            "tokens": padded(rows, self._order.padded(chosen)),
            "lengths": torch.tensor([len(row) for row in rows]),
            "places": torch.from_numpy(places),
            "relevance": torch.from_numpy(relevance),
        }
        return Batch(tensors, weight=n)

    def _drawn(self, sample: int, query: int) -> Ints:
        """Return the places in a query's list of the candidates that a sample has, ascending."""
        known = self._relevance[query]
        if len(known) <= self._most:
            return np.arange(len(known))
        epoch = sample // self.samples_per_epoch
        key = f"{self._seed}/{epoch}/{query}".encode()
        order = permute(np.arange(len(known)), len(known), key)
        lowest = known[order] == known.min()
        others, least = order[~lowest], order[lowest]
        count = min(len(others), max(self._most // 2, self._most - len(least)))
        return np.sort(np.concatenate([others[:count], least[: self._most - count]]))

    def length(self, first_sample: int, n: int) -> int:
        """Return the tokens of each sample of that batch, padding included."""
        chosen = self._order.indices(first_sample, n)
        rows = sum(min(self._most, len(self._lists[query])) for query in chosen)
        return math.ceil(rows * self._order.padded(chosen) / n)
