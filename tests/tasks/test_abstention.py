"""A classifier that gives no answer where it is uncertain, and rows that are of no class."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from tests.interop.test_onnx import run_readme
from tests.tasks.test_finetune import SMALL, write
from wafergpt.api import export, finetune, predict
from wafergpt.apps.comparison import compare
from wafergpt.cli.predict import command
from wafergpt.config import recipe_from
from wafergpt.errors import InputError
from wafergpt.inference.predictor import Predictor
from wafergpt.reports.page import write_report
from wafergpt.runs.run import Run
from wafergpt.tasks.base import task_of
from wafergpt.tasks.classify import Classify
from wafergpt.tasks.classify_settings import ClassifySettings


def rows(n: int, seed: int, outside: int = 0) -> list[tuple[str, str]]:
    """Return rows of which a fifth is of either class, and others that are of none."""
    rng = random.Random(seed)
    found = []
    for _ in range(n):
        label = rng.choice(["bad", "good"])
        told = "verysome" if rng.random() < 0.2 else f"very{label}"
        words = [*rng.choices(["the", "film", "plot", "and", "it"], k=rng.randint(2, 7)), told]
        found.append((" ".join(words), label))
    return [*found, *((f"please book a {w} for {i}", "oos") for i in range(outside)
                      for w in [rng.choice(["flight", "table"])])]  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    write(home / "train.jsonl", rows(300, 0, outside=20))
    write(home / "test.jsonl", rows(200, 1, outside=50))
    return home


@pytest.fixture(scope="module")
def classifier(home: Path) -> Predictor:
    asked = [*SMALL, *(f"task.{part}={home / part}.jsonl" for part in ("train", "test")),
             "model.vocab_size=270", "name=sure", "train.epochs=4", "task.pooling=mean",
             "task.ngrams=words", "task.ngram_rows=4096",
             "task.abstain=0.7", "task.out_of_scope=oos"]  # fmt: skip
    return finetune("scratch", None, asked, root=home)


def test_rows_of_no_class_are_evaluated_alone(classifier: Predictor) -> None:
    settings = classifier.recipe.task
    assert isinstance(settings, ClassifySettings)
    assert settings.labels == ("bad", "good")
    test = classifier.run.read("result")["test"]
    assert sum(map(sum, test["confusion"])) == 200
    outputs = classifier.run.read_outputs()
    assert outputs["validation/in_scope"].sum() + 20 == len(outputs["validation/in_scope"])
    roc = pytest.importorskip("sklearn.metrics").roc_auc_score
    inside = np.array([label != "oos" for _, label in rows(200, 1, outside=50)])
    probabilities = outputs["test/probabilities"].max(1)
    assert test["auroc"] == pytest.approx(roc(inside, probabilities))
    assert test["auroc_energy"] == pytest.approx(roc(inside, outputs["test/energy"]))
    assert 0 <= test["fpr95"] <= 1


def test_the_uncertain_fifth_gets_no_answer(classifier: Predictor) -> None:
    result = classifier.run.read("result")
    test = result["test"]
    assert test["accuracy"] < 0.95
    assert test["accuracy_answered"] > 0.97
    assert test["coverage"] == pytest.approx(0.7, abs=0.15)
    assert result["metrics"]["coverage"] == pytest.approx(0.7, abs=0.04)
    texts = [text for text, _ in rows(200, 1)]
    answers = classifier.predict(texts)
    given = np.mean([one is not None and one["label"] is not None for one in answers])
    assert given == pytest.approx(test["coverage"])
    unsure = classifier.predict("the plot and it verysome")
    sure = next(one for one in answers if one and one["label"])
    assert unsure is not None
    assert unsure["label"] is None
    assert unsure["score"] == max(unsure["scores"].values())
    assert "less than" in unsure["abstained"]
    assert "abstained" not in sure


def test_a_coverage_is_chosen_when_predicting(classifier: Predictor, home: Path) -> None:
    texts = [text for text, _ in rows(200, 1)]
    for coverage in (0.5, 1.0):
        found = classifier.with_coverage(coverage).predict(texts)
        share = sum(one is not None and one["label"] is not None for one in found) / 200
        assert coverage <= share + 0.12
    assert share == 1.0
    arguments = [str(classifier.run.path), "--text", texts[0], "--coverage"]
    done = CliRunner().invoke(command, [*arguments, "1"])
    assert json.loads(done.stdout)["label"] is not None
    for wrong in ("0", "1.5", "nan"):
        assert isinstance(CliRunner().invoke(command, [*arguments, wrong]).exception, InputError)
    (alone,) = predict(classifier.run, texts[:1], coverage=1.0)
    assert alone == json.loads(done.stdout)


def test_a_run_without_outputs_has_no_coverage(classifier: Predictor, tmp_path: Path) -> None:
    from wafergpt.api import prune

    small = prune(classifier.run, name="small", sparsity=0.2, root=tmp_path)
    settings = small.recipe.task
    assert isinstance(settings, ClassifySettings)
    assert (settings.abstain_below or 0.0) > 0
    with pytest.raises(InputError, match="kept no outputs for validation rows"):
        Predictor.load(Run.find("small", tmp_path)).with_coverage(0.9)


@pytest.mark.slow
def test_rivals_and_page(classifier: Predictor) -> None:
    found = compare(classifier, bilstm_seconds=1)
    assert [row["kind"] for row in found] == ["gpt", "tfidf", "bilstm"]
    assert not any("failed" in row for row in found)
    page = write_report(classifier.run).read_text()
    assert "Accuracy by coverage" in page
    assert "threshold, which answers" in page


@pytest.mark.slow
def test_an_export_abstains_too(classifier: Predictor, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="an export to ONNX is run")
    pytest.importorskip("onnxscript", reason="a graph is written by onnxscript")
    export(classifier.run, tmp_path / "out", "onnx")
    old = 'texts = ["A warm and funny film.", "It was dull."]'
    texts = [text for text, _ in rows(40, 1)]
    lines = run_readme(tmp_path / "out", (old, f"texts = {texts}")).splitlines()
    answers = [one["label"] for one in classifier.predict(texts) if one]
    assert [line.split()[0] for line in lines] == [str(label) for label in answers]
    assert "None" in {line.split()[0] for line in lines} > {"None"}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["task.out_of_scope=oss"], "no row has the label task.out_of_scope=oss; did you mean"),
        (["task.abstain=0"], "task.abstain=0"),
        (["task.abstain=0.9", "task.multi=true"], "task.abstain is for one label to a text"),
    ],
)
def test_wrong_use(home: Path, more: list[str], message: str) -> None:
    asked = [*SMALL, f"task.train={home / 'train.jsonl'}", "name=none", *more]
    with pytest.raises(InputError, match=message):
        finetune("scratch", None, asked, root=home)


def test_validation_rows_that_are_named_leave_the_training_rows_alone(home: Path) -> None:
    named = {part: home / f"{name}.jsonl" for part, name in (("train", "train"),
                                                            ("validation", "test"))}  # fmt: skip
    task = task_of(recipe_from({"task": {**named, "out_of_scope": "oos"}}))
    assert isinstance(task, Classify)
    assert "oos" not in task.tables.train.labels
    assert task.tables.validation is not None
    assert task.tables.validation.labels.count("oos") == 50
    assert "20 training rows of 'oos' are left out" in task.tables.notes


def test_rows_out_of_scope_of_several_files_keep_their_places(home: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        shutil.copy(home / "train.jsonl", tmp_path / f"{name}.jsonl")
    task = task_of(recipe_from({"task": {"train": tmp_path / "*.jsonl", "out_of_scope": "oos"}}))
    assert isinstance(task, Classify)
    held = task.tables.validation
    assert held is not None
    assert held.labels[-1] == "oos"
    last = len(held.labels) - 1
    assert held.place(last).startswith(f"{tmp_path / 'b.jsonl'}, line ")
    assert held.take([last]).place(0) == held.place(last)
