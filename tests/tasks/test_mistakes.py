"""Lists of test rows with wrong answers, the worst first."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from wafergpt.config import recipe_from
from wafergpt.data.tag_schemes import Entity, tags_of
from wafergpt.data.tagged_rows import Sentences
from wafergpt.tasks.base import EvaluationSet, task_of
from wafergpt.tasks.tag import Tagged

NO_BATCHES: Any = None


def test_errors_of_numbers_by_their_size() -> None:
    task = task_of(recipe_from({"task": {"name": "regress"}}))
    known = EvaluationSet(NO_BATCHES, np.array([1.0, 2.0, 3.0]), None, ["a", "b", "c"])
    found = task.mistakes({"value": np.array([1.5, 0.0, 3.0])}, known)
    assert [(row["text"], row["error"]) for row in found] == [("b", -2.0), ("a", 0.5), ("c", 0.0)]
    assert found[0] == {"text": "b", "value": 2.0, "predicted": 0.0, "error": -2.0}


def test_a_label_without_any_probability_has_a_finite_loss() -> None:
    task = task_of(recipe_from({"task": {"name": "classify", "labels": ["x", "y"]}}))
    known = EvaluationSet(NO_BATCHES, np.array([0, 1, 1]), None, ["a", "b", "c"])
    shares = np.array([[0.4, 0.6], [0.0, 1.0], [1.0, 0.0]])
    worst, other = task.mistakes({"probabilities": shares}, known)
    assert (worst["text"], worst["label"], worst["predicted"]) == ("c", "y", "x")
    assert 700 < worst["loss"] < 800
    assert other["loss"] == pytest.approx(-np.log(0.4))


def test_sentences_by_their_wrong_and_missed_entities() -> None:
    labels = ("LOC", "PER")
    task = task_of(recipe_from({"task": {"name": "tag", "labels": labels}}))
    words = [("Ann", "saw", "New", "York"), ("Oslo", "is", "far"), ("Bob",)]
    true = [(Entity(0, 1, "PER"), Entity(2, 4, "LOC")), (Entity(0, 1, "LOC"),), ()]
    said = [(Entity(2, 4, "PER"),), (Entity(0, 1, "LOC"),), (Entity(0, 1, "PER"),)]
    tags = np.zeros((3, 5), dtype=np.int64)
    for row, (found, sentence) in enumerate(zip(said, words, strict=True)):
        tags[row, : len(sentence)] = tags_of(found, len(sentence), labels)
    known = Tagged(Sentences(words, true), np.zeros(0, dtype=np.int64))
    outputs = {"tags": tags, "word_counts": np.array([4, 3, 1])}
    assert task.mistakes(outputs, EvaluationSet(NO_BATCHES, known)) == [
        {"text": "Ann saw New York", "missed": "Ann (PER), New York (LOC)",
         "wrong": "New York (PER)"},
        {"text": "Bob", "missed": "", "wrong": "Bob (PER)"},
    ]  # fmt: skip
