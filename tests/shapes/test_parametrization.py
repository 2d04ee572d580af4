"""The table of numbers against the published recipes, and where it reaches the network."""

from __future__ import annotations

import math
from typing import Any, get_args

import pytest
import torch

from wafergpt import config
from wafergpt.config import Model, load_recipe
from wafergpt.engines.optimizers import Optimizer
from wafergpt.errors import InputError
from wafergpt.model.gpt import GPT
from wafergpt.model.heads import Classifier
from wafergpt.model.tagger import Tagger
from wafergpt.shapes.parametrization import STEP_RATE, Rule, parametrization, rules
from wafergpt.shapes.roles import LORA, ROLES, Role, role_of

SMALL: dict[str, Any] = {"n_layers": 2, "n_heads": 4, "seq_len": 16, "vocab_size": 50}


def mup(d_model: int, **changes: Any) -> Model:
    values = {**SMALL, "parametrization": "mup", "base_d_model": 64, "d_model": d_model}
    return Model.model_validate({**values, **changes})


# 1.3B: L = 24, d = 2048, m = 8, d_head = 128, from arXiv:2304.03208, appendix G.
GOLDEN_1_3B: dict[Role, tuple[float, float]] = {
    "embedding": (0.08, 1.0),
    "position": (0.08, 1.0),
    "qkv": (0.02828427, 0.125),
    "attention_out": (0.00408248, 0.125),
    "ffn_in": (0.02828427, 0.125),
    "ffn_out": (0.00408248, 0.125),
    "vector": (0.0, 1.0),
    "ffn_vector": (0.0, 1.0),
}


@pytest.mark.parametrize("role", GOLDEN_1_3B)
def test_golden_values_of_1_3b(role: Role) -> None:
    row = parametrization(load_recipe("cerebras-gpt/1.3b-mup").model).rows[role]
    assert (row.init_std, row.lr["adamw"]) == pytest.approx(GOLDEN_1_3B[role], rel=1e-6)


def test_golden_multipliers_of_1_3b() -> None:
    table = parametrization(load_recipe("cerebras-gpt/1.3b-mup").model)
    assert table.embedding_multiplier == 10
    assert table.attention_multiplier == 1 / 128
    assert table.logits_multiplier == 1 / 8
    assert table.task_multiplier == 1 / 8


def test_standard_parametrization_follows_the_depth_alone() -> None:
    table = parametrization(load_recipe("cerebras-gpt/111m").model)
    stds = {role: row.init_std for role, row in table.rows.items()}
    assert stds["qkv"] == stds["embedding"] == stds["ffn_in"] == 0.02
    assert stds["attention_out"] == stds["ffn_out"] == pytest.approx(0.02 / math.sqrt(20))
    assert all(
        row.lr == {"adamw": rate, "adam": rate, "muon": rate, "sgd": 1}
        for role, row in table.rows.items()
        for rate in [STEP_RATE if role == "task_step" else 1]
    )
    assert table.attention_multiplier == 1 / 8
    assert table.logits_multiplier == table.embedding_multiplier == 1


def test_at_the_base_only_the_attention_differs() -> None:
    table, plain = parametrization(mup(64)), parametrization(mup(64, parametrization="sp"))
    assert table.rows == plain.rows
    assert table.logits_multiplier == plain.logits_multiplier == 1
    assert table.attention_multiplier == plain.attention_multiplier**2


def test_a_feed_forward_layer_of_its_own_width() -> None:
    rows = parametrization(mup(128, d_ffn=2048, base_d_ffn=256)).rows
    assert rows["ffn_out"].init_std == pytest.approx(0.02 / math.sqrt(2 * 2 * 8))
    assert rows["ffn_out"].lr["adamw"] == 1 / 8
    assert rows["ffn_in"].lr["adamw"] == 1 / 2
    assert rows["ffn_in"].lr["sgd"] == 4


def test_sgd_and_muon_have_columns() -> None:
    rows = parametrization(mup(256)).rows
    assert {role: row.lr["sgd"] for role, row in rows.items() if role not in LORA} == {
        role: 1 if role in ("qkv", "attention_out", "ffn_in", "ffn_out", "task_step") else 4
        for role in ROLES
        if role not in LORA
    }
    assert rows["qkv"].lr["muon"] == rows["ffn_out"].lr["muon"] == 1 / 2
    assert rows["embedding"].lr["muon"] == rows["head"].lr["muon"] == 1


def test_muon_updates_keep_their_spectral_norm_over_the_root_of_the_sides() -> None:
    """The condition itself (arXiv:2310.17813), on updates that torch's Muon makes."""
    ratios = []
    for d_model in (64, 256):
        model = mup(d_model)
        gpt = GPT(model).initialize(0)
        names = [name for name, _ in gpt.named_parameters()]
        settings = config.Optimizer(name="muon", weight_decay=0, clip=0)
        optimizer = Optimizer(gpt.named_parameters(), settings, rules(model, "muon", names))
        before = {n: p.detach().clone() for n, p in gpt.named_parameters()}
        torch.manual_seed(0)
        for parameter in gpt.parameters():
            parameter.grad = torch.randn_like(parameter)
        optimizer.step(0.01)
        ratios.append(
            [
                float(torch.linalg.matrix_norm(p.detach() - before[n], 2))
                / math.sqrt(p.shape[0] / p.shape[1])
                for n, p in gpt.named_parameters()
                if p.ndim == 2 and "blocks" in n
            ]
        )
    # Newton and Schulz's orthogonalization is rough: singular values end between 0.7 and 1.2.
    for narrow, wide in zip(*ratios, strict=True):
        assert wide / narrow == pytest.approx(1, rel=0.2)


def test_every_parameter_has_a_role_and_decay_follows_it() -> None:
    gpt = GPT(mup(64, tied=False, ngrams=(2,), ngram_rows=8))
    classifier = Classifier(gpt, 3, ngram_rows=8)
    rows = parametrization(gpt.config).rows
    roles = set()
    for name, parameter in classifier.named_parameters():
        roles.add(role_of(name))
        assert rows[role_of(name)].decays == (parameter.ndim == 2 and "ngrams" not in name), name
        assert role_of(f"_orig_mod.module.{name}") == role_of(name)
    assert roles == {*ROLES} - {*LORA, "task_step"}
    tagger = Tagger(gpt, 3, "mean", two_way=True)
    assert role_of("head.transitions.weight") == "task_step"
    assert "head.transitions.weight" in dict(tagger.named_parameters())
    with pytest.raises(ValueError, match="no role is known"):
        role_of("blocks.0.rotary.frequencies")


def test_the_optimizer_moves_each_parameter_by_its_factor() -> None:
    model = mup(256)
    gpt = GPT(model).initialize(0)
    names = [name for name, _ in gpt.named_parameters()]
    by_name = rules(model, "adamw", names)
    optimizer = Optimizer(gpt.named_parameters(), config.Optimizer(weight_decay=0, clip=0), by_name)
    before = {n: p.detach().clone() for n, p in gpt.named_parameters()}
    for parameter in gpt.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step(1e-3)
    for name, parameter in gpt.named_parameters():
        # The first update of Adam has the size of the learning rate.
        moved = float((before[name] - parameter.detach()).mean())
        assert moved == pytest.approx(1e-3 * by_name[name].factor, rel=1e-2), name
    assert {rule.factor for rule in by_name.values()} == {1.0, 0.25}


def test_initial_weights_have_the_widths_of_the_table() -> None:
    gpt = GPT(mup(256, n_layers=8, vocab_size=1000, tied=False)).initialize(0)
    rows = parametrization(gpt.config).rows
    for name, parameter in gpt.state_dict().items():
        if parameter.ndim == 2:
            std = rows[role_of(name)].init_std
            assert parameter.abs().max() <= 2 * std
            assert float(parameter.std()) == pytest.approx(0.8796 * std, rel=0.04), name


def test_an_optimizer_without_a_column_is_refused_under_mup_only() -> None:
    plain = rules(mup(64, parametrization="sp"), "lion", ["norm.weight"])
    assert plain == {"norm.weight": Rule(1.0, decays=False)}
    with pytest.raises(InputError, match=r"no µP rule is known for optimizer\.name=lion"):
        rules(mup(64), "lion", ["norm.weight"])


def test_every_optimizer_that_a_recipe_can_name_has_a_column() -> None:
    names = get_args(config.Optimizer.model_fields["name"].annotation)
    assert set(names) == set(parametrization(mup(64)).rows["embedding"].lr)


def test_l2_is_refused_under_mup() -> None:
    with pytest.raises(InputError, match="no rule under mup"):
        load_recipe("cerebras-gpt/111m-mup", ["optimizer.l2=0.1"])
