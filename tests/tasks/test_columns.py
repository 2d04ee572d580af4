"""A classifier that reads two columns, of which the short one decides."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.interop.test_onnx import run_readme
from tests.tasks.test_finetune import SMALL
from wafergpt.api import export, finetune
from wafergpt.cli.predict import command
from wafergpt.errors import InputError
from wafergpt.inference.predictor import Predictor

LONG = "the film was long and the plot was thin " * 20


def rows(n: int, seed: int) -> list[dict[str, str]]:
    rng = random.Random(seed)
    labels = [rng.choice(["bad", "good"]) for _ in range(n)]
    return [{"context": f"{i} {LONG}", "question": f"was it very{y}?", "label": y}
            for i, y in enumerate(labels)]  # fmt: skip


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    home = tmp_path_factory.mktemp("home")
    for name, n in (("train", 200), ("test", 60)):
        lines = [json.dumps(row) for row in rows(n, n)]
        (home / f"{name}.jsonl").write_text("\n".join(lines))
    asked = [*SMALL, *(f"task.{name}={home / name}.jsonl" for name in ("train", "test")),
             "task.text=[context,question]", "model.vocab_size=280", "name=two",
             "train.epochs=3", "task.pooling=mean"]  # fmt: skip
    return finetune("scratch", None, asked, root=home)


def test_the_long_column_leaves_room_for_the_other(classifier: Predictor) -> None:
    assert classifier.run.read("result")["test"]["accuracy"] >= 0.95
    given = [{key: row[key] for key in ("question", "context")} for row in rows(20, 3)]
    answers = classifier.predict(given)
    assert [a["label"] for a in answers if a] == [row["label"] for row in rows(20, 3)]
    in_order = [[row["context"], row["question"]] for row in given]
    assert classifier.predict(in_order) == answers
    assert classifier.predict([None, {"question": "", "context": " "}, ""]) == [None] * 3
    with pytest.raises(InputError, match=r"texts\[1\] is one text; the columns context, question"):
        classifier.predict([given[0], "was it verygood?"])


def test_predict_reads_the_same_columns(classifier: Predictor, tmp_path: Path) -> None:
    path = tmp_path / "more.csv"
    path.write_text("question,context\nwas it verygood?,the film\n,\nwas it verybad?,the plot\n")
    run = [str(classifier.run.path)]
    done = CliRunner().invoke(command, [*run, "--file", str(path)])
    assert done.exit_code == 0, done.output
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [one and one["label"] for one in found] == ["good", None, "bad"]
    text = json.dumps({"context": "the film", "question": "was it verygood?"})
    done = CliRunner().invoke(command, [*run, "--text", text])
    assert json.loads(done.stdout)["label"] == "good"
    other = path.with_name("other.csv")
    other.write_text(path.read_text().replace("question,context", "q,c"))
    done = CliRunner().invoke(command, [*run, "--file", str(other), "--column", "c,q"])
    assert [json.loads(line) for line in done.stdout.splitlines()] == found
    done = CliRunner().invoke(command, [*run, "--file", str(other), "--column", "c"])
    assert isinstance(done.exception, InputError)


def test_a_context_without_room_is_refused(classifier: Predictor, tmp_path: Path) -> None:
    asked = [*SMALL, f"task.train={classifier.run.path.parent / 'train.jsonl'}",
             "task.text=[context,question]", "model.vocab_size=280", "name=none",
             "task.max_tokens=2"]  # fmt: skip
    with pytest.raises(InputError, match="leaves no room for 2 columns"):
        finetune("scratch", None, asked, root=tmp_path)
    assert not (tmp_path / "none").exists()


@pytest.mark.slow
def test_an_export_reads_both(classifier: Predictor, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="an export to ONNX is run")
    pytest.importorskip("onnxscript", reason="a graph is written by onnxscript")
    export(classifier.run, tmp_path / "out", "onnx")
    text = [LONG, "was it verybad?"]
    old = "columns = [['Was it good?', 'A warm and funny film.']]"
    printed = run_readme(tmp_path / "out", (old, f"columns = [{text!r}]"))
    (answer,) = classifier.predict([text])
    assert answer is not None
    label, score, *_ = printed.split()
    assert label == answer["label"]
    assert float(score) == pytest.approx(answer["score"], rel=1e-4)
