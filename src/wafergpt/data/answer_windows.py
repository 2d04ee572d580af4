"""Questions and parts of their contexts as a network reads them, with NumPy alone.

A window is the question's tokens, the token that ends a text, those of as many words of the context
as fit, and that token again: it stands for "no answer here". Places count words, the last token
being word 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from wafergpt.data.text_ngrams import hashed_text
from wafergpt.data.word_features import LOWER, SHORT
from wafergpt.data.word_splitting import Word, pieces, words_of
from wafergpt.shapes.hashing import FACTOR, PRIME

LONGEST_QUESTION = 0.5
"""Share of a window that a question takes at most; the rest of it is not read."""

ASKED = 12
"""Words of a question, from both ends, that are crossed with what a word looks like."""

REACH = 3
FAR = 10
"""Words beside a word in which words of the question are looked for."""

N_FEATURES = ASKED + 14


class Window(NamedTuple):
    """A question and as many words of its context as fit.

    Attributes:
        tokens: of all.
        ends: for each word of the context, the token after its last one.
        begin: the first token of the context.
        first: the place in the context of the window's first word.
        last: whether it holds the end of the context.
    """

    tokens: NDArray[np.int32]
    ends: NDArray[np.int32]
    begin: int
    first: int
    last: bool

    @property
    def places(self) -> NDArray[np.int64]:
        """``[1 + words, 2]``: the first token of each word, and the one after its last."""
        ends = self.ends.astype(np.int64)
        starts = np.concatenate([[len(self.tokens) - 1, self.begin], ends[:-1]])
        return np.stack([starts, np.concatenate([[len(self.tokens)], ends])], 1)


def split(text: str) -> tuple[list[Word], list[str]]:
    """Return the words of a text, and each as it is encoded."""
    words = words_of(text, "parts")
    return words, list(pieces([word.text for word in words]))


def windows(
    question: Sequence[Sequence[int]],
    context: Sequence[Sequence[int]],
    limit: int,
    stride: int,
    end_of_text: int,
) -> Iterator[Window]:
    """Yield the windows of a question and its context.

    Args:
        question: tokens of each of its words.
        context: tokens of each of its words, at least one word.
        limit: tokens of a window.
        stride: tokens of the context from one window to the next; 0: half of those that fit.
        end_of_text: the token that ends a text.
    """
    most = max(1, int(LONGEST_QUESTION * limit) - 1)
    asked = [token for word in question for token in word][:most]
    room = max(1, limit - len(asked) - 2)
    words = [list(word[:room]) or [end_of_text] for word in context]
    ends = np.cumsum([len(word) for word in words])
    step = min(stride or max(1, room // 2), room)
    first = 0
    while True:
        before = int(ends[first - 1]) if first else 0
        last = int(np.searchsorted(ends, before + room, side="right"))
        inside = [token for word in words[first:last] for token in word]
        tokens = [*asked, end_of_text, *inside, end_of_text]
        begin = len(asked) + 1
        whole = last == len(words)
        yield Window(
            np.array(tokens, dtype=np.int32),
            (ends[first:last] - before + begin).astype(np.int32),
            begin, first, whole,
        )  # fmt: skip
        if whole:
            return
        # What begins at a word's end goes on at the next one.
        following = int(np.searchsorted(ends, before + step, side="left")) + 1
        first = min(max(following, first + 1), last)
        # One that ends where this one does has no new word.
        while first < last and np.searchsorted(ends, ends[first - 1] + room, side="right") == last:
            first += 1


def is_content(word: str) -> bool:
    """Return whether a word says what a text is about: it is long, or no plain small letters."""
    return len(word) > 3 or not (word.isascii() and (word.islower() or not word.isalnum()))


def answer_features(
    question: NDArray[np.int64],
    context: NDArray[np.int64],
    contents: NDArray[np.bool_],
    rows: int,
) -> NDArray[np.int64]:
    """Return rows of a table for the words of a window: what they look like beside the question's.

    Args:
        question: ``[words, own]`` of its words, by ``own_hashes`` without its first row.
        context: ``[words, own]`` of the window's words.
        contents: ``[words]``, which of the question's words ``is_content``.
        rows: of the table; row 0 is none's.

    Returns:
        ``[1 + words, N_FEATURES]``; the first row is of "no answer".
    """
    lower, shape, n = context[:, LOWER], context[:, SHORT], len(context)
    asked = question[:, LOWER]
    met = np.isin(lower, asked).astype(np.int64)
    met[np.isin(lower, asked[contents])] = 2
    flags = np.pad(met, REACH)
    beside = {d: flags[REACH + d : REACH + d + n] for d in range(-REACH, REACH + 1)}
    before, behind = np.pad(lower, (2, 0))[1 : n + 1], np.pad(lower, (0, 1))[1:]
    far = np.pad(lower, (2, 0))[:n]
    left, right = _distances(met == 2), _distances((met == 2)[::-1])[::-1]
    near = _near(lower, asked[contents])
    ends = _ends(asked)
    columns = [_hash(np.full(n, word), shape) for word in ends]
    columns += [
        _hash(lower, met), _hash(shape, met),
        _hash(*beside.values()),
        _hash(beside[-2], beside[-1], met), _hash(met, beside[1], beside[2]),
        _hash(beside[-1], before, met), _hash(beside[1], behind, met),
        _hash(beside[-2], before, met), _hash(beside[-3], far, before, met),
        _hash(beside[2], behind, met),
        _hash(left, right), _hash(left, met), _hash(right, met), _hash(near, met),
    ]  # fmt: skip
    found = np.zeros((1 + n, N_FEATURES), dtype=np.int64)
    found[1:] = np.stack(columns, 1)
    none = near.max(initial=0)
    found[0, : len(ends)] = _hash(np.array(ends), np.full(len(ends), 1 + none))
    found[0, len(ends) :] = _hash(np.full(1, none))
    # The same hash is another feature in another column, and that of "no answer" another again.
    kinds = np.arange(N_FEATURES) + N_FEATURES * (np.arange(1 + n) == 0)[:, None]
    numbers: NDArray[np.int64] = (found * FACTOR + kinds) % PRIME % (rows - 1) + 1
    return numbers


def _ends(asked: NDArray[np.int64]) -> list[int]:
    """Return the first and the last words of a question, each once, as many as are crossed."""
    words = [*dict.fromkeys(asked.tolist())]
    half = ASKED // 2
    kept = words if len(words) <= ASKED else [*words[:half], *words[-half:]]
    return [*kept, *[_NOTHING] * (ASKED - len(kept))]


_NOTHING = hashed_text("")


def _hash(*parts: NDArray[np.int64]) -> NDArray[np.int64]:
    total = np.zeros_like(parts[0])
    for part in parts:
        total = (total * FACTOR + part + 1) % PRIME
    return total


def _distances(met: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return how many words after the last one of the question each word is, at most FAR."""
    places = np.arange(len(met))
    last = np.maximum.accumulate(np.where(met, places, -FAR - 1))
    found: NDArray[np.int64] = np.minimum(places - last, FAR)
    return found


def _near(lower: NDArray[np.int64], asked: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return of how many quarters of the question's words each word has one beside it, at most 4.

    A word counts once, however often it is there.
    """
    different, n = np.unique(asked), len(lower)
    if not len(different):
        return np.zeros(n, dtype=np.int64)
    there = np.pad((lower[:, None] == different).astype(np.int64).cumsum(0), ((1, 0), (0, 0)))
    places = np.arange(n)
    ends, starts = np.minimum(places + FAR + 1, n), np.maximum(places - FAR, 0)
    counts = (there[ends] > there[starts]).sum(1)
    found: NDArray[np.int64] = -(-4 * counts // len(different))
    return found


def best_span(scores: NDArray[np.float64], most: int) -> tuple[int, int, float, float]:
    """Return the likeliest answer of a window.

    Args:
        scores: ``[1 + words, 2]`` of each word as the first and as the last one of the answer; at
            word 0 of "no answer".
        most: words of an answer.

    Returns:
        The first word, the last one, and the logarithms of the probabilities of both together and
        of "no answer".
    """
    largest = scores.max(0)
    logs = scores - (np.log(np.exp(scores - largest).sum(0)) + largest)
    starts, ends = logs[1:, 0], logs[1:, 1]
    best = (0, 0, -np.inf)
    for more in range(min(most, len(starts))):
        sums = starts[: len(starts) - more] + ends[more:]
        place = int(sums.argmax())
        if sums[place] > best[2]:
            best = (place, place + more, float(sums[place]))
    return (*best, float(logs[0].sum()))
