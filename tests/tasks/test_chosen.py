"""What a fine-tuning without a recipe chooses by its rows."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tasks.test_finetune import sentences, write
from wafergpt.api import finetune
from wafergpt.config import load_recipe
from wafergpt.tasks.chosen import KEYS, chosen
from wafergpt.tasks.text_task import TextTaskSettings
from wafergpt.train.finetuning import with_task

TINY = [
    "model.n_layers=1", "model.d_model=16", "model.n_heads=2", "model.seq_len=24",
    "model.vocab_size=280", "system.precision=fp32", "system.threads=1", "system.compile=off",
]  # fmt: skip


@given(st.integers(1, 10**7))
def test_any_number_of_rows_gives_a_training(rows: int) -> None:
    found = chosen(KEYS, rows)
    load_recipe(None, [f"{s}.{k}={v}" for s, keys in found.items() for k, v in keys.items()])
    train = found["train"]
    assert 1 <= train["batch_size"] <= rows
    assert 2 <= train["epochs"] <= 15
    assert chosen(KEYS, 4 * rows)["train"]["epochs"] <= train["epochs"]


def test_what_was_asked_for_stays() -> None:
    overrides = ["optimizer.lr=0.01", "train.steps=7", "task.pooling=last", "schedule.name=wsd"]
    recipe = with_task(load_recipe(None, overrides), None, chooses=True)
    assert isinstance(recipe.task, TextTaskSettings)
    assert set(KEYS) - set(recipe.task.chosen) == {
        "optimizer.lr", "train.epochs", "task.pooling", "schedule.name",
    }  # fmt: skip


@pytest.mark.parametrize(
    "override", ["optimizer.name=sgd", "optimizer.l2=0.1", "system.device=cerebras"]
)
def test_nothing_is_chosen_that_would_be_refused(override: str) -> None:
    recipe = with_task(load_recipe(None, [override]), None, chooses=True)
    assert isinstance(recipe.task, TextTaskSettings)
    assert "task.ngrams" not in recipe.task.chosen


def test_a_recipe_is_left_as_it_is() -> None:
    recipe = with_task(load_recipe("demo-classify"), None)
    assert isinstance(recipe.task, TextTaskSettings)
    assert not recipe.task.chosen


def test_it_is_said_and_saved(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "train.jsonl", sentences(60, 0))
    rows = [*TINY, f"task.train={tmp_path / 'train.jsonl'}", "train.epochs=1"]
    recipe = finetune("scratch", None, rows, root=tmp_path).run.recipe
    assert "chosen for 54 training rows: task.pooling=mean_max_last," in capsys.readouterr().err
    assert isinstance(recipe.task, TextTaskSettings)
    assert (recipe.task.pooling, recipe.task.ngrams) == ("mean_max_last", "characters")
    assert (recipe.train.batch_size, recipe.task.chosen) == (16, ())
