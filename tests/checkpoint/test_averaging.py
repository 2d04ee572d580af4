from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from wafergpt.api import pretrain
from wafergpt.checkpoint import store
from wafergpt.checkpoint.averaging import average, compare, listing, mean_shares
from wafergpt.checkpoint.store import DamagedCheckpointError
from wafergpt.cli.average import command as average_command
from wafergpt.cli.checkpoints import command as checkpoints_command
from wafergpt.config import Model, load_recipe
from wafergpt.data.tokenizer import Tokenizer
from wafergpt.errors import InputError
from wafergpt.model.gpt import GPT
from wafergpt.runs.run import Run

SHAPE = Model(n_layers=1, d_model=16, n_heads=2, seq_len=8, vocab_size=31)
STEPS = (0, 10, 20, 30)


def state(step: int) -> dict[str, torch.Tensor]:
    return {name: tensor + 0.5 for name, tensor in GPT(SHAPE).initialize(step).state_dict().items()}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    recipe = load_recipe(None, ["name=r"]).replace(model=SHAPE)
    run = Run.create(recipe, tmp_path)
    for step in STEPS:
        store.save_weights(state(step), run, step)
        if step:
            run.log({"step": step, "loss": 4 - step / 10})
            run.log({"step": step, "val_loss": 4.5 - step / 10})
    (run.checkpoints / "best").write_text("step-00000020\n")
    return run


def test_the_mean_of_the_last(run: Run, tmp_path: Path) -> None:
    made = average(run, "mean", last=3, root=tmp_path)
    for name, tensor in store.weights(made).items():
        parts = [state(step)[name].double() for step in (10, 20, 30)]
        mean = sum((part * (1 / 3) for part in parts), torch.zeros(()))
        assert torch.equal(tensor, mean.float()), name
    assert made.read("result")["steps"] == [10, 20, 30]
    assert made.recipe.name == "mean"
    assert store.every(made)[0].name == "step-00000030"


def test_zeros_of_the_newest_stay(tmp_path: Path) -> None:
    recipe = load_recipe(None, ["name=s", "sparsity.algorithm=rigl", "sparsity.sparsity=0.5"])
    run = Run.create(recipe.replace(model=SHAPE), tmp_path)
    for step in STEPS[1:]:
        weights = state(step)
        for tensor in weights.values():
            if tensor.ndim == 2:
                # Other ones at each step.
                tensor[:, step // 10 % 2 :: 2] = 0.0
        store.save_weights(weights, run, step)
    (run.checkpoints / "best").write_text("step-00000020\n")
    made = dict(store.weights(average(run, "mean", last=3, root=tmp_path)).items())
    newest = {name: tensor for name, tensor in weights.items() if "blocks" in name}
    for name, tensor in newest.items():
        if tensor.ndim == 2:
            assert torch.equal(made[name] == 0, tensor == 0), name
    # What no mask holds is a plain mean.
    assert (made["embedding.weight"] != 0).all()


def test_the_exponential_mean_goes_from_old_to_new(run: Run, tmp_path: Path) -> None:
    made = average(run, "ema", ema=0.75, root=tmp_path)
    expected = {name: tensor.double() for name, tensor in state(10).items()}
    for step in (20, 30):
        newer = state(step)
        expected = {n: 0.75 * mean + 0.25 * newer[n] for n, mean in expected.items()}
    for name, tensor in store.weights(made).items():
        assert torch.allclose(tensor, expected[name].float(), rtol=1e-6, atol=0), name


@pytest.mark.parametrize("chosen", [{"last": 3}, {"ema": 0.9}])
def test_numbers_of_rows_are_no_weights(tmp_path: Path, chosen: dict[str, Any]) -> None:
    rows = {"ngrams": (2,), "ngram_rows": 4001, "ngram_kept": (1000,)}
    shape = Model.model_validate({**SHAPE.model_dump(), **rows})
    run = Run.create(load_recipe(None, ["name=r"]).replace(model=shape), tmp_path)
    numbers = torch.randperm(4000)[:1000].sort().values.int() + 1
    for step in STEPS:
        weights = GPT(shape).initialize(step).state_dict()
        weights["ngrams.kept.0.rows"].copy_(numbers)
        store.save_weights(weights, run, step)
    made = average(run, "mean", root=tmp_path, **chosen)
    assert torch.equal(store.weights(made)["ngrams.kept.0.rows"], numbers)


@pytest.mark.parametrize("ema", [None, 0.1, 0.9, 0.999])
@pytest.mark.parametrize("count", [2, 5, 50])
def test_shares_add_up(count: int, ema: float | None) -> None:
    shares = mean_shares(count, ema)
    assert len(shares) == count
    assert sum(shares) == pytest.approx(1)


def test_refusals(run: Run, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="last=1: a mean takes 2 checkpoints or more"):
        average(run, "mean", last=1, root=tmp_path)
    with pytest.raises(InputError, match="has 3 checkpoints after step 0, and this mean takes 4"):
        average(run, "mean", last=4, root=tmp_path)
    with pytest.raises(InputError, match="r exists"):
        average(run, "r", last=2, root=tmp_path)
    with pytest.raises(InputError, match="name="):
        average(run, "../x", last=2, root=tmp_path)
    for wrong in (0.0, 1.0, float("nan")):
        with pytest.raises(InputError, match="is no share"):
            average(run, "ema", ema=wrong, root=tmp_path)
    with pytest.raises(InputError, match="either last"):
        average(run, "mean", last=2, ema=0.5, root=tmp_path)
    weights = store.every(run)[-1] / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(DamagedCheckpointError, match="not the file that was written"):
        average(run, "mean", last=2, root=tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["r"]


def test_the_mean_is_an_ordinary_run(run: Run, tmp_path: Path) -> None:
    Tokenizer.train(["some text for it"], 260).save(run.tokenizer)
    made = average(run, "mean", last=2, root=tmp_path)
    assert made.tokenizer.read_bytes() == run.tokenizer.read_bytes()
    with pytest.raises(InputError, match="was averaged, not trained here"):
        pretrain(resume=made.path)


def test_the_listing(run: Run) -> None:
    rows = listing(run)
    assert [row["step"] for row in rows] == list(STEPS)
    assert [row["val_loss"] for row in rows] == [None, 3.5, 2.5, 1.5]
    assert [row["loss"] for row in rows] == [None, 3.0, 2.0, 1.0]
    assert [row["best"] for row in rows] == [False, False, True, False]
    assert [row["latest"] for row in rows] == [False, False, False, True]
    files = store.every(run)[0].iterdir()
    assert rows[0]["bytes"] == sum(file.stat().st_size for file in files)


def test_damaged_metrics_get_one_line(run: Run) -> None:
    for line in ("{", "[]", "{}"):
        (run.path / "metrics.jsonl").write_text(line + "\n")
        with pytest.raises(InputError, match=r"metrics\.jsonl is damaged"):
            listing(run)


def test_the_distance_by_role(run: Run) -> None:
    result = compare(run, "best", "30")
    assert (result["first"]["val_loss"], result["second"]["val_loss"]) == (2.5, 1.5)
    first, second = state(20), state(30)
    name = "blocks.0.attention.qkv.weight"
    expected = float((second[name] - first[name]).norm() / first[name].norm())
    assert result["distance"]["qkv"] == pytest.approx(expected, rel=1e-5)
    # Biases and norms are drawn alike whatever the seed.
    assert result["distance"]["vector"] == 0
    assert set(result["distance"]) == {
        "embedding", "position", "qkv", "attention_out", "ffn_in", "ffn_out", "vector",
        "ffn_vector",
    }  # fmt: skip
    assert set(compare(run, "20", "latest")["distance"].values()) != {0}
    with pytest.raises(InputError, match="are the same checkpoint"):
        compare(run, "20", "20")
    with pytest.raises(InputError, match="no checkpoint '7': there are the steps 0, 10, 20, 30"):
        compare(run, "7", "latest")


def test_the_commands(run: Run, tmp_path: Path) -> None:
    shown = CliRunner().invoke(checkpoints_command, [str(run.path)]).stdout.splitlines()
    assert shown[0].split() == ["step", "size", "loss", "val", "loss"]
    assert shown[3].split()[-3:] == ["2.000", "2.500", "best"]
    assert shown[4].split()[-1] == "latest"
    asked = [str(run.path), "--json", "--compare", "10", "latest"]
    result = json.loads(CliRunner().invoke(checkpoints_command, asked).stdout)
    assert result["second"]["step"] == 30
    asked = [str(run.path), "--last", "2", "--name", "mean", "--runs", str(tmp_path), "--json"]
    result = json.loads(CliRunner().invoke(average_command, asked).stdout)
    assert result["run"] == str(tmp_path / "mean")
    assert result["step"] == 30
