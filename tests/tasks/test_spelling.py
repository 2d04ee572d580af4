"""Classifiers that read mistyped words as those of the training texts."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.tasks.test_finetune import SMALL, sentences, write
from wafergpt.api import export, finetune, prune
from wafergpt.cli.predict import command as predict
from wafergpt.cli.runs import command as verify
from wafergpt.data.prepare import prepare
from wafergpt.data.smaller_vocabulary import without_unused
from wafergpt.data.tokenizer import Tokenizer
from wafergpt.errors import InputError
from wafergpt.inference.predictor import Predictor
from wafergpt.runs.run import Run

ASKED = ["train.epochs=1", "task.spelling=true", *SMALL]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    root = tmp_path_factory.mktemp("spelling")
    write(root / "rows.jsonl", sentences(60, seed=1))
    asked = [f"task.train={root / 'rows.jsonl'}", *ASKED, "name=clf"]
    return finetune("scratch", None, asked, root=root)


def words_of(run: Run) -> dict[str, int]:
    words: dict[str, int] = json.loads((run.path / "spelling.json").read_text())
    return words


def test_mistyped_words_are_read_as_known_ones(trained: Predictor) -> None:
    words = words_of(trained.run)
    known = next(word for word in words if words[word] >= 5 and len(word) >= 6)
    mistyped = known[:-2] + known[-1] + known[-2]
    assert mistyped not in words
    assert trained.predict(f"A {mistyped}.") == trained.predict(f"A {known}.")
    asked = [str(trained.run.path), "--text", f"A {mistyped}.", "--text", "A film."]
    result = CliRunner().invoke(predict, asked, catch_exceptions=False)
    assert f"read as other words (task.spelling): {mistyped} as {known}" in result.stderr
    assert len(result.stdout.splitlines()) == 2


def test_a_run_that_goes_on_knows_the_words_of_both(trained: Predictor, tmp_path: Path) -> None:
    words = words_of(trained.run)
    known = next(word for word in words if words[word] >= 5 and len(word) >= 6)
    other = f"{known}s"
    write(tmp_path / "more.jsonl", [(f"{text} {other}", y) for text, y in sentences(20, seed=3)])
    asked = [f"task.train={tmp_path / 'more.jsonl'}", "train.steps=1"]
    more = finetune(trained.run, None, [*asked, "name=more"], root=tmp_path).run
    assert all(words_of(more)[word] >= count for word, count in words.items())
    assert words_of(more)[other] >= 18
    asked += ["task.spelling=false", "name=plain"]
    plain = finetune(trained.run, None, asked, root=tmp_path).run
    assert not (plain.path / "spelling.json").exists()


def test_a_resumed_run_reads_with_its_own_words(trained: Predictor, tmp_path: Path) -> None:
    write(tmp_path / "rows.jsonl", sentences(60, seed=1))
    copied = tmp_path / "clf"
    shutil.copytree(trained.run.path, copied)
    before = words_of(trained.run)
    # As if another version had learned other words.
    (copied / "spelling.json").write_text(json.dumps({**before, "another": 7}))
    asked = ["train.steps=9", f"task.train={tmp_path / 'rows.jsonl'}"]
    longer = finetune(None, None, asked, resume=copied, root=tmp_path)
    assert longer.tokenizer.spelling is not None
    assert longer.tokenizer.spelling.words == {**before, "another": 7}
    (copied / "spelling.json").unlink()
    shown = CliRunner().invoke(verify, ["verify", str(copied)], standalone_mode=False)
    assert "spelling.json: missing" in shown.stdout
    assert shown.return_value == 1
    with pytest.raises(InputError, match=r"spelling\.json"):
        Predictor.load(Run(copied)).predict("A film.")
    with pytest.raises(InputError, match=r"spelling\.json is missing"):
        finetune(None, None, ["train.steps=12"], resume=copied, root=tmp_path)
    with pytest.raises(InputError, match=r"spelling\.json is missing"):
        finetune(copied, None, [asked[1], "name=next"], root=tmp_path)


def test_words_stay_with_their_task(trained: Predictor, tmp_path: Path) -> None:
    write(tmp_path / "rows.jsonl", sentences(60, seed=1))
    rows, folder = tmp_path / "rows.jsonl", trained.run.path
    corpus = prepare(rows, tmp_path / "corpus", tokenizer=folder)
    assert corpus.tokenizer.spelling is None
    # Nor are texts that one has changed read by the other, as a teacher.
    asked = [f"task.train={rows}", "train.steps=1", *SMALL, f"train.teacher={folder}"]
    with pytest.raises(InputError, match=r"reads with other words \(task\.spelling\)"):
        finetune(trained.run, None, [*asked, "task.spelling=false", "name=pupil"], root=tmp_path)
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
    asked = [f"task.train={tmp_path / 'rows.jsonl'}", *ASKED, "name=clf"]
    clf = finetune("scratch", None, asked, root=tmp_path)
    assert "task.spelling corrects no word" in capsys.readouterr().err
    assert words_of(clf.run) == {}
    assert Predictor.load(clf.run).predict("好电影") is not None


def test_a_damaged_list_is_refused(trained: Predictor, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(trained.run.tokenizer.read_text())
    for damage, said in (("[]", "object"), ('{"a": "b"}', "a count"), ("{", "JSON")):
        (tmp_path / "spelling.json").write_text(damage)
        with pytest.raises(InputError, match=said):
            Tokenizer.load(tmp_path)
