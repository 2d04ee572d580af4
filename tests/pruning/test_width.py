"""Runs whose residual stream is narrowed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.pruning.test_unstructured import home
from tests.sparsity.test_masks import SMALL, corpus
from wafergpt.api import export, finetune, generate, plan, pretrain, prune, report
from wafergpt.checkpoint import store
from wafergpt.checkpoint.imported_run import run_with
from wafergpt.data.tokenizer import Tokenizer
from wafergpt.decoding.generator import Sampling
from wafergpt.inference.predictor import Predictor
from wafergpt.model.gpt import GPT
from wafergpt.pruning import width
from wafergpt.pruning.calibration_network import Calibrated, Evaluated
from wafergpt.runs.run import Run
from wafergpt.shapes.counts import parameters
from wafergpt.sparsity.structured import without_channels
from wafergpt.tasks.base import task_of

__all__ = ["corpus", "home"]

KEPT = torch.tensor([0, 3, 4, 7, 9, 10, 13, 17, 18, 20, 21, 25, 26, 28, 29, 31])


def doubled(weights: dict[str, Tensor], shapes: dict[str, torch.Size]) -> dict[str, Tensor]:
    """Return weights of a network with each channel twice, in other places, that computes the same.

    A norm of channels that are all there twice is that of half of them. What reads them reads three
    quarters from one, and the rest from the other.
    """
    twice = torch.cat([KEPT, torch.tensor(sorted(set(range(32)) - set(KEPT.tolist())))])
    order = twice.argsort() % 16
    share = torch.where(twice.argsort() < 16, 0.75, 0.25)
    found = {}
    for name, small in weights.items():
        wide = small
        for axis, (there, wanted) in enumerate(zip(small.shape, shapes[name], strict=True)):
            if there != wanted:
                parts = torch.cat([order + 16 * part for part in range(there // 16)])
                wide = wide.index_select(axis, parts)
                reads = name.endswith(("qkv.weight", "up.weight", "head.weight"))
                wide = wide * share.repeat(there // 16) if reads else wide
        found[name] = wide
    return found


@pytest.mark.slow
@pytest.mark.parametrize("parametrization", ["sp", "mup"])
@pytest.mark.parametrize("kind", ["tied", "untied", "last", "mean_max_last"])
def test_what_is_there_twice_goes_for_nothing(
    home: Path, kind: str, parametrization: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tied or not, pooled or not, and by µP, whose multipliers follow the width."""
    name, mup, task = f"{kind}-{parametrization}", parametrization == "mup", kind[0] not in "tu"
    origin = Run(home / ("clf" if task else "lm"))
    shape = {"d_model": 16, "d_ffn": 64, "tied": kind != "untied", "base_d_model": 8,
             "parametrization": parametrization, "output_scale": 2.0}  # fmt: skip
    small = origin.recipe.replace(
        model=shape, **({"task": {"pooling": kind, "ngrams": "none"}} if task else {})
    )
    # The logits' multiplier follows the width, and a tied head reads each channel twice.
    output_scale = 2.0 * (2 if mup else 1) / (2 if kind == "tied" else 1)
    wide = small.replace(
        name=name, model={"d_model": 32, "d_head": 8, "d_ffn": 64, "output_scale": output_scale}
    )
    torch.manual_seed(0)
    wanted = task_of(small).network().eval()
    for parameter in wanted.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    shapes = {n: t.shape for n, t in task_of(wide).network().state_dict().items()}
    weights = doubled(wanted.state_dict(), shapes)
    if task and mup:
        weights["head.weight"] *= 2
    tokenizer = Tokenizer.load(origin.tokenizer)
    run = run_with(weights, wide, home, tokenizer, {})
    importance = torch.zeros(32).index_fill(0, KEPT, 1.0)
    monkeypatch.setattr(width, "_importance", lambda *_: importance)
    made = prune(run, f"{name}-16", width=16, samples=24, root=home)
    assert (made.recipe.model.d_model, made.recipe.model.d_head) == (16, 0)
    tokens = torch.tensor(tokenizer.encode("the cat saw two dogs and a mat" * 2)[:16])[None]
    more = [torch.tensor([16])] if task else []
    with torch.no_grad():
        for again in (wide, made.recipe):
            network = task_of(again).network().eval()
            network.load_state_dict(weights if again is wide else dict(store.weights(made)))
            found, first = network(tokens, *more), wanted(tokens, *more)
            if isinstance(network, GPT) and isinstance(wanted, GPT):
                found, first = network.logits(found), wanted.logits(first)
                found, first = (x - x.mean(-1, keepdim=True) for x in (found, first))
            assert (found - first).norm() < 0.01 * first.norm()


def test_channels_are_taken_out_of_every_weight(home: Path) -> None:
    """Beside plain indexing of GPT-2's weights by their names."""
    run = Run(home / "lm")
    weights = dict(store.weights(run))
    model = run.recipe.model.model_copy(update={"d_model": 16, "d_head": 16})
    found = without_channels(
        weights, {n: t.shape for n, t in GPT(model).state_dict().items()}, KEPT
    )
    assert found.keys() == weights.keys()
    for name, value in weights.items():
        if name.endswith(("embedding.weight", "position.weight", "qkv.weight", "up.weight")):
            value = value[:, KEPT]
        elif not name.endswith(("qkv.bias", "up.bias")):
            value = value[KEPT]
        assert torch.equal(found[name], value), name
    heads = torch.arange(5 * 96.0).view(5, 96)
    (cut,) = without_channels({"head": heads}, {"head": torch.Size([5, 48])}, KEPT).values()
    assert torch.equal(cut, heads.view(5, 3, 32)[..., KEPT].flatten(1))


@pytest.mark.slow
def test_it_goes_with_all_others_and_is_trained_on(home: Path) -> None:
    made = prune("lm", "all", width=20, layers=1, heads=1, channels=48, samples=24,
                 retrain=60 * 128, root=home)  # fmt: skip
    pruned = Run(home / "all-pruned")
    model, result = pruned.recipe.model, pruned.read("result")
    assert (model.n_layers, model.d_model, model.n_heads, model.d_ffn) == (1, 20, 1, 48)
    assert model.head_width == 16
    counted = sum(tensor.numel() for tensor in dict(store.weights(pruned)).values())
    assert counted == parameters(model) == result["parameters_after"]
    assert result["flops_after"] < result["flops_before"]
    again = made.read("result")["retraining"]
    assert again["val_loss_retrained"] < again["val_loss_after"]
    assert made.recipe.model == model
    assert plan(made.recipe, quick=True).to_dict()["parameters"] == counted
    assert generate(made, "the cat", Sampling(temperature=0, max_tokens=4), root=home)
    assert "lm with 1 layer × 20 wide, 1 head and 48 channels" in report(pruned).read_text()


def test_refitted_it_loses_less_than_cut(home: Path) -> None:
    made = prune("lm", "narrower", width=24, samples=32, root=home)
    result = made.read("result")
    weights, now = dict(store.weights(Run(home / "lm"))), dict(store.weights(made))
    kept = [c for c, column in enumerate(weights["embedding.weight"].T)
            if (column == now["embedding.weight"].T).all(1).any()]  # fmt: skip
    assert len(kept) == 24
    cut = without_channels(weights, {n: t.shape for n, t in now.items()}, torch.tensor(kept))
    plain = GPT(made.recipe.model)
    plain.load_state_dict(cut)
    refitted, whole = GPT(made.recipe.model), GPT(Run(home / "lm").recipe.model)
    refitted.load_state_dict(now)
    whole.load_state_dict(weights)
    words = Tokenizer.load(made.tokenizer).encode("the cat sat on a mat and saw two dogs run " * 30)
    tokens = torch.tensor(words[:256]).view(8, 32)
    with torch.no_grad():
        wanted = whole.logits(whole(tokens)).log_softmax(-1)
        errors = [(gpt.logits(gpt(tokens)).log_softmax(-1) - wanted).norm()
                  for gpt in (refitted, plain)]  # fmt: skip
    assert errors[0] < 0.7 * errors[1]
    assert result["val_loss_after"] < 1.3 * result["val_loss_before"]


def test_heads_in_proportion_make_a_gpt2(home: Path) -> None:
    pytest.importorskip("transformers", reason="exports are compared with transformers")
    made = prune("lm", "gpt2", width=16, heads=1, samples=8, root=home)
    assert made.recipe.model.d_head == 0
    assert export(made, home / "gpt2-hf")["max_relative_logit_difference"] < 1e-4


@pytest.mark.slow
def test_a_classifier_with_tables_answers(home: Path, corpus: Path) -> None:
    shape = ["model.ngrams=[2]", "model.ngram_rows=512", f"data.corpus={corpus}"]
    pretrain(None, [*SMALL, *shape, "train.steps=10", "name=grams"], root=home)
    task = [f"task.train={home / 'rows.csv'}", "train.steps=40", "task.ngrams=words",
            "task.ngram_rows=512", "task.pooling=mean_max_last"]  # fmt: skip
    finetune("grams", None, [*task, "name=grams-clf"], root=home)
    made = prune("grams-clf", "grams-small", width=24, rows=0.5, samples=16, root=home)
    result, model = made.read("result"), made.recipe.model
    assert (model.d_model, model.n_layers) == (24, 2)
    assert result["tables_after"]["2-grams"] == model.ngram_kept[0]
    assert dict(store.weights(made))["gpt.ngrams.tables.0.weight"].shape[1] == 24
    answer = Predictor.load(made).predict("it is good 3")
    assert answer is not None
    assert answer["label"] == "good"


def test_the_first_passes_of_a_process_are_not_timed() -> None:
    class Started:
        def __init__(self, *seconds: float) -> None:
            self.found = [Evaluated({"loss": 1.0}, s, {}) for s in seconds]

        def evaluated(self) -> Evaluated:
            return self.found.pop(0)

    assert Calibrated.first(Started(1.8, 0.1), "run").seconds == 0.1  # type: ignore[arg-type]
    assert Calibrated.first(Started(60.0), "run").seconds == 60.0  # type: ignore[arg-type]
