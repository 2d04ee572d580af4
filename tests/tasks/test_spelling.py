"""Classifiers that read mistyped words as those of the training texts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.tasks.test_finetune import SMALL, sentences, write
from wafergpt.api import export, finetune, prune
from wafergpt.data.smaller_vocabulary import without_unused
from wafergpt.data.tokenizer import Tokenizer
from wafergpt.errors import InputError
from wafergpt.inference.predictor import Predictor

ASKED = ["train.epochs=1", "task.spelling=true", *SMALL]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    root = tmp_path_factory.mktemp("spelling")
    write(root / "rows.jsonl", sentences(60, seed=1))
    asked = [f"task.train={root / 'rows.jsonl'}", *ASKED, "name=clf"]
    return finetune("scratch", None, asked, root=root)


def test_mistyped_words_are_read_as_known_ones(trained: Predictor, tmp_path: Path) -> None:
    words = json.loads((trained.run.path / "spelling.json").read_text())
    known = max((word for word in words if words[word] >= 5 and len(word) >= 5), key=len)
    mistyped = known[:-2] + known[-1] + known[-2]
    assert mistyped not in words
    assert trained.predict(f"A {mistyped}.") == trained.predict(f"A {known}.")
    # A run that goes on reads with the words of the one before.
    write(tmp_path / "more.jsonl", sentences(20, seed=3))
    asked = [f"task.train={tmp_path / 'more.jsonl'}", "train.steps=1", "name=more"]
    more = finetune(trained.run, None, asked, root=tmp_path)
    assert json.loads((more.run.path / "spelling.json").read_text()) == words
    plain = finetune(
        trained.run, None, [*asked, "task.spelling=false", "name=plain"], root=tmp_path
    )
    assert not (plain.run.path / "spelling.json").exists()
    pruned = prune(trained.run, "pruned", sparsity=0.5, root=tmp_path)
    tokenizer = Tokenizer.load(pruned.tokenizer)
    assert tokenizer.spelling is not None
    smaller, _ = without_unused(tokenizer, set(tokenizer.encode("film")))
    assert smaller.spelling is tokenizer.spelling


def test_it_has_no_form_in_transformers(tmp_path: Path) -> None:
    write(tmp_path / "rows.jsonl", sentences(20, seed=1))
    asked = [f"task.train={tmp_path / 'rows.jsonl'}", "task.ngrams=none", "name=clf", *ASKED]
    clf = finetune("scratch", None, asked, root=tmp_path)
    with pytest.raises(InputError, match=r"task\.spelling has no form"):
        export(clf.run, tmp_path / "hf", "hf")
    assert not (tmp_path / "hf").exists()


def test_texts_without_letters_are_said_to_gain_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [(f"{'好坏'[n % 2]}电影{n}", "ab"[n % 2]) for n in range(40)]
    write(tmp_path / "rows.jsonl", rows)
    finetune("scratch", None, [f"task.train={tmp_path / 'rows.jsonl'}", *ASKED], root=tmp_path)
    assert "task.spelling changes nothing" in capsys.readouterr().err


def test_a_damaged_list_is_refused(trained: Predictor, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(trained.run.tokenizer.read_text())
    for damage, said in (("[]", "object"), ('{"a": "b"}', "a count"), ("{", "JSON")):
        (tmp_path / "spelling.json").write_text(damage)
        with pytest.raises(InputError, match=said):
            Tokenizer.load(tmp_path)
