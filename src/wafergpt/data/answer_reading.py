"""The answer to a question in a context, with a network that is called as a function and NumPy.

An export to ONNX contains this file and those that it imports.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wafergpt.data.answer_windows import answer_features, best_span, is_content, split, windows
from wafergpt.data.word_features import own_hashes

Arrays = Mapping[str, NDArray[Any]]


def answer_in(
    question: str,
    context: str,
    encode: Callable[[str], Sequence[int]],
    network: Callable[[Arrays], Arrays],
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """Find the answer to a question.

    Args:
        question: not blank.
        context: not blank.
        encode: returns the tokens of a text.
        network: returns ``scores [1, words, 2]`` from its inputs by name, each with one row.
        settings: ``max_tokens``, ``stride``, ``max_answer_words``, ``feature_rows``, ``no_answer``,
            ``no_answer_margin`` and ``end_of_text``.

    Returns:
        The ``answer``, "" if the context has none, and its probability ``score``; if it has one,
        its places ``start`` and ``end`` of characters in the context.
    """
    (asked, parts), (words, own) = split(question), split(context)
    asked_hashes, hashes = (own_hashes([w.text for w in of])[1:] for of in (asked, words))
    contents = np.array([is_content(word.text) for word in asked])
    found, nones = [], []
    for window in windows(
        [encode(part) for part in parts],
        [encode(part) for part in own],
        settings["max_tokens"],
        settings["stride"],
        settings["end_of_text"],
    ):
        ids = window.tokens.astype(np.int64)[None]
        inputs = {
            "input_ids": ids,
            "attention_mask": np.ones_like(ids),
            "words": window.places[None],
        }
        if rows := settings["feature_rows"]:
            inside = hashes[window.first :][: len(window.ends)]
            inputs["features"] = answer_features(asked_hashes, inside, contents, rows)[None]
        scores = network(inputs)["scores"][0].astype(np.float64)
        start, end, score, none = best_span(scores, settings["max_answer_words"])
        found.append((score, window.first + start, window.first + end))
        nones.append(none)
    score, first, last = max(found, key=lambda one: one[0])
    if settings["no_answer"] and min(nones) - settings["no_answer_margin"] > score:
        return {"answer": "", "score": float(np.exp(min(nones)))}
    begin, stop = words[first].start, words[last].end
    answer = {"answer": context[begin:stop], "start": begin, "end": stop}
    return {**answer, "score": float(np.exp(score))}
