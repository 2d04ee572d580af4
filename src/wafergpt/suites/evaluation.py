"""An evaluation: which suites a run is put through, and what each of them needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wafergpt import files
from wafergpt.config import load_recipe
from wafergpt.config.recipe import DEFAULT_TASK
from wafergpt.data.labelled_rows import read_texts
from wafergpt.errors import InputError, nearest
from wafergpt.evaluation.perturbations import require_kinds
from wafergpt.locks import locked
from wafergpt.logs import say
from wafergpt.runs.run import Run

if TYPE_CHECKING:
    from wafergpt.inference.predictor import Predictor

KEPT, LOCK = "evaluation", ".evaluation.lock"
"""Names of the run's file that keeps the results, by suite, and of its lock."""

SUITES: Mapping[str, str] = {
    "rows": "metrics on its own rows and on those of --file, beside --against",
    "calibration": "whether its probabilities are right, before and after a temperature",
    "robustness": "metrics on changed texts",
    "behaviour": "tests of single abilities",
    "outside": "whether it knows texts that are of no class",
    "language": "loss and bits per byte, by source and position",
    "harness": "lm-evaluation-harness, beside published models",
    "contamination": "test rows that training texts have too",
    "cost": "time, memory and energy of an answer",
}
"""What each suite measures, in the order in which they run."""

CARD = "card"
"""Named as a suite: it measures nothing, and the card is written."""

WEIGHTS = "weights_sha256"
"""Of the weights that the kept results are of; a run's result has it under the same name."""

OF_TASKS = ("rows", "calibration", "robustness", "behaviour", "outside", "contamination", "cost")
OF_LANGUAGE = ("language", "harness", "contamination", "cost")


@dataclass(frozen=True)
class EvaluationOptions:
    """What is asked of an evaluation.

    Attributes:
        suites: by name, ``card`` among them; all that apply if empty.
        files: labelled rows of other sources; of a language model, texts.
        columns: keys of the section ``task`` that say how ``files`` are read.
        labels: the run's label by that of the files.
        outside: texts that are of none of a classifier's labels.
        cases: a file of behavioural tests; those that come with wafergpt if omitted.
        against: runs to compare with.
        corpus: what contamination is searched in; what the run has read, if empty.
        corpus_column: of texts, in files of it that have columns; ``text`` if omitted.
        kinds: of changed texts; all that fit if empty.
        tasks: of the harness; those of ``tasks_folder`` if empty.
        tasks_folder: files of tasks of the harness.
        rows: for each change of texts, and each task of the harness; a default for each if omitted.
        documents: of each source of texts; a default if omitted.
        seed: of what is drawn; 0 if omitted.
        device: to compute on.
    """

    suites: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()
    columns: Mapping[str, Any] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    outside: Path | None = None
    cases: Path | None = None
    against: tuple[Run, ...] = ()
    corpus: tuple[Path, ...] = ()
    corpus_column: str | None = None
    kinds: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    tasks_folder: Path | None = None
    rows: int | None = None
    documents: int | None = None
    seed: int | None = None
    device: str = "auto"


def evaluated(run: Run, options: EvaluationOptions) -> dict[str, Any]:
    """Put a run through suites; each result is kept in the run's folder as soon as it is there.

    Args:
        run: of a language model or a task.
        options: which suites, and with what.

    Returns:
        The results by suite.

    Raises:
        InputError: if a suite is unknown, does not fit the run, or lacks what it needs. Without
            named suites, those are left out, and said, unless it is all of them.
    """
    evaluation = Evaluation(run, options)
    evaluation.require_known()
    if keeps(run):
        # A damaged file is said before anything is measured.
        kept_of(run)
    found: dict[str, Any] = {}
    for name in evaluation.running:
        try:
            result = evaluation.measure(name)
        except InputError as error:
            if options.suites:
                raise
            say(f"{name} is left out: {error}")
            continue
        found[name] = files.finite(result)
        if keeps(run):
            # Another process may be putting it through another suite.
            with locked(run.path / LOCK):
                run.write(KEPT, {**kept_of(run), name: found[name], WEIGHTS: _weights_of(run)})
    if evaluation.running and not found:
        raise InputError(f"nothing of {run.path} can be evaluated: see the reasons above")
    return found


def keeps(run: Run) -> bool:
    """Return whether results are kept: only of a finished run's own weights."""
    return not run.shipped and _weights_of(run) is not None


def kept_of(run: Run) -> dict[str, Any]:
    """Return the kept results of the weights that a run has now, by suite; {} if there are none.

    Raises:
        InputError: if their file is damaged.
    """
    kept, weights = run.read(KEPT), _weights_of(run)
    if kept is None or weights is None:
        return {}
    if not isinstance(kept, dict):
        raise InputError(f"{run.path / KEPT}.json is damaged: it is not an object")
    return kept if kept.get(WEIGHTS) == weights else {}


def _weights_of(run: Run) -> str | None:
    """Return the digest of a finished run's weights; None of one of its checkpoints."""
    result = run.read("result")
    if run.checkpoint is not None or not isinstance(result, dict):
        return None
    return result.get(WEIGHTS)


def columns_of(run: Run, overrides: Sequence[str]) -> dict[str, Any]:
    """Return the keys of the section ``task`` that say how files of rows are read.

    Args:
        run: whose task they are of.
        overrides: ``task.key=value`` strings.

    Raises:
        InputError: if another key is given.
    """
    if not overrides:
        return {}
    keys = [override.partition("=")[0].strip() for override in overrides]
    for key in keys:
        if not key.startswith("task.") or key == "task.name":
            raise InputError(f"{key} changes a training: only columns (task.text=) are set here")
    name = DEFAULT_TASK
    if run.recipe.task is not None:
        name = run.recipe.task.name
    elif others := {*keys} - {"task.text"}:
        raise InputError(f"{min(others)} is of a task, and {run.path} is a language model")
    task = load_recipe(None, [f"task.name={name}", *overrides]).task
    assert task is not None
    found = task.model_dump(exclude_unset=True, exclude={"name"})
    if run.recipe.task is None and not isinstance(found["text"], str):
        raise InputError("task.text: texts of a language model are in one column")
    return found


class Evaluation:
    """A run that is put through suites.

    Args:
        run: of a language model or a task.
        options: what is asked of it.
    """

    def __init__(self, run: Run, options: EvaluationOptions) -> None:
        self.run, self.options = run, options
        self.is_task = run.recipe.task is not None
        self.applicable = OF_TASKS if self.is_task else OF_LANGUAGE
        named = [name for name in options.suites if name != CARD]
        self.running = named if options.suites else self.applicable

    def require_known(self) -> None:
        """Check that suites fit the run, and that each option is of a suite that runs.

        Raises:
            InputError: if one does not.
        """
        if CARD in self.options.suites and not keeps(self.run):
            raise InputError(
                f"{self.run.checkpoint or self.run.path} has no card: a finished run has one, but "
                "not those that come with wafergpt, nor a checkpoint"
            )
        if self.options.rows is not None and self.options.rows < 1:
            raise InputError(f"rows={self.options.rows}: at least 1 is wanted")
        for name in self.running:
            if name not in SUITES:
                raise InputError(f"no suite '{name}'{nearest(name, (*SUITES, CARD))}")
            if name not in self.applicable:
                kind = "a task's run" if self.is_task else "a language model"
                raise InputError(
                    f"{name} is not for {kind}: {self.run.path} has {', '.join(self.applicable)}"
                )
        self._require_used()
        require_kinds(self.options.kinds)
        # Sources of documents may have a name in front of their path.
        rows = self.options.files if self.is_task else ()
        for path in (*rows, self.options.outside, self.options.cases):
            if path is not None and not path.exists() and not files.is_pattern(path):
                raise InputError(f"no such file: {path}")

    def _require_used(self) -> None:
        """Refuse an option that no suite reads."""
        given = self.options
        read_by: Sequence[tuple[str, object, Sequence[str]]] = (
            ("--file", given.files, ("rows",) if self.is_task else ("language", "contamination")),
            (
                "task.…=",
                given.columns,
                ("rows", "outside") if self.is_task else ("language", "contamination"),
            ),
            ("--labels", given.labels, ("rows",)),
            ("--outside", given.outside, ("outside",)),
            ("--cases", given.cases, ("behaviour",)),
            ("--against", given.against, ("rows", "cost") if self.is_task else ()),
            ("--corpus", given.corpus, ("contamination",)),
            ("--corpus-column", given.corpus_column, ("contamination",)),
            ("--kinds", given.kinds, ("robustness",)),
            ("--tasks", given.tasks, ("harness",)),
            ("--tasks-folder", given.tasks_folder, ("harness",)),
            ("--rows", given.rows, ("robustness", "harness")),
            ("--documents", given.documents, ("language",)),
            ("--seed", given.seed, ("robustness", "behaviour", "outside", "harness")),
        )
        for flag, value, readers in read_by:
            is_given = value is not None and value not in ((), {})
            if is_given and not set(readers) & set(self.running):
                where = f"read by {', '.join(readers)} alone" if readers else "for tasks' runs"
                raise InputError(f"{flag} is {where}: nothing that runs here reads it")
        # Texts of no class have no labels.
        of_rows = [f"task.{key}=" for key in given.columns if key != "text" or not given.outside]
        if not given.files and (wanting := ["--labels"] * bool(given.labels) + of_rows):
            raise InputError(f"{wanting[0]} is of the rows of a file: add --file FILE")

    def measure(self, name: str) -> dict[str, Any]:
        """Return the result of a suite.

        Raises:
            InputError: if it lacks what it needs.
        """
        measures: dict[str, Callable[[], dict[str, Any]]] = {
            "rows": self._rows,
            "calibration": self._calibration,
            "robustness": self._robustness,
            "behaviour": self._behaviour,
            "outside": self._outside,
            "language": self._language,
            "harness": self._harness,
            "contamination": self._contamination,
            "cost": self._cost,
        }
        return measures[name]()

    @cached_property
    def predictor(self) -> Predictor:
        """The run of a task, ready to answer."""
        from wafergpt.inference.predictor import Predictor

        return Predictor.load(self.run, self.options.device)

    def _rows(self) -> dict[str, Any]:
        from wafergpt.suites.rows import on_files

        given = self.options
        return on_files(self.predictor, given.files, given.columns, given.labels, given.against)

    def _calibration(self) -> dict[str, Any]:
        from wafergpt.suites.calibration import calibration

        return calibration(self.predictor)

    def _robustness(self) -> dict[str, Any]:
        from wafergpt.suites.robustness import ROWS, robustness

        given = self.options
        return robustness(self.predictor, given.rows or ROWS, given.seed or 0, given.kinds)

    def _behaviour(self) -> dict[str, Any]:
        from wafergpt.suites.behaviour import behaviour

        return behaviour(self.predictor, self.options.cases, self.options.seed or 0)

    def _outside(self) -> dict[str, Any]:
        from wafergpt.suites.outside import outside

        if self.options.outside is None:
            raise InputError("texts of no class are wanted: add --outside FILE")
        own = getattr(self.run.recipe.task, "text", "text")
        named = self.options.columns.get("text", own)
        texts = read_texts(self.options.outside, named, option="task.text=COLUMN")
        return outside(self.predictor, texts, self.options.seed or 0)

    def _language(self) -> dict[str, Any]:
        from wafergpt.suites.language import language

        given = self.options
        return language(
            self.run, given.files, given.documents, device=given.device, column=self._column
        )

    def _harness(self) -> dict[str, Any]:
        from wafergpt.suites.harness import harness

        given = self.options
        if not given.tasks and given.tasks_folder is None:
            raise InputError("tasks are wanted: add --tasks NAME,… or --tasks-folder FOLDER")
        return harness(
            self.run,
            given.tasks,
            given.tasks_folder,
            given.rows,
            given.device,
            given.seed or 0,
        )

    def _contamination(self) -> dict[str, Any]:
        from wafergpt.suites.contamination import contamination, training_texts

        given = self.options
        if given.corpus:
            column = given.corpus_column or "text"
            return contamination(self._tested(), given.corpus, column=column)
        read = training_texts(self.run)
        if not read.corpora and not read.texts:
            raise InputError("what the model has read is not here: add --corpus SOURCE")
        if read.missing:
            names = ", ".join(read.missing)
            say(f"warning: what {names} was trained on is not here, and not searched (--corpus)")
        found = contamination(self._tested(), read.corpora, texts=read.texts)
        return {**found, "not_searched": read.missing}

    def _tested(self) -> list[str]:
        """Return the texts that a run is judged on."""
        from wafergpt.suites.rows import labelled_task, own_rows
        from wafergpt.suites.sources import named_sources

        if self.is_task:
            rows = own_rows(self.predictor)[1]
            return list(labelled_task(self.predictor).texts_of(rows))
        if not self.options.files:
            raise InputError("the texts of a test are wanted: add --file FILE")
        sources = named_sources(self.options.files, self._column)
        return [text for source in sources for text in source.texts("val")]

    @property
    def _column(self) -> str:
        """The column of texts in the files of a language model."""
        return str(self.options.columns.get("text", "text"))

    def _cost(self) -> dict[str, Any]:
        from wafergpt.suites.cost import cost, cost_of_text

        if not self.is_task:
            return cost_of_text(self.run, self.options.device)
        return cost(self.predictor, self.options.against)
