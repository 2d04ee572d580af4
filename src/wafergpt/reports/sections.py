"""One run as a chapter of the page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wafergpt import files
from wafergpt.config import Recipe
from wafergpt.errors import InputError
from wafergpt.reports.formatting import (
    column,
    first,
    number,
    read_object,
    read_rows,
    sequence,
    share,
)
from wafergpt.runs.moved import now_at
from wafergpt.runs.run import Run
from wafergpt.tuning.summary import TRIALS


@dataclass(frozen=True)
class ClassifierMetrics:
    """A classifier's or a tagger's metrics on held-out rows.

    Attributes:
        micro_f1: of all labels, if a text has any number of them; accuracy is then exact match.
        f1: of all entities, if it is a tagger.
        f1_interval: its 95% interval, if it is known.
        labels: the classes, as many as ``confusion`` has rows and columns.
        confusion: counts; rows are true, columns predicted. Empty if unknown.
        per_class: label, precision, recall, f1 and support of each class.
    """

    accuracy: float | None
    macro_f1: float | None
    micro_f1: float | None
    f1: float | None
    f1_interval: tuple[float, ...]
    loss: float | None
    labels: tuple[str, ...]
    confusion: tuple[tuple[int, ...], ...]
    per_class: tuple[Mapping[str, Any], ...]

    @classmethod
    def of(cls, test: object) -> ClassifierMetrics:
        """Read the ``test`` part of a result; missing parts stay empty."""
        labels = tuple(str(label) for label in sequence(test, "labels"))
        rows = [row for row in sequence(test, "confusion") if isinstance(row, list)]
        square = len(rows) == len(labels) and all(len(row) == len(labels) for row in rows)
        counted = all(type(n) is int and 0 <= n < 1 << 53 for row in rows for n in row)
        return cls(
            accuracy=share(test, "accuracy"),
            macro_f1=share(test, "macro_f1"),
            micro_f1=share(test, "micro_f1"),
            f1=share(test, "f1"),
            f1_interval=tuple(n for n in sequence(test, "f1_interval") if isinstance(n, float)),
            loss=number(test, "loss"),
            labels=labels,
            confusion=tuple(map(tuple, rows)) if square and counted else (),
            per_class=tuple(c for c in sequence(test, "per_class") if isinstance(c, Mapping)),
        )

    @property
    def rows(self) -> int:
        """The number of rows that were evaluated; 0 if unknown."""
        return sum(map(sum, self.confusion))

    @property
    def majority(self) -> float | None:
        """The accuracy of always predicting the most frequent label."""
        return max(map(sum, self.confusion)) / self.rows if self.rows else None


@dataclass(frozen=True)
class Chapter:
    """A run with everything it recorded.

    Attributes:
        key: the prefix of its charts' ids.
        result: empty while the run is unfinished.
        study: what is known of its trials, of a study of settings, finished or not.
    """

    key: str
    title: str
    run: Run
    recipe: Recipe
    rows: list[dict[str, Any]]
    plan: Mapping[str, Any]
    result: Mapping[str, Any]
    study: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, run: Run) -> Chapter:
        """Read a run.

        Raises:
            InputError: if one of its files is damaged.
        """
        recipe, result = run.recipe, read_object(run, "result")
        return cls(
            key="finetuning" if recipe.task else "pretraining",
            title="Fine-tuning" if recipe.task else "Pretraining",
            run=run,
            recipe=recipe,
            rows=read_rows(run),
            plan=read_object(run, "plan"),
            result=result,
            study=read_object(run, TRIALS) or (result if "study" in result else {}),
        )

    @property
    def origin(self) -> str:
        """Return what was done instead of training; "" if the run was trained."""
        if "folds" in self.result and "step" not in self.result:
            return "folds"
        return next(
            (name for name in ("imported", "averaged", "pruned", "study") if name in self.result),
            "",
        )

    @property
    def test(self) -> ClassifierMetrics:
        """The metrics on the held-out rows; of folds, on all rows."""
        return ClassifierMetrics.of(
            self.result.get("metrics" if self.origin == "folds" else "test")
        )

    def now(self, key: str) -> float | None:
        """Return a number of the result, or the last one logged so far."""
        logged = column(self.rows, key.replace("peak_memory", "memory"))
        return first(key, self.result, {key: logged[-1] if logged else None})


def chapters(run: Run) -> tuple[list[Chapter], str]:
    """Return the run's chapter, after that of its pretraining run.

    A model that comes with the package has no chapter: its page is the same for everyone.

    Returns:
        The chapters, and a sentence about a pretraining run that is not among them, or "".

    Raises:
        InputError: if a file of ``run`` itself is damaged.
    """
    own = Chapter.of(run)
    pretrained = own.result.get("pretrained")
    if not isinstance(pretrained, str):
        return [own], ""
    try:
        start = _moved(Path(pretrained), run.path)
        if start.shipped:
            shown = f"wafergpt report {start.name} --out {start.name}.html"
            return [own], f"{start.name} comes with wafergpt: {shown} shows its pretraining."
        before = Chapter.of(start)
    except InputError as error:
        return [own], f"The pretraining run cannot be shown: {error}."
    if before.key == own.key:
        return [own], ""
    return [before, own], ""


def _moved(path: Path, folder: Path) -> Run:
    return Run.find(now_at(path, folder, lambda p: files.is_file(p / "recipe.yaml")))
