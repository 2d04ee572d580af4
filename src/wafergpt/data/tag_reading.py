"""The entities of a text, found with a network that is called as a function and NumPy alone.

An export to ONNX contains this file and those that it imports.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wafergpt.data.tag_schemes import entities, tag_names
from wafergpt.data.word_features import feature_rows, own_hashes
from wafergpt.data.word_splitting import pieces, sentences, words_of

Arrays = Mapping[str, NDArray[Any]]


def entities_in(
    text: str,
    encode: Callable[[str], Sequence[int]],
    network: Callable[[Arrays], Arrays],
    settings: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """Find the entities of a text.

    Args:
        text: any.
        encode: returns the tokens of a text.
        network: returns ``scores [1, words, tags]`` and ``steps [1, tags + 1, tags + 1]`` from its
            inputs by name, each with one row.
        settings: ``units``, ``labels``, ``max_tokens``, ``feature_rows`` and ``end_of_text``.

    Returns:
        Of each its ``text``, ``label``, places ``start`` and ``end`` of characters, and the
        probability ``score`` of its least certain word's tag.
    """
    words, names = words_of(text, settings["units"]), tag_names(settings["labels"])
    found, limit, place = [], settings["max_tokens"], 0
    for length in sentences(text, words):
        sentence = words[place : place + length]
        place += length
        tokens = [
            list(encode(piece))[:limit] or [settings["end_of_text"]]
            for piece in pieces([word.text for word in sentence])
        ]
        for first, last in windows(np.cumsum([len(part) for part in tokens]), limit):
            part = sentence[first:last]
            inputs = _inputs(tokens[first:last], [w.text for w in part], settings["feature_rows"])
            outputs = network(inputs)
            scores, steps = outputs["scores"][0], outputs["steps"][0]
            path = best_path(scores, steps)
            sure = marginals(scores, steps)[np.arange(len(path)), path]
            for start, end, label in entities([names[tag] for tag in path]):
                begin, stop = part[start].start, part[end - 1].end
                found.append(
                    {
                        "text": text[begin:stop],
                        "label": label,
                        "start": begin,
                        "end": stop,
                        "score": float(sure[start:end].min()),
                    }
                )
    return found


def _inputs(
    tokens: Sequence[Sequence[int]], words: Sequence[str], rows: int
) -> dict[str, NDArray[Any]]:
    """Return one window as the network's inputs."""
    ends = np.cumsum([len(part) for part in tokens])
    ids = np.array([token for part in tokens for token in part], dtype=np.int64)
    inputs = {
        "input_ids": ids[None],
        "attention_mask": np.ones_like(ids)[None],
        "words": np.stack([np.append(0, ends[:-1]), ends], 1)[None].astype(np.int64),
    }
    if rows:
        numbers = np.arange(1, len(words) + 1)[None]
        inputs["features"] = feature_rows(own_hashes(words), numbers, rows)
    return inputs


def windows(ends: NDArray[np.int64], limit: int) -> Iterator[tuple[int, int]]:
    """Yield the words of as few windows as hold a sentence, all of about the same size.

    Args:
        ends: of each word, how many tokens there are up to its end.
        limit: tokens of a window at most; no word has more.

    Yields:
        The first word of each window, and the one after its last.
    """
    n = len(ends)
    if ends[-1] <= limit:
        yield 0, n
        return
    target = ends[-1] / -(-int(ends[-1]) // limit)
    first = 0
    while first < n:
        before = ends[first - 1] if first else 0
        last = int(np.searchsorted(ends, before + min(limit, target + 1), side="right"))
        last = max(last, first + 1)
        yield first, last
        first = last


def best_path(scores: NDArray[Any], steps: NDArray[Any]) -> list[int]:
    """Return the tags with the highest sum of scores (Viterbi, 1967).

    Args:
        scores: ``[words, tags]``.
        steps: ``[tags + 1, tags + 1]``, of each tag before each; the last row is before the first
            word, the last column after the last one.
    """
    best, pointers = steps[-1, :-1] + scores[0], []
    for own in scores[1:]:
        sums = best[:, None] + steps[:-1, :-1]
        pointers.append(sums.argmax(0))
        best = sums.max(0) + own
    path = [int((best + steps[:-1, -1]).argmax())]
    for pointer in reversed(pointers):
        path.append(int(pointer[path[-1]]))
    return path[::-1]


def marginals(scores: NDArray[Any], steps: NDArray[Any]) -> NDArray[Any]:
    """Return the probability ``[words, tags]`` of each tag of each word.

    Args:
        scores: as in ``best_path``.
        steps: as in ``best_path``.
    """
    forward, backward = [steps[-1, :-1] + scores[0]], [steps[:-1, -1]]
    for own in scores[1:]:
        forward.append(_log_sum(forward[-1][:, None] + steps[:-1, :-1], 0) + own)
    for own in scores[:0:-1]:
        backward.append(_log_sum(steps[:-1, :-1] + (own + backward[-1])[None], 1))
    both = np.stack(forward) + np.stack(backward[::-1])
    found: NDArray[Any] = np.exp(both - _log_sum(both, 1)[:, None])
    return found


def _log_sum(values: NDArray[Any], axis: int) -> NDArray[Any]:
    largest = values.max(axis, keepdims=True)
    found: NDArray[Any] = np.log(np.exp(values - largest).sum(axis)) + largest.squeeze(axis)
    return found
