"""A classifier that gives a text any number of labels, end to end."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch.nn import functional as F

from tests.hostile import folders
from tests.interop.test_onnx import run_readme
from tests.tasks.test_finetune import SMALL
from wafergpt.api import export, finetune, prune
from wafergpt.apps.comparison import compare
from wafergpt.checkpoint import store
from wafergpt.cli.predict import command
from wafergpt.config import load_recipe, recipe_from
from wafergpt.errors import InputError
from wafergpt.inference.predictor import Predictor
from wafergpt.reports.page import write_report
from wafergpt.runs.run import Run
from wafergpt.tasks.base import task_of
from wafergpt.tasks.multi_label import MultiLabel

LABELS = ("cold", "loud", "red")


def rows(n: int, seed: int) -> list[dict[str, Any]]:
    rng = random.Random(seed)
    filler = ["the", "room", "was", "and", "it", "with"]
    found = []
    for _ in range(n):
        labels = [label for label in LABELS if rng.random() < 0.3]
        words = [*rng.choices(filler, k=rng.randint(2, 8)), *(f"very{one}" for one in labels)]
        rng.shuffle(words)
        found.append({"text": " ".join(words), "label": "|".join(labels)})
    return found


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    for name, n in (("train", 300), ("test", 100)):
        lines = (json.dumps(row) for row in rows(n, n))
        (home / f"{name}.jsonl").write_text("\n".join(lines))
    return home


def trained(home: Path, name: str, *more: str, start: str = "scratch") -> Predictor:
    if (home / name).exists():
        return Predictor.load(Run.find(name, home))
    asked = [*SMALL, *(f"task.{part}={home / part}.jsonl" for part in ("train", "test")),
             "task.multi=true", "model.vocab_size=290", f"name={name}", "train.epochs=6",
             "task.pooling=mean", *more]  # fmt: skip
    return finetune(start, None, asked, root=home)


ALONE = ("task.ngrams=none", "train.epochs=20")
WITH_NGRAMS = ("task.ngrams=words", "task.ngram_rows=4096", "task.ngram_ratios=true")


@pytest.mark.slow
@pytest.mark.parametrize("more", [ALONE, WITH_NGRAMS], ids=["alone", "n-grams"])
def test_every_label_is_learned(home: Path, more: tuple[str, ...]) -> None:
    classifier = trained(home, "alone" if more is ALONE else "ngrams", *more)
    test = classifier.run.read("result")["test"]
    assert test["micro_f1"] >= 0.95
    assert test["accuracy"] >= 0.9
    assert test["lrap"] >= 0.97
    assert [row["label"] for row in test["per_class"]] == list(LABELS)
    answers = classifier.predict(["the veryred verycold room", "it was the room"])
    assert [a and sorted(a["labels"]) for a in answers] == [["cold", "red"], []]
    done = CliRunner().invoke(command, [str(classifier.run.path), "--text", "it was veryloud"])
    assert json.loads(done.stdout)["labels"] == ["loud"]
    # What was recorded is what a new process computes.
    outputs = classifier.run.read_outputs()
    texts = [row["text"] for row in rows(100, 100)]
    again = [a["scores"] for a in classifier.predict(texts) if a]
    expected = outputs["test/probabilities"]
    np.testing.assert_allclose([list(one.values()) for one in again], expected, atol=1e-6)


def test_a_row_without_words_has_the_shares_of_the_training_rows(home: Path) -> None:
    task = trained(home, "ngrams").task
    assert isinstance(task, MultiLabel)
    shares = task.answers(torch.zeros(1, 3))["probabilities"][0]
    counted = [sum(label in row["label"] for row in rows(300, 300)) / 300 for label in LABELS]
    assert shares.tolist() == pytest.approx(counted, abs=0.03)


def multi(**settings: object) -> MultiLabel:
    values = {"labels": ["a", "b"], "multi": True, "priors": [-1.0, 0.5], **settings}
    task = task_of(recipe_from({**folders.RECIPE, "task": values}))
    assert isinstance(task, MultiLabel)
    return task


def test_the_loss_is_torchs(tmp_path: Path) -> None:
    scores, targets = torch.randn(5, 2), torch.randint(2, (5, 2))
    task = multi()
    logits = scores + torch.tensor([-1.0, 0.5])
    expected = F.binary_cross_entropy_with_logits(logits, targets.float(), reduction="none")
    torch.testing.assert_close(task.loss_of(scores, targets), expected.mean(1).sum())
    weights = torch.rand(5, 2)
    torch.testing.assert_close(
        task.loss_of(scores, targets, weights), (weights * expected).mean(1).sum()
    )
    # The divergence is the cross-entropy less the entropy of what is learned from.
    others = torch.randn(5, 2)
    p = others.sigmoid()
    entropy = F.binary_cross_entropy_with_logits(others, p, reduction="none")
    crossed = F.binary_cross_entropy_with_logits(logits, p, reduction="none")
    torch.testing.assert_close(
        task.divergence(scores, others, None), (crossed - entropy).mean(1).sum()
    )


def test_balanced_labels_weigh_as_sklearn_weighs_them(tmp_path: Path) -> None:
    weights = pytest.importorskip("sklearn.utils.class_weight").compute_class_weight
    rows = tmp_path / "rows.csv"
    cells = ["a", "a|b", "", "a", "b", "a"]
    rows.write_text("text,label\n" + "".join(f"text {i},{c}\n" for i, c in enumerate(cells)))
    asked = multi(train=rows, validation=rows, class_weights="balanced", labels=[], priors=[])
    recipe, splits = asked.prepare(folders.tokenizer())
    assert task_of(recipe).settings.priors == (0.0, 0.0)  # type: ignore[attr-defined]
    batch = splits.train.batch(0, 6)
    assert batch.weight == pytest.approx(6)
    for label in range(2):
        column = batch["targets"][:, label].numpy()
        expected = weights("balanced", classes=np.array([0, 1]), y=column)[column]
        assert batch["weights"][:, label].tolist() == pytest.approx(expected.tolist())


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["task.loss=binary"], "task.multi decides each label by itself"),
        (["task.label=[a,b]", "task.multi=false"], "only with task.multi=true"),
        (["task.separator=;", "task.multi=false"], "add task.multi=true"),
        (["task.thresholds=each", "task.multi=false"], "task.thresholds=each is for"),
        (["evaluate.metric=mcc"], "evaluate.metric=mcc is no metric"),
    ],
)
def test_wrong_use(home: Path, more: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        trained(home, "none", *more)
    assert not (home / "none").exists()


def test_the_rival_stands_beside_it(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    classifier = trained(home, "ngrams", *WITH_NGRAMS)
    ours, theirs = compare(classifier)
    assert theirs["kind"] == "tfidf"
    assert theirs["macro_f1"] >= 0.9
    assert theirs["gpt_minus_this"]["accuracy"]["value"] == pytest.approx(
        ours["accuracy"] - theirs["accuracy"]
    )
    page = write_report(classifier.run).read_text()
    assert "micro-F1" in page or "Micro-F1" in page
    assert "Label by label" in page


@pytest.mark.slow
def test_it_is_exported_with_its_thresholds(home: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="an export to ONNX is run")
    pytest.importorskip("onnxscript", reason="a graph is written by onnxscript")
    run = trained(home, "ngrams", *WITH_NGRAMS).run
    export(run, tmp_path / "out", "onnx")
    told = json.loads((tmp_path / "out" / "settings.json").read_text())
    offsets = run.recipe.task.offsets or (0.0,) * 3  # type: ignore[union-attr]
    assert told["thresholds"] == pytest.approx([1 / (1 + math.exp(o)) for o in offsets])
    old = 'texts = ["A warm and funny film.", "It was dull."]'
    printed = run_readme(tmp_path / "out", (old, 'texts = ["veryred and verycold", "the room"]'))
    assert printed.splitlines() == ["['cold', 'red'] veryred and verycold", "[] the room"]
    with pytest.raises(InputError, match=r"task\.multi decides by more than transformers"):
        export(trained(home, "alone", *ALONE).run, tmp_path / "hf")


@pytest.mark.slow
def test_it_is_pruned_and_learns_from_a_teacher(home: Path) -> None:
    trained(home, "ngrams", *WITH_NGRAMS)
    smaller = prune(Run.find("ngrams", home), name="smaller", sparsity=0.3, root=home)
    assert smaller.read("result")["metrics"]["micro_f1"] >= 0.9
    pupil = trained(home, "pupil", *WITH_NGRAMS, f"train.teacher={home / 'ngrams'}",
                    "train.epochs=2")  # fmt: skip
    assert pupil.run.read("result")["test"]["micro_f1"] >= 0.9


def test_a_resume_changes_nothing(home: Path) -> None:
    run = trained(home, "ngrams", *WITH_NGRAMS).run
    before = (run.path / "recipe.yaml").read_bytes(), run.read("result")["metrics"]
    finetune(resume="ngrams", root=home)
    assert ((run.path / "recipe.yaml").read_bytes(), run.read("result")["metrics"]) == before
    assert "head_ngrams.ratios" in store.weights(run)


def test_numbers_of_json_are_one_label_each(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    rows = [{"text": f"text {n}", "label": [1, 2] if n % 2 else [1.0]} for n in range(60)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = task_of(
        load_recipe(None, ["task.name=classify", "task.multi=true", f"task.train={path}"])
    )
    assert isinstance(task, MultiLabel)
    assert task.class_names(task.tables.train).count("1.0") in (0, len(task.tables.train.texts))
