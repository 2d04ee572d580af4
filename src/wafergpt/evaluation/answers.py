"""Answers to questions beside the true ones, as SQuAD's official script compares them.

Rajpurkar et al., 2018 (arXiv:1806.03822): texts are compared without case, punctuation, English
articles and extra spaces.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wafergpt.evaluation.intervals import Bootstrap

SHOWN = 8
"""Questions with their answers that are kept for the report."""

AROUND = 240
"""Characters of the context that are kept on either side of answers."""

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalized(text: str) -> str:
    """Return a text as it is compared."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(answer: str, true: str) -> float:
    """Return 1 if two texts are compared equal, else 0."""
    return float(normalized(answer) == normalized(true))


def token_f1(answer: str, true: str) -> float:
    """Return the F1 of the words of two texts; of no words, whether both have none."""
    ours, theirs = normalized(answer).split(), normalized(true).split()
    if not ours or not theirs:
        return float(ours == theirs)
    same = (Counter(ours) & Counter(theirs)).total()
    return 2 * same / (len(ours) + len(theirs))


def answer_metrics(answers: Sequence[str], true: Sequence[Sequence[str]]) -> dict[str, Any]:
    """Compare answers with the nearest of the true ones.

    Args:
        answers: "" for "no answer".
        true: of each question; none where the context has no answer.

    Returns:
        Means from 0 to 1: ``exact_match``, and ``f1``, whose 95% interval over resampled questions
        is ``f1_interval``; where some contexts have no answer, ``no_answer_accuracy`` of those and
        ``answered_f1`` of the others.
    """
    scores = answer_scores(answers, true)
    exact, f1 = scores["exact_match"], scores["f1"]
    there = np.array([bool(texts) for texts in true])
    found: dict[str, Any] = {
        "exact_match": float(exact.mean()),
        "f1": float(f1.mean()),
        "f1_interval": list(Bootstrap.of_means({"f1": f1}).interval("f1")),
        "questions": len(f1),
    }
    if not there.all():
        found["no_answer_accuracy"] = float(exact[~there].mean())
        if there.any():
            found["answered_f1"] = float(f1[there].mean())
    return found


def answer_scores(
    answers: Sequence[str], true: Sequence[Sequence[str]]
) -> dict[str, NDArray[np.float64]]:
    """Return ``exact_match`` and ``f1`` of each question, ``[n]`` each; see ``answer_metrics``."""
    both = list(zip(answers, true, strict=True))
    return {
        name: np.array([_best(score, one, texts) for one, texts in both])
        for name, score in (("exact_match", exact_match), ("f1", token_f1))
    }


def _best(score: Callable[[str, str], float], answer: str, true: Sequence[str]) -> float:
    # The script leaves out true answers of which nothing is compared.
    texts = [text for text in true if normalized(text)] or [""]
    return max(score(answer, text) for text in texts)


def best_margin(gains: Sequence[tuple[float, float]]) -> float:
    """Return the margin of "no answer" with which most is gained.

    Args:
        gains: of each question, how much likelier "no answer" is than the best span, and what is
            gained if that span is answered. It is where the margin is above the former.
    """
    likelier = np.array([one for one, _ in gains])
    different, place = np.unique(likelier, return_inverse=True)
    sums = np.bincount(place, [gain for _, gain in gains])
    best = int(np.append(0.0, sums.cumsum()).argmax())
    ends = np.concatenate([[different[0] - 2.0], different, [different[-1] + 2.0]])
    return float(ends[best] + ends[best + 1]) / 2


def answer_examples(
    questions: Sequence[str],
    contexts: Sequence[str],
    true: Sequence[Sequence[tuple[int, int]]],
    predicted: Sequence[tuple[int, int] | None],
) -> list[dict[str, Any]]:
    """Return the first questions with a wrong answer and with a right one, half of each.

    Args:
        questions: their texts.
        contexts: of each.
        true: places in the context of the first character of each answer and behind it.
        predicted: those of the answer; None for "no answer".

    Returns:
        ``question``, ``context`` (a part of it), ``true`` and ``predicted`` of at most ``SHOWN``.
    """
    right = [one in spans if one else not spans for one, spans in zip(predicted, true, strict=True)]
    wrong = [place for place, fits in enumerate(right) if not fits]
    found = [place for place, fits in enumerate(right) if fits][:SHOWN]
    of_wrong = wrong[: max(SHOWN // 2, SHOWN - len(found))]
    shown = []
    for place in sorted([*of_wrong, *found[: SHOWN - len(of_wrong)]]):
        spans = [*true[place], *([predicted[place]] if predicted[place] else [])]
        begin = max(0, min((span[0] for span in spans if span), default=0) - AROUND)
        stop = max((span[1] for span in spans if span), default=AROUND) + AROUND
        moved = [[span[0] - begin, span[1] - begin] for span in spans if span]
        shown.append(
            {
                "question": questions[place],
                "context": contexts[place][begin:stop],
                "true": moved[: len(true[place])],
                "predicted": moved[-1] if predicted[place] else None,
            }
        )
    return shown
