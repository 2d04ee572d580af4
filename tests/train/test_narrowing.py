"""Runs that are narrowed to smaller dense ones."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from tests.sparsity.test_masks import SMALL, corpus
from tests.train.test_pruning import home
from wafergpt.api import export, generate, plan, pretrain, prune
from wafergpt.checkpoint import store
from wafergpt.cli.prune import command
from wafergpt.data.tokenizer import Tokenizer
from wafergpt.decoding.generator import Sampling
from wafergpt.errors import InputError
from wafergpt.inference.predictor import Predictor
from wafergpt.model.gpt import GPT
from wafergpt.runs.run import Run
from wafergpt.shapes.counts import parameters

__all__ = ["corpus", "home"]


@pytest.fixture(scope="module")
def smaller(home: Path) -> Path:
    return prune("lm", "smaller", layers=1, heads=1, channels=48, samples=24, root=home).path


def test_a_language_model_gets_smaller(home: Path, smaller: Path) -> None:
    made = store.weights(prune("lm", "same-again", layers=1, heads=1, channels=48, samples=24,
                               root=home))  # fmt: skip
    run = Run(smaller)
    model, result = run.recipe.model, run.read("result")
    assert (model.n_layers, model.n_heads, model.d_ffn) == (1, 1, 48)
    before = result["shape_before"]
    assert model.head_width == model.d_model // before["n_heads"]
    weights = store.weights(run)
    assert all(torch.equal(made[name], weights[name]) for name in weights)
    counted = sum(tensor.numel() for tensor in weights.values())
    assert counted == parameters(model) == result["parameters_after"]
    assert result["parameters_after"] < result["parameters_before"]
    assert result["bytes_after"] == 4 * counted
    assert result["flops_after"] < result["flops_before"]
    gpt = GPT(model)
    gpt.load_state_dict(dict(weights))
    text = generate(run, "the cat", Sampling(temperature=0, max_tokens=8), root=home)
    assert text


def test_least_is_lost_by_what_matters_least(home: Path) -> None:
    """Half of the channels by importance and refitted, beside the first half as they are."""
    made = prune("lm", "half", channels=64, samples=64, root=home)
    result = made.read("result")
    run = Run(home / "lm")
    weights = dict(store.weights(run))
    for name in weights:
        if ".ffn.up." in name:
            weights[name] = weights[name][:64]
        elif name.endswith(".ffn.out.weight"):
            weights[name] = weights[name][:, :64]
    blind = GPT(made.recipe.model)
    blind.load_state_dict(weights)
    refitted = GPT(made.recipe.model)
    refitted.load_state_dict(dict(store.weights(made)))
    original = GPT(run.recipe.model)
    original.load_state_dict(dict(store.weights(run)))
    words = Tokenizer.load(run.tokenizer).encode("the cat sat on a mat and saw two dogs run " * 30)
    tokens = torch.tensor(words[:256]).view(8, 32)
    with torch.no_grad():
        wanted = original(tokens)
        errors = [(gpt(tokens) - wanted).norm() for gpt in (refitted, blind)]
    assert errors[0] < 0.7 * errors[1]
    assert result["val_loss_after"] < 1.3 * result["val_loss_before"]


def test_it_is_trained_on_and_planned(smaller: Path, corpus: Path, home: Path) -> None:
    asked = [*SMALL, f"data.corpus={corpus}", "train.steps=30", "name=again"]
    shape = [key for key in asked if not key.startswith("model.")]
    again = pretrain(None, shape, start=smaller, root=home)
    assert again.recipe.model.d_head == Run(smaller).recipe.model.d_head > 0
    result = Run(smaller).read("result")
    assert again.metrics()[-1]["val_loss"] < result["val_loss_after"]
    assert plan(again.recipe, quick=True).tokens > 0


def test_a_classifier_keeps_its_answers(home: Path) -> None:
    made = prune("clf", "clf-small", channels=40, heads=1, samples=20, root=home)
    assert set(made.read("result")["metrics"]) >= {"loss", "accuracy"}
    answer = Predictor.load(made).predict("it is good 3")
    assert answer is not None
    assert answer["label"] == "good"


def test_the_table_and_what_comes_next(home: Path) -> None:
    arguments = ["lm", "--layers", "1", "--name", "shown", "--samples", "8", "--runs", str(home)]
    shown = CliRunner().invoke(command, arguments)
    assert shown.exit_code == 0, shown.output
    assert "1 of 2 layers" in shown.output
    assert "zeros" not in shown.output
    assert "pretrain --from shown" in shown.output


def test_heads_that_are_no_gpt2s_are_not_exported(smaller: Path, home: Path) -> None:
    with pytest.raises(InputError, match="a GPT-2 has heads of d_model / n_heads"):
        export(smaller, home / "hf")
    assert not (home / "hf").exists()
    # Fewer channels alone are.
    export(home / "half", home / "hf-half")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--layers", "3"], "3 layers are not between 1 and the 2"),
        (["--heads", "9"], "9 heads are not between"),
        (["--channels", "128"], "nothing to take out"),
        (["--layers", "1", "--sparsity", "50%"], "--sparsity sets weights to zero"),
        (["--layers", "1", "--method", "wanda"], "--method sets weights to zero"),
        (["--layers", "0"], "0 is not in the range"),
    ],
)
def test_mistakes_are_one_line(home: Path, arguments: list[str], named: str) -> None:
    asked = ["lm", *arguments, "--name", "never", "--runs", str(home)]
    found = CliRunner().invoke(command, asked)
    assert found.exit_code != 0
    assert named in f"{found.exception}{found.output}"
    assert not (home / "never").exists()
