"""Tokenizers of other makers, and texts that are none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.hostile import folders
from tests.hostile.inputs import judged
from wafergpt.config import Recipe
from wafergpt.data.labelled_rows import read_table, read_texts
from wafergpt.data.tokenizer import Tokenizer
from wafergpt.inference.writer import Writer

TOKENIZERS: dict[str, dict[str, Any]] = {
    "padded": {"padding": {
        "strategy": {"Fixed": 10**6}, "direction": "Right", "pad_to_multiple_of": None,
        "pad_id": 0, "pad_type_id": 0, "pad_token": "x",
    }},
    "cut": {"truncation": {
        "max_length": 2, "strategy": "LongestFirst", "direction": "Right", "stride": 0,
    }},
}  # fmt: skip


@pytest.mark.parametrize("change", TOKENIZERS.values(), ids=TOKENIZERS)
def test_a_text_is_neither_filled_nor_cut(change: dict[str, Any]) -> None:
    plain = folders.tokenizer()
    odd = Tokenizer(json.dumps({**plain.definition, **change}))
    assert odd.encode("a few words") == plain.encode("a few words")
    assert odd.encode_batch(["a few", "words"]) == plain.encode_batch(["a few", "words"])


def test_ids_beyond_the_vocabulary_are_refused() -> None:
    definition = folders.tokenizer().definition
    definition["model"]["vocab"]["<|endoftext|>"] = 4_000_000_000
    assert "the id 4,000,000,000" in judged(lambda: Tokenizer(json.dumps(definition)))[1]


def test_a_pattern_without_an_end_gives_up(capfd: pytest.CaptureFixture[str]) -> None:
    split = {
        "type": "Split",
        "pattern": {"Regex": "(a+)+$"},
        "behavior": "Isolated",
        "invert": False,
    }
    tokenizer = Tokenizer(json.dumps({**folders.tokenizer().definition, "pre_tokenizer": split}))
    assert "cannot read a text" in judged(lambda: tokenizer.encode("a" * 4000 + "b"))[1]


def test_half_a_character_is_no_text(tmp_path: Path) -> None:
    for encode in (Tokenizer.encode, lambda t, text: t.encode_batch([text])):
        said = judged(lambda e=encode: e(folders.tokenizer(), "a\ud800"))[1]  # type: ignore[misc]
        assert "lone surrogate" in said
    path = tmp_path / "a.jsonl"
    for row in ('{"text": "\\ud800", "label": "x"}', '{"text": "a", "label": "\\ud800"}'):
        path.write_text(row)
        assert "line 1: a lone surrogate" in judged(lambda: read_table(path))[1]
    path.write_text('{"text": "\\ud800"}')
    assert "line 1: a lone surrogate" in judged(lambda: read_texts(path))[1]


def test_a_tokenizer_of_another_network_is_refused(tmp_path: Path) -> None:
    run = folders.make_run(tmp_path)
    recipe = run.recipe
    definition = folders.tokenizer().definition
    for n in range(20):
        definition["model"]["vocab"][f"more{n}"] = 262 + n
    run.tokenizer.write_text(json.dumps(definition))
    run.save_recipe(Recipe.model_validate({**recipe.model_dump(), "task": None}))
    assert "282 tokens, the model only 270" in judged(lambda: Writer.load(run))[1]
