"""Losses of whole documents, against transformers and against full passes."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

import wafergpt as wg
from wafergpt.checkpoint.imported_run import run_with
from wafergpt.checkpoint.store import weights
from wafergpt.config import Model, recipe_from
from wafergpt.data.corpus import Corpus
from wafergpt.data.prepare import prepare
from wafergpt.data.tokenizer import Tokenizer
from wafergpt.errors import InputError, RunFailed
from wafergpt.interop.export import export
from wafergpt.model.gpt import GPT
from wafergpt.runs.run import Run
from wafergpt.suites.language import language, token_losses
from wafergpt.suites.sources import drawn, named_sources

SHAPE: dict[str, Any] = {
    "n_layers": 2, "d_model": 32, "n_heads": 4, "d_ffn": 64, "seq_len": 16, "vocab_size": 270,
}  # fmt: skip
NGRAMS: dict[str, Any] = {"ngrams": [2, 4], "ngram_rows": 211}
CPU = torch.device("cpu")

TEXTS = [
    "It's a film that I loved.",
    "dull",
    "A film, a film! It's a dull film that nobody loved; it's a film that I loved. " * 3,
    "naïve café, 日本 🙂",
]


def tokenizer() -> Tokenizer:
    return Tokenizer.train(["It's a film that I loved. It's dull!"], 270)


def make_run(root: Path, **values: Any) -> Run:
    """Make a run in which every weight matters."""
    model = Model.model_validate({**SHAPE, **values.pop("model", {})})
    torch.manual_seed(1)
    network = GPT(model).initialize(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    recipe = recipe_from({"name": "run", "model": model.model_dump(), **values})
    return run_with(network.state_dict(), recipe, root, tokenizer(), {})


def network_of(run: Run) -> GPT:
    network = GPT(run.recipe.model).eval()
    network.load_state_dict(dict(weights(run)))
    return network


def written(path: Path, texts: list[str] = TEXTS) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return path


def theirs(model: Any, ids: list[int], end: int, length: int, stride: int) -> list[float]:
    """Return the losses of a document's tokens in windows of one row each, in transformers."""
    read, losses = torch.tensor([end, *ids]), list[float]()
    for begin in range(0, len(ids), stride):
        window = read[begin : begin + length + 1]
        with torch.no_grad():
            logits = model(window[None, :-1]).logits[0]
        found = F.cross_entropy(logits, window[1:], reduction="none").tolist()
        losses += found[len(losses) - begin :]
        if begin + length >= len(ids):
            break
    return losses


@pytest.mark.parametrize("shape", [{}, NGRAMS], ids=["sp", "n-grams"])
def test_losses_are_those_of_transformers(tmp_path: Path, shape: dict[str, Any]) -> None:
    transformers = pytest.importorskip("transformers", reason="it is the other implementation")
    run = make_run(tmp_path, model=shape)
    export(run, tmp_path / "hf")
    model = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "hf", trust_remote_code=bool(shape)
    ).eval()
    reader = tokenizer()
    ids = [reader.encode(text) for text in TEXTS]
    assert max(map(len, ids)) > 3 * 16
    for stride in (8, 5, 16):
        expected = [theirs(model, one, reader.end_of_text, 16, stride) for one in ids]
        documents = [np.array([reader.end_of_text, *one]) for one in ids]
        found = token_losses(network_of(run), documents, stride, run.recipe, CPU)
        for ours, wanted in zip(found, expected, strict=True):
            assert ours == pytest.approx(np.array(wanted), abs=1e-4)
        result = language(run, [written(tmp_path / "a.jsonl")], stride=stride, device="cpu")
        total, n = sum(map(sum, expected)), sum(map(len, ids))
        whole, own = result["all"], result["sources"]["a"]
        assert whole["loss"] == own["loss"] == pytest.approx(total / n, abs=1e-4)
        assert whole["tokens"] == own["tokens"] == n
        assert whole["perplexity"] == pytest.approx(math.exp(total / n), rel=1e-4)
        size = sum(len(text.encode()) for text in TEXTS)
        assert own["bits_per_byte"] == pytest.approx(total / size / math.log(2), rel=1e-4)
        assert (own["bytes"], own["documents"], own["longest_context"]) == (size, 4, 16)
        places = np.concatenate([np.arange(len(one)) for one in ids])
        values = np.concatenate(expected)
        for bucket in own["by_position"]:
            chosen = (bucket["from"] <= places) & (places < bucket["to"])
            assert bucket["tokens"] == chosen.sum()
            assert bucket["loss"] == pytest.approx(values[chosen].mean(), abs=1e-4)
        assert sum(bucket["tokens"] for bucket in own["by_position"]) == n


@pytest.mark.parametrize("shape", [{}, NGRAMS], ids=["sp", "n-grams"])
def test_a_document_that_fits_is_read_in_one_pass(tmp_path: Path, shape: dict[str, Any]) -> None:
    network = network_of(make_run(tmp_path, model=shape))
    documents = [np.arange(n + 1) % 13 for n in (16, 3, 1, 9)]
    found = token_losses(network, documents, 8, recipe_from({"name": "run"}), CPU)
    for tokens, ours in zip(documents, found, strict=True):
        row = torch.from_numpy(tokens)
        with torch.no_grad():
            logits = network.logits(network(row[None, :-1]))[0]
        expected = F.cross_entropy(logits, row[1:], reduction="none")
        assert ours == pytest.approx(expected.numpy(), abs=1e-5)


def test_what_an_n_gram_reads_before_a_window_matters_up_to_the_stride_that_is_named(
    tmp_path: Path,
) -> None:
    """With n-grams of four tokens and 16 of context, whole up to a stride of 13."""
    network = network_of(make_run(tmp_path, model=NGRAMS))
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            # Without attention a token is predicted from its own n-gram alone.
            if "attention.out" in name or name == "position.weight":
                parameter.zero_()
    tokens = np.arange(1, 41) * 7 % 270
    losses = {
        stride: token_losses(network, [tokens], stride, recipe_from({"name": "run"}), CPU)[0]
        for stride in (1, 8, 13, 14)
    }
    assert losses[8] == pytest.approx(losses[1], abs=1e-5)
    assert losses[13] == pytest.approx(losses[1], abs=1e-5)
    differs = np.abs(losses[14] - losses[1]) > 1e-4
    assert np.flatnonzero(differs).tolist() == [16, 30]


@settings(max_examples=30)
@given(st.lists(st.integers(1, 70), min_size=1, max_size=6), st.integers(1, 16))
def test_every_token_is_scored_once_with_enough_context(lengths: list[int], stride: int) -> None:
    seen: list[tuple[int, int]] = []

    class Network:
        """Tells a token's loss by the place of its input in the window."""

        config = Model.model_validate(SHAPE)

        def __call__(self, tokens: torch.Tensor) -> torch.Tensor:
            seen.append((tokens.shape[0], tokens.shape[1]))
            return torch.arange(tokens.shape[1]).expand(tokens.shape)[..., None].float()

        def logits(self, hidden: torch.Tensor) -> torch.Tensor:
            return torch.cat((torch.zeros_like(hidden), hidden), 1)

    documents = [np.zeros(n + 1, np.int64) for n in lengths]
    advanced: list[int] = []
    network: Any = Network()
    recipe = recipe_from({"name": "run"})
    found = token_losses(network, documents, stride, recipe, CPU, advanced.append)
    for n, losses in zip(lengths, found, strict=True):
        # The loss of target 0 with logits 0 and p is log(1 + e^p); none is left at 0.
        places = np.round(np.log(np.expm1(losses))).astype(int)
        token = np.arange(n)
        later = (token - 16) // stride * stride
        assert places.tolist() == np.where(token < 16, token, token - later - stride).tolist()
        assert (places + 1 >= np.minimum(token + 1, 16 - stride)).all()
    windows = sum(1 + max(0, -(-(n - 16) // stride)) for n in lengths)
    assert sum(rows for rows, _ in seen) == windows
    assert sum(advanced) <= sum(rows * length for rows, length in seen)


def test_several_sources_and_the_sample_are_the_same_in_any_order(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    texts = [f"film {number} is a film that I loved" * (number % 3 + 1) for number in range(30)]
    first = written(tmp_path / "first.jsonl", texts)
    second = written(tmp_path / "second.jsonl", [" ", *reversed(texts)])
    one = language(run, [first, second], documents=7, device="cpu")
    again = language(run, [f"films={second}", first], documents=7, device="cpu")
    assert list(one["sources"]) == ["first", "second"]
    assert list(again["sources"]) == ["films", "first"]
    own, other = one["sources"]["first"], one["sources"]["second"]
    assert own["documents"] == 7
    assert own["documents_found"] == other["documents_found"] == 30
    assert own["loss"] == pytest.approx(other["loss"], abs=1e-6)
    assert again["sources"]["first"]["loss"] == pytest.approx(own["loss"], abs=1e-6)
    assert one["all"]["tokens"] == own["tokens"] + other["tokens"]
    assert one["all"]["documents"] == 14
    low, high = own["loss_interval"]
    assert low < own["loss"] < high
    assert language(run, [first, second], documents=7, device="cpu") == one
    json.dumps(one, allow_nan=False)
    alone = language(run, [written(tmp_path / "one.jsonl", texts[:1])], device="cpu")
    assert alone["all"]["loss_interval"] is None
    renamed = tmp_path / "renamed.jsonl"
    renamed.write_text(first.read_text().replace('"text"', '"body"'))
    found = wg.evaluate(run, ["language"], ["task.text=body"], files=[renamed], documents=7)
    assert found["language"]["all"]["loss"] == pytest.approx(own["loss"], abs=1e-6)
    for asked, said in (("task.label=body", "task.label is of a task"), ("task.text=[a,b]", "one")):
        with pytest.raises(InputError, match=said):
            wg.evaluate(run, ["language"], [asked], files=[renamed])


@given(st.lists(st.text("abé"), max_size=30), st.integers(1, 10), st.randoms(use_true_random=False))
def test_a_draw_keeps_the_order_and_depends_on_the_texts_alone(
    texts: list[str], n: int, random: Any
) -> None:
    found, total = drawn(iter(texts), n)
    assert total == len(texts)
    assert len(found) == min(n, len(texts))
    rest = iter(texts)
    assert all(text in rest for text in found)
    mixed = random.sample(texts, len(texts))
    assert sorted(drawn(mixed, n)[0]) == sorted(found)


def corpus_of(path: Path) -> Corpus:
    texts = [f"It's film number {number}, and it's dull, dull, dull." * 2 for number in range(40)]
    source = written(path / "texts.jsonl", texts)
    tokenizer().save(path / "made" / "tokenizer.json")
    return prepare(source, path / "corpus", tokenizer=path / "made", val_fraction=0.3)


@pytest.mark.parametrize("masked", [False, True], ids=["packed", "masked"])
def test_the_runs_own_validation_documents(tmp_path: Path, masked: bool) -> None:
    corpus = corpus_of(tmp_path)
    data = {
        "corpus": str(corpus.path), "fingerprint": corpus.fingerprint, "document_mask": masked,
    }  # fmt: skip
    run = make_run(tmp_path, data=data)
    result = language(run, device="cpu")
    own = result["sources"]["validation"]
    documents = own["documents_found"]
    assert own["bytes"] == corpus.bytes_val
    assert 1 < documents == own["documents"] < 40
    assert result["first_token"] is not masked
    # Of each document the end of text is not scored; nor the first token, where none learns it.
    tokens = len(corpus.tokens("val")) - documents
    assert own["tokens"] == tokens - documents * masked
    assert own["by_position"][0]["from"] == (1 if masked else 0)
    bits = own["loss"] * tokens / corpus.bytes_val / math.log(2)
    assert own["bits_per_byte"] == pytest.approx(bits)
    named = language(run, [corpus.path], device="cpu")
    assert named["sources"]["corpus"]["loss"] == pytest.approx(own["loss"], abs=1e-6)
    train = list(named_sources([corpus.path])[0].texts("train"))
    assert len(train) == 40 - documents
    assert all(text.startswith("It's film number") for text in train)
    changed = make_run(tmp_path / "other", data={**data, "fingerprint": "0" * 64})
    with pytest.raises(InputError, match="is not the corpus that this run started with"):
        language(changed, device="cpu")
    corpus.path.rename(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="which is gone: name sources"):
        language(run, device="cpu")


def test_sources_are_named_by_the_ends_of_their_paths(tmp_path: Path) -> None:
    for name in ("a/valid.txt.gz", "b/valid.txt", "c/x=1.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("text")
    a, b, c = (tmp_path / name for name in ("a/valid.txt.gz", "b/valid.txt", "c/x=1.txt"))
    assert [one.name for one in named_sources([a])] == ["valid"]
    assert [one.name for one in named_sources([a, b])] == ["a/valid", "b/valid"]
    assert [one.name for one in named_sources([f"x={a}", b])] == ["x", "valid"]
    assert [one.name for one in named_sources([c, tmp_path / "c" / "*.txt"])] == ["x=1", "*.txt"]
    with pytest.raises(InputError, match="two sources are named 'x'"):
        named_sources([f"x={a}", f"x={b}"])
    with pytest.raises(InputError, match="two sources are named"):
        named_sources([a, a])


def test_what_cannot_be_is_said(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    source = written(tmp_path / "a.jsonl")
    for stride in (0, 17):
        with pytest.raises(InputError, match=f"a stride of {stride} is impossible"):
            language(run, [source], stride=stride)
    with pytest.raises(InputError, match="at least 1"):
        language(run, [source], documents=0)
    with pytest.raises(InputError, match="names no corpus of its own"):
        language(run)
    with pytest.raises(InputError, match="nothing to read"):
        language(run, [tmp_path / "none*.txt"])
    (tmp_path / "unfinished").mkdir()
    (tmp_path / "unfinished" / "prepare.json").write_text("{}")
    with pytest.raises(InputError, match="not finished"):
        language(run, [tmp_path / "unfinished"])
    task = {"name": "classify", "labels": ["a", "b"]}
    with pytest.raises(InputError, match=re.escape("not task.name=classify")):
        language(make_run(tmp_path / "task", task=task), [source])
    broken = network_of(run)
    with torch.no_grad():
        broken.norm.weight.fill_(math.nan)
    bad = run_with(broken.state_dict(), run.recipe, tmp_path / "bad", tokenizer(), {})
    with pytest.raises(RunFailed, match="not finite"):
        language(bad, [source], device="cpu")
