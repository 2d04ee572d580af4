"""Translation end to end, on a language of which every word has a translation."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
import sacrebleu
import torch
from click.testing import CliRunner
from torch.nn import functional as F

from wafergpt.api import finetune
from wafergpt.cli.predict import command
from wafergpt.errors import InputError
from wafergpt.inference.predictor import Predictor
from wafergpt.model.gpt import GPT

WORDS = {
    "red": "rot", "green": "grün", "blue": "blau", "old": "alt", "new": "neu", "big": "groß",
    "cat": "katze", "dog": "hund",
}  # fmt: skip

SMALL = [
    "model.n_layers=1", "model.d_model=48", "model.n_heads=2", "model.seq_len=48",
    "model.vocab_size=300", "system.precision=fp32", "system.threads=1", "system.compile=off",
    "model.dropout=0", "optimizer.lr=6e-3", "schedule.warmup=5%", "train.batch_size=32",
    "task.written=20",
]  # fmt: skip


def write(path: Path, n: int, seed: int) -> Path:
    draw = random.Random(seed)
    with path.open("w", encoding="utf-8") as file:
        for _ in range(n):
            words = draw.choices(list(WORDS), k=draw.randint(1, 4))
            row = {"source": " ".join(words), "target": " ".join(WORDS[w] for w in words)}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return path


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    write(home / "train.jsonl", 600, 0)
    write(home / "test.jsonl", 40, 1)
    return home


def settings(home: Path, *more: str) -> list[str]:
    return [*SMALL, "task.name=translate", f"task.train={home / 'train.jsonl'}", *more]


@pytest.fixture(scope="module")
def trained(home: Path) -> Predictor:
    asked = settings(home, f"task.test={home / 'test.jsonl'}", "train.steps=300", "name=words",
                     "evaluate.every=150", "evaluate.prompts=[red cat]")  # fmt: skip
    return finetune("scratch", None, asked, root=home / "runs")


def test_it_learns_to_translate(trained: Predictor) -> None:
    result = trained.run.read("result")
    assert result["test"]["bleu"] > 70
    assert result["test"]["written"] == 40
    assert result["metrics"]["written"] == 20
    assert trained.predict(["old green dog", " ", "cat"]) == [
        {"translation": "alt grün hund"}, None, {"translation": "katze"},
    ]  # fmt: skip
    assert "**red cat** → rot katze" in (trained.run.path / "samples.md").read_text()


def test_metrics_are_those_of_sacrebleu(trained: Predictor, home: Path) -> None:
    rows = [json.loads(line) for line in (home / "test.jsonl").read_text().splitlines()]
    found = [(one or {})["translation"] for one in trained.predict([r["source"] for r in rows])]
    test, wanted = trained.run.read("result")["test"], [[row["target"] for row in rows]]
    assert test["bleu"] == pytest.approx(sacrebleu.corpus_bleu(found, wanted).score)
    assert test["chrf"] == pytest.approx(sacrebleu.corpus_chrf(found, wanted).score)
    assert test["bleu_signature"].startswith("nrefs:1|case:mixed")
    assert [s["answer"] for s in test["samples"]] == found[:20]


def test_a_file_is_read_by_its_column(trained: Predictor, home: Path) -> None:
    asked = [str(trained.run.path), "--file", str(home / "test.jsonl"), "--json"]
    found = json.loads(CliRunner().invoke(command, asked).stdout)["outputs"]
    samples = trained.run.read("result")["test"]["samples"]
    assert [one["translation"] for one in found[:20]] == [one["answer"] for one in samples]


def test_the_loss_is_that_of_the_answer_alone(trained: Predictor, home: Path) -> None:
    rows = [json.loads(line) for line in (home / "test.jsonl").read_text().splitlines()]
    gpt, tokenizer = trained.network, trained.tokenizer
    assert isinstance(gpt, GPT)
    losses, end = [], [tokenizer.end_of_text]
    for row in rows:
        prompt, answer = tokenizer.encode(row["source"]), tokenizer.encode(row["target"])
        ids = torch.tensor([prompt + end + answer + end])
        with torch.no_grad():
            logits = gpt.logits(gpt(ids[:, :-1]))[0, len(prompt) :]
        losses += F.cross_entropy(logits, ids[0, len(prompt) + 1 :], reduction="none").tolist()
    assert trained.run.read("result")["test"]["loss"] == pytest.approx(np.mean(losses), rel=1e-5)


@pytest.mark.slow
def test_a_resume_ends_with_the_same_bits(trained: Predictor, home: Path) -> None:
    asked = settings(home, "schedule.name=constant", "schedule.warmup=2", "seed=4")
    root = home / "runs"
    whole = finetune("scratch", None, [*asked, "train.steps=8", "name=whole"], root=root).run
    half = finetune("scratch", None, [*asked, "train.steps=4", "name=half"], root=root).run
    again = finetune(resume=half, overrides=["train.steps=8"], root=root).run
    hashes = [run.read("result")["weights_sha256"] for run in (whole, again)]
    assert hashes[0] == hashes[1]


@pytest.mark.slow
def test_rows_beyond_the_context_are_said(home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    long = home / "long.jsonl"
    row = {"source": "red cat " * 40, "target": "rot katze " * 40}
    long.write_text((home / "train.jsonl").read_text() + json.dumps(row) + "\n")
    asked = settings(home, f"task.train={long}", f"task.validation={long}", "train.steps=1",
                     "name=long")  # fmt: skip
    finetune("scratch", None, asked, root=home / "runs")
    said = " ".join(capfd.readouterr().err.split())
    assert "1 of 601 rows are longer than 48 tokens and are left out" in said
    assert "1 of 601 rows are longer than 48 tokens and are cut" in said


@pytest.mark.usefixtures("trained")
def test_a_tokenizer_of_another_script_is_told(
    home: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = home / "zh.jsonl"
    rows = [{"source": f"好电影{n}", "target": "烂电影好电影"} for n in range(40)]
    path.write_text("\n".join(map(json.dumps, rows)))
    chinese = [f"task.train={path}", f"task.validation={path}"]
    asked = ["task.name=translate", "train.steps=1", "system.threads=1"]
    finetune("words", None, [*asked, *chinese, "name=zh"], root=home / "runs")
    assert "tokens for a character of these texts" in capfd.readouterr().err
    finetune("words", None, [*asked, f"task.train={home / 'train.jsonl'}", "name=more"],
             root=home / "runs")  # fmt: skip
    own = settings(home, *chinese, "train.steps=1", "model.vocab_size=280", "name=own")
    finetune("scratch", None, own, root=home / "runs")
    assert "tokens for a character" not in capfd.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["task.source=text"], "no column 'text'"),
        (["task.max_tokens=100"], "more than the model's context"),
        (["train.steps=null", "train.tokens=1000"], "counts in train.epochs"),
        (["train.batch_size=4096"], "less than one batch"),
        (["evaluate.metric=accuracy"], "accuracy"),
        (["task.beams=0"], "task.beams"),
        (["task.pooling=last"], "pooling"),
    ],
)
def test_what_cannot_be_is_refused(home: Path, more: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        finetune("scratch", None, settings(home, "train.steps=1", "name=refused", *more),
                 root=home / "runs")  # fmt: skip
    assert not (home / "runs" / "refused").exists()
