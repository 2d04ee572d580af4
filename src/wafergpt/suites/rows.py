"""Labelled rows that a run is judged on: its own test rows, or those of other files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wafergpt.data.label_sets import labels_of, settle_label_sets
from wafergpt.data.labelled_rows import Table
from wafergpt.data.row_sources import row_files, together
from wafergpt.data.tagged_rows import Sentences
from wafergpt.data.text_columns import BETWEEN
from wafergpt.engines.outputs import evaluate
from wafergpt.errors import InputError, nearest
from wafergpt.evaluation.intervals import Bootstrap, difference
from wafergpt.files import short
from wafergpt.inference.predictor import Predictor
from wafergpt.logs import say, silent
from wafergpt.progress import progress, working
from wafergpt.runs.run import Run
from wafergpt.tasks.base import Outputs, task_of
from wafergpt.tasks.classify import Classify
from wafergpt.tasks.classify_fit import decided_of
from wafergpt.tasks.labelled_task import LabelledTask
from wafergpt.tasks.multi_label import MultiLabel
from wafergpt.tasks.tag import Tag
from wafergpt.tasks.text_task import TextTask

KEPT_OUT = frozenset(
    {"risk_coverage", "per_class", "confusion", "ranks", "ndcgs", "examples", "reliability"}
)
"""Metrics for charts of a whole page, which are not repeated here."""

FIRST = ("accuracy", "f1", "macro_f1", "micro_f1")
"""Metrics that a task is judged by before others, if ``evaluate.metric`` is its loss."""


@dataclass(frozen=True)
class Judged:
    """A run's answers to rows whose answers are known.

    Attributes:
        outputs: of the network, in the order of the rows.
        references: the answers.
        metrics: as the task computes them.
        sampled: some of them on resamples of the rows; None where the task has none.
    """

    outputs: Outputs
    references: Any
    metrics: Mapping[str, Any]
    sampled: Bootstrap | None

    @property
    def intervals(self) -> dict[str, list[float]]:
        """The 95% intervals of the metrics that have one."""
        return {} if self.sampled is None else self.sampled.intervals()

    def minus(self, other: Judged, metric: str) -> dict[str, float] | None:
        """Return how far a metric is above another's on the same rows; None if it is not known."""
        return difference(self.sampled, other.sampled, metric)


def labelled_task(predictor: Predictor) -> LabelledTask[Any]:
    """Return the run's task, which learns from labelled rows.

    Raises:
        InputError: if it is another one.
    """
    task = predictor.task
    if not isinstance(task, LabelledTask):
        raise InputError(f"{predictor.run.path} has a task without labelled rows")
    return task


def text_task(predictor: Predictor, suite: str) -> TextTask:
    """Return the run's task, which has one answer to a text.

    Raises:
        InputError: if it is another one; the suite is named.
    """
    if not isinstance(predictor.task, TextTask):
        name = predictor.recipe.task.name if predictor.recipe.task else ""
        raise InputError(f"{suite} is for task.name=classify or regress, not {name}")
    return predictor.task


def own_rows(predictor: Predictor) -> tuple[str, Any]:
    """Return the name of the run's test or else validation rows, and the rows.

    Raises:
        InputError: if they are gone or have changed, or nothing was held out.
    """
    task = labelled_task(predictor)
    with working("reading the rows"), silent():
        name: Any = "test" if task.read_ahead().test is not None else "validation"
        return name, task.rows(name)


def rows_of_file(
    predictor: Predictor,
    path: Path,
    columns: Mapping[str, Any],
    labels: Mapping[str, str],
) -> Any:
    """Read labelled rows that the run has not been trained for.

    Args:
        predictor: of the run.
        path: a file, or a pattern of several.
        columns: keys of the section ``task`` that say how it is read, as ``text`` and ``label``.
        labels: the run's label by that of the file; others are left out, with the rows that can
            have only one. Without any the labels are the run's.

    Returns:
        The rows.

    Raises:
        InputError: if they cannot be read, or have labels that the run lacks.
    """
    task: Any = task_of(predictor.recipe.replace(task=columns)) if columns else predictor.task
    with working(f"reading {path}"):
        found = together([task.read_rows(one) for one in row_files({"test": path})["test"]], path)
    if isinstance(found, Table) and isinstance(task, MultiLabel):
        return _with_label_sets(found, task, labels)
    if isinstance(found, Table) and isinstance(task, Classify):
        outside = task.settings.out_of_scope
        return _with_labels(found, [*task.settings.labels, *([outside] if outside else [])], labels)
    if isinstance(found, Sentences) and isinstance(task, Tag):
        return _with_entities(found, task, labels)
    if labels:
        raise InputError("--labels is for task.name=classify or tag")
    return found


def _with_labels(table: Table, known: Sequence[str], labels: Mapping[str, str]) -> Table:
    """Return the rows with the run's labels."""
    _require_labels(table.path, table.labels, known, labels)
    if not labels:
        return table
    kept = [row for row, label in enumerate(table.labels) if label in labels]
    if left := len(table.labels) - len(kept):
        say(f"{left:,} of {len(table.labels):,} rows of {table.path} have other labels")
    table = table.take(kept)
    return replace(table, labels=[labels[label] for label in table.labels])


def _with_label_sets(table: Table, task: MultiLabel, labels: Mapping[str, str]) -> Table:
    """Return the rows with those of their labels that the run has."""
    known = task.settings.labels
    # Spelled as the run's, which are not split again; names that --labels maps stay as they are.
    run = Table([""] * len(known), [f"{label}{BETWEEN}" for label in known], table.path)
    similar = "keep" if labels else task.settings.similar_labels
    (_, table), _ = settle_label_sets([run, table], task.settings.separator, similar)
    names = task.class_names(table)
    _require_labels(table.path, names, known, labels)
    if not labels:
        return table
    _say_left_out(table.path, names, labels, "labels")
    sets = [{labels[name] for name in labels_of(row) if name in labels} for row in table.labels]
    return replace(table, labels=[BETWEEN.join(sorted(found)) for found in sets])


def _with_entities(table: Sentences, task: Tag, labels: Mapping[str, str]) -> Sentences:
    """Return the sentences with those of their entities that the run has."""
    names = task.class_names(table)
    _require_labels(table.path, names, task.settings.labels, labels)
    if not labels:
        return table
    _say_left_out(table.path, names, labels, "entities")
    found = [
        tuple(one._replace(label=labels[one.label]) for one in row if one.label in labels)
        for row in table.entities
    ]
    return replace(table, entities=found)


def _require_labels(
    path: Path | None, names: Sequence[str], known: Sequence[str], labels: Mapping[str, str]
) -> None:
    """Require that a file's labels are the run's, or that ``--labels`` maps some of them to these.

    Raises:
        InputError: if they are not.
    """
    for name in labels.values():
        if name not in known:
            raise InputError(f"--labels: the run has no label '{name}'{nearest(name, known)}")
    if labels and labels.keys().isdisjoint(names):
        raise InputError(f"{path} has no row with a label of --labels")
    unknown = [] if labels else sorted({*names} - {*known})
    if unknown:
        raise InputError(
            f"{path} has the label {short(unknown[0])}, which the run lacks (it has "
            f"{short(', '.join(known))}): --labels FILE'S=RUN'S,… maps them, and leaves others out"
        )


def _say_left_out(
    path: Path | None, names: Sequence[str], labels: Mapping[str, str], of: str
) -> None:
    """Say how many labels of rows with several are left out."""
    if left := sum(name not in labels for name in names):
        say(f"{left:,} of {len(names):,} {of} of {path} are others, and left out")


def some(rows: Any, n: int, seed: int) -> Any:
    """Return ``n`` rows drawn by a seed, in their order; all, if there are not more."""
    total = len(rows.texts)
    if total <= n:
        return rows
    chosen = np.random.default_rng(seed).choice(total, n, replace=False)
    return rows.take(np.sort(chosen).tolist())


def judge(predictor: Predictor, rows: Any, what: str = "evaluating") -> Judged:
    """Answer labelled rows, and compute the task's metrics.

    Args:
        predictor: of the run.
        rows: of its task.
        what: is done, for the progress bar.
    """
    task = labelled_task(predictor)
    with silent():
        evaluated = task.evaluated(rows, predictor.tokenizer, "test")
    with progress(what, evaluated.batches.samples_per_epoch, "texts") as bar:
        outputs = evaluate(
            task, predictor.network, evaluated, predictor.recipe, predictor.device, bar.advance
        )
    return judged(task, outputs, evaluated.references)


def judge_own(predictor: Predictor, name: str, rows: Any) -> Judged:
    """Return the answers to the run's own rows, as they were kept at the end of its training.

    Args:
        predictor: of the run.
        name: of the part of its rows.
        rows: of it.
    """
    task, run = labelled_task(predictor), predictor.run
    with silent():
        evaluated = task.evaluated(rows, predictor.tokenizer, name)
    outputs = {} if run.checkpoint else run.outputs_of(name)
    if not outputs or any(len(kept) != len(rows.texts) for kept in outputs.values()):
        return judge(predictor, rows, f"evaluating {name}")
    return judged(task, outputs, evaluated.references)


def judged(task: LabelledTask[Any], outputs: Outputs, references: Any) -> Judged:
    """Compute a task's metrics of outputs."""
    metrics = task.compute_metrics(outputs, references)
    return Judged(outputs, references, metrics, task.resampled(outputs, references))


def metric_of(predictor: Predictor, found: Judged) -> tuple[str, bool]:
    """Return the metric that a run is judged by, and whether more of it is better."""
    known = found.metrics if found.sampled is None else found.sampled.whole
    asked = predictor.recipe.evaluate.metric
    wanted = FIRST if asked == "loss" else (asked, *FIRST)
    name = next((name for name in wanted if name in known), "loss")
    return name, predictor.task.metrics.get(name, "max" if name in FIRST else "min") == "max"


def relative_drop(clean: float, value: float, more_is_better: bool) -> float | None:
    """Return by which share a metric is worse than it was; None if it was 0."""
    if not clean:
        return None
    change = (clean - value) / abs(clean)
    return change if more_is_better else -change


def on_files(
    predictor: Predictor,
    paths: Sequence[Path],
    columns: Mapping[str, Any],
    labels: Mapping[str, str],
    against: Sequence[Run] = (),
) -> dict[str, Any]:
    """Judge a run on its own rows and on those of other files, beside other runs.

    Args:
        predictor: of the run.
        paths: files of labelled rows, such as of another domain.
        columns: how they are read (see ``rows_of_file``).
        labels: the run's label by that of the files.
        against: other runs of the same task, which answer the same rows: the test is paired.

    Returns:
        ``sets``, by name: ``rows``, ``metrics``, ``intervals``, and of files the relative ``drop``
        from the run's own rows; with other runs ``against``, by name their ``value`` and the
        ``difference`` with its interval and p.

    Raises:
        InputError: if no rows can be read, or a run has another task.
    """
    sets: dict[str, Any] = {}
    try:
        sets.update([own_rows(predictor)])
    except InputError as error:
        if not paths:
            raise
        say(f"warning: the run's own rows are not judged: {error}")
    own = set(sets)
    for path in paths:
        # A file may be called as the run's own rows are.
        name = f"./{path}" if str(path) in own else str(path)
        sets[name] = rows_of_file(predictor, path, columns, labels)
    others = [
        (name, Predictor.load(run, predictor.device.type))
        for name, run in told_apart([predictor.run, *against])[1:]
    ]
    found: dict[str, Any] = {}
    clean: float | None = None
    for name, rows in sets.items():
        is_own = name in own
        ours = (
            judge_own(predictor, name, rows)
            if is_own
            else judge(predictor, rows, f"evaluating {Path(name).name}")
        )
        metric, more = metric_of(predictor, ours)
        value = ours.metrics.get(metric)
        entry: dict[str, Any] = {
            "rows": len(rows.texts),
            "metric": metric,
            "metrics": {k: v for k, v in ours.metrics.items() if k not in KEPT_OUT},
            "intervals": ours.intervals,
        }
        if is_own:
            clean = value
        elif clean is not None and value is not None:
            entry["drop"] = relative_drop(clean, value, more)
        if others:
            entry["against"] = {
                other: _beside(ours, predictor, theirs, rows, metric) for other, theirs in others
            }
        found[name] = entry
    return {"sets": found}


def told_apart(runs: Sequence[Run]) -> list[tuple[str, Run]]:
    """Return runs with their names, or where they are if several have one name."""
    counts = Counter(run.name for run in runs)
    places = ((run.name, run.checkpoint or run.path, run) for run in runs)
    return [(name if counts[name] == 1 else str(place), run) for name, place, run in places]


def _beside(
    ours: Judged, predictor: Predictor, other: Predictor, rows: Any, metric: str
) -> dict[str, Any]:
    """Return another run's metric on the same rows, and how far ours is above it."""
    require_same_answers(predictor.run, other.run)
    theirs = judge(other, rows, f"evaluating {other.run.name}")
    found: dict[str, Any] = {"value": theirs.metrics.get(metric)}
    if gap := ours.minus(theirs, metric):
        found["difference"] = gap
    return found


def require_same_answers(run: Run, other: Run) -> None:
    """Require that another run has the same task and labels.

    Raises:
        InputError: if it has not.
    """
    one, two = run.recipe.task, other.recipe.task
    if one is None or two is None or one.name != two.name:
        raise InputError(f"{other.path} has another task: nothing can be compared")
    ours, theirs = (sorted(getattr(settings, "labels", ())) for settings in (one, two))
    if ours != theirs:
        raise InputError(
            f"{other.path} has the labels {short(', '.join(theirs))}, "
            f"not {short(', '.join(ours))}: nothing can be compared"
        )


def answers_of(predictor: Predictor, found: Judged) -> NDArray[Any] | None:
    """Return the label ``[n]`` that a classifier answers with; None of another task."""
    task = predictor.task
    if not isinstance(task, Classify) or not task.one_label:
        return None
    return decided_of(found.outputs)
