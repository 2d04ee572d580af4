"""What an answer costs, of tasks whose input is no single text."""

from __future__ import annotations

from pathlib import Path

from tests.tasks import test_answer
from tests.tasks.retrieval import SMALL, facts, write_lists
from wafergpt.api import finetune
from wafergpt.data.answer_rows import Questions
from wafergpt.data.retrieval_rows import RankedLists
from wafergpt.inference.predictor import Predictor
from wafergpt.suites import rows as own
from wafergpt.suites.cost import cost


def of(predictor: Predictor) -> float:
    return float(cost(predictor)["models"][predictor.run.name]["texts_per_second"])


def test_a_ranking_is_timed_on_candidates_with_their_queries(tmp_path: Path) -> None:
    path = write_lists(tmp_path / "lists.csv", facts(0)[:40])
    asked = [*SMALL, "task.name=rank", f"task.train={path}", "train.steps=2", "name=ranks",
             "train.batch_size=8"]  # fmt: skip
    ranker = finetune("scratch", None, asked, refit=False, root=tmp_path)
    known = own.own_rows(ranker)[1]
    assert isinstance(known, RankedLists)
    inputs = ranker.task.inputs_of_rows(known)
    assert inputs == [ranker.task.require_input(one) for some in known.candidates for one in some]
    assert of(ranker) > 0


def test_answers_are_timed_on_questions_with_their_contexts(tmp_path: Path) -> None:
    path = test_answer.write(tmp_path / "train.jsonl", test_answer.facts(60, 0))
    asked = [*test_answer.SMALL, f"task.train={path}", "train.steps=2", "name=answers"]
    found = finetune("scratch", None, asked, refit=False, root=tmp_path)
    known = own.own_rows(found)[1]
    assert isinstance(known, Questions)
    assert found.task.inputs_of_rows(known) == known.pairs
    assert of(found) > 0
