"""Questions with parts of their contexts as batches of similar length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from wafergpt.data.answer_rows import Span
from wafergpt.data.answer_windows import Window, answer_features, is_content, split, windows
from wafergpt.data.batches import Batch, Ints
from wafergpt.data.length_order import OrderedBatches, padded
from wafergpt.data.tokenizer import Tokenizer
from wafergpt.data.word_features import own_hashes


@dataclass(frozen=True)
class EncodedQuestions:
    """Questions and contexts as tokens of words.

    Attributes:
        windows: of all questions, one after the other.
        rows: ``[windows]``, the question of each.
        asked: of each question, the places of its words in ``vocabulary``.
        contexts: of each question, those of its context's words.
        places: of each question, ``[words, 2]``: where in the context each word begins and ends, in
            characters.
        vocabulary: all words.
        cut: how many questions are so long that their ends are not read.
    """

    windows: list[Window]
    rows: Ints
    asked: list[Ints]
    contexts: list[Ints]
    places: list[Ints]
    vocabulary: list[str]
    cut: int

    @property
    def tokens(self) -> int:
        """Those of all windows."""
        return sum(len(window.tokens) for window in self.windows)

    def targets(self, answers: Sequence[Sequence[Span]]) -> NDArray[np.int64]:
        """Return the first and the last word ``[windows, 2]`` of each question's first answer.

        Words count from 1; both are 0 where a window does not hold the answer.
        """
        spans = [
            _covering(places, spans[0]) if spans else None
            for places, spans in zip(self.places, answers, strict=True)
        ]
        found = np.zeros((len(self.windows), 2), dtype=np.int64)
        for place, (window, row) in enumerate(zip(self.windows, self.rows, strict=True)):
            span = spans[row]
            if span is not None:
                start, end = span[0] - window.first, span[1] - window.first
                if 0 <= start <= end < len(window.ends):
                    found[place] = 1 + start, 1 + end
        return found


def _covering(places: Ints, span: Span) -> tuple[int, int]:
    """Return the first and the last word that hold characters of a span."""
    inside = np.flatnonzero((places[:, 1] > span.start) & (places[:, 0] < span.end))
    return int(inside[0]), int(inside[-1])


class _Text(NamedTuple):
    """A question or a context: its words in the vocabulary, their places and their pieces."""

    ids: Ints
    places: Ints
    pieces: Ints


def encoded(
    rows: Sequence[tuple[str, str]], tokenizer: Tokenizer, limit: int, stride: int
) -> EncodedQuestions:
    """Encode questions and their contexts.

    Args:
        rows: a question and a context each; neither is blank.
        tokenizer: of the run.
        limit: tokens of a window.
        stride: as in ``windows``.
    """
    vocabulary: dict[str, int] = {}
    known: dict[str, int] = {}
    texts: dict[str, _Text] = {}
    for text in dict.fromkeys(text for row in rows for text in row):
        words, parts = split(text)
        texts[text] = _Text(
            np.array([vocabulary.setdefault(word.text, len(vocabulary)) for word in words]),
            np.array([(word.start, word.end) for word in words]),
            np.array([known.setdefault(part, len(known)) for part in parts]),
        )
    tokens = tokenizer.encode_batch(list(known))
    found: list[Window] = []
    of: list[int] = []
    cut = 0
    for row, (question, context) in enumerate(rows):
        asked, read = (
            [tokens[piece] for piece in texts[text].pieces] for text in (question, context)
        )
        some = list(windows(asked, read, limit, stride, tokenizer.end_of_text))
        cut += sum(map(len, asked)) > some[0].begin - 1
        found += some
        of += [row] * len(some)
    return EncodedQuestions(
        found,
        np.array(of, dtype=np.int64),
        [texts[question].ids for question, _ in rows],
        [texts[context].ids for _, context in rows],
        [texts[context].places for _, context in rows],
        list(vocabulary),
        cut,
    )


class AnswerBatches(OrderedBatches):
    """Windows of questions and contexts, in a new keyed order each epoch.

    Args:
        questions: encoded.
        targets: ``[windows, 2]``, as ``EncodedQuestions.targets`` gives them; None if unknown.
        batch_size: the number of samples that are padded together.
        seed: of the run; None sorts by length and shuffles nothing (validation).
        table_rows: of the words' features; 0: the task has no weights for them.
    """

    def __init__(
        self,
        questions: EncodedQuestions,
        targets: NDArray[np.int64] | None,
        batch_size: int,
        seed: int | None,
        table_rows: int,
    ) -> None:
        lengths = np.array([len(window.tokens) for window in questions.windows])
        super().__init__(lengths, batch_size, seed)
        self._questions, self._targets, self._rows = questions, targets, table_rows
        if table_rows:
            self._hashes = own_hashes(questions.vocabulary)[1:]
            self._contents = np.array([is_content(word) for word in questions.vocabulary])

    def batch(self, first_sample: int, n: int) -> Batch:
        """Return samples as one batch, all of it padded with 0.

        ``tokens [n, length]``, their number ``lengths [n]``; ``words [n, most, 2]``, where each
        word's tokens begin and end, with "no answer" as word 0, their number ``word_counts [n]``;
        ``parts [n, 2]``, the place in the context of a window's first word, and whether it is the
        last window; ``features [n, most, N_FEATURES]`` if there is a table; and ``targets [n, 2]``
        if they are known.
        """
        chosen = self.indices(first_sample, n)
        some = [self._questions.windows[index] for index in chosen]
        counts = np.array([1 + len(window.ends) for window in some])
        words = np.zeros((n, int(counts.max()), 2), dtype=np.int64)
        for row, window in enumerate(some):
            words[row, : counts[row]] = window.places
        arrays = {
            "lengths": np.array([len(window.tokens) for window in some]),
            "words": words,
            "word_counts": counts,
            "parts": np.array([(window.first, window.last) for window in some], dtype=np.int64),
        }
        if self._targets is not None:
            arrays["targets"] = self._targets[chosen]
        tensors = {name: torch.from_numpy(values) for name, values in arrays.items()}
        if self._rows:
            features = list(self._features(chosen))
            tensors["features"] = padded(features, max(map(len, features)))
        tokens = padded([window.tokens for window in some], self._order.padded(chosen))
        return Batch({"tokens": tokens, **tensors}, weight=n)

    def _features(self, chosen: Ints) -> Iterator[NDArray[np.int64]]:
        for index in chosen:
            window, row = self._questions.windows[index], self._questions.rows[index]
            asked = self._questions.asked[row]
            context = self._questions.contexts[row][window.first :][: len(window.ends)]
            yield answer_features(
                self._hashes[asked], self._hashes[context], self._contents[asked], self._rows
            )
