"""Pruned runs that are trained on, and the smallest one within a limit of the loss."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from tests.pruning.test_unstructured import home
from tests.sparsity.test_masks import SMALL, blocks, corpus, zeros
from wafergpt.api import finetune, pretrain, prune
from wafergpt.checkpoint import store
from wafergpt.cli.prune import command
from wafergpt.distributed.sharding import fill
from wafergpt.errors import InputError, Interrupted, RunFailed
from wafergpt.inference.predictor import Predictor
from wafergpt.pruning import removal, retraining
from wafergpt.pruning.retraining import first_that
from wafergpt.pruning.structured import Narrowing
from wafergpt.runs.run import Run
from wafergpt.tasks.base import task_of
from wafergpt.train import run as run_module
from wafergpt.train.run import train

__all__ = ["corpus", "home"]

BATCH = 4 * 32


@given(st.integers(1, 40), st.integers(0, 41))
def test_bisection_finds_the_first(size: int, first: int) -> None:
    tried: list[int] = []

    def keeps(candidate: int) -> bool:
        tried.append(candidate)
        return candidate >= first

    assert first_that(range(size), keeps) == (first if first < size else None)
    assert len(tried) == len(set(tried)) <= 1 + size.bit_length()


def test_zeros_stay_and_the_loss_comes_back(home: Path) -> None:
    made = prune("lm", "half", method="magnitude", sparsity=0.6, retrain=40 * BATCH, root=home)
    result = made.read("result")["retraining"]
    assert result["val_loss_retrained"] < result["val_loss_after"]
    pruned = Run(home / "half-pruned")
    assert made.recipe.start == pruned.path.resolve()
    before, after = (blocks(store.weights(run).items()) for run in (pruned, made))
    assert all(torch.equal(before[name] == 0, after[name] == 0) for name in before)
    assert zeros(made) == pytest.approx(0.6, abs=0.002)
    recipe, parent = made.recipe, Run(home / "lm").recipe
    assert (recipe.train.steps, recipe.train.batch_size) == (40, parent.train.batch_size)
    assert recipe.optimizer == parent.optimizer
    assert recipe.sparsity.algorithm == "static"


@pytest.mark.parametrize(
    ("asked", "share"), [({"method": "magnitude", "sparsity": 0.6}, 0.6), ({"heads": 1}, 0.4)]
)
def test_zeros_stay_whatever_roles_the_run_had_them_in(
    home: Path, corpus: Path, asked: dict[str, Any], share: float
) -> None:
    roles = ["sparsity.algorithm=static", "sparsity.roles=[ffn_in,ffn_out]"]
    steps = [f"data.corpus={corpus}", "train.steps=2", f"name=ffn-{share}"]
    run = pretrain(None, [*SMALL, *roles, *steps], root=home)
    made = prune(run, f"all-{share}", retrain=2 * BATCH, samples=4, root=home, **asked)
    pruned = Run(home / f"all-{share}-pruned")
    before, after = (blocks(store.weights(run).items()) for run in (pruned, made))
    assert all(torch.equal(before[name] == 0, after[name] == 0) for name in before)
    assert zeros(made) == pytest.approx(share, abs=0.01)


def test_a_narrow_run_learns_from_its_parent(home: Path) -> None:
    asked = {"layers": 1, "channels": 96, "retrain": f"{40 * BATCH}", "samples": 16}
    overrides = ["optimizer.lr=2e-3", "train.teacher_weight=0.9"]
    made = prune("lm", "taught", overrides, distill=True, root=home, **asked)  # type: ignore[arg-type]
    train = made.recipe.train
    assert train.teacher == (home / "lm").resolve()
    assert train.teacher_weight == 0.9
    assert made.recipe.optimizer.lr == 2e-3
    assert made.recipe.model.d_ffn == 96
    assert made.recipe.sparsity.algorithm == "none"
    result = made.read("result")["retraining"]
    assert result["val_loss_retrained"] < result["val_loss_after"]
    same = prune("lm", "taught", overrides, distill=True, root=home, **asked)  # type: ignore[arg-type]
    assert same.read("result")["weights_sha256"] == made.read("result")["weights_sha256"]


@pytest.mark.slow
@pytest.mark.parametrize("distill", [False, True])
def test_a_classifier_goes_on_from_its_own_head(home: Path, distill: bool) -> None:
    made = prune("clf", f"clf-{distill}", sparsity=0.9, method="magnitude", retrain=4,
                 distill=distill, root=home)  # fmt: skip
    pruned = Run(home / f"clf-{distill}-pruned")
    first, head = (store.weights(run) for run in (made, pruned))
    assert first.keys() == head.keys()
    result = made.read("result")["retraining"]
    assert result["val_loss_retrained"] <= result["val_loss_after"]
    assert zeros(made) == pytest.approx(0.9, abs=0.002)
    answer = Predictor.load(made).predict("it is good 3")
    assert answer is not None
    assert answer["label"] == "good"


@pytest.mark.parametrize(("asked", "then"), [("5%", "5%"), ("10", "5.0000%"), ("0", "0.0000%")])
def test_a_warm_up_is_the_same_share(home: Path, asked: str, then: str) -> None:
    lm = Run(home / "lm")
    warmup = int(asked) if asked.isdigit() else asked
    recipe = lm.recipe.replace(schedule={"warmup": warmup})
    assert recipe.train.steps == 200
    again = retraining.Retraining(1e6).recipe(recipe, lm, "x")
    assert again.schedule.warmup == then


def test_all_of_a_tasks_weights_are_taken(home: Path) -> None:
    rows = [f"task.train={home / 'rows.csv'}", "task.ngrams=words", "task.ngram_ratios=true"]
    run = finetune("lm", None, [*rows, "train.steps=4", "name=ratios"], root=home).run
    task, stored = task_of(run.recipe), store.weights(run)
    network = task.network()
    fill(network, task.initial_weights(network, stored))
    assert "head_ngrams.ratios" in stored
    assert all(torch.equal(value, stored[name]) for name, value in network.state_dict().items())


@pytest.mark.slow
def test_the_smallest_within_a_limit_is_found_and_nothing_repeated(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(removal, "SEARCHED_SIZES", 4)
    asked = {"method": "magnitude", "sparsity": 0.96, "retrain": 20 * BATCH}
    trained: list[str] = []
    stopped = {"at": 2}
    stops = [KeyboardInterrupt(), Interrupted("stopped at step 0; all is saved", "wafergpt …")]

    def watched(recipe, **more):  # type: ignore[no-untyped-def]
        if len(trained) == stopped["at"]:
            raise stops.pop()
        trained.append(recipe.name)
        return train(recipe, **more)

    monkeypatch.setattr(run_module, "train", watched)
    before = Run(home / "lm").read("result")["val_loss"]
    first = prune("lm", "only-s24", method="magnitude", sparsity=0.24, retrain=20 * BATCH,
                  root=home)  # fmt: skip
    trained.clear()
    near = first.read("result")["retraining"]
    limit = near["val_loss_retrained"] / near["val_loss_before"] - 1
    limit = max(limit, 1e-6) + 1e-5
    for reason in ("stopped at step 0; all is saved", "interrupted"):
        message = rf"^small-s[0-9]+: {reason}; the same command goes on$"
        with pytest.raises(Interrupted, match=message):
            prune("lm", "small", max_loss_increase=limit, root=home, **asked)  # type: ignore[arg-type]
    assert trained[0] == "small-s96"
    stopped["at"] = 99
    times = (home / trained[0] / "checkpoints" / "latest").stat().st_mtime_ns
    made = prune("lm", "small", max_loss_increase=limit, root=home, **asked)  # type: ignore[arg-type]
    assert (home / trained[0] / "checkpoints" / "latest").stat().st_mtime_ns == times
    result = made.read("result")["retraining"]
    assert result["val_loss_retrained"] <= result["limit"]
    assert result["limit"] == pytest.approx((1 + limit) * before, rel=0.05)
    tried = result["tried"]
    assert set(tried) <= {f"small-s{n}" for n in (96, 72, 48, 24)}
    assert all((home / name / "recipe.yaml").is_file() for name in tried)
    larger = [name for name, loss in tried.items() if loss > result["limit"]]
    assert all(int(name[7:]) > int(made.name[7:]) for name in larger)
    # Once more, it is read off.
    assert prune("lm", "small", max_loss_increase=limit, root=home, **asked).path == made.path  # type: ignore[arg-type]


def test_a_limit_that_no_shape_keeps_names_the_best(home: Path) -> None:
    words = [
        "lm",
        "--name=never",
        "--layers=1",
        "--max-loss-increase=0.0001%",
        f"--retrain={BATCH}",
    ]
    with pytest.raises(RunFailed, match=r"none of never-l1 keeps the loss within .*the best is"):
        CliRunner().invoke(command, [*words, "--runs", str(home)], catch_exceptions=False)
    assert Run.find("never-l1", home).read("result")["retraining"]["val_loss_retrained"] > 0


def test_shapes_on_the_way(home: Path) -> None:
    recipe = Run(home / "lm").recipe.replace(model={"n_layers": 8})
    shapes = Narrowing(layers=4, channels=64).sizes(recipe, "x")
    names = [name for name, _ in shapes]
    assert names[0] == "x-l4-c64"
    assert names[-1] == "x-l8-c124"
    numbers = [(how.layers, how.channels) for _, how in shapes if isinstance(how, Narrowing)]
    assert numbers == sorted(numbers)
    assert len(names) == removal.SEARCHED_SIZES
    assert [n for n, _ in Narrowing(layers=6).sizes(recipe, "x")] == ["x-l6", "x-l7"]


@pytest.mark.slow
def test_the_command_prints_three_columns(home: Path) -> None:
    words = ["lm", "--name=shown", "--sparsity=50%", "--samples=4", f"--retrain={2 * BATCH}"]
    done = CliRunner().invoke(command, [*words, "--runs", str(home)])
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines()[0].split() == ["before", "pruned", "retrained"]
    assert "generate shown" in done.stdout
    again = CliRunner().invoke(command, [*words, "--json", "--runs", str(home)])
    result = json.loads(again.stdout.splitlines()[-1])
    assert result["run"] == str(home / "shown")
    assert {"val_loss_before", "val_loss_after", "val_loss_retrained", "sparsity"} <= set(result)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["lm", "--retrain", "0.5"], "a language model takes tokens, as in 4M"),
        (["lm", "--retrain", "a lot"], "a language model takes tokens, as in 4M"),
        (["lm", "--retrain", "3"], "at least a batch of 128"),
        (["clf", "--retrain", "4M"], "passes over its rows, as in 1"),
        (["clf", "--retrain", "-1"], "passes over its rows"),
        (["lm", "--distill"], "add --retrain"),
        (["lm", "optimizer.lr=1"], "only the data, the device and the evaluation may change"),
        (["lm", "--retrain", "1k", "optimizer.lr=-1"], "optimizer.lr"),
        (["lm", "--retrain", "1k", "model.d_ffn=3"], "only the data, the device"),
        (["lm", "--retrain", "1k", "train.steps=3"], "give one"),
        (["lm", "--retrain", "1k", "--layers", "9"], "9 layers are not between"),
        (["lm", "--retrain", "1k", "--max-loss-increase", "0"], "a limit of the loss is above 0"),
        (["lm", "--retrain", "1k", "--max-loss-increase", "1%", "--pattern", "2:4"],
         "a pattern has one sparsity"),
        (["lm", "--retrain", "1k", "train.teacher=clf"], "is task.name=classify"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line_and_nothing_is_written(
    home: Path, arguments: list[str], message: str
) -> None:
    there = set(home.iterdir())
    words = [*arguments, "--name", "wrong", "--runs", str(home)]
    with pytest.raises(InputError) as error:
        CliRunner().invoke(command, words, catch_exceptions=False)
    assert message in str(error.value)
    assert set(home.iterdir()) == there


def test_a_name_of_something_else_is_taken(home: Path) -> None:
    shutil.copytree(home / "lm", home / "other")
    with pytest.raises(InputError, match="other exists: choose another --name"):
        prune("lm", "other", retrain="1k", root=home)
    shutil.copytree(home / "lm", home / "mine-pruned")
    with pytest.raises(InputError, match="mine-pruned was not made by this command"):
        prune("lm", "mine", retrain="1k", root=home)
