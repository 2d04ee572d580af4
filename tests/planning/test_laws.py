"""The published law, and the recipes that it is quoted for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from wafergpt.config import Recipe, load_recipe
from wafergpt.planning.laws import Prediction, predicted, published_loss

# FLOPs and loss on the Pile's test set under both parametrizations: arXiv:2304.03208, table 3.
PUBLISHED = {
    "111m": (2.6e18, 2.608, 2.588), "256m": (1.3e19, 2.349, 2.359),
    "590m": (6.1e19, 2.181, 2.155), "1.3b": (2.8e20, 1.997, 1.984),
    "2.7b": (1.1e21, 1.834, 1.846), "6.7b": (6.3e21, 1.704, None), "13b": (2.3e22, 1.572, None),
}  # fmt: skip


def of(name: str, *overrides: str, corpus_tokens: int | None = None) -> Prediction | str:
    recipe = load_recipe(f"cerebras-gpt/{name}", overrides)
    return predicted(recipe, recipe, corpus_tokens)


@pytest.mark.parametrize("size", PUBLISHED)
def test_it_is_near_every_published_result(size: str) -> None:
    flops, loss, under_mup = PUBLISHED[size]
    found = of(size)
    assert isinstance(found, Prediction)
    assert found.loss == pytest.approx(loss, abs=0.03)
    assert found.low <= loss <= found.high
    # The totals are printed with two digits.
    assert found.loss == pytest.approx(published_loss(flops), abs=0.01)
    assert "the Pile's test set" in found.of
    if under_mup is not None:
        tuned = of(f"{size}-mup")
        assert isinstance(tuned, Prediction)
        assert tuned.low <= under_mup <= tuned.high
        assert "standard parametrization" in tuned.of


@pytest.mark.parametrize(
    "change",
    [
        "name=mine", "seed=7", "train.micro_batch_size=4", "system.precision=fp32",
        "evaluate.every=5", "checkpoint.every=9", "train.steps=9034", "data.fingerprint=abc",
    ],
)  # fmt: skip
def test_what_does_not_decide_the_loss_may_differ(change: str) -> None:
    assert isinstance(of("111m", change), Prediction)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ("train.steps=100", "24,576,000 tokens, not 2,220,933,120"),
        ("train.batch_size=240", "4,441,866,240 tokens"),
        ("model.vocab_size=8192", "vocab_size=8192, not 50257"),
        ("model.dropout=0.1", "dropout=0.1, not 0.0"),
        ("model.activation=gelu_tanh", "activation=gelu_tanh"),
        ("model.tied=false", "tied=False"),
        ("model.parametrization=mup", "init_std=0.02, not 0.08"),
        ("optimizer.lr=1e-2", "lr=0.01, not 0.0006"),
        ("optimizer.name=sgd", "name=sgd"),
        ("schedule.warmup=10%", "warmup=10%, not 1525"),
        ("train.sampled_softmax=100", "sampled_softmax=100"),
        ("data.document_mask=true", "document_mask=True"),
        ("start=runs/other", "weights of other"),
        ("task.name=classify", "a task"),
    ],
)
def test_a_changed_recipe_has_no_prediction_but_a_reason(change: str, why: str) -> None:
    found = of("111m", change)
    assert isinstance(found, str)
    assert why in found
    assert "\n" not in found


@pytest.mark.parametrize("change", ["model.n_layers=9", "model.seq_len=1024"])
def test_another_shape_is_not_of_the_family(change: str) -> None:
    found = of("111m", change)
    assert isinstance(found, str)
    assert "no scaling law has been fitted" in found


def test_a_corpus_must_be_as_large_and_read_by_gpt_2s_tokenizer(tmp_path: Path) -> None:
    with_corpus = f"data.corpus={tmp_path}"
    words = {"!": 0, "\u0120the": 262, "\u0120world": 995, "Hello": 15496}
    tokenizer = tmp_path / "tokenizer.json"
    tokenizer.write_text(json.dumps({"model": {"vocab": words}}))
    found = of("111m", with_corpus, corpus_tokens=3_000_000_000)
    assert isinstance(found, Prediction)
    assert found.of.endswith(f"if {tmp_path} is the Pile")
    short = of("111m", with_corpus, corpus_tokens=1_000_000)
    assert isinstance(short, str)
    assert "a text of 1,000,000 tokens more than once" in short
    for damaged in (json.dumps({"model": {"vocab": words | {"Hello": 1}}}), "[]", "{"):
        tokenizer.write_text(damaged)
        other = of("111m", with_corpus, corpus_tokens=3_000_000_000)
        assert isinstance(other, str)
        assert "another tokenizer than GPT-2's" in other


def test_other_recipes_have_no_law() -> None:
    assert isinstance(predicted(Recipe(), Recipe()), str)
