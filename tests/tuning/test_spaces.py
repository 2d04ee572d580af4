"""Spaces: what is read, what is refused, and that values come back as they were."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from wafergpt.config import Recipe, load_recipe
from wafergpt.errors import InputError
from wafergpt.tuning.spaces import (
    MOST,
    Space,
    combinations,
    default_spaces,
    is_space,
    read_spaces,
    short_names,
    spaces_of_mup,
)


def drawn(space: Space, seed: int = 0) -> str:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    return space.drawn(study.ask())


@given(st.floats(1e-6, 1e3), st.floats(1.01, 1e3), st.booleans(), st.integers(0, 99))
def test_a_drawn_number_is_inside_and_comes_back(
    low: float, factor: float, log: bool, seed: int
) -> None:
    space = Space.read("optimizer.lr", f"{low!r}..{low * factor!r}{':log' if log else ''}")
    value = float(drawn(space, seed))
    assert low <= value <= low * factor
    assert float(space.written(value)) == value
    assert [float(end) for end in space.ends()] == pytest.approx([low, low * factor], rel=5e-3)


@given(st.integers(0, 10**6), st.integers(1, 10**6), st.integers(0, 99))
def test_whole_ends_give_whole_numbers(low: int, more: int, seed: int) -> None:
    value = drawn(Space.read("train.steps", f"{low}..{low + more}", whole=True), seed)
    assert low <= int(value) <= low + more


def test_numbers_near_one_are_told_apart() -> None:
    """Three digits of what they are above the low end: 0.9999 is not 1."""
    space = Space.read("optimizer.beta2", "0.95..0.9999")
    assert space.ends() == ("0.95", "0.9999")
    assert len({drawn(space, seed) for seed in range(40)}) > 35
    assert len({drawn(Space.read("a", "0.1234..0.12349"), seed) for seed in range(20)}) > 15


def test_a_key_says_whether_numbers_are_whole() -> None:
    found = _of(
        Recipe(), train__batch_size="1e1..2e1", optimizer__weight_decay="0..1",
        train__epochs="1..10", schedule__warmup="1%..2%",
    )  # fmt: skip
    assert [space.whole for space in found.values()] == [True, False, True, True]
    assert drawn(found["train.batch_size"]).isdecimal()
    # Of a default that is not whole, nothing is known in a space of whole numbers.
    assert found["train.epochs"].parameter(3.5, float) is None
    assert found["train.epochs"].parameter(3.0, float) == 3
    assert found["optimizer.weight_decay"].parameter(0.1, float) == 0.1


def test_keys_of_the_same_last_part_keep_their_names() -> None:
    keys = ["optimizer.name", "schedule.name", "optimizer.lr"]
    assert list(short_names(keys).values()) == ["optimizer.name", "schedule.name", "lr"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("3..1", "is empty: its low end comes first"),
        ("1..1", "is empty"),
        ("0..1:log", "a logarithmic scale starts above 0"),
        ("-1..1:log", "a logarithmic scale starts above 0"),
        ("1..2:ln", "':ln' is no scale"),
        ("1%..2", "both ends have the same unit"),
        ("1..", "is no space"),
        ("..", "is no space"),
        ("1", "is no space"),
        ("a,", "is no space"),
        ("1e999..2", "is empty"),
        ("1..1e999", "is empty"),
        ("nan..1", "is no space"),
    ],
)
def test_what_is_no_space_is_named(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Space.read("optimizer.lr", text)


@pytest.mark.parametrize("text", ["1%..10%", "1..10%"])
def test_percents_keep_their_sign(text: str) -> None:
    space = Space.read("schedule.warmup", text)
    assert drawn(space).endswith("%")
    assert space.parameter("5%", str) == 5
    assert space.parameter("5", str) is None


@pytest.mark.parametrize(
    ("argument", "found"),
    [
        ("optimizer.lr=1e-4..1e-2:log", True),
        ("train.batch_size=8,16", True),
        ("schedule.name=cosine,linear", True),
        ("optimizer.lr=1e-4", False),
        ("task.train=a,b.csv", False),
        ("task.train=../rows.csv", False),
        ("task.text=title,body", False),
        ("model.ngrams=[2,3]", False),
        ("model.ngrams=2,3", False),
        ("model.ngrams=[2],[2,3]", True),
        ("model.ngrams=[], [2, 3]", True),
        ("lora.roles=[qkv],[qkv,ffn_in]", True),
        ("task.text=[a],[b]", False),
        ("optimizer.lr=[1],[2]", False),
        ("name=a..b", False),
        ("nokey=1..2", False),
    ],
)
def test_what_is_a_space_and_what_a_value(argument: str, found: bool) -> None:
    assert is_space(argument, "classify") is found


def _of(recipe: Recipe, **texts: str) -> dict[str, Space]:
    def changed(changes: object) -> Recipe:
        return load_recipe(None, list(changes))  # type: ignore[call-overload]

    return read_spaces(
        {key.replace("__", "."): text for key, text in texts.items()}, recipe, changed
    )


@pytest.mark.parametrize(
    ("key", "text", "message"),
    [
        ("optimizer__lrr", "1..2", "no key 'optimizer.lrr' to tune; did you mean 'optimizer.lr'"),
        ("model__dropout", "0.0..1.5", "model.dropout=0.0..1.5 is impossible: .*1.5"),
        ("schedule__name", "cosine,sine", "is impossible: .*sine"),
        ("train__batch_size", "0..4", "is impossible"),
        ("model__ngrams", "2,3", r"'2,3': the key has a list; write \[a\],\[a,b\]"),
        ("model__ngrams", "[2],[x]", r"model.ngrams=\[2\],\[x\] is impossible"),
        ("model__ngrams", "[2],[ 2 ]", "is no space"),
        ("task__text", "[a],[b]", "no setting that can be tuned"),
        ("data__corpus", "a,b", "no setting that can be tuned"),
        ("seed", "1..5", "no setting that can be tuned"),
        ("name", "a,b", "no setting that can be tuned"),
        # Trials would be compared on other rows, or by other means.
        ("task__held_out", "0.1,0.3", "no setting that can be tuned"),
        ("task__folds", "2,3", "no setting that can be tuned"),
        ("evaluate__batches", "1..9", "no setting that can be tuned"),
        ("system__nproc", "1,2", "no setting that can be tuned"),
        ("checkpoint__every", "1,2", "no setting that can be tuned"),
    ],
)
def test_keys_that_cannot_be_tuned(key: str, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        _of(Recipe(), **{key: text})


def test_defaults_hold_the_recipes_own_values(tmp_path: Path) -> None:
    task = ["task.train=x.csv", "task.ngrams=words", "train.epochs=3", "optimizer.lr=6e-4"]
    for overrides in ([], ["model.parametrization=mup"], task, ["optimizer.name=muon"]):
        recipe = load_recipe(None, overrides)
        spaces = default_spaces(recipe)
        assert "optimizer.lr" in spaces
        lr = Space.read("optimizer.lr", spaces["optimizer.lr"])
        assert lr.parameter(recipe.optimizer.lr, float) == recipe.optimizer.lr
        assert ("optimizer.task_ngram_lr" in spaces) == (overrides == task)
        assert ("model.init_std" in spaces) == (recipe.model.parametrization == "mup")


def test_choices_know_a_default_that_is_written_otherwise() -> None:
    space = Space.read("optimizer.lr", "0.001,3e-3")
    assert space.parameter(0.003, float) == "3e-3"
    assert space.parameter(0.004, float) is None
    assert Space.read("model.tied", "true,false").parameter(True, lambda text: text == "true")


@given(st.lists(st.lists(st.integers(2, 9), max_size=3), min_size=2, max_size=5, unique_by=tuple))
def test_lists_come_back_as_they_were(lists: list[list[int]]) -> None:
    text = ", ".join(map(str, lists))
    space = Space.read("model.ngrams", text)
    assert [yaml.safe_load(choice) for choice in space.choices] == lists
    for value, choice in zip(lists, space.choices, strict=True):
        assert space.parameter(value, yaml.safe_load) == choice
    assert space.parameter([1], yaml.safe_load) is None


def test_what_mup_does_not_transfer_is_named() -> None:
    recipe = load_recipe("mup-check", [])
    assert spaces_of_mup(recipe, ["lr"])[0].startswith("optimizer.lr=")
    with pytest.raises(InputError, match="no setting 'beta3'"):
        spaces_of_mup(recipe, ["beta3"])


def test_a_section_of_a_recipe_may_have_lists(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(
        "tune:\n  train.batch_size: [8, 16]\n  optimizer.lr: 1e-4..1e-2:log\n"
        "  model.ngrams: [[], [2, 3]]\n  lora.roles: '[qkv],[qkv, ffn_in]'\n"
    )
    recipe = load_recipe(path)
    assert recipe.tune == {
        "train.batch_size": "8,16",
        "optimizer.lr": "1e-4..1e-2:log",
        "model.ngrams": "[],[2,3]",
        "lora.roles": "[qkv],[qkv, ffn_in]",
    }
    found = {key: Space.read(key, text).choices for key, text in recipe.tune.items()}
    assert found["model.ngrams"] == ("[]", "[2,3]")
    assert found["lora.roles"] == ("[qkv]", "[qkv,ffn_in]")


def test_a_grid_has_an_end() -> None:
    many = ",".join(map(str, range(101)))
    spaces = {key: Space.read(key, many) for key in ("a", "b")}
    assert MOST < 101**2
    with pytest.raises(InputError, match="a grid of 10,201 combinations is no search"):
        combinations(spaces)
