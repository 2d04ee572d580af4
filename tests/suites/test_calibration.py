"""A classifier's certainty: a temperature, and texts that are of none of its classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.suites.test_evaluation import rows, tiny
from tests.tasks.test_finetune import write
from wafergpt.api import evaluate, export
from wafergpt.errors import InputError
from wafergpt.inference.predictor import Predictor
from wafergpt.suites.calibration import calibration
from wafergpt.suites.outside import _read, outside
from wafergpt.tasks.classify import Classify


def sure(home: Path, name: str, *asked: str) -> Predictor:
    return tiny(home, name, "train.epochs=12", "task.ngrams=none", "optimizer.lr=3e-2", *asked)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    noisy = [(text, label if n % 6 else "good") for n, (text, label) in enumerate(rows(400, 0))]
    write(home / "train.jsonl", noisy)
    write(home / "test.jsonl", rows(200, 1))
    return home


@pytest.fixture(scope="module")
def plain(home: Path) -> Predictor:
    return sure(home, "plain")


@pytest.fixture(scope="module")
def calibrated(home: Path) -> Predictor:
    return sure(home, "calibrated", "task.calibrate=true")


def test_a_temperature_is_fitted_and_used_everywhere(
    home: Path, plain: Predictor, calibrated: Predictor
) -> None:
    temperature = calibrated.recipe.task.temperature  # type: ignore[union-attr]
    assert temperature != 1
    results = [one.run.read("result") for one in (plain, calibrated)]
    assert results[1]["metrics"]["loss"] < results[0]["metrics"]["loss"]
    assert results[1]["test"]["accuracy"] == results[0]["test"]["accuracy"]
    texts = [text for text, _ in rows(30, 5)]
    before, after = (
        np.array([a["scores"]["good"] for a in one.predict(texts) if a])
        for one in (plain, calibrated)
    )
    wanted = 1 / (1 + np.exp(-np.log(before / (1 - before)) / temperature))
    assert after == pytest.approx(wanted, abs=1e-6)
    outputs = calibrated.run.outputs_of("test")["probabilities"]
    right = np.array([label == "good" for _, label in rows(200, 1)])
    loss = -np.log(np.where(right, outputs[:, 1], outputs[:, 0])).mean()
    assert results[1]["test"]["loss"] == pytest.approx(loss)


@pytest.mark.slow
def test_exports_have_the_temperature(home: Path, calibrated: Predictor) -> None:
    transformers = pytest.importorskip("transformers", reason="exports to transformers")
    import torch

    last = sure(home, "last", "task.calibrate=true", "task.pooling=last", "train.epochs=3",
                "task.held_out=0.3")  # fmt: skip
    assert last.recipe.task.temperature != 1  # type: ignore[union-attr]
    export(last.run, home / "hf", "hf")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(home / "hf")
    text = rows(1, 7)[0][0]
    tokens = torch.tensor([last.tokenizer.encode(text)])
    with torch.no_grad():
        theirs = model(tokens).logits.softmax(1)[0].tolist()
    ours = last.predict(text)
    assert ours is not None
    assert list(ours["scores"].values()) == pytest.approx(theirs, abs=1e-5)
    runtime = pytest.importorskip("onnxruntime", reason="exports to ONNX")
    export(calibrated.run, home / "onnx", "onnx")
    session = runtime.InferenceSession(str(home / "onnx" / "model.onnx"))
    ids = np.array([calibrated.tokenizer.encode(text)])
    given = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    logits, probabilities = session.run(["logits", "probabilities"], given)
    answer = calibrated.predict(text)
    assert answer is not None
    assert list(answer["scores"].values()) == pytest.approx(probabilities[0].tolist(), abs=1e-5)
    temperature = calibrated.recipe.task.temperature  # type: ignore[union-attr]
    divided = torch.from_numpy(logits).double().div(temperature).softmax(1).numpy()
    assert probabilities == pytest.approx(divided, abs=1e-5)
    assert abs(probabilities - torch.from_numpy(logits).softmax(1).numpy()).max() > 1e-3


def test_several_labels_have_no_temperature(home: Path) -> None:
    with pytest.raises(InputError, match=r"task\.calibrate"):
        sure(home, "several", "task.multi=true", "task.calibrate=true")


@pytest.mark.slow
def test_it_is_judged_on_rows_that_it_was_not_fitted_to(home: Path, plain: Predictor) -> None:
    found = evaluate("plain", ["calibration"], root=home)["calibration"]
    assert (found["judged_on"], found["fitted_on"], found["rows"]) == ("test", "validation", 200)
    result = plain.run.read("result")["test"]
    assert found["before"]["nll"] == pytest.approx(result["loss"])
    assert found["before"]["accuracy"] == result["accuracy"] == found["after"]["accuracy"]
    assert found["after"]["ece"] != found["before"]["ece"]
    assert found["difference"]["value"] == pytest.approx(
        found["after"]["ece"] - found["before"]["ece"]
    )
    alone = sure(home, "alone", "task.test=null", "train.epochs=2")
    halves = evaluate(alone.run, ["calibration"], root=home)["calibration"]
    assert halves["judged_on"] == "half of validation"


def test_what_is_answered_is_judged(plain: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    before = calibration(plain)["before"]
    kept = plain.run.read_outputs()
    for part in ("validation", "test"):
        # As offsets would have it.
        kept[f"{part}/decided"] = 1 - kept[f"{part}/probabilities"].argmax(1)
    monkeypatch.setattr(type(plain.run), "read_outputs", lambda run: kept)
    found = calibration(plain)
    assert found["before"]["accuracy"] == pytest.approx(1 - before["accuracy"])
    assert found["after"]["accuracy"] == found["before"]["accuracy"]
    assert found["before"]["mean_confidence"] == pytest.approx(1 - before["mean_confidence"])


def test_texts_of_no_class_are_told(home: Path, plain: Predictor) -> None:
    others = [(f"{n} open the account {n} today please {n}", "x") for n in range(60)]
    path = write(home / "others.jsonl", others)
    found = evaluate("plain", ["outside"], outside=path, root=home)["outside"]
    assert set(found["scores"]) == {"probability", "energy", "mahalanobis", "nearest"}
    assert found["scores"]["mahalanobis"]["auroc"] > 0.8
    assert found["scores"]["mahalanobis"]["kept"] == pytest.approx(0.95, abs=0.08)
    assert (found["of"], found["rows"], found["texts"]) == ("test", 200, 60)
    with pytest.raises(InputError, match="no text that is of no class"):
        evaluate("plain", ["outside"], outside=write(home / "blank.jsonl", [(" ", "x")]), root=home)


def test_without_training_rows_hidden_states_are_left_out(
    home: Path, plain: Predictor, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    others = [f"{n} open the account {n} today please {n}" for n in range(60)]
    whole = outside(plain, others)
    aside = (home / "train.jsonl").rename(tmp_path / "train.jsonl")
    try:
        # A predictor that has read no rows yet.
        found = outside(Predictor.load(plain.run, "cpu"), others)
        with pytest.raises(InputError, match=r"train\.jsonl"):
            calibration(Predictor.load(plain.run, "cpu"))
    finally:
        aside.rename(home / "train.jsonl")
    assert "mahalanobis and nearest are left out" in capsys.readouterr().err
    assert set(found["scores"]) == {"probability", "energy"}
    assert (found["of"], found["rows"], found["texts"]) == ("test", 200, 60)
    assert "found" not in found["scores"]["energy"]
    for score in ("probability", "energy"):
        assert found["scores"][score]["auroc"] == whole["scores"][score]["auroc"]


def test_what_the_head_reads_is_in_the_order_of_the_texts(plain: Predictor) -> None:
    texts = ["the film is lovely and the cast is warm indeed", "dull", "a noisy plot"]
    features, scores = _read(plain, texts)
    task = plain.task
    assert isinstance(task, Classify)
    head = plain.network.head.weight.detach().numpy()  # type: ignore[union-attr, operator]
    logits = features @ head.T * plain.network._multiplier
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    answers = plain.predict(texts)
    wanted = [list(answer["scores"].values()) for answer in answers if answer]
    assert probabilities == pytest.approx(np.array(wanted), abs=1e-5)
    assert scores["energy"] == pytest.approx(np.log(np.exp(logits).sum(1)), abs=1e-4)
