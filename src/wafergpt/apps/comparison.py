"""A classifier beside the baselines that it must beat, on the same rows."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wafergpt.baselines.bilstm import train_bilstm
from wafergpt.baselines.requirements import require_comparable
from wafergpt.baselines.result import BaselineResult, Decide
from wafergpt.baselines.tfidf import train_tfidf, train_tfidf_of_sets
from wafergpt.config import Recipe
from wafergpt.data.labelled_rows import Table
from wafergpt.data.outside import in_scope
from wafergpt.engines.base import generators_kept
from wafergpt.errors import InputError, Interrupted
from wafergpt.evaluation.intervals import Bootstrap, mcnemar
from wafergpt.evaluation.metrics import RowScores
from wafergpt.evaluation.multi_label import LabelledRowScores
from wafergpt.inference.predictor import Predictor
from wafergpt.logs import say, silent
from wafergpt.progress import working
from wafergpt.runs.run import Run
from wafergpt.tasks.classify import Classify
from wafergpt.tasks.multi_label import MultiLabel
from wafergpt.tasks.tables import Tables

SCORES = ("accuracy", "macro_f1", "loss")

MANY_UNREAD = 0.1
"""Share of the evaluated rows: so many guesses are worth a warning."""


def compare(classifier: Predictor, bilstm_seconds: float | None = None) -> list[dict[str, Any]]:
    """Train both baselines on the classifier's rows and return one row of results each.

    Where a text has any number of labels there is TF-IDF alone.

    All are evaluated on the test rows, or on the validation rows if there are none. The run's
    ``comparison.json`` gets each row as soon as there is one. A baseline that fails has a row with
    ``name``, ``kind`` and ``failed``, the reason, in place of scores. ``intervals`` holds the 95%
    interval of each score, and a baseline's ``gpt_minus_this`` the paired difference of each.

    Args:
        classifier: a fine-tuned run that tells classes apart.
        bilstm_seconds: the BiLSTM's budget; without one it trains its ten epochs.

    Raises:
        InputError: if the task is a regression, or scikit-learn is not installed.
        Interrupted: by Ctrl-C; the rows so far are in ``comparison.json``.
    """
    recipe, run, task = classifier.recipe, classifier.run, classifier.task
    require_comparable(recipe)
    assert isinstance(task, Classify)
    if recipe.task is not None and recipe.task.test is None:
        say(
            "note: without task.test all are judged on the validation rows, which the GPT's "
            "checkpoint was chosen by"
        )
    rows, rivals = [_ours(run, recipe)], _Rivals(task, bilstm_seconds)
    intervals = functools.cache(lambda: _Intervals(_evaluated(rivals.tables), task, run))
    # The quick one first: it is there if the other one is interrupted.
    baselines = [
        ("TF-IDF + logistic regression", "tfidf", rivals.tfidf),
        ("bidirectional LSTM", "bilstm", rivals.bilstm),
    ]
    for name, kind, train in baselines[:1] if isinstance(task, MultiLabel) else baselines:
        run.write("comparison", rows)
        try:
            with working(f"baseline: {name}"):
                rows.append(_row(name, kind, train, intervals))
            if "failed" not in rows[-1]:
                rows[0].update(intervals().of_gpt())
        except KeyboardInterrupt:
            raise Interrupted(f"interrupted in the baseline: {name}; the rest is kept") from None
    run.write("comparison", rows)
    return rows


@dataclass(frozen=True)
class _Rivals:
    """The baselines of a classifier, on its rows.

    Attributes:
        task: of the classifier.
        seconds: of the BiLSTM; without them it trains its ten epochs.
    """

    task: Classify
    seconds: float | None

    @functools.cached_property
    def tables(self) -> Tables:
        return _same_rows(self.task)

    def tfidf(self) -> BaselineResult:
        task, tables = self.task, self.tables
        labels, seed = task.settings.labels, task.recipe.seed
        validation = tables.validation
        assert validation is not None
        if isinstance(task, MultiLabel):
            return train_tfidf_of_sets(
                tables.train,
                validation,
                _evaluated(tables),
                labels=labels,
                decide=task.fitted_offsets,
                seed=seed,
            )
        return train_tfidf(
            tables.train,
            self._in_scope(validation),
            self._in_scope(_evaluated(tables)),
            labels=labels,
            decide=self._decide,
            seed=seed,
        )

    def bilstm(self) -> BaselineResult:
        validation = self.tables.validation
        assert validation is not None
        with generators_kept():
            return train_bilstm(
                self.tables.train,
                self._in_scope(validation),
                self._in_scope(_evaluated(self.tables)),
                labels=self.task.settings.labels,
                decide=self._decide,
                seconds=self.seconds,
                seed=self.task.recipe.seed,
            )

    def _in_scope(self, table: Table) -> Table:
        return in_scope(table, self.task.settings.out_of_scope)

    @property
    def _decide(self) -> Decide | None:
        """What decides for the GPT's metric decides for all."""
        return self.task.fitted_offsets if self.task.decision_metric else None


def _ours(run: Run, recipe: Recipe) -> dict[str, Any]:
    result = run.read("result")
    judged = result["test"] or result["metrics"]
    seconds = result["seconds"] + _seconds_before(recipe.start)
    scores = {key: judged[key] for key in SCORES}
    return {"name": "GPT", "kind": "gpt", "seconds": seconds, "test": judged, **scores}


def _same_rows(task: Classify) -> Tables:
    """Read the rows that the run was trained on again.

    Raises:
        InputError: if they are gone, or are others now.
    """
    with silent():
        tables = task.tables
    if tables.fingerprint() != task.recipe.data.fingerprint:
        raise InputError("the labelled rows are not those that the GPT was trained on")
    return tables


def _evaluated(tables: Tables) -> Table:
    found = tables.test or tables.validation
    assert found is not None, "require_comparable has checked it"
    return found


class _Intervals:
    """Intervals of the scores of models on the same rows, and of their differences.

    Args:
        table: the rows.
        task: of the GPT.
        run: of the GPT.
    """

    def __init__(self, table: Table, task: Classify, run: Run) -> None:
        targets: NDArray[Any] = task.targets(table, "test")
        inside = targets >= 0 if task.settings.out_of_scope else slice(None)
        self._targets = targets[inside]
        found = run.read_outputs()
        part = "test" if "test/probabilities" in found else "validation"
        outputs, decided = (found.get(f"{part}/{name}") for name in ("probabilities", "decided"))
        # Older runs kept none.
        self._gpt: _Sampled | None = None
        shape = (len(targets), len(task.settings.labels))
        if outputs is not None and outputs.shape == shape and np.isfinite(outputs).all():
            decided = None if decided is None else decided[inside]
            self._gpt = _Sampled.of(outputs[inside], self._targets, decided)

    def of_gpt(self) -> dict[str, Any]:
        """Return the intervals of the GPT's scores, if its outputs are there."""
        return {} if self._gpt is None else {"intervals": self._gpt.intervals()}

    def of(self, baseline: BaselineResult) -> dict[str, Any]:
        """Return the intervals of a baseline's scores, and how far the GPT is above it."""
        theirs = _Sampled.of(baseline.probabilities, self._targets, baseline.decided)
        found: dict[str, Any] = {"intervals": theirs.intervals()}
        if self._gpt is not None:
            found["gpt_minus_this"] = self._gpt.minus(theirs)
        return found


@dataclass(frozen=True)
class _Sampled:
    rows: RowScores | LabelledRowScores
    scores: Bootstrap

    @classmethod
    def of(
        cls, probabilities: NDArray[np.floating], targets: NDArray[Any], decided: Any
    ) -> _Sampled:
        kind = RowScores if targets.ndim == 1 else LabelledRowScores
        rows = kind.of(probabilities, targets, decided)
        return cls(rows, Bootstrap.of(rows.metrics, len(targets), shares=("accuracy",)))

    def intervals(self) -> dict[str, list[float]]:
        found = self.scores.intervals()
        return {name: found[name] for name in SCORES}

    def minus(self, other: _Sampled) -> dict[str, dict[str, float]]:
        found = {name: self.scores.minus(other.scores, name).to_dict() for name in SCORES}
        found["accuracy"]["p"] = mcnemar(self.rows.right, other.rows.right)
        return found


def _row(
    name: str, kind: str, train: Callable[[], BaselineResult], intervals: Callable[[], _Intervals]
) -> dict[str, Any]:
    """Train a baseline; what is wrong with it must not cost the results of the others."""
    try:
        result = train()
    except Exception as error:
        why = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
        say(f"warning: no result of the baseline {name}: {why}")
        return {"name": name, "kind": kind, "failed": why}
    rows = len(result.probabilities)
    if result.unread > MANY_UNREAD * rows:
        say(
            f"warning: {result.name} knows no word of {result.unread:,} of {rows:,} texts, and can "
            "only guess there"
        )
    return {**result.to_row(), **intervals().of(result)}


def _seconds_before(place: Path | None) -> float:
    """Return the time of the runs that one began with; imported weights have none."""
    total, seen = 0.0, set[Path]()
    while place is not None and place not in seen:
        seen.add(place)
        begun = Run(place)
        try:
            result = begun.read("result")
            start = begun.recipe.start
        except InputError:
            result = None
        if not isinstance(result, dict):
            say(f"warning: how long {place} took is not known, and is left out of the GPT's time")
            break
        seconds = result.get("seconds")
        total += float(seconds) if isinstance(seconds, int | float) else 0.0
        # A pruned run and a mean of checkpoints have the recipe of the run that they are of.
        parent = result.get("pruned") or result.get("averaged")
        place = Path(parent) if isinstance(parent, str) else start
    return total
