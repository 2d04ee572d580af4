"""What a fine-tuning without a recipe chooses by its rows."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tasks.test_finetune import sentences, write
from wafergpt.api import finetune
from wafergpt.config import Recipe, load_recipe
from wafergpt.config.files import flat
from wafergpt.tasks import chosen
from wafergpt.tasks.chosen import LORA_LR, with_choices, with_choices_for_tagging
from wafergpt.tasks.text_settings import TextTaskSettings
from wafergpt.train.finetuning import with_task

TINY = [
    "model.n_layers=1", "model.d_model=16", "model.n_heads=2", "model.seq_len=24",
    "model.vocab_size=280", "system.precision=fp32", "system.threads=1", "system.compile=off",
]  # fmt: skip


def of(rows: int, *overrides: str, text: str = "a short text", classes: int | None = 2) -> Recipe:
    recipe = load_recipe(None, ["task.name=classify", *overrides])
    asked = flat(recipe.model_dump(exclude_unset=True))
    return with_choices(recipe, asked, [text] * rows, classes)


@patch.object(chosen, "SAMPLED", 20)
@settings(max_examples=25)
@given(st.integers(1, 100_000))
def test_any_number_of_rows_gives_a_training(rows: int) -> None:
    train = of(rows).train
    assert 1 <= train.batch_size <= rows
    assert train.epochs is not None
    assert 2 <= train.epochs <= 15
    assert (of(4 * rows).train.epochs or 0) <= train.epochs


def test_adapters_learn_at_a_higher_rate() -> None:
    assert of(100, "lora.rank=8").optimizer.lr == LORA_LR > of(100).optimizer.lr
    assert of(100, "lora.rank=8", "optimizer.lr=0.01").optimizer.lr == 0.01
    assert of(100, "lora.rank=8", "optimizer.name=muon").optimizer.lr == Recipe().optimizer.lr


def test_what_was_asked_for_stays() -> None:
    asked = ["optimizer.lr=0.01", "train.steps=7", "task.pooling=last", "schedule.name=wsd"]
    recipe = of(100, *asked)
    assert isinstance(recipe.task, TextTaskSettings)
    assert (recipe.optimizer.lr, recipe.train.steps, recipe.train.epochs) == (0.01, 7, None)
    assert (recipe.task.pooling, recipe.schedule.name) == ("last", "wsd")
    assert recipe.evaluate.every == 7


def test_few_rows_are_evaluated_once_at_the_end_of_what_runs() -> None:
    assert of(1000, "train.batch_size=4", "train.epochs=30").evaluate.every == 7500
    assert of(1000, "train.seconds=9").evaluate.every == 0
    assert of(1000, "evaluate.patience=2").evaluate.every == 0
    assert of(1000, "evaluate.every=5").evaluate.every == 5
    assert of(5000).evaluate.every == 0


def test_a_micro_batch_keeps_its_batch() -> None:
    assert of(10, "train.micro_batch_size=16").train.batch_size == 16


def test_taggers_from_fresh_weights_are_small_and_make_more_passes() -> None:
    def tagged(*overrides: str, table_lr: float | None = 64.0) -> Recipe:
        recipe = load_recipe(None, ["task.name=tag", *overrides])
        asked = flat(recipe.model_dump(exclude_unset=True))
        return with_choices_for_tagging(recipe, asked, [["words"] * 20] * 8000, table_lr)

    small, usual = tagged("model.seq_len=64"), tagged(table_lr=None)
    assert (small.model.n_layers, small.model.d_model, small.model.d_ffn) == (2, 128, 512)
    assert (small.model.seq_len, small.train.epochs) == (64, 9)
    assert (usual.model.n_layers, usual.model.d_model, usual.train.epochs) == (4, 256, 3)
    own = tagged("model.n_layers=1")
    assert (own.model.n_layers, own.model.d_model, own.train.epochs) == (1, 256, 3)
    assert tagged("start=runs/base").model.n_layers == 4
    assert tagged("model.d_ffn=1024", "model.seq_len=64").model.d_ffn == 1024


def test_long_texts_are_scored_by_words() -> None:
    for text, kind in (("short", "characters"), ("long " * 100, "words")):
        assert getattr(of(50, text=text).task, "ngrams", "") == kind


def test_ratios_need_rows_of_each_class_and_long_texts_more_rows() -> None:
    for rows, classes, ratios in ((99, 2, False), (100, 2, True), (2000, 77, False)):
        assert getattr(of(rows, classes=classes).task, "ngram_ratios", None) == ratios
    for rows, labels, table in (
        (50, 2, 20), (50, 4, 20), (50, 5, 19), (50, 150, 14), (50, None, 20), (500, 2, 26),
    ):  # fmt: skip
        name = [] if labels else ["task.name=regress"]
        recipe = of(rows, *name, text="long " * 100, classes=labels)
        assert getattr(recipe.task, "ngram_rows", 0) == 1 << table
    assert getattr(of(500, "task.ngrams=none").task, "ngram_ratios", None) is False
    for asked, table in (("false", 16), ("true", 26)):
        recipe = of(500, f"task.ngram_ratios={asked}", classes=2)
        assert getattr(recipe.task, "ngram_rows", 0) == 1 << table


@pytest.mark.parametrize(
    "overrides",
    [["optimizer.name=sgd", "optimizer.weight_decay=0"], ["optimizer.l2=0.1"],
     ["system.device=cerebras"]],
)  # fmt: skip
def test_nothing_is_chosen_that_would_be_refused(overrides: list[str]) -> None:
    assert getattr(of(50, *overrides).task, "ngrams", "") == "none"


def test_a_recipe_is_left_as_it_is(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", sentences(60, 0))
    rows = [f"task.train={tmp_path / 'train.jsonl'}", "name=x"]
    recipe = load_recipe("demo-classify", rows)
    assert with_task(recipe, None) == recipe


def test_it_is_said_and_saved_and_resumed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "train.jsonl", sentences(60, 0))
    rows = [*TINY, f"task.train={tmp_path / 'train.jsonl'}", "train.epochs=1"]
    recipe = finetune("scratch", None, rows, root=tmp_path).run.recipe
    said = capsys.readouterr().err
    assert "chosen for 54 training rows: evaluate.every=4, model.dropout=0.1" in said
    assert said.count("train.jsonl: 60 rows") == 1
    assert isinstance(recipe.task, TextTaskSettings)
    assert (recipe.task.pooling, recipe.task.ngrams) == ("mean_max_last", "characters")
    assert recipe.train.batch_size == 16
    more = [*rows[:-1], "train.steps=6", "evaluate.every=2"]
    again = finetune("scratch", None, more, auto_resume=True, root=tmp_path).run
    assert again.read("result")["step"] == 6
