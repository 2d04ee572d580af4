"""GGUF files in llama.cpp itself."""

from __future__ import annotations

import importlib.util
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from wafergpt.checkpoint.imported_run import run_with
from wafergpt.config import Model, recipe_from
from wafergpt.data.tokenizer import Tokenizer
from wafergpt.decoding.generator import Sampling
from wafergpt.errors import InputError
from wafergpt.inference.writer import Writer
from wafergpt.interop.export import export
from wafergpt.model.gpt import GPT
from wafergpt.model.heads import Classifier
from wafergpt.runs.run import Run

gguf = pytest.importorskip("gguf", reason="GGUF needs the package gguf")

SHAPE: dict[str, Any] = {
    "n_layers": 2, "d_model": 64, "n_heads": 4, "seq_len": 64, "vocab_size": 300,
    "activation": "gelu_tanh",
}  # fmt: skip
MUP: dict[str, Any] = {
    "parametrization": "mup", "base_d_model": 16, "embedding_scale": 10.0, "output_scale": 3.0,
}  # fmt: skip
PROMPTS = ["It's a film", " naïve 你好\n\n\ttabs", "don't   stop 1234 now!  ", "x"]
TEXTS = [
    "It's a film that I loved, and it's a dull one that nobody watched to its bitter end!",
    "Don't stop now: naïve façades, 2024 tabs\tand 你好.",
]

LLAMA = """
import json, sys
import xllamacpp
params = xllamacpp.CommonParams()
params.model.path = sys.argv[1]
params.n_ctx, params.n_parallel, params.n_gpu_layers, params.warmup = 64, 1, 0, False
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
server = xllamacpp.Server(params)
answers = []
for prompt in json.loads(sys.argv[2]):
    request = {"prompt": prompt, "max_tokens": 16, "temperature": 0, "logprobs": 20}
    answers.append(server.handle_completions(request))
print("\\n" + json.dumps(answers), flush=True)
"""


def llama_cpp(path: Path, prompts: list[Any]) -> list[Any]:
    if importlib.util.find_spec("xllamacpp") is None:
        pytest.skip("llama.cpp's wheel xllamacpp is not installed")
    done = subprocess.run(
        [sys.executable, "-c", LLAMA, str(path), json.dumps(prompts)],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    answers: list[Any] = json.loads(done.stdout.splitlines()[-1])
    return answers


def learnt(gpt: GPT, tokenizer: Tokenizer) -> GPT:
    """Teach it the texts, so that the likeliest token is far ahead of the next."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in gpt.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    optimizer = torch.optim.Adam(gpt.parameters(), lr=3e-3)
    rows = [torch.tensor([tokenizer.encode(text)[:64]]) for text in TEXTS]
    for _ in range(40):
        for row in rows:
            logits = gpt.logits(gpt(row[:, :-1]))
            torch.nn.functional.cross_entropy(logits[0], row[0, 1:]).backward()
        optimizer.step()
        optimizer.zero_grad()
    return gpt


def make_run(root: Path, lowercase: bool = False, **shape: Any) -> Run:
    model = Model.model_validate({**SHAPE, **shape})
    tokenizer = Tokenizer.train(TEXTS, 300, lowercase)
    gpt = learnt(GPT(model).initialize(0), tokenizer)
    recipe = recipe_from({"name": "run", "model": model.model_dump()})
    return run_with(gpt.state_dict(), recipe, root, tokenizer, {})


SHAPES = {"sp": {}, "untied": {"tied": False}, "mup": MUP, "odd rows": {"vocab_size": 331}}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_llama_cpp_writes_the_same_text(tmp_path: Path, shape: dict[str, Any]) -> None:
    run = make_run(tmp_path, **shape)
    result = export(run, tmp_path / "m.gguf", "gguf")
    assert result["max_relative_logit_difference"] <= 1e-5
    assert result["warnings"] == []
    writer = Writer.load(run)
    torch.manual_seed(3)
    starts = [torch.randint(0, 300, (length,)).tolist() for length in range(1, 21)]
    answers = llama_cpp(tmp_path / "m.gguf", [*PROMPTS, *starts])
    for prompt, answer in zip(PROMPTS, answers, strict=False):
        expected = writer.write(prompt, Sampling(max_tokens=16, temperature=0))
        assert answer["choices"][0]["text"] == expected, prompt
        assert answer["usage"]["prompt_tokens"] == len(writer.tokenizer.encode(prompt)), prompt
    compared = 0
    for ids, answer in zip(starts, answers[len(PROMPTS) :], strict=True):
        # A token that is only a part of a letter is left out of the list.
        whole = answer["choices"][0]["logprobs"]["content"]
        with torch.no_grad():
            ours = writer.gpt.logits(writer.gpt(torch.tensor([ids])))[0, -1].log_softmax(0)
        if whole and whole[0]["id"] == int(ours.argmax()):
            compared += 1
            for likely in whole[0]["top_logprobs"]:
                # llama.cpp rounds on the way: up to 0.0014 was seen.
                assert math.isclose(likely["logprob"], ours[likely["id"]], abs_tol=0.005), ids
    assert compared >= 8


def test_the_exact_gelu_is_measured_and_never_called_equal(tmp_path: Path) -> None:
    run = make_run(tmp_path, activation="gelu")
    result = export(run, tmp_path / "m.gguf", "gguf")
    gpt, other = (GPT(run.recipe.model.model_copy(update={"activation": a})).eval()
                  for a in ("gelu", "gelu_tanh"))  # fmt: skip
    state = Writer.load(run).gpt.state_dict()
    gpt.load_state_dict(state)
    other.load_state_dict(state)
    tokens = torch.randint(0, 300, (3, 64))
    with torch.no_grad():
        exact, tanh = gpt.logits(gpt(tokens)), other.logits(other(tokens))
    expected = float((exact - tanh).abs().max() / exact.abs().max())
    assert result["max_relative_logit_difference"] == pytest.approx(expected, rel=0.9)
    assert result["max_relative_logit_difference"] > 1e-6
    assert result["warnings"][0].startswith("not equal: the model was trained with the exact GELU")


@pytest.mark.slow
def test_gpt2s_own_vocabulary(tmp_path: Path, real_data: Path) -> None:
    tokenizer = Tokenizer.load(real_data / "gpt2_bpe")
    model = Model.model_validate({**SHAPE, "d_model": 8, "n_heads": 2, "vocab_size": 50257})
    recipe = recipe_from({"name": "run", "model": model.model_dump()})
    run = run_with(GPT(model).initialize(0).state_dict(), recipe, tmp_path, tokenizer, {})
    export(run, tmp_path / "m.gguf", "gguf")
    for prompt, answer in zip(PROMPTS, llama_cpp(tmp_path / "m.gguf", PROMPTS), strict=True):
        assert answer["usage"]["prompt_tokens"] == len(tokenizer.encode(prompt)), prompt


def test_added_tokens_are_found_by_llama_cpp(tmp_path: Path) -> None:
    run = make_run(tmp_path, vocab_size=302)
    content = Tokenizer.load(run.tokenizer).definition
    for name in ("<city>", "Don"):
        content["added_tokens"].append(
            {"id": len(content["added_tokens"]) + 299, "content": name, "special": False,
             "single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
        )  # fmt: skip
    run.tokenizer.write_text(json.dumps(content))
    export(run, tmp_path / "m.gguf", "gguf")
    tokenizer = Tokenizer.load(run.tokenizer)
    prompts = ["in <city> now", "Don't<city><city>", "<city"]
    for prompt, answer in zip(prompts, llama_cpp(tmp_path / "m.gguf", prompts), strict=True):
        assert answer["usage"]["prompt_tokens"] == len(tokenizer.encode(prompt)), prompt


def test_what_gguf_cannot_hold_is_refused_by_name(tmp_path: Path) -> None:
    run = make_run(tmp_path, lowercase=True)
    with pytest.raises(InputError, match=r"normalizes texts \(Lowercase\)"):
        export(run, tmp_path / "m.gguf", "gguf")
    content = Tokenizer.train(TEXTS, 300).definition
    content["added_tokens"].append(
        {"id": 300, "content": "<x>", "special": False, "single_word": False, "lstrip": True,
         "rstrip": False, "normalized": False}
    )  # fmt: skip
    run.tokenizer.write_text(json.dumps(content))
    with pytest.raises(InputError, match="finds the added token '<x>' with lstrip"):
        export(run, tmp_path / "m.gguf", "gguf")
    content["added_tokens"].pop()
    for option, value in (("end_of_word_suffix", "</w>"), ("ignore_merges", True)):
        content["model"][option] = value
        run.tokenizer.write_text(json.dumps(content))
        with pytest.raises(InputError, match=f"has {option}, which GGUF cannot express"):
            export(run, tmp_path / "m.gguf", "gguf")
        content["model"][option] = None if value == "</w>" else False
    content["pre_tokenizer"]["add_prefix_space"] = True
    run.tokenizer.write_text(json.dumps(content))
    with pytest.raises(InputError, match="not a byte-level BPE that splits words as GPT-2"):
        export(run, tmp_path / "m.gguf", "gguf")
    run.tokenizer.unlink()
    with pytest.raises(InputError, match="no tokenizer, which a GGUF file requires"):
        export(run, tmp_path / "m.gguf", "gguf")
    assert not (tmp_path / "m.gguf").exists()


def test_a_classifier_is_refused(tmp_path: Path) -> None:
    recipe = recipe_from({"name": "judge", "model": SHAPE, "task": {"labels": ("a", "b")}})
    state = Classifier(GPT(recipe.model).initialize(0), 2).state_dict()
    with pytest.raises(InputError, match="is a classifier"):
        export(run_with(state, recipe, tmp_path, None, {}), tmp_path / "m.gguf", "gguf")


def test_n_grams_are_refused(tmp_path: Path) -> None:
    recipe = recipe_from({"name": "n", "model": {**SHAPE, "ngrams": [2], "ngram_rows": 7}})
    state = GPT(recipe.model).initialize(0).state_dict()
    with pytest.raises(InputError, match=r"has n-gram embeddings.*--format hf"):
        export(run_with(state, recipe, tmp_path, None, {}), tmp_path / "m.gguf", "gguf")


def test_without_the_package_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path)
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(InputError, match=r"pip install 'wafergpt\[gguf\]'"):
        export(run, tmp_path / "m.gguf", "gguf")
