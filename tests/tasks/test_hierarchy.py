"""Labels that are paths: answers stop where they get uncertain."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from tests.tasks.test_finetune import SMALL, write
from wafergpt.api import finetune
from wafergpt.config import load_recipe
from wafergpt.errors import InputError
from wafergpt.evaluation.hierarchy import confident_node, level_metrics
from wafergpt.evaluation.metrics import classification_metrics
from wafergpt.reports.page import write_report
from wafergpt.tasks.base import task_of
from wafergpt.tasks.classify import Classify
from wafergpt.tasks.classify_settings import ClassifySettings

LABELS = ("card/lost", "card/stolen", "loan/car/new", "loan/car/used", "other")


@pytest.mark.parametrize(
    ("row", "least", "node", "score"),
    [
        ([0.8, 0.1, 0.0, 0.0, 0.1], 0.5, "card/lost", 0.8),
        ([0.4, 0.4, 0.1, 0.0, 0.1], 0.5, "card", 0.8),
        ([0.1, 0.0, 0.3, 0.4, 0.2], 0.5, "loan/car", 0.7),
        ([0.1, 0.0, 0.3, 0.4, 0.2], 0.3, "loan/car/used", 0.4),
        # The sum decides, although one leaf of another node is more probable.
        ([0.0, 0.0, 0.3, 0.3, 0.4], 0.5, "loan/car", 0.6),
        ([0.2, 0.2, 0.2, 0.1, 0.3], 0.5, "card", 0.4),
        ([0.0, 0.1, 0.1, 0.1, 0.7], 0.5, "other", 0.7),
    ],
)
def test_the_deepest_node_that_is_probable_enough(
    row: list[float], least: float, node: str, score: float
) -> None:
    found, probability = confident_node(np.array(row), LABELS, "/", least)
    assert found == node
    assert probability == pytest.approx(score)


def test_levels_are_sums_of_leaves() -> None:
    rng = np.random.default_rng(0)
    probabilities, targets = rng.dirichlet(np.ones(5), 200), rng.integers(5, size=200)
    levels = level_metrics(probabilities, targets, LABELS, "/")
    assert [level["nodes"] for level in levels] == [3, 4, 5]
    leaves = classification_metrics(probabilities, targets, LABELS)
    assert levels[2]["accuracy"] == leaves.accuracy
    assert levels[2]["macro_f1"] == leaves.macro_f1
    top = np.stack([probabilities[:, :2].sum(1), probabilities[:, 2:4].sum(1), probabilities[:, 4]])
    right = top.argmax(0) == np.array([0, 0, 1, 1, 2])[targets]
    assert levels[0]["accuracy"] == pytest.approx(right.mean())


@pytest.mark.slow
def test_an_uncertain_leaf_is_answered_by_its_node(tmp_path: Path) -> None:
    rng = random.Random(0)
    rows = []
    for _ in range(300):
        top, leaf = rng.choice(["card", "loan"]), rng.choice(["new", "old"])
        told = rng.choice([f"very{leaf}", "some"])
        words = [*rng.choices(["the", "about", "my"], k=rng.randint(2, 6)), f"my{top}", told]
        rows.append((" ".join(words), f"{top}/{leaf}"))
    path = write(tmp_path / "rows.jsonl", rows)
    asked = [*SMALL, f"task.train={path}", f"task.test={path}", "task.hierarchy=/", "name=tree",
             "model.vocab_size=270", "train.epochs=4", "task.ngrams=words",
             "task.ngram_rows=4096"]  # fmt: skip
    classifier = finetune("scratch", None, [*asked, "task.abstain=0.6"], root=tmp_path)
    test = classifier.run.read("result")["test"]
    assert test["levels"][0]["accuracy"] > 0.95 > test["levels"][1]["accuracy"] + 0.05
    sure, unsure = classifier.predict(["about the mycard verynew", "about the myloan some"])
    assert sure is not None
    assert unsure is not None
    assert sure["label"] == "card/new"
    assert unsure["label"] == "loan"
    assert unsure["score"] == pytest.approx(unsure["scores"]["loan/new"]
                                            + unsure["scores"]["loan/old"])  # fmt: skip
    assert "Level by level" in write_report(classifier.run).read_text()
    with pytest.raises(InputError, match=r"no label is a path with task.hierarchy=\."):
        finetune("scratch", None, [*asked, "task.hierarchy=.", "name=none"], root=tmp_path)


def test_thresholds_are_not_beside_a_hierarchy(tmp_path: Path) -> None:
    """Its own rule decides, which knows of no offsets."""
    path = write(tmp_path / "a.jsonl", [(f"text {n}", LABELS[n % 5]) for n in range(60)])
    asked = ["task.name=classify", f"task.train={path}", "task.hierarchy=/"]
    asked += ["evaluate.metric=macro_f1"]
    with pytest.raises(InputError, match=r"leave task\.thresholds out"):
        load_recipe(None, [*asked, "task.thresholds=one"])
    task = task_of(load_recipe(None, asked))
    assert isinstance(task, Classify)
    chosen = task.with_choices(()).task
    assert isinstance(chosen, ClassifySettings)
    assert chosen.thresholds is None
