"""How much worse answers get when texts are changed in ways that keep their meaning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wafergpt.engines.outputs import evaluate
from wafergpt.evaluation.perturbations import fitting
from wafergpt.inference.predictor import Predictor
from wafergpt.progress import progress, silent
from wafergpt.suites import rows as own
from wafergpt.suites.rows import Judged
from wafergpt.tasks.augmented import changed

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
        predictor: of the run, which has one answer to a text.
        n: how many of the run's test rows, or else its validation rows, are drawn.
        seed: of the draw and of the changes.
        kinds: of changes, of ``KINDS``; all that fit the texts if omitted.
        severities: from 1 to 5.

    Returns:
        ``of``, ``rows``, the ``metric`` and its ``clean`` value with an interval; ``kinds``, one
        entry for each kind and severity: the ``value`` with its ``interval``, the relative
        ``drop``, the paired ``difference`` from unchanged texts, the share of texts ``changed``
        and, of a classifier, of answers ``flipped``; and ``mean_drop`` by severity.

    Raises:
        InputError: if the task has no single answer to a text, or the rows are gone.
    """
    own.text_task(predictor, "robustness")
    where, known = own.own_rows(predictor)
    some = own.some(known, n, seed)
    clean = own.judge(predictor, some)
    metric, more = own.metric_of(predictor, clean)
    measured = _Measured(some, clean, metric, more)
    chosen = list(kinds) or fitting(some.texts)
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
    texts = [changed(text, kind, severity, seed) for text in rows.texts]
    places = [place for place, text in enumerate(texts) if text != rows.texts[place]]
    answered = _answered(predictor, replace(rows, texts=texts), places, clean)
    value = answered.metrics[metric]
    entry: dict[str, Any] = {
        "kind": kind,
        "severity": severity,
        "value": value,
        "interval": answered.intervals.get(metric),
        "drop": own.relative_drop(clean.metrics[metric], value, measured.more),
        "changed": len(places) / len(texts),
    }
    if answered.sampled is not None and clean.sampled is not None:
        entry["difference"] = answered.sampled.minus(clean.sampled, metric).to_dict()
    before, after = (own.answers_of(predictor, judged) for judged in (clean, answered))
    if before is not None and after is not None:
        entry["flipped"] = float((before != after).mean())
    return entry


def _answered(predictor: Predictor, rows: Any, places: list[int], clean: Judged) -> Judged:
    """Return the answers to rows, of which those at ``places`` are new."""
    task = own.labelled_task(predictor)
    if not places:
        return clean
    with silent():
        evaluated = task.evaluated(rows.take(places), predictor.tokenizer, "test")
    found = evaluate(task, predictor.network, evaluated, predictor.recipe, predictor.device)
    outputs = {name: _with(clean.outputs[name], places, new) for name, new in found.items()}
    return own.judged(task, outputs, clean.references)


def _with(values: NDArray[Any], places: list[int], new: NDArray[Any]) -> NDArray[Any]:
    copy = np.array(values)
    copy[places] = new
    return copy


def _mean(found: Sequence[float | None]) -> float | None:
    known = [value for value in found if value is not None]
    return sum(known) / len(known) if known else None
