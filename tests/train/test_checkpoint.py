from __future__ import annotations

import errno
import json
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from wafergpt import config
from wafergpt.config import Model, load_recipe
from wafergpt.errors import InputError, RunFailed
from wafergpt.model.gpt import GPT
from wafergpt.run import Run
from wafergpt.train import checkpoint, stored
from wafergpt.train.optimizers import Optimizer
from wafergpt.train.saver import Saver
from wafergpt.train.state import TrainState

SHAPE = Model(n_layers=1, d_model=16, n_heads=2, seq_len=8, vocab_size=31)


def state(seed: int = 0) -> TrainState:
    gpt = GPT(SHAPE).initialize(seed)
    return TrainState(gpt, Optimizer(gpt.named_parameters(), config.Optimizer()))


def advance(state: TrainState, steps: int = 1) -> None:
    for _ in range(steps):
        torch.manual_seed(state.step)
        for parameter in state.model.parameters():
            parameter.grad = torch.randn_like(parameter)
        state.optimizer.step(1e-3)
        state.step += 1


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create(load_recipe(None, ["name=r"]), tmp_path)


def saved(run: Run, steps: list[int], keep: int = 5) -> TrainState:
    running = state()
    for step in steps:
        advance(running, step - running.step)
        checkpoint.save(running, run, keep)
    return running


def test_everything_comes_back(run: Run) -> None:
    running = saved(run, [3])
    running.callbacks, running.best, running.best_step = {"looks": 2}, 1.5, 3
    running.samples, running.tokens, running.seconds = 30, 240, 0.5
    checkpoint.save(running, run, 5)
    loaded = state(seed=9)
    checkpoint.resume(loaded, run)
    assert loaded.scalars() == running.scalars()
    assert loaded.weights_sha256() == running.weights_sha256()
    advance(running, 2)
    advance(loaded, 2)
    assert loaded.weights_sha256() == running.weights_sha256()


def test_the_hash_sees_every_bit() -> None:
    first, second = state(), state()
    assert first.weights_sha256() == second.weights_sha256()
    with torch.no_grad():
        weight = next(second.model.parameters())
        weight.view(-1)[7] = torch.nextafter(weight.view(-1)[7], torch.tensor(9.0))
    assert first.weights_sha256() != second.weights_sha256()


FILES = ["model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "delete", "swap"])
def test_a_damaged_checkpoint_is_refused_and_the_one_before_used(
    run: Run, capsys: pytest.CaptureFixture[str], name: str, damage: str
) -> None:
    saved(run, [2, 4])
    newest = run.checkpoints / "step-00000004"
    path = newest / name
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 4
        path.write_bytes(data)
    elif damage == "truncate":
        path.write_bytes(data[:-1])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "delete":
        path.unlink()
    else:
        shutil.copyfile(run.checkpoints / "step-00000002" / name, path)
    loaded = state(seed=9)
    assert checkpoint.resume(loaded, run) == run.checkpoints / "step-00000002"
    assert loaded.step == 2
    message = capsys.readouterr().err
    assert "WARNING: damaged checkpoint refused" in message
    assert "step-00000004" in message


def test_none_good_is_a_failure_never_a_fresh_start(run: Run) -> None:
    saved(run, [2, 4])
    for folder in checkpoint.every(run):
        (folder / "state.json").write_text("{}")
    loaded = state()
    before = loaded.weights_sha256()
    with pytest.raises(RunFailed, match="no good checkpoint"):
        checkpoint.resume(loaded, run)
    assert loaded.weights_sha256() == before


def test_the_newest_and_the_best_stay(run: Run) -> None:
    running = state()
    for step in range(1, 8):
        advance(running)
        if step == 2:
            running.best, running.best_step = 0.5, 2
        checkpoint.save(running, run, keep=2)
    assert [p.name[-1] for p in checkpoint.every(run)] == ["2", "6", "7"]
    best = checkpoint.best(run)
    assert best is not None
    assert best.name == "step-00000002"
    plain = load_file(best / "model.safetensors")
    used = checkpoint.weights(run)
    assert all(torch.equal(plain[name], used[name]) for name in plain)
    assert json.loads((best / "state.json").read_text())["step"] == 2


def test_a_failed_save_leaves_the_last_one(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    running = saved(run, [2])
    writes = []

    def full(tensors: object, path: Path) -> None:
        writes.append(path)
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(stored, "save_file", full)
    advance(running)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.save(running, run, keep=1)
    assert len(writes) == 1
    assert {p.name for p in run.checkpoints.iterdir()} == {"step-00000002", "latest"}
    loaded = state(seed=9)
    checkpoint.resume(loaded, run)
    assert loaded.step == 2


def test_a_pickle_by_another_name_is_never_opened(run: Run) -> None:
    import pickle

    saved(run, [2])
    folder = run.checkpoints / "step-00000002"
    (folder / "model.safetensors").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(checkpoint.DamagedCheckpointError):
        checkpoint.weights(run)


def test_another_networks_checkpoint_is_refused_by_name(run: Run) -> None:
    saved(run, [2])
    gpt = GPT(SHAPE.model_copy(update={"d_model": 32, "d_ffn": 64}))
    other = TrainState(gpt, Optimizer(gpt.named_parameters(), config.Optimizer()))
    with pytest.raises(checkpoint.DamagedCheckpointError, match="does not fit this run"):
        checkpoint.load(other, run.checkpoints / "step-00000002")


def test_a_run_without_checkpoints(run: Run) -> None:
    with pytest.raises(InputError, match="no checkpoint yet"):
        checkpoint.weights(run)


def test_milestones_stay(run: Run) -> None:
    running = state()
    for _ in range(7):
        advance(running)
        checkpoint.save(running, run, keep=1, keep_every=3)
    assert [folder.name[-1] for folder in checkpoint.every(run)] == ["3", "6", "7"]


def test_damaged_ones_do_not_push_the_good_ones_out(run: Run) -> None:
    saved(run, [1, 4, 5])
    for step in (4, 5):
        (run.checkpoints / f"step-0000000{step}" / "state.json").write_text("{}")
    running = state()
    checkpoint.resume(running, run)
    assert running.step == 1
    for step in (2, 3):
        advance(running)
        checkpoint.save(running, run, keep=2)
        assert checkpoint.damage(checkpoint.every(run)[-1]) is None
        assert running.step == step
    assert [folder.name[-1] for folder in checkpoint.every(run)] == ["2", "3"]
    assert {p.name for p in run.checkpoints.glob("damaged-*")} == {
        "damaged-step-00000004",
        "damaged-step-00000005",
    }


def test_a_checkpoint_under_another_name_is_refused(run: Run) -> None:
    saved(run, [2])
    (run.checkpoints / "step-00000002").rename(run.checkpoints / "step-00000009")
    with pytest.raises(RunFailed, match="no good checkpoint"):
        checkpoint.resume(state(), run)
    assert "holds step 2" in str(checkpoint.damage(run.checkpoints / "step-00000009"))


@pytest.mark.parametrize("background", [True, False])
def test_what_is_saved_is_the_state_of_that_moment(
    run: Run, background: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = state()
    advance(running)
    expected = running.weights_sha256(), running.callbacks
    saver = Saver(run, config.Checkpoint(background=background))
    moved_on = threading.Event()

    def late(*arguments: Any) -> None:
        if background:
            assert moved_on.wait(10)
        save_file(*arguments)

    monkeypatch.setattr(stored, "save_file", late)
    saver.save(running)
    advance(running)
    running.callbacks["looks"] = 3
    moved_on.set()
    saver.close()
    loaded = state(seed=9)
    checkpoint.resume(loaded, run)
    assert (loaded.step, loaded.weights_sha256(), loaded.callbacks) == (1, expected[0], {})


@pytest.mark.parametrize("background", [True, False])
def test_a_failed_save_is_heard_of_and_harms_nothing(
    run: Run, background: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = saved(run, [1])
    saver = Saver(run, config.Checkpoint(background=background, keep=1))
    with monkeypatch.context() as patch:
        patch.setattr(stored, "save_file", _disk_full)
        advance(running)
        with pytest.raises(OSError, match="No space"):
            saver.save(running)
            saver.wait()
    assert [folder.name[-1] for folder in checkpoint.every(run)] == ["1"]
    assert (run.checkpoints / "latest").read_text() == "step-00000001\n"
    saver.save(running)
    saver.close()
    assert [folder.name[-1] for folder in checkpoint.every(run)] == ["2"]


def test_what_is_on_the_disk_is_not_written_again(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = state()
    saver = Saver(run, config.Checkpoint())
    saver.save(running)
    saver.wait()
    assert saver.longest() > 0
    monkeypatch.setattr(stored, "save_file", _disk_full)
    saver.save(running)
    saver.close()


def _disk_full(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")
