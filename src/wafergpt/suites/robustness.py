"""How much worse answers get when texts are changed in ways that keep their meaning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wafergpt.data.tagged_rows import Sentences
from wafergpt.engines.outputs import evaluate
from wafergpt.errors import InputError
from wafergpt.evaluation.perturbations import fitting, perturbed
from wafergpt.inference.predictor import Predictor
from wafergpt.logs import silent
from wafergpt.progress import progress
from wafergpt.suites import rows as own
from wafergpt.suites.rows import Judged
from wafergpt.tasks.augmented import changed
from wafergpt.tasks.tag import Tag

OF_WORDS = ("typos", "swap", "drop", "insert", "case", "ocr", "homoglyphs", "traditional",
            "fullwidth", "homophones")  # fmt: skip
"""Kinds of changes that leave as many words as there were: what a tagger's rows can have."""

BETWEEN_WORDS = "\n"

SEVERITIES = (1, 3, 5)

ROWS = 200
"""Rows that each change is measured on, if it is not said: an answer within minutes on a CPU."""


@dataclass(frozen=True)
class _Measured:
    """Rows with their unchanged answers."""

    rows: Any
    clean: Judged
    metric: str
    more: bool


def robustness(
    predictor: Predictor,
    n: int = ROWS,
    seed: int = 0,
    kinds: Sequence[str] = (),
    severities: Sequence[int] = SEVERITIES,
) -> dict[str, Any]:
    """Judge a run on changed texts, beside the same texts unchanged.

    Args:
        predictor: of the run, which has one answer to a text, or finds entities in it.
        n: how many of the run's test rows, or else its validation rows, are drawn.
        seed: of the draw and of the changes.
        kinds: of changes, of ``KINDS``; all that fit the texts, and keep the words of a tagger's,
            if omitted.
        severities: from 1 to 5.

    Returns:
        ``of``, ``rows``, the ``metric`` and its ``clean`` value with an interval; ``kinds``, one
        entry for each kind and severity: the ``value`` with its ``interval``, the relative
        ``drop``, the paired ``difference`` from unchanged texts, the share of texts ``changed``
        and, of a classifier, of answers ``flipped``; and ``mean_drop`` by severity.

    Raises:
        InputError: if the task is another one, a kind does not fit it, or the rows are gone.
    """
    tags = isinstance(predictor.task, Tag)
    if not tags:
        own.text_task(predictor, "robustness")
    elif other := [kind for kind in kinds if kind not in OF_WORDS]:
        raise InputError(
            f"--kinds {other[0]} takes words apart, and their tags with them: for tags there are "
            f"{', '.join(OF_WORDS)}"
        )
    where, known = own.own_rows(predictor)
    some = own.some(known, n, seed)
    clean = own.judge(predictor, some)
    metric, more = own.metric_of(predictor, clean)
    measured = _Measured(some, clean, metric, more)
    chosen = kinds or [one for one in fitting(some.texts) if not tags or one in OF_WORDS]
    if not chosen:
        raise InputError("no kind of change is made for the script of these texts")
    total = len(chosen) * len(severities) * len(some.texts)
    found = []
    with progress("changing texts", total, "texts") as bar:
        for kind in chosen:
            for severity in severities:
                found.append(_one(predictor, measured, kind, severity, seed))
                bar.advance(len(some.texts))
    return {
        "of": where,
        "rows": len(some.texts),
        "seed": seed,
        "metric": metric,
        "clean": clean.metrics[metric],
        "clean_interval": clean.intervals.get(metric),
        "kinds": found,
        "mean_drop": {
            str(severity): _mean([one["drop"] for one in found if one["severity"] == severity])
            for severity in severities
        },
    }


def _one(
    predictor: Predictor, measured: _Measured, kind: str, severity: int, seed: int
) -> dict[str, Any]:
    rows, clean, metric = measured.rows, measured.clean, measured.metric
    new = _changed(rows, kind, severity, seed)
    places = [n for n, (a, b) in enumerate(zip(new.texts, rows.texts, strict=True)) if a != b]
    answered = _answered(predictor, new, places, clean)
    value = answered.metrics[metric]
    entry: dict[str, Any] = {
        "kind": kind,
        "severity": severity,
        "value": value,
        "interval": answered.intervals.get(metric),
        "drop": own.relative_drop(clean.metrics[metric], value, measured.more),
        "changed": len(places) / len(rows.texts),
    }
    if difference := answered.minus(clean, metric):
        entry["difference"] = difference
    before, after = (own.answers_of(predictor, judged) for judged in (clean, answered))
    if before is not None and after is not None:
        entry["flipped"] = float((before != after).mean())
    return entry


def _changed(rows: Any, kind: str, severity: int, seed: int) -> Any:
    """Return rows with changed texts; of tagged sentences each word stays a word."""
    if not isinstance(rows, Sentences):
        texts = [changed(text, kind, severity, seed) for text in rows.texts]
        return replace(rows, texts=texts)
    words = [_changed_words(sentence, kind, severity, seed) for sentence in rows.words]
    return replace(rows, words=words)


def _changed_words(words: tuple[str, ...], kind: str, severity: int, seed: int) -> tuple[str, ...]:
    new = perturbed(BETWEEN_WORDS.join(words), kind, severity, seed).split(BETWEEN_WORDS)
    return tuple(new) if len(new) == len(words) and all(new) else words


def _answered(predictor: Predictor, rows: Any, places: list[int], clean: Judged) -> Judged:
    """Return the answers to rows, of which those at ``places`` are new."""
    task = own.labelled_task(predictor)
    if not places:
        return clean
    # Of long sentences there are several outputs, and their number may be another one now.
    whole = isinstance(rows, Sentences)
    with silent():
        some = rows if whole else rows.take(places)
        evaluated = task.evaluated(some, predictor.tokenizer, "test")
    outputs = evaluate(task, predictor.network, evaluated, predictor.recipe, predictor.device)
    if not whole:
        outputs = {name: _with(clean.outputs[name], places, new) for name, new in outputs.items()}
    return own.judged(task, outputs, clean.references)


def _with(values: NDArray[Any], places: list[int], new: NDArray[Any]) -> NDArray[Any]:
    copy = np.array(values)
    copy[places] = new
    return copy


def _mean(found: Sequence[float | None]) -> float | None:
    known = [value for value in found if value is not None]
    return sum(known) / len(known) if known else None
