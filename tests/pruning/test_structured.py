"""Runs that are narrowed to smaller dense ones."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from tests.pruning.test_unstructured import home
from tests.sparsity.test_masks import SMALL, corpus
from wafergpt.api import export, generate, plan, pretrain, prune, report
from wafergpt.checkpoint import store
from wafergpt.checkpoint.imported_run import run_with
from wafergpt.cli.prune import command
from wafergpt.data.tokenizer import Tokenizer
from wafergpt.decoding.generator import Sampling
from wafergpt.errors import InputError
from wafergpt.inference.predictor import Predictor
from wafergpt.model.gpt import GPT
from wafergpt.planning.memory import optimizer_bytes
from wafergpt.runs.run import Run
from wafergpt.shapes.counts import parameters

__all__ = ["corpus", "home"]


@pytest.fixture(scope="module")
def smaller(home: Path) -> Path:
    return prune("lm", "smaller", layers=1, heads=1, channels=48, samples=24, root=home).path


@pytest.fixture(scope="module")
def half(home: Path) -> Run:
    return prune("lm", "half", channels=64, samples=64, root=home)


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


def test_least_is_lost_by_what_matters_least(home: Path, half: Run) -> None:
    """Half of the channels by importance and refitted, beside the first half as they are."""
    made, result = half, half.read("result")
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


def test_heads_that_are_no_gpt2s_are_not_exported(smaller: Path, half: Run, home: Path) -> None:
    with pytest.raises(
        InputError, match="a GPT-2 has heads of d_model / n_heads: use --format onnx"
    ):
        export(smaller, home / "hf")
    assert not (home / "hf").exists()
    # Fewer channels alone are.
    export(half, home / "hf-half")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--layers", "3"], "3 layers are not between 1 and the 2"),
        (["--heads", "9"], "9 heads are not between"),
        (["--channels", "128"], "nothing to take out"),
        (["--width", "64"], "64 channels of the residual stream are not between 1 and the 32"),
        (["--width", "32"], "nothing to take out"),
        (["--width", "16", "--method", "wanda"], "one after the other"),
        (["--layers", "1", "--sparsity", "50%"], "one after the other"),
        (["--layers", "1", "--global", "--method", "magnitude"], "one after the other"),
        (["--layers", "1", "model.n_heads=1"], "only the data, the device and the evaluation"),
        (["--layers", "1", "--method", "wanda"], "one after the other"),
        (["--heads", "1", "--max-loss-increase", "1%"], "one after the other"),
        (["--layers", "1", "--name", "my run"], "name='my run' is impossible"),
        (["--layers", "0"], "0 is not in the range"),
    ],
)
def test_mistakes_are_one_line(home: Path, arguments: list[str], named: str) -> None:
    asked = ["lm", "--name", "never", *arguments, "--runs", str(home)]
    found = CliRunner().invoke(command, asked)
    assert found.exit_code != 0
    assert named in f"{found.exception}{found.output}"
    assert not (home / "never").exists()


def test_muon_trains_it_on_in_the_memory_that_is_planned(
    smaller: Path, corpus: Path, home: Path
) -> None:
    asked = [key for key in SMALL if not key.startswith("model.")]
    more = [f"data.corpus={corpus}", "train.steps=5", "optimizer.name=muon", "name=with-muon"]
    run = pretrain(None, [*asked, *more], start=smaller, root=home)
    moments = store.StoredState(store.every(run)[-1], verified=True).moments.by_rows
    held = sum(math.prod(m.shape) for m in moments.values() if m.shape)
    assert 4 * held == optimizer_bytes(run.recipe.model, run.recipe.optimizer)


def test_a_width_of_heads_has_one_name(home: Path) -> None:
    model = Run(home / "lm").recipe.model
    same = model.model_validate({**model.model_dump(), "d_head": model.head_width})
    assert same == model
    assert model.model_validate({**model.model_dump(), "n_heads": 1}).head_width == model.d_model


def test_a_broken_run_is_one_line(home: Path) -> None:
    weights = dict(store.weights(Run(home / "lm")))
    weights["blocks.0.ffn.up.weight"][0, 0] = math.nan
    broken = run_with(weights, Run(home / "lm").recipe.replace(name="broken"), home,
                      Tokenizer.load(Run(home / "lm").tokenizer), {})  # fmt: skip
    for asked in ({"channels": 32}, {"layers": 1}, {"method": "magnitude"}):
        with pytest.raises(InputError, match="not finite: this run is broken"):
            prune(broken, "never", root=home, **asked)
    assert not (home / "never").exists()


def test_zeros_of_a_run_are_named(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prune("lm", "half-zeros", method="magnitude", root=home)
    prune("half-zeros", "half-zeros-small", layers=1, samples=4, root=home)
    assert "has 50% zeros in its blocks: what is refitted has none" in capsys.readouterr().err


def test_the_report_names_the_shape(smaller: Path) -> None:
    page = report(smaller).read_text()
    assert "lm with 1 layer, 1 head and 48 channels" in page
    assert "1 layer × 32 wide, 1 head of 16" in page
