"""What a GPU must give: the same numbers, and a run that goes on."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch

from benchmarks import soak
from tests.distributed.processes import RECIPE, begin, end, losses
from wafergpt.api import finetune, generate, predict, pretrain
from wafergpt.apps.comparison import compare
from wafergpt.config import Model
from wafergpt.data.prepare import prepare
from wafergpt.decoding.generator import Sampling
from wafergpt.errors import InputError
from wafergpt.model.gpt import GPT
from wafergpt.model.loss import next_token_loss

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no NVIDIA GPU here"),
]


def test_logits_loss_and_gradients_equal_the_cpus() -> None:
    shape = Model(n_layers=2, d_model=64, n_heads=4, d_ffn=256, seq_len=32, vocab_size=301)
    gpt = GPT(shape).initialize(0)
    tokens = torch.randint(0, 301, (4, 32))
    results = []
    for device in ("cpu", "cuda"):
        gpt.to(device)
        gpt.zero_grad()
        here = tokens.to(device)
        hidden = gpt(here[:, :-1])
        loss = next_token_loss(hidden, gpt.embedding.weight, here[:, 1:])
        loss.backward()
        gradient = gpt.embedding.weight.grad
        assert gradient is not None
        results.append((gpt.logits(hidden).detach().cpu(), loss.item(), gradient.cpu().clone()))
    assert torch.allclose(results[0][0], results[1][0], atol=1e-4)
    assert results[0][1] == pytest.approx(results[1][1], rel=1e-4)
    assert torch.allclose(results[0][2], results[1][2], atol=1e-3)


# What torch's own compiler says is not ours.
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("compile_", ["on", "off"])
def test_a_run_learns_and_a_longer_horizon_goes_on(tmp_path: Path, compile_: str) -> None:
    rng = random.Random(0)
    lines = [json.dumps({"text": " ".join(rng.choices("abcdefgh", k=80))}) for _ in range(300)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    corpus = prepare(tmp_path / "a.jsonl", tmp_path / "corpus", vocab_size=265)
    overrides = [
        "model.n_layers=2", "model.d_model=64", "model.n_heads=2", "model.seq_len=32",
        "model.ngrams=[2]", "model.ngram_rows=999",
        "train.steps=60", "optimizer.lr=3e-3", f"system.compile={compile_}", "system.device=cuda",
        f"data.corpus={corpus.path}", "name=r",
    ]  # fmt: skip
    run = pretrain(None, overrides, root=tmp_path)
    rows = run.metrics()
    assert rows[-1]["loss"] < 0.7 * rows[0]["loss"]
    again = pretrain(None, ["train.steps=70"], resume=run.path, root=tmp_path)
    assert again.read("result")["step"] == 70


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there are no two NVIDIA GPUs here")
@pytest.mark.parametrize("shard", [1, 0])
def test_two_gpus_have_the_losses_of_one(tmp_path: Path, shard: int) -> None:
    corpus = soak.corpus(tmp_path)
    recipe = [f"data.corpus={corpus}", *RECIPE, "evaluate.prompts=[]", "system.device=cuda"]
    end(begin(tmp_path, "name=one", *recipe))
    end(begin(tmp_path, "name=two", *recipe, "--nproc", "2", f"system.shard={shard}"))
    assert losses(tmp_path, "two") == pytest.approx(losses(tmp_path, "one"), rel=1e-4)


def test_more_processes_than_gpus_are_refused(tmp_path: Path) -> None:
    processes = str(torch.cuda.device_count() + 1)
    recipe = [f"data.corpus={soak.corpus(tmp_path)}", *RECIPE, "system.device=cuda"]
    errors = end(begin(tmp_path, "name=run", *recipe, "--nproc", processes), code=2)
    assert f"{processes} processes on this machine" in errors


def test_a_trained_classifier_its_predictions_and_its_baseline_run_there(tmp_path: Path) -> None:
    rng = random.Random(0)
    rows = [{"text": f"{rng.choice('gb')} film {i}"} for i in range(200)]
    lines = [json.dumps({**row, "label": row["text"][0]}) for row in rows]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    shape = [
        "model.n_layers=1",
        "model.d_model=32",
        "model.n_heads=2",
        "model.seq_len=32",
        "model.vocab_size=300",
    ]
    classifier = finetune(
        "scratch",
        None,
        [*shape, "train.epochs=3", "system.device=cuda", "optimizer.lr=3e-3", "name=clf"],
        data=tmp_path / "rows.jsonl",
        root=tmp_path,
    )
    assert next(classifier.network.parameters()).is_cuda
    texts = [row["text"] for row in rows[:50]]
    here = classifier.predict(texts)
    there = predict("clf", texts, device="cpu", root=tmp_path)
    for ours, theirs in zip(here, there, strict=True):
        assert ours is not None
        assert theirs is not None
        assert ours["score"] == pytest.approx(theirs["score"], abs=2e-2)
    bilstm = next(row for row in compare(classifier, 5.0) if row["kind"] == "bilstm")
    assert "failed" not in bilstm


def test_the_same_text_is_generated_as_on_the_cpu(tmp_path: Path) -> None:
    corpus = soak.corpus(tmp_path)
    recipe = [f"data.corpus={corpus}", *RECIPE, "evaluate.prompts=[]", "system.device=cuda"]
    pretrain(None, [*recipe, "system.precision=fp32", "name=run"], root=tmp_path)
    greedy = Sampling(temperature=0, max_tokens=16)
    texts = [
        generate("run", "a", device=device, sampling=greedy, root=tmp_path)
        for device in ("cuda", "cpu")
    ]
    assert texts[0] == texts[1] != ""
    assert generate("run", "a", device="cuda", weights="bf16", sampling=greedy, root=tmp_path)
    with pytest.raises(InputError, match="int8 weights are for CPUs"):
        generate("run", "a", device="cuda", weights="int8", root=tmp_path)
