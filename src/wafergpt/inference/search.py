"""Texts that are found by their vectors, by their words, or by both."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from numbers import Integral
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from wafergpt.data.given_texts import given_texts
from wafergpt.engines.outputs import evaluate
from wafergpt.errors import InputError, require_one_of
from wafergpt.evaluation.ranking import first_ranks
from wafergpt.inference.predictor import Predictor
from wafergpt.progress import progress, working
from wafergpt.tasks.embed import Embed, shortened

How = Literal["vectors", "words", "hybrid"]

Scores = NDArray[np.floating[Any]]

FUSION = 60
"""Added to every rank in the fusion of two rankings (Cormack et al., SIGIR 2009)."""

WEIGHTS = tuple(round(0.05 * n, 2) for n in range(21))
"""Weights that ``tune`` tries."""

CHUNK = 64
"""Queries whose scores are in memory at once."""

NEVER = float("-inf")
"""The score of what is not found."""

# Scripts without spaces have long words, so each of their characters is one.
_UNSPACED = "\u0e00-\u0e7f\u2e80-\u2fff\u3005-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_UNSPACED}]|(?:(?![{_UNSPACED}])\w)+")


class Hit(NamedTuple):
    """A text that was found.

    Attributes:
        row: its place among the texts, from 0.
        score: larger is better; comparable within one answer.
    """

    row: int
    score: float


class SearchIndex:
    """Texts to search in, read once.

    Args:
        texts: in order; blank ones are never found.
        predictor: of a run with the task ``embed``; ``words`` needs none.
        how: ``vectors`` compares by the cosine, ``words`` by BM25 (as Lucene computes it), and
            ``hybrid`` by both.
        weight: in ``hybrid`` that of the cosine, 0 to 1; the rest is BM25's, as a share of the
            query's highest. If omitted, the sum of 1 / (60 + rank) of both.
        size: numbers of a vector that are compared; all if omitted.

    Attributes:
        vectors: ``[texts, size]`` of length 1, zeros for blank ones; None for ``words``.

    Raises:
        InputError: if no text is there, the run has another task, or bm25s is not installed.
    """

    def __init__(
        self,
        texts: Iterable[str],
        predictor: Predictor | None = None,
        how: How = "hybrid",
        weight: float | None = None,
        size: int | None = None,
    ) -> None:
        require_one_of(How, "how", how)
        if weight is not None and not 0 <= weight <= 1:
            raise InputError(f"weight={weight} is no share from 0 to 1")
        self.weight, self._how, self._size, self._predictor = weight, how, size, predictor
        texts = given_texts(texts, "texts")
        self._there = np.array([bool(text) for text in texts])
        if not self._there.any():
            raise InputError("there are no texts to search in")
        self.vectors = None if how == "words" else self.encode(texts)
        self._bm25 = None if how == "vectors" else _bm25_of(texts)

    def search(self, queries: Iterable[str], k: int = 10) -> list[list[Hit]]:
        """Find the texts that fit best.

        Args:
            queries: a list or a column of them; a blank one finds nothing.
            k: texts to find for each; by words fewer, where fewer have a word in common with it.

        Returns:
            The hits of each query, best first.

        Raises:
            InputError: if ``k`` is no number from 1 on, or ``queries`` is a single string.
        """
        if not isinstance(k, Integral) or k < 1:
            raise InputError(f"k={k!r} is no number of texts to find: 1, 2, …")
        asked = given_texts(queries, "queries")
        found = []
        for start in range(0, len(asked), CHUNK):
            for row in self.scores(asked[start : start + CHUNK]):
                best = np.argsort(-row, kind="stable")[:k]
                found.append([Hit(int(n), float(row[n])) for n in best if row[n] > NEVER])
        return found

    def scores(self, queries: Iterable[str]) -> Scores:
        """Score each text for each query.

        Args:
            queries: as in ``search``.

        Returns:
            The scores ``[queries, texts]``; -inf for texts never to be found.

        Raises:
            InputError: if there are no queries, or they are no texts.
        """
        queries = given_texts(queries, "queries")
        if not queries:
            raise InputError("there are no queries")
        cosines, words = self._compared(queries)
        if self._how == "vectors":
            found = cosines
        elif self._how == "words":
            found = np.where(words > 0, words, NEVER)
        elif self.weight is None:
            # Blank texts have no rank.
            ranked = _fused(np.where(self._there, cosines, NEVER))
            found = ranked + np.where(words > 0, _fused(words), 0.0)
        else:
            found = _weighed(cosines, words, self.weight)
        asked = np.array([bool(query.strip()) for query in queries])
        return np.where(asked[:, None] & self._there, found, NEVER)

    def tune(self, queries: Sequence[str], right: Sequence[Sequence[int]]) -> float:
        """Set the weight by which queries of a hybrid find their texts first (by the MRR).

        Args:
            queries: that nothing was trained on.
            right: the rows of the texts that are right for each, one at least.

        Returns:
            The weight.
        """
        reciprocal = np.zeros(len(WEIGHTS))
        for start in range(0, len(queries), CHUNK):
            own = [np.array(rows) for rows in right[start : start + CHUNK]]
            both = self._compared(queries[start : start + CHUNK])
            for place, weight in enumerate(WEIGHTS):
                reciprocal[place] += (1 / first_ranks(_weighed(*both, weight), own)).sum()
        self.weight = WEIGHTS[int(reciprocal.argmax())]
        return self.weight

    def _compared(self, queries: Sequence[str]) -> tuple[Scores, Scores]:
        """Return cosines and BM25 ``[queries, texts]``; zeros of what is not compared."""
        nothing = np.zeros((len(queries), len(self._there)))
        cosines = words = nothing
        if self.vectors is not None:
            cosines = (self.encode(queries) @ self.vectors.T).astype(np.float64)
        if self._bm25 is not None:
            split = [words_of(query) for query in queries]
            words = np.stack(
                [self._bm25.get_scores(one) if one else nothing[0] for one in split]
            ).astype(np.float64)
        return cosines, words

    def encode(self, texts: Iterable[str]) -> NDArray[np.float32]:
        """Return the vectors of any texts.

        Args:
            texts: a list or a column of them.

        Returns:
            The vectors ``[texts, size]``, of length 1; zeros for blank ones.

        Raises:
            InputError: if there is no run with the task ``embed``, or these are no texts.
        """
        texts = given_texts(texts, "texts")
        predictor = self._predictor
        if predictor is None:
            raise InputError(f"a search by {self._how} needs a run with task.name=embed")
        task, recipe = predictor.task, predictor.recipe
        if not isinstance(task, Embed):
            raise InputError(
                f"{predictor.run.path} has task.name={recipe.task and recipe.task.name}: texts are "
                "found with task.name=embed"
            )
        size = self._size or task.width
        if not 1 <= size <= task.width:
            raise InputError(f"size={size}, but the vectors have {task.width} numbers")
        found = np.zeros((len(texts), size), dtype=np.float32)
        there = [place for place, text in enumerate(texts) if text.strip()]
        if there:
            encoded = task.encode([texts[place] for place in there], predictor.tokenizer)
            with progress("reading", len(there), "texts") as bar:
                outputs = evaluate(
                    task, predictor.network, encoded, recipe, predictor.device, bar.advance
                )
            found[there] = shortened(outputs["embedding"], size)
        return found


def words_of(text: str) -> list[str]:
    """Return the words of a text in lower case; the characters where words are not spaced."""
    return _WORD.findall(text.lower())


def _bm25_of(texts: Sequence[str]) -> Any:
    """Return the texts indexed by bm25s (arXiv:2407.03618)."""
    try:
        import bm25s
    except ImportError as error:
        raise InputError("words are compared by bm25s: pip install 'wafergpt[search]'") from error
    with working("indexing the words"):
        split = [words_of(text) for text in texts]
        if not any(split):
            raise InputError("the texts have no words to search by")
        found = bm25s.BM25()
        found.index(split, show_progress=False)
    return found


def _fused(scores: Scores) -> Scores:
    """Return 1 / (60 + rank) of scores ``[queries, texts]``; equal ones in the order of rows."""
    ranks = np.empty(scores.shape)
    places = np.broadcast_to(np.arange(1.0, scores.shape[1] + 1), scores.shape)
    np.put_along_axis(ranks, np.argsort(-scores, axis=1, kind="stable"), places, axis=1)
    return 1 / (FUSION + ranks)


def _weighed(cosines: Scores, words: Scores, weight: float) -> Scores:
    """Return the weighted sum of cosines and of BM25 as a share of each query's highest."""
    highest = np.maximum(words.max(axis=1, keepdims=True), 1e-12)
    return np.asarray(weight * cosines + (1 - weight) * words / highest)
