from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from wafergpt.config import load_recipe, recipe_from, recipe_with, shipped_recipes
from wafergpt.errors import InputError


def test_overrides_and_derived_width() -> None:
    recipe = load_recipe(None, ["model.d_model=64", "optimizer.lr=3e-4", "name=small"])
    assert (recipe.model.d_model, recipe.model.d_ffn, recipe.optimizer.lr) == (64, 256, 3e-4)
    assert recipe.name == "small"


CHANGES = [
    "model.d_model=64", "model.d_model=32", "model.d_ffn=100", "model.init_std=0.1",
    "model.base_d_model=16", "optimizer.lr=0.01", "train.steps=7", "name=other",
    "task.train=x.csv", "task.held_out=0.3", "evaluate.metric=loss",
]  # fmt: skip


@given(st.lists(st.sampled_from(CHANGES)), st.lists(st.sampled_from(CHANGES)))
def test_overrides_of_a_recipe_are_as_those_of_its_file(first: list[str], then: list[str]) -> None:
    """What a width derives follows the width, and nothing else moves it."""
    assert recipe_with(load_recipe(None, first), then) == load_recipe(None, [*first, *then])


def test_overrides_of_a_recipe_know_the_keys_of_its_task() -> None:
    tagger = load_recipe(None, ["task.name=tag", "task.train=x.conll"])
    changed = recipe_with(tagger, ["task.repair=true"])
    assert changed == load_recipe(None, ["task.name=tag", "task.train=x.conll", "task.repair=true"])


def test_orders_of_n_grams_are_sorted_and_need_rows_that_move() -> None:
    assert load_recipe(None, ["model.ngrams=[3, 2, 3]"]).model.ngrams == (2, 3)
    with pytest.raises(InputError, match=r"model\.ngrams has no rule for sgd"):
        load_recipe(None, ["model.ngrams=[2]", "optimizer.name=sgd", "optimizer.weight_decay=0"])
    with pytest.raises(InputError, match=r"optimizer\.l2 has no rule for model\.ngrams"):
        load_recipe(None, ["model.ngrams=[2]", "optimizer.l2=0.1"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.n_layer=3", "did you mean 'model.n_layers'?"),
        ("n_layers=3", "did you mean 'model.n_layers'?"),
        ("optimiser.lr=3", "did you mean 'optimizer"),
        ("lr=3", "did you mean 'optimizer.lr'?"),
        ("optimizer.lr=-1", "optimizer.lr=-1 is impossible"),
        ("optimizer.lr=.nan", "optimizer.lr=nan is impossible"),
        ("model.n_heads=3", "n_heads=3 does not divide d_model=256"),
        ("model.ngrams=[2, 9]", "9 is no order of n-grams: give numbers from 2 to 8"),
        ("model.d_model=1000000000000", "model.d_model=1000000000000 is impossible"),
        ("model.n_layers=0", "model.n_layers=0 is impossible"),
        ("model.dropout=1.5", "model.dropout=1.5 is impossible"),
        ("schedule.warmup=soon", "'soon' is not a number of tokens"),
        ("schedule.warmup=-4", "warmup cannot be negative"),
        ("optimizer.name=lion", "optimizer.name='lion' is impossible"),
        ("name=../../etc", "name='../../etc' is impossible"),
        ("train.steps", "is not an override"),
        ("seed.x=1", "unknown key 'seed.x'"),
        ("model.d_model={", "cannot be read"),
        ("train.micro_batch_size=3", "does not divide a batch of 16"),
    ],
)
def test_wrong_overrides_get_one_line(override: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        load_recipe(None, ["seed=1", override])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_two_horizons_are_an_error() -> None:
    with pytest.raises(InputError, match="steps and tokens both set how long to train"):
        load_recipe(None, ["train.steps=3", "train.tokens=1000"])


@pytest.mark.slow
@given(
    n_heads=st.integers(1, 16),
    width=st.integers(1, 64),
    lr=st.floats(1e-9, 10),
    dropout=st.floats(0, 0.99),
    warmup=st.one_of(st.integers(0, 10_000), st.just("375M tokens")),
)
def test_yaml_round_trip(
    n_heads: int, width: int, lr: float, dropout: float, warmup: int | str
) -> None:
    recipe = recipe_from(
        {
            "model": {"n_heads": n_heads, "d_model": n_heads * width, "dropout": dropout},
            "optimizer": {"lr": lr},
            "schedule": {"warmup": warmup},
            "data": {"corpus": "some/folder"},
            "task": {"labels": ["no", "1", "ja"]},
        }
    )
    assert recipe_from(yaml.safe_load(recipe.to_yaml())) == recipe


@pytest.mark.parametrize("name", shipped_recipes())
def test_every_shipped_recipe_reads(name: str) -> None:
    load_recipe(name)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"- a\n- b\n", "not a recipe"),
        (b"model: [", "is not YAML"),
        (b"\xff\xfe\x00", "is not YAML"),
        (b"model: 3\n", "model=3 is impossible"),
        (b"!!python/object/apply:os.system ['true']", "is not YAML"),
        (b"seed: " + b"1" * (1 << 20), "too large"),
        (b'model: {"d_model\\n": 64}', r"unknown key 'model.d_model\n'; did you mean"),
    ],
)
def test_hostile_recipe_files(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        load_recipe(path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unknown_recipes_get_the_nearest_name() -> None:
    with pytest.raises(InputError, match="did you mean 'imdb'"):
        load_recipe("imbd")
    with pytest.raises(InputError, match=r"no such recipe file: x\.yaml"):
        load_recipe("x.yaml")


def test_a_key_of_another_task_says_of_which() -> None:
    with pytest.raises(
        InputError, match=r"'task\.spelling' is a key of other tasks: task\.name=clas"
    ):
        load_recipe(None, ["task.name=tag", "task.train=x", "task.spelling=true"])


def test_yaml_reads_on_as_a_boolean_and_means_on() -> None:
    assert load_recipe(None, ["system.compile=on"]).system.compile == "on"


def test_a_recipe_extends_another(tmp_path: Path) -> None:
    base, top = tmp_path / "base.yaml", tmp_path / "top.yaml"
    base.write_text("extends: cerebras-gpt/111m\nmodel: {d_model: 96}\n")
    top.write_text("extends: base.yaml\nname: top\noptimizer: {lr: 0.5}\n")
    recipe = load_recipe(top)
    assert (recipe.name, recipe.model.d_model, recipe.model.d_ffn) == ("top", 96, 384)
    assert (recipe.optimizer.lr, recipe.optimizer.beta2, recipe.model.n_layers) == (0.5, 0.95, 10)


def test_a_circle_of_recipes_is_refused(tmp_path: Path) -> None:
    circle = tmp_path / "circle.yaml"
    circle.write_text("extends: circle.yaml\n")
    with pytest.raises(InputError, match="extend each other"):
        load_recipe(circle)


def test_a_first_batch_of_its_own_size() -> None:
    train = load_recipe(
        None, ["train.first_steps=3", "train.first_batch_size=8", "train.batch_size=24"]
    ).train
    assert [train.samples(steps) for steps in (0, 2, 3, 5)] == [0, 16, 24, 72]
    assert [train.steps_for(samples) for samples in (1, 8, 17, 24, 25, 72)] == [1, 1, 3, 3, 4, 5]
    with pytest.raises(InputError, match="go together"):
        load_recipe(None, ["train.first_steps=3"])


def test_a_horizon_replaces_the_one_below_it(tmp_path: Path) -> None:
    recipe = load_recipe("cerebras-gpt/111m", ["train.tokens=1000000"])
    assert (recipe.train.tokens, recipe.train.steps) == (1_000_000, None)
    child = tmp_path / "child.yaml"
    child.write_text("extends: cerebras-gpt/111m\nmodel:\ntrain: {epochs: 2}\n")
    recipe = load_recipe(child)
    assert (recipe.train.epochs, recipe.train.steps, recipe.train.batch_size) == (2, None, 120)
    assert recipe.model.n_layers == 10
    with pytest.raises(InputError, match="both set how long"):
        load_recipe("cerebras-gpt/111m", ["train.tokens=10", "train.steps=3"])


@pytest.mark.parametrize("value", ["''", "false", "[a]", "{a: 1}", "7"])
def test_what_extends_nothing_is_refused(value: str, tmp_path: Path) -> None:
    child = tmp_path / "child.yaml"
    child.write_text(f"extends: {value}\n")
    with pytest.raises(InputError, match="is no recipe: write a name or a path"):
        load_recipe(child)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("13b", "did you mean 'cerebras-gpt/13b'"),
        ("imbd", "did you mean 'imdb'"),
        ("qqq", "a path"),
    ],
)
def test_an_unknown_recipe_lists_the_known_ones(name: str, hint: str) -> None:
    with pytest.raises(InputError, match=hint) as refused:
        load_recipe(name)
    assert "cerebras-gpt/2.7b-mup" in str(refused.value)


def test_a_batch_size_replaces_a_first_one() -> None:
    train = load_recipe("cerebras-gpt/13b", ["train.batch_size=8"]).train
    assert (train.batch_at(0), train.first_steps, train.first_batch_size) == (8, 0, 0)
