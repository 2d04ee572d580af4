"""Runs pruned after training."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.sparsity.test_masks import SMALL, blocks, corpus, zeros
from wafergpt.api import export, finetune, import_model, pretrain, prune, report
from wafergpt.checkpoint import store
from wafergpt.cli.prune import command
from wafergpt.errors import InputError
from wafergpt.inference.predictor import Predictor
from wafergpt.pruning import unstructured
from wafergpt.runs.run import Run
from wafergpt.sparsity import criteria

__all__ = ["corpus"]


@pytest.fixture(scope="module")
def home(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A language model and a classifier on top of it."""
    home = tmp_path_factory.mktemp("home")
    asked = [*SMALL, f"data.corpus={corpus}", "train.steps=200", "optimizer.lr=3e-3", "name=lm"]
    base = pretrain(None, asked, root=home)
    rows = home / "rows.csv"
    rows.write_text("text,label\n" + "".join(f"it is {w} {n},{w}\n" for n in range(40)
                                             for w in ("good", "bad")))  # fmt: skip
    finetune(base, None, [f"task.train={rows}", "train.steps=60", "name=clf"], root=home)
    return home


@pytest.mark.parametrize("method", ["magnitude", "wanda", "sparsegpt"])
@pytest.mark.parametrize("pattern", [False, True])
def test_a_language_model_keeps_half(home: Path, method: str, pattern: bool) -> None:
    made = prune("lm", f"{method}-{pattern}", method=method, pattern=pattern, samples=16, root=home)  # type: ignore[arg-type]
    result = made.read("result")
    assert zeros(made) == pytest.approx(0.5, abs=0.01)
    assert result["sparsity"] == pytest.approx(zeros(made), abs=1e-3)
    assert result["val_loss_after"] > result["val_loss_before"]
    weights = blocks(store.weights(made).items())
    lost = sum(int((w == 0).sum()) for w in weights.values())
    assert result["parameters_before"] - result["parameters_after"] == lost
    assert result["flops_before"] - result["flops_after"] == 2 * 32 * lost
    assert result["bytes_before"] == result["bytes_after"] == 4 * result["parameters_before"]
    if pattern:
        for matrix in weights.values():
            assert ((matrix != 0).unflatten(1, (-1, 4)).sum(2) <= 2).all()


def test_methods_that_look_at_inputs_lose_less(home: Path) -> None:
    rise = {}
    methods: tuple[criteria.Method, ...] = ("magnitude", "sparsegpt")
    for method in methods:
        made = prune("lm", f"more-{method}", method=method, sparsity=0.7, samples=64, root=home)
        result = made.read("result")
        rise[method] = result["val_loss_after"] - result["val_loss_before"]
    assert rise["sparsegpt"] < 0.6 * rise["magnitude"]


def test_it_is_trained_on_with_its_own_zeros(home: Path, corpus: Path) -> None:
    """Global magnitudes leave other shares in each matrix than a mask of the recipe would."""
    made = prune("lm", "global", method="magnitude", together=True, sparsity=0.6, root=home)
    asked = [*SMALL, f"data.corpus={corpus}", "train.steps=10", "name=again",
             "sparsity.algorithm=static", "sparsity.sparsity=0.6"]  # fmt: skip
    again = pretrain(None, asked, start=made, root=home)
    before, after = (blocks(store.weights(run).items()) for run in (made, again))
    assert all(((after[n] == 0) >= (before[n] == 0)).all() for n in before)
    assert zeros(again) == pytest.approx(0.6, abs=0.002)
    assert again.metrics()[-1]["val_loss"] < made.read("result")["val_loss_after"]


def test_a_classifier_is_measured_on_its_rows(home: Path) -> None:
    made = prune("clf", "clf-sparse", samples=20, root=home)
    assert zeros(made) == pytest.approx(0.5, abs=0.01)
    assert set(made.read("result")["metrics"]) >= {"loss", "accuracy"}
    answer = Predictor.load(made).predict("it is good 3")
    assert answer is not None
    assert answer["label"] == "good"


@pytest.mark.slow
def test_what_is_fitted_to_the_pruned_weights_is_kept(home: Path) -> None:
    """Its loss is that of the run as it is loaded."""
    rows = [f"task.train={home / 'rows.csv'}", f"task.validation={home / 'rows.csv'}"]
    asked = [*rows, "task.ngrams=words", "task.ngram_rows=4096", "train.steps=30", "name=mixed"]
    finetune("lm", None, asked, root=home)
    made = prune("mixed", "mixed-sparse", sparsity=0.9, samples=20, root=home)
    again = prune("mixed-sparse", "same", method="magnitude", sparsity=0.9, root=home)
    before = again.read("result")["val_loss_before"]
    assert made.read("result")["val_loss_after"] == pytest.approx(before, rel=1e-5)
    assert made.recipe.task != Run.find("mixed", home).recipe.task
    assert made.recipe.sparsity.algorithm == "none"


def test_an_imported_run_is_pruned(home: Path, corpus: Path) -> None:
    export(Run.find("lm", home), home / "hf")
    imported = import_model(home / "hf", "imported", root=home)
    made = prune(imported, "imported-sparse", [f"data.corpus={corpus}"], samples=4, root=home)
    assert zeros(made) == pytest.approx(0.5, abs=0.01)


def test_a_limit_of_the_loss_finds_the_largest_sparsity(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = prune("lm", "limited", sparsity=0.95, max_loss_increase=0.02, samples=16, root=home)
    result = made.read("result")
    assert result["val_loss_after"] <= 1.02 * result["val_loss_before"]
    assert 0.05 < result["sparsity"] < 0.95
    more = prune("lm", "more", sparsity=result["sparsity"] + 0.03, samples=16, root=home)
    assert more.read("result")["val_loss_after"] > 1.02 * result["val_loss_before"]
    monkeypatch.setattr(unstructured, "SEARCH_ROUNDS", 1)
    with pytest.raises(InputError, match=r"no sparsity from 95.0% on keeps the loss within"):
        prune("lm", "none", sparsity=0.95, max_loss_increase=1e-9, samples=4, root=home)
    assert not (home / "none").exists()


def test_the_command_prints_what_it_cost_and_what_to_type_next(home: Path, corpus: Path) -> None:
    words = ["lm", "--name=cli", "--samples=4", "--sparsity=25%", "--json"]
    done = CliRunner().invoke(command, [*words, "--runs", str(home)])
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["sparsity"] == pytest.approx(0.25, abs=0.01)
    elsewhere = shutil.copytree(corpus, home / "moved")
    words = ["cli", f"data.corpus={elsewhere}", "--name=cli2", "--method=magnitude"]
    again = CliRunner().invoke(command, [*words, "--runs", str(home)])
    assert "weights not 0" in again.stdout
    page = report("cli", root=home).read_text(encoding="utf-8")
    assert "% zeros in the blocks of lm: the validation loss goes from" in page
    assert "wafergpt pretrain --from cli2" in again.stdout
    assert "has 25% zeros in its blocks already" in again.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["lm", "--name", "clf"], "clf exists: choose another --name"),
        (["gone", "--name", "x"], "no run 'gone'"),
        (["lm", "--name", "x", "--sparsity", "1"], "a sparsity of 1 is not above 0"),
        (
            ["lm", "--name", "x", "--pattern", "2:4", "--sparsity", "0.3"],
            "2:4 has a sparsity of 0.5",
        ),
        (["lm", "--name", "x", "--global"], "only magnitudes are ranked over all matrices"),
        (["base", "--name", "x"], "data.corpus"),
        (["lm", "--name", "x", "data.corpus=/nowhere"], "there is no folder /nowhere"),
    ],
)
def test_mistakes_are_named_and_nothing_is_written(
    home: Path, arguments: list[str], message: str
) -> None:
    done = CliRunner().invoke(command, [*arguments, "--runs", str(home)])
    assert message in str(done.exception) + done.output
    assert not (home / "x").exists()
    assert Run.find("lm", home)


def test_fewer_zeros_than_there_are_is_refused(home: Path) -> None:
    prune("lm", "half", method="magnitude", root=home)
    with pytest.raises(InputError, match="zeros in its blocks: more than"):
        prune("half", "x", sparsity=0.2, root=home)
    assert not (home / "x").exists()


def test_curves_are_measured_and_drawn(home: Path) -> None:
    made = prune("lm", "curved", method="magnitude", together=True, sparsity=0.6, curves=True,
                 root=home)  # fmt: skip
    result = made.read("result")
    assert [share for share, _ in result["curve"]] == list(unstructured.CURVE_SPARSITIES)
    losses = [loss for _, loss in result["curve"]]
    assert losses[-1] > 1.02 * losses[0]
    assert len(result["alone"]) == 2
    # One layer matters more than the other, and neither as much as most of both.
    assert max(result["alone"]) - min(result["alone"]) > 0.01
    assert max(result["alone"]) < losses[-1]
    kept = [share for block in result["densities"] for share in block.values()]
    assert len(kept) == 8
    assert max(kept) - min(kept) > 0.02
    page = report(made).read_text()
    for title in ("Loss against sparsity", "Sensitivity by layer", "Density by layer"):
        assert title in page
    plain = report(prune("lm", "uncurved", method="magnitude", root=home)).read_text()
    assert "Loss against sparsity" not in plain


def test_data_that_has_moved_is_named_with_the_option(home: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(home / "lm", tmp_path / "lm")
    recipe = Run(copy).recipe
    Run(copy).save_recipe(recipe.replace(data={"corpus": tmp_path / "gone"}))
    with pytest.raises(InputError, match=r"gone, which is not there any more: add data.corpus="):
        prune("lm", "x", root=tmp_path)
    copy = shutil.copytree(home / "clf", tmp_path / "clf")
    Run(copy).save_recipe(Run(copy).recipe.replace(task={"train": tmp_path / "gone.csv"}))
    with pytest.raises(InputError, match=r"gone.csv, which is not there any more: add task.train="):
        prune("clf", "x", root=tmp_path)
    assert prune("clf", "x", [f"task.train={home / 'rows.csv'}"], samples=4, root=tmp_path)


def test_a_run_that_is_not_finished_is_said(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(home / "lm", tmp_path / "lm")
    prune("lm", "whole", method="magnitude", root=tmp_path)
    assert "is not finished" not in capsys.readouterr().err
    (copy / "result.json").unlink()
    prune("lm", "part", method="magnitude", root=tmp_path)
    assert "is not finished: what it has learned so far is pruned" in capsys.readouterr().err
