"""Answering end to end, on made-up facts that a tiny network learns."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from wafergpt.api import finetune, plan
from wafergpt.cli.predict import command
from wafergpt.config import load_recipe
from wafergpt.errors import InputError
from wafergpt.inference.predictor import Predictor
from wafergpt.reports.page import write_report
from wafergpt.reports.spans import span_examples
from wafergpt.tasks.answer import Answer

NAMES = ["Oslo", "New York", "東京", "Zoë", "Lima", "Riga", "👩‍👩‍👧"]

SMALL = [
    "model.n_layers=1", "model.d_model=32", "model.n_heads=2", "model.seq_len=64",
    "model.vocab_size=320", "system.precision=fp32", "system.threads=1", "system.compile=off",
    "task.name=answer", "task.feature_rows=4096",
]  # fmt: skip


def facts(n: int, seed: int) -> list[dict[str, Any]]:
    """Make contexts of facts, a fifth of which do not say what is asked."""
    draw, rows = random.Random(seed), []
    for _ in range(n):
        some = draw.sample(NAMES, 3)
        codes = {name: str(draw.randint(100, 999)) for name in some}
        context = " ".join(f"The code of {name} is {code}." for name, code in codes.items())
        asked = draw.choice(some if draw.random() < 0.8 else NAMES)
        answer = codes.get(asked, "")
        start = context.index(answer) if answer else None
        question = f"What is the code of {asked}?"
        rows.append({"question": question, "context": context, "answer": answer,
                     "answer_start": start})  # fmt: skip
    return rows


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    write(home / "train.jsonl", facts(300, 0))
    write(home / "test.jsonl", facts(60, 1))
    return home


def settings(home: Path, *more: str) -> list[str]:
    return [*SMALL, f"task.train={home / 'train.jsonl'}", *more]


@pytest.fixture(scope="module")
def trained(home: Path) -> Predictor:
    asked = settings(home, f"task.test={home / 'test.jsonl'}", "train.steps=60", "name=facts")
    return finetune("scratch", None, asked, root=home / "runs")


def test_it_learns_what_is_asked_and_that_nothing_is_said(trained: Predictor) -> None:
    test = trained.run.read("result")["test"]
    assert test["f1"] > 0.9
    assert test["no_answer_accuracy"] > 0.9
    assert test["questions"] == 60


def test_answers_have_their_places_in_the_text(trained: Predictor) -> None:
    rows = facts(40, 2)
    found = trained.predict([(row["question"], row["context"]) for row in rows])
    for row, one in zip(rows, found, strict=True):
        assert one is not None
        assert 0 < one["score"] <= 1
        if one["answer"]:
            assert row["context"][one["start"] : one["end"]] == one["answer"]
        else:
            assert set(one) == {"answer", "score"}
    assert np.mean([(one or {})["answer"] == row["answer"]
                    for row, one in zip(rows, found, strict=True)]) > 0.85  # fmt: skip


def test_a_long_context_is_read_in_windows(trained: Predictor) -> None:
    context = "The code of Lima is 417. " + "Nobody is here now. " * 60 + "The code of Oslo is 123."
    asked = [(f"What is the code of {name}?", context) for name in ("Oslo", "Lima")]
    found = trained.predict(asked)
    assert [(one or {})["answer"] for one in found] == ["123", "417"]
    assert (found[0] or {})["start"] == context.index("123")
    samples = trained.task.encode(asked, trained.tokenizer).batches
    assert samples.samples_per_epoch > 10


def test_inputs_come_in_many_forms(trained: Predictor, home: Path) -> None:
    row = facts(1, 3)[0]
    pair = [row["question"], row["context"]]
    found = trained.predict([row, pair, tuple(pair), json.dumps(row), "", None, ["Who?", " "]])
    assert found[0] == found[1] == found[2] == found[3]
    assert found[4:] == [None, None, None]
    for wrong in ("Who?", {"question": "Who?"}, ["Who?"], 3, ["Who?", 3]):
        with pytest.raises(InputError, match=r"texts\[0\]"):
            trained.predict([wrong])
    asked = [str(trained.run.path), "--file", str(home / "test.jsonl"), "--json"]
    outputs = json.loads(CliRunner().invoke(command, asked).stdout)["outputs"]
    examples = trained.run.read("result")["test"]["examples"]
    assert len(outputs) == 60
    right = [one["answer"] == row["answer"] for one, row in zip(outputs, facts(60, 1), strict=True)]
    exact = trained.run.read("result")["test"]["exact_match"]
    assert np.mean(right) == pytest.approx(exact)
    assert len(examples) == 8


def test_the_loss_is_that_of_both_ends(trained: Predictor) -> None:
    task, network = trained.task, trained.network
    assert isinstance(task, Answer)
    table = task.read_rows(task.settings.test or Path())
    evaluated = task.evaluated(table, trained.tokenizer, "test")
    batch, losses = evaluated.batches.batch(0, evaluated.batches.samples_per_epoch), []
    with torch.no_grad():
        scores = task.mixed(task.word_scores(network, batch))
    counts, targets = batch["word_counts"].tolist(), batch["targets"].tolist()
    for own, count, (first, last) in zip(scores, counts, targets, strict=True):
        logs = own[:count].double().log_softmax(0)
        losses.append(-float(logs[first, 0] + logs[last, 1]))
    test = trained.run.read("result")["test"]
    assert test["loss"] == pytest.approx(np.mean(losses), rel=1e-5)


@pytest.mark.slow
def test_the_margin_is_the_best_one(trained: Predictor) -> None:
    task = trained.task
    assert isinstance(task, Answer)
    table = task.read_rows(task.settings.test or Path())
    known = task.evaluated(table, trained.tokenizer, "test").references
    n = len(table.questions)
    draw = np.random.default_rng(0)
    outputs = {
        "spans": np.stack([np.arange(n) % 5, np.arange(n) % 5], 1), "lasts": np.ones(n, bool),
        "scores": draw.normal(size=n), "nones": draw.normal(size=n), "losses": np.zeros(n),
        "margins": np.full(n, 0.5),
    }  # fmt: skip
    fitted, moved = task.fit(outputs, known)
    best = task.compute_metrics(moved, known)["f1"]
    tried = [
        task.compute_metrics({**outputs, "margins": np.full(n, margin)}, known)["f1"]
        for margin in np.linspace(-4, 4, 81)
    ]
    assert best >= max(tried)
    assert {*moved["margins"]} == {fitted["no_answer_margin"]}


def test_answers_that_are_always_there_are_always_given(home: Path) -> None:
    rows = [row for row in facts(120, 4) if row["answer"]]
    path = write(home / "there.jsonl", rows)
    asked = [*SMALL, f"task.train={path}", "train.steps=2", "name=there"]
    found = finetune("scratch", None, asked, root=home / "runs")
    assert all((one or {})["answer"] for one in found.predict(facts(20, 5)))
    assert "no_answer_accuracy" not in found.run.read("result")["metrics"]


@pytest.mark.slow
def test_a_resume_ends_with_the_same_bits(home: Path) -> None:
    asked = settings(home, "schedule.name=constant", "schedule.warmup=2", "seed=4")
    root = home / "runs"
    whole = finetune("scratch", None, [*asked, "train.steps=8", "name=whole"], root=root).run
    half = finetune("scratch", None, [*asked, "train.steps=4", "name=half"], root=root).run
    again = finetune(resume=half, overrides=["train.steps=8"], root=root).run
    hashes = [run.read("result")["weights_sha256"] for run in (whole, again)]
    assert hashes[0] == hashes[1]


def test_a_report_shows_answers_in_their_contexts(trained: Predictor) -> None:
    page = write_report(trained.run).read_text(encoding="utf-8")
    assert "What it answers" in page
    assert "answers the held-out questions with an F1 of" in page
    example = {"question": "a<b?", "context": "x <y> z", "true": [[2, 5]], "predicted": [0, 1]}
    shown = span_examples({"examples": [example, {**example, "predicted": None}, {"words": []}]})
    assert '<mark class="entity e0 wrong">x</mark> &lt;y&gt; z' in shown
    assert "no answer, but there is one; missed: &lt;y&gt;" in shown
    assert shown.count("<p ") == 2


def test_many_contexts_are_held_out_whole(home: Path) -> None:
    rows = [{**row, "question": f"{row['question']} {n}"} for row in facts(80, 6) for n in range(3)]
    path = write(home / "many.jsonl", rows)
    tables = Answer(load_recipe(None, [*SMALL, f"task.train={path}"])).tables
    assert tables.validation is not None
    assert not set(tables.train.contexts) & set(tables.validation.contexts)
    assert len(tables.validation.contexts) % 3 == 0
    more = Answer(load_recipe(None, [*SMALL, f"task.train={path}", "task.held_out=0.5"])).tables
    assert more.validation is not None
    assert len(more.validation.contexts) > 3 * len(tables.validation.contexts)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["task.question=q"], "no column 'q'"),
        (["task.max_tokens=4"], "4 tokens hold no question"),
        (["train.batch_size=4096"], "less than one batch"),
        (["evaluate.metric=accuracy"], "accuracy"),
        (["task.max_answer_words=0"], "max_answer_words"),
        (["task.text=a"], "text"),
    ],
)
def test_what_cannot_be_is_refused(home: Path, more: list[str], message: str) -> None:
    asked = settings(home, "train.steps=1", "name=refused", *more)
    with pytest.raises(InputError, match=message):
        finetune("scratch", None, asked, root=home / "runs")
    assert not (home / "runs" / "refused").exists()


def test_no_answers_are_refused(home: Path) -> None:
    path = write(home / "none.jsonl", [{**row, "answer": None} for row in facts(20, 7)])
    with pytest.raises(InputError, match="has no answers: nothing to learn"):
        finetune("scratch", None, [*SMALL, f"task.train={path}"], root=home / "runs")


@pytest.mark.slow
@pytest.mark.usefixtures("preloaded")
def test_it_is_planned(home: Path) -> None:
    found = plan(None, settings(home, "train.steps=20"))
    assert found.measured
    assert found.tokens > 20 * 16 * 30
