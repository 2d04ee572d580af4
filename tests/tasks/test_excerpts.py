"""Sentences of training texts, as rows of their own."""

from __future__ import annotations

from pathlib import Path

import pytest

from wafergpt.api import finetune
from wafergpt.config import load_recipe
from wafergpt.data.labelled_rows import Table
from wafergpt.data.tokenizer import Tokenizer
from wafergpt.errors import InputError
from wafergpt.tasks.augmented import excerpts
from wafergpt.tasks.base import task_of

LONG = "I saw it twice. Why? The plot was thin, but Mr. Brown was good!\nNot bad at all."
SENTENCES = {"I saw it twice.", "The plot was thin, but Mr. Brown was good!", "Not bad at all."}
CHINESE = "房间很大。服务不好！下次不来了。"


def test_they_are_sentences_of_their_text_with_its_label() -> None:
    table = Table([LONG, CHINESE, "One only.", "?"], ["a", "b", "c", "d"])
    first, second = excerpts(table, 2, seed=1)
    assert {first.texts[0], second.texts[0]} < SENTENCES
    assert first.texts[0] != second.texts[0]
    assert {first.texts[1], second.texts[1]} < {"房间很大。", "服务不好！", "下次不来了。"}
    assert (first.texts[2:], second.texts[2:]) == (["One only.", "?"], ["One only.", "?"])
    assert first.labels == second.labels == table.labels
    assert excerpts(table, 2, seed=1) == [first, second]
    drawn = {one.texts[0] for seed in range(20) for one in excerpts(table, 1, seed)}
    assert drawn == SENTENCES
    # Three sentences, and the text itself for want of a fourth.
    assert {one.texts[0] for one in excerpts(table, 4, seed=0)} == {*SENTENCES, LONG}


def test_a_training_reads_them_too(tmp_path: Path) -> None:
    lines = [
        f"{' '.join(f'This is film {one}.' for one in range(n, n + 30))}\t{'ab'[n % 2]}"
        for n in range(40)
    ]
    (tmp_path / "rows.tsv").write_text("text\tlabel\n" + "\n".join(lines) + "\n")
    asked = [
        f"task.train={tmp_path / 'rows.tsv'}", "model.n_layers=1", "model.d_model=16",
        "model.n_heads=2", "model.vocab_size=300", "train.epochs=1", "train.batch_size=4",
    ]  # fmt: skip
    plain = finetune("scratch", None, [*asked, "name=plain"], root=tmp_path).run.read("result")
    more = finetune("scratch", None, [*asked, "task.excerpts=2", "name=more"], root=tmp_path).run
    assert more.read("result")["step"] == 3 * plain["step"]
    splits = task_of(more.recipe).prepare(Tokenizer.load(more.tokenizer))[1]
    ngrams = [len(splits.train.batch(first, 1)["ngrams"][0].nonzero()) for first in range(108)]
    assert len([count for count in ngrams if count]) == 36
    assert plain["tokens"] < more.read("result")["tokens"] < 2 * plain["tokens"]


@pytest.mark.parametrize("other", ["task.consistency=1", "task.text=[title, text]"])
def test_what_they_do_not_go_with(other: str) -> None:
    asked = ["task.name=classify", "task.excerpts=1", "task.augment=[typos]", other]
    with pytest.raises(InputError, match=r"task\.excerpts is for texts of one column"):
        load_recipe(None, asked)
