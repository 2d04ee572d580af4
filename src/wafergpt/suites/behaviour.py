"""Tests of single abilities: negation, names that must not matter, words that must."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wafergpt.errors import InputError
from wafergpt.evaluation.behaviour import expanded, failures, labels_for
from wafergpt.evaluation.behaviour_files import BehaviourFile, load_behaviour
from wafergpt.evaluation.perturbations import script_of
from wafergpt.files import short
from wafergpt.inference.predictor import Predictor
from wafergpt.logs import say
from wafergpt.suites import rows as own
from wafergpt.tasks.classify import Classify
from wafergpt.tasks.multi_label import MultiLabel
from wafergpt.tasks.tag import Tag

ROWS = 100
"""Rows of the run's own that are changed, where a test is of these."""


def behaviour(predictor: Predictor, cases: Path | None = None, seed: int = 0) -> dict[str, Any]:
    """Put a classifier or a tagger through behavioural tests (CheckList, arXiv:2005.04118).

    Args:
        predictor: of the run.
        cases: a YAML file of tests; if omitted, those that come with wafergpt: of sentiment, in
            English or Chinese as the run's rows are, if the labels are of that and a text is of
            one column, or else of intents, which change the run's own rows; of entities.
        seed: of what is drawn.

    Returns:
        ``file``, and ``tests``: ``name``, ``capability``, ``type``, ``cases``, ``failed``,
        ``failure_rate`` with its ``interval``, and ``examples``.

    Raises:
        InputError: if the task is another one, or the tests do not fit its labels or columns.
    """
    task = predictor.task
    if isinstance(task, MultiLabel) or not isinstance(task, Classify | Tag):
        raise InputError("behaviour is for task.name=classify with one label to a text, or tag")
    labels = task.settings.labels
    columns = () if isinstance(task, Tag) else task.settings.columns
    if cases is not None:
        file = load_behaviour(cases)
    elif isinstance(task, Tag):
        file = load_behaviour("entities")
    elif len(columns) > 1:
        file = load_behaviour("intents")
    else:
        file = _shipped(predictor, labels, seed)
    kind = "tag" if isinstance(task, Tag) else "classify"
    if file.task != kind:
        raise InputError(f"the tests are for task.name={file.task}, and the run is for {kind}")
    if len(columns) > 1 and (of_one := [test.name for test in file.tests if not test.rows]):
        raise InputError(
            f"test {short(of_one[0])} has templates of one text, and the run reads the columns "
            f"{', '.join(columns)}: rows: true takes its inputs from the run's rows"
        )
    named = labels_for(file, labels)
    known: Sequence[str] = ()
    if any(test.rows for test in file.tests):
        known = own.some(own.own_rows(predictor)[1], ROWS, seed).texts
    found = expanded(file, known, seed)
    answers = predictor.predict(found.texts)
    return {
        "file": "its own" if cases is None else str(cases),
        "about": file.about,
        "tests": failures(found, answers, named),
    }


def _shipped(predictor: Predictor, labels: Sequence[str], seed: int) -> BehaviourFile:
    sentiment = load_behaviour("sentiment")
    try:
        labels_for(sentiment, labels)
    except InputError:
        return load_behaviour("intents")
    try:
        texts = own.some(own.own_rows(predictor)[1], ROWS, seed).texts
    except InputError as error:
        say(f"warning: the tests are in English, whatever the run reads: {error}")
        return sentiment
    if script_of(texts) != "chinese":
        return sentiment
    chinese = load_behaviour("sentiment_zh")
    return chinese.model_copy(update={"labels": sentiment.labels, "beside": sentiment.beside})
