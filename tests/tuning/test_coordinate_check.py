"""µP proven: no layer's change depends on the width, and each factor is needed for that."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from wafergpt.config import Model, load_recipe
from wafergpt.errors import RunFailed
from wafergpt.model import gpt
from wafergpt.shapes import parametrization as table
from wafergpt.shapes.parametrization import Parametrization
from wafergpt.shapes.roles import Role
from wafergpt.tuning.coordinate_check import TOLERANCE, coordinate_check

pytestmark = pytest.mark.slow

Table = Callable[[Model], Parametrization]

MATRICES: tuple[Role, ...] = ("qkv", "attention_out", "ffn_in", "ffn_out")
NARROW = (64, 128, 256)
"""Widths that show what is broken; only what holds is tried up to the widest."""

BREAKS = [
    *(("init_std", role) for role in MATRICES),
    *(("lr", role) for role in MATRICES),
    ("multiplier", "attention_multiplier"),
    ("multiplier", "logits_multiplier"),
]


def without(real: Table, kind: str, name: str) -> Table:
    """Return the table with one number as it would be without µP."""

    def broken(model: Model) -> Parametrization:
        whole = real(model)
        plain = real(model.model_copy(update={"parametrization": "sp"}))
        if kind == "multiplier":
            return replace(whole, **{name: getattr(plain, name)})
        rows = dict(whole.rows)
        role: Role = name  # type: ignore[assignment]
        rows[role] = replace(rows[role], **{kind: getattr(plain.rows[role], kind)})
        return replace(whole, rows=rows)

    return broken


def test_mup_keeps_every_change_and_the_standard_one_does_not() -> None:
    recipe = load_recipe("mup-check")
    mup = coordinate_check(recipe)
    assert mup.broken == [], mup.slopes
    outputs = {n: s for n, s in mup.slopes.items() if not n.startswith("attention scores")}
    assert max(abs(slope) for slope in outputs.values()) <= TOLERANCE
    assert mup.logits_slope < 0
    plain = coordinate_check(recipe.replace(model={"parametrization": "sp"}))
    assert max(plain.slopes.values()) > 1
    assert len(plain.broken) > 8


def test_two_widths_and_seeds_are_enough_to_hold() -> None:
    assert coordinate_check(load_recipe("mup-check"), (64, 256), seeds=2).broken == []


@pytest.mark.parametrize(("kind", "name"), BREAKS)
def test_each_factor_is_needed(kind: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = without(table.parametrization, kind, name)
    for module in (table, gpt):
        monkeypatch.setattr(module, "parametrization", broken)
    assert coordinate_check(load_recipe("mup-check"), (64, 256), seeds=2).broken


def test_the_column_of_muon_holds() -> None:
    recipe = load_recipe("mup-check", ["optimizer.name=muon"])
    found = coordinate_check(recipe, NARROW)
    assert found.broken == []
    assert abs(found.slopes["logits"]) <= TOLERANCE
    assert coordinate_check(
        recipe.replace(model={"parametrization": "sp"}), (64, 256), seeds=1
    ).broken


def test_the_row_of_n_grams_holds() -> None:
    changes = ["model.ngrams=[2]", "model.ngram_rows=999"]
    found = coordinate_check(load_recipe("mup-check", changes), NARROW)
    assert found.broken == [], found.slopes
    assert abs(found.slopes["n-grams"]) <= TOLERANCE


def test_the_column_of_sgd_holds() -> None:
    recipe = load_recipe(
        "mup-check",
        ["optimizer.name=sgd", "optimizer.lr=0.4", "optimizer.momentum=0", "optimizer.clip=0"],
    )
    found = coordinate_check(recipe)
    assert found.broken == [], found.slopes
    # So small a change of the logits is mostly that of random ones, which fades with the width.
    assert found.slopes["logits"] > -0.5
    plain = coordinate_check(recipe.replace(model={"parametrization": "sp"}), (64, 256), seeds=1)
    assert max(plain.slopes.values()) > 1


def test_what_diverges_or_stands_still_is_no_check() -> None:
    for lr, message in (("1e8", "try another optimizer.lr"), ("1e-40", "try a higher")):
        recipe = load_recipe("mup-check", [f"optimizer.lr={lr}", "model.n_layers=1"])
        with pytest.raises(RunFailed, match=message):
            coordinate_check(recipe, widths=(16, 32), steps=3, seeds=1)


def test_heads_are_those_that_every_width_can_have() -> None:
    recipe = load_recipe("cerebras-gpt/111m-mup", ["model.n_layers=1"])
    assert coordinate_check(recipe, widths=(48, 64), steps=1, seeds=1).n_heads == 8


@pytest.mark.parametrize("role", [None, "lora_a", "ffn_lora_a"])
def test_adapters_change_each_layer_alike(
    role: Role | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rates of arXiv:2402.12354 on top of frozen weights, and each is needed."""
    if role is not None:
        monkeypatch.setattr(table, "parametrization", without(table.parametrization, "lr", role))
    recipe = load_recipe("mup-check", ["lora.rank=8", "optimizer.lr=0.003"])
    found = coordinate_check(recipe, (64, 256), seeds=2)
    assert found.passed == (role is None), found.slopes
