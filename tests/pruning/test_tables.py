"""Runs whose tables lose rows and tokens."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from tests.sparsity.test_masks import SMALL, corpus, zeros
from wafergpt.api import export, finetune, import_model, pretrain, prune, report
from wafergpt.checkpoint import store
from wafergpt.cli.prune import command
from wafergpt.errors import InputError
from wafergpt.inference.predictor import Predictor
from wafergpt.pruning import removal
from wafergpt.runs.run import Run

__all__ = ["corpus"]

WORDS = {"good": ["fine", "lovely", "great"], "bad": ["dull", "poor", "weak"]}
TEXTS = ["it is fine 3", "a dull film", "never read before: zebra"]


@pytest.fixture(scope="module")
def home(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A language model with n-grams, and two classifiers on top of it."""
    home = tmp_path_factory.mktemp("home")
    shape = ["model.ngrams=[2,3]", "model.ngram_rows=4096", f"data.corpus={corpus}"]
    pretrain(None, [*SMALL, *shape, "train.steps=40", "name=lm"], root=home)
    rows = home / "rows.csv"
    rows.write_text("text,label\n" + "".join(
        f"it is {word} {n},{label}\n"
        for n in range(20) for label, words in WORDS.items() for word in words))  # fmt: skip
    task = [f"task.train={rows}", "train.steps=40"]
    finetune("lm", None, [*task, "task.ngrams=words", "task.ngram_rows=4096",
                          "task.ngram_ratios=true", "task.pooling=mean", "name=clf"],
             root=home)  # fmt: skip
    finetune("lm", None, [*task, "task.ngrams=words", "task.ngram_rows=4096", "task.pooling=mean",
                          "name=whole"], root=home)  # fmt: skip
    finetune("lm", None, [*task, "task.ngrams=none", "task.pooling=last", "name=plain"],
             root=home)  # fmt: skip
    return home


def scores(run: Run, texts: list[str]) -> np.ndarray:
    answers = Predictor.load(run).predict(texts)
    return np.array([[*answer["scores"].values()] for answer in answers if answer])


@pytest.mark.parametrize("run", ["whole", "clf"])
def test_rows_that_no_text_reads_cost_nothing(home: Path, run: str) -> None:
    made = prune(run, f"{run}-used", rows=1.0, root=home)
    result = made.read("result")
    before, after = result["tables_before"], result["tables_after"]
    hashed = ["2-grams", "3-grams"]
    if run == "whole":
        hashed.append("n-gram scores")
    else:
        # With ratios there are none but those that two texts read, and some have a ratio of zero.
        assert 0 < after["n-gram scores"] < before["n-gram scores"] < 100
    assert before["tokens"] == 270
    assert all(before[name] == 4096 for name in hashed)
    assert all(after[name] < 0.4 * before[name] for name in hashed)
    assert result["val_loss_after"] == pytest.approx(result["val_loss_before"], rel=1e-3)
    size = sum(t.nbytes for t in dict(store.weights(made)).values())
    assert size == result["bytes_after"]
    if run == "whole":
        assert size < 0.5 * result["bytes_before"]
    read = [f"it is {word} {n}" for n, word in enumerate(WORDS["good"] + WORDS["bad"])]
    # The same factors of both scores, which are fitted again.
    assert made.recipe.task is not None
    assert Run(home / run).recipe.task is not None
    assert scores(made, read) == pytest.approx(scores(Run(home / run), read), rel=1e-4)


def test_the_rows_that_matter_most_stay(home: Path) -> None:
    result = prune("clf", "few", rows=0.2, root=home).read("result")
    least = prune("clf", "fewest", rows=0.001, root=home).read("result")
    used = prune("clf-used", "used-few", rows=0.2, root=home)
    # Out of all rows, or out of those that are left of them.
    assert used.read("result")["tables_after"] == result["tables_after"]
    few, again = (dict(store.weights(run)) for run in (Run(home / "few"), used))
    assert all(torch.equal(few[name], again[name]) for name in few)
    assert least["tables_after"] == {**least["tables_before"], "2-grams": 1, "3-grams": 1,
                                     "n-gram scores": 1} | {
        name: rows for name, rows in least["tables_after"].items() if rows > 1}  # fmt: skip
    assert result["val_loss_after"] < least["val_loss_after"]


@pytest.mark.slow
def test_tokens_go_with_their_ids_in_hashes_kept(home: Path) -> None:
    made = prune("clf", "tokens", vocabulary=True, root=home)
    result = made.read("result")
    assert 257 < made.recipe.model.vocab_size == result["tables_after"]["tokens"] < 270
    assert result["val_loss_after"] == pytest.approx(result["val_loss_before"], rel=1e-3)
    read = ["it is fine 3", "it is dull 8"]
    assert scores(made, read) == pytest.approx(scores(Run(home / "clf"), read), rel=1e-4)
    assert len(scores(made, TEXTS)) == 3
    both = prune("tokens", "tokens-rows", rows=1.0, root=home)
    assert scores(both, read) == pytest.approx(scores(made, read), rel=1e-4)
    once = prune("clf", "at-once", rows=1.0, vocabulary=True, root=home)
    one, two = (dict(store.weights(run)) for run in (both, once))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.slow
def test_it_is_exported_imported_and_pruned_further(home: Path) -> None:
    pytest.importorskip("transformers", reason="exports are compared with transformers")
    made = prune("plain", "plain-small", rows=0.5, vocabulary=True, root=home)
    done = export(made, home / "hf")
    assert done["max_relative_logit_difference"] < 1e-4
    imported = import_model(home / "hf", "imported", root=home)
    assert scores(imported, TEXTS) == pytest.approx(scores(made, TEXTS), rel=0.01)
    sparse = prune("plain-small", "plain-sparse", method="magnitude", sparsity=0.3, root=home)
    assert sparse.recipe.model.ngram_kept == made.recipe.model.ngram_kept
    small = prune("plain-small", "plain-narrow", channels=40, samples=8, root=home)
    assert len(scores(small, TEXTS)) == 3


@pytest.mark.slow
def test_what_is_left_is_trained_on(home: Path) -> None:
    made = prune("clf", "again", rows=0.2, vocabulary=True, sparsity=0.5, method="magnitude",
                 retrain=8, root=home)  # fmt: skip
    pruned, result = Run(home / "again-pruned"), made.read("result")["retraining"]
    assert result["tables_after"] == pruned.read("result")["tables_after"]
    assert result["tables_after"]["2-grams"] < result["tables_before"]["2-grams"]
    assert result["val_loss_retrained"] < result["val_loss_after"]
    assert made.recipe.model == pruned.recipe.model
    first, then = (dict(store.weights(run)) for run in (pruned, made))
    for name, value in first.items():
        if "kept" in name or name.endswith((".ids", "ratios")):
            assert torch.equal(then[name], value), name
        if "ngrams" in name and name.endswith(".weight"):
            # The row of those that were taken out.
            assert not then[name][0].any()
            assert not torch.equal(then[name], value)
    assert zeros(made) == pytest.approx(zeros(pruned)) == pytest.approx(0.5, abs=0.01)
    read = ["it is fine 3", "it is dull 8"]
    assert [answer["label"] for answer in Predictor.load(made).predict(read) if answer] == [
        "good", "bad"]  # fmt: skip
    # Measured on the tokens that are left.
    assert made.read("result")["val_loss"] == pytest.approx(result["val_loss_retrained"], rel=0.01)


def test_tables_are_shown_behind_a_retraining(home: Path) -> None:
    words = ["clf", "--rows=50%", "--retrain=1", "--name=shown", f"--runs={home}"]
    shown = CliRunner().invoke(command, words, catch_exceptions=False)
    row = next(line for line in shown.stdout.splitlines() if line.startswith("2-grams"))
    left = Run(home / "shown").recipe.model.ngram_kept[0]
    assert row.split() == ["2-grams", "4,096", str(left), str(left)]
    report("shown", root=home)
    assert f"<td>{left}</td>" in (home / "shown" / "report.html").read_text()


@pytest.mark.slow
def test_a_teacher_of_all_rows(home: Path) -> None:
    made = prune("clf", "taught", rows=0.5, retrain=2, distill=True, root=home)
    assert made.recipe.train.teacher == (home / "clf").resolve()


@pytest.mark.slow
def test_the_smallest_has_tables_of_one_size(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(removal, "SEARCHED_SIZES", 2)
    made = prune("whole", "least", rows=0.5, method="magnitude", sparsity=0.4, retrain=2,
                 max_loss_increase=10.0, root=home)  # fmt: skip
    assert made.name == "least-s40"
    assert made.recipe.model.ngram_kept
    assert zeros(made) == pytest.approx(0.4, abs=0.01)


def test_rows_are_not_asked_for_in_a_recipe(home: Path, corpus: Path) -> None:
    asked = [*SMALL, f"data.corpus={corpus}", "model.ngrams=[2]", "train.steps=2", "name=never"]
    with pytest.raises(InputError, match=r"model\.ngram_kept is set by prune"):
        pretrain(None, [*asked, "model.ngram_kept=[5]"], root=home)
    task = [f"task.train={home / 'rows.csv'}", "task.ngrams=words", "train.steps=2", "name=never"]
    with pytest.raises(InputError, match=r"task\.ngram_kept is set by prune"):
        finetune("lm", None, [*task, "task.ngram_kept=5"], root=home)
    with pytest.raises(InputError, match="was pruned, not trained here"):
        pretrain(resume=prune("clf", "no-resume", rows=1.0, root=home), root=home)
    assert not (home / "never").exists()


@pytest.mark.slow
def test_the_command_and_the_report(home: Path) -> None:
    words = ["clf", "--rows=used", "--vocabulary", "--name=cli", "--runs", str(home)]
    done = CliRunner().invoke(command, words)
    assert done.exit_code == 0, done.output
    assert "of 4,096 2-grams" in done.stdout
    assert "wafergpt predict cli" in done.stdout
    page = report("cli", root=home).read_text(encoding="utf-8")
    assert "clf in " in page
    assert "<td>4,096</td>" in page
    assert "Before and after" in page
    assert "Loss, speed and size" in page
    shown = CliRunner().invoke(command, [*words[:2], "--name=cli2", "--json", *words[-2:]])
    assert json.loads(shown.stdout.splitlines()[-1])["tables_after"]["tokens"] == 270


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["lm", "--rows", "50%"], "is no classifier or regression"),
        (["clf", "--rows", "0"], "a share of 0 is not above 0"),
        (["clf", "--rows", "150%"], "a share of 1.5 is not above 0 and at most 1"),
        (["clf", "--rows", "many"], "'many' is no share"),
        (["clf", "--rows", "50%", "--curves"], "--curves are of zeros alone"),
        (["clf", "--rows", "50%", "--layers", "1", "--sparsity", "20%"], "one after the other"),
        (["clf", "--rows", "50%", "--layers", "9"], "9 layers are not between"),
        (["clf", "--vocabulary", "--retrain", "1", "--distill"], "--distill needs a teacher"),
        (["clf", "--rows", "50%", "--name", "lm"], "lm exists"),
    ],
)
def test_mistakes_are_one_line(home: Path, arguments: list[str], named: str) -> None:
    done = CliRunner().invoke(command, ["--name", "never", *arguments, "--runs", str(home)])
    assert done.exit_code != 0
    assert named in f"{done.exception}{done.output}"
    assert not (home / "never").exists()


def test_nothing_to_take_out_is_said(home: Path, corpus: Path) -> None:
    asked = [*SMALL, f"data.corpus={corpus}", "train.steps=2", "name=bare"]
    pretrain(None, asked, root=home)
    finetune("bare", None, [f"task.train={home / 'rows.csv'}", "task.ngrams=none",
                            "train.steps=2", "name=bare-clf"], root=home)  # fmt: skip
    with pytest.raises(InputError, match="has no tables of n-grams"):
        prune("bare-clf", "never", rows=1.0, root=home)
    prune("bare-clf", "bare-small", vocabulary=True, root=home)
    with pytest.raises(InputError, match="need every row and token of bare-small"):
        prune("bare-small", "never", vocabulary=True, root=home)
