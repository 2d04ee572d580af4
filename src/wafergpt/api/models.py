"""The public functions that use trained models and measure them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from wafergpt.api.given import (
    Overrides,
    Rows,
    one_or_more,
    overrides_of,
    root_of,
    rows_file,
    words_of,
)
from wafergpt.errors import InputError, require_numbers
from wafergpt.files import from_home
from wafergpt.runs.run import RUNS, AnyRun, Run

if TYPE_CHECKING:
    from wafergpt.decoding.generator import Sampling


@overload
def predict(
    run: AnyRun,
    inputs: str,
    *,
    device: str = "auto",
    coverage: float | None = None,
    root: str | Path = RUNS,
) -> dict[str, Any] | None: ...


@overload
def predict(
    run: AnyRun,
    inputs: Iterable[Any],
    *,
    device: str = "auto",
    coverage: float | None = None,
    root: str | Path = RUNS,
) -> list[dict[str, Any] | None]: ...


def predict(
    run: AnyRun,
    inputs: str | Iterable[Any],
    *,
    device: str = "auto",
    coverage: float | None = None,
    root: str | Path = RUNS,
) -> dict[str, Any] | list[dict[str, Any] | None] | None:
    """Predict with a fine-tuned run; ``Predictor.load`` keeps the network for further calls.

    Args:
        run: fine-tuned for a task.
        inputs: a text, or several: a list, array, column or iterator, or a data frame with the
            columns that the task reads. Labels of answers are strings, whatever they were.
        device: ``cpu``, ``cuda`` or ``mps``; ``auto`` is the device it was trained on.
        coverage: of a classifier, the share of validation rows that is as certain as what is
            answered; the recipe's ``task.abstain`` if omitted.
        root: the folder that holds runs.

    Returns:
        The task's answer to a text, or one to each of several; None where there is no text.

    Raises:
        InputError: if the run is a language model, or the device is not available; if a coverage
            is none, or the run kept nothing to choose a threshold by.
    """
    from wafergpt.inference.predictor import Predictor

    predictor = Predictor.load(run, device, root)
    return (predictor if coverage is None else predictor.with_coverage(coverage)).predict(inputs)


def evaluate(
    run: AnyRun,
    suites: str | Sequence[str] = (),
    overrides: Overrides = (),
    *,
    files: Rows | Sequence[Rows] = (),
    labels: Mapping[str, str] | None = None,
    outside: str | Path | None = None,
    cases: str | Path | None = None,
    against: AnyRun | Sequence[AnyRun] = (),
    corpus: str | Path | Sequence[str | Path] = (),
    corpus_column: str | None = None,
    kinds: str | Sequence[str] = (),
    tasks: str | Sequence[str] = (),
    tasks_folder: str | Path | None = None,
    rows: int | None = None,
    documents: int | None = None,
    seed: int | None = None,
    device: str = "auto",
    root: str | Path = RUNS,
) -> dict[str, Any]:
    """Measure how good a run is, and where it breaks; its page and card have the results too.

    Args:
        run: a language model or a task's.
        suites: by name (see ``wafergpt.suites.evaluation.SUITES``), and ``card``, which measures
            nothing; all that apply if omitted.
        overrides: ``task.text=…``, ``task.label=…``, or values by key: how ``files`` are read.
        files: labelled rows of other sources, as files or data frames; of a language model, texts.
        labels: the run's label by that of the files, whose other rows are left out.
        outside: texts that are of none of a classifier's labels.
        cases: a file of behavioural tests; those that come with wafergpt if omitted.
        against: runs to compare with, by paired tests.
        corpus: what contamination is searched in; what the run has read, if omitted.
        corpus_column: of texts, in files of it that have columns; ``text`` if omitted.
        kinds: of changed texts; all that fit if omitted.
        tasks: of lm-evaluation-harness; all of ``tasks_folder`` if omitted.
        tasks_folder: files of its tasks.
        rows: for each change of texts, and each task of the harness.
        documents: of each source of texts; 200 if omitted.
        seed: of what is drawn; 0 if omitted.
        device: ``cpu``, ``cuda`` or ``mps``; ``auto`` is the device it was trained on.
        root: the folder that holds runs.

    Returns:
        The metrics by suite.

    Raises:
        InputError: if a suite is unknown, does not fit the run, or lacks what it needs, or if
            something is given that none of them reads.
    """
    from wafergpt.reports.card import write_card
    from wafergpt.suites.evaluation import EvaluationOptions, columns_of, evaluated, keeps

    root = root_of(root)
    found = Run.find(run, root)
    if not isinstance(labels, Mapping | None):
        raise InputError(
            f"labels={labels!r:.60} is no mapping from labels of the files to the run's"
        )
    require_numbers(rows=rows, documents=documents, seed=seed)
    asked = EvaluationOptions(
        suites=words_of(suites, "suites"),
        files=tuple(from_home(rows_file(one, root)) for one in one_or_more(files)),
        columns=columns_of(found, overrides_of(overrides)),
        labels=dict(labels or {}),
        outside=None if outside is None else from_home(outside),
        cases=None if cases is None else from_home(cases),
        against=tuple(Run.find(other, root) for other in one_or_more(against)),
        corpus=tuple(map(from_home, one_or_more(corpus))),
        corpus_column=corpus_column,
        kinds=words_of(kinds, "kinds"),
        tasks=words_of(tasks, "tasks"),
        tasks_folder=None if tasks_folder is None else from_home(tasks_folder),
        rows=rows,
        documents=documents,
        seed=seed,
        device=device,
    )
    results = evaluated(found, asked)
    if keeps(found):
        write_card(found)
    return results


def generate(
    run: AnyRun,
    prompt: str = "",
    sampling: Sampling | None = None,
    *,
    device: str = "auto",
    weights: Literal["fp32", "bf16", "int8"] = "fp32",
    root: str | Path = RUNS,
) -> str:
    """Continue a prompt; ``Writer.load`` keeps the network for further calls.

    Args:
        run: a language model.
        prompt: the text to continue.
        sampling: how to choose tokens, and when to stop.
        device: ``cpu``, ``cuda`` or ``mps``; ``auto`` is the device it was trained on.
        weights: ``fp32``; ``bf16``, or on a CPU ``int8``, which are faster and less exact.
        root: the folder that holds runs.

    Returns:
        The continuation, without the prompt.

    Raises:
        InputError: if the run has a task, the device is not available, or int8 weights are asked
            for on a GPU.
    """
    from wafergpt.inference.writer import Writer

    return Writer.load(run, device, weights, root).write(prompt, sampling)


def report(
    run: AnyRun,
    out: str | Path | None = None,
    *,
    self_contained: bool = False,
    root: str | Path = RUNS,
) -> Path:
    """Write a run's report page: curves, samples, metrics.

    Args:
        run: finished or not.
        out: the file to write; if omitted, ``report.html`` in the run's folder.
        self_contained: put the plotting script into the page, instead of beside all runs.
        root: the folder that holds runs.

    Returns:
        The path of the page.

    Raises:
        InputError: if there is no such run, or its files are damaged.
    """
    from wafergpt.reports import write_report

    return write_report(
        Run.find(run, root_of(root)), None if out is None else from_home(out), self_contained
    )
