from __future__ import annotations

import errno
import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from benchmarks.soak import Trained
from wafergpt import config
from wafergpt.checkpoint import format as stored
from wafergpt.checkpoint import store
from wafergpt.checkpoint.background import Saver
from wafergpt.config import Model, load_recipe
from wafergpt.errors import InputError, ProcessLost, RunFailed
from wafergpt.model.gpt import GPT
from wafergpt.runs.run import Run

SHAPE = Model(n_layers=1, d_model=16, n_heads=2, seq_len=8, vocab_size=31)


def state(seed: int = 0) -> Trained:
    gpt = GPT(SHAPE).initialize(seed)
    return Trained(gpt, config.Optimizer())


def advance(state: Trained, steps: int = 1) -> None:
    for _ in range(steps):
        torch.manual_seed(state.step)
        for parameter in state.network.parameters():
            parameter.grad = torch.randn_like(parameter)
        state.optimizer.step(1e-3)
        state.step += 1


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create(load_recipe(None, ["name=r"]), tmp_path)


def saved(run: Run, steps: list[int], keep: int = 5) -> Trained:
    running = state()
    for step in steps:
        advance(running, step - running.step)
        running.save(run, keep)
    return running


def test_everything_comes_back(run: Run) -> None:
    running = saved(run, [3])
    running.callbacks, running.best, running.best_step = {"looks": 2}, 1.5, 3
    running.samples, running.tokens, running.seconds = 30, 240, 0.5
    running.save(run, 5)
    loaded = state(seed=9)
    loaded.resume(run)
    assert loaded.scalars() == running.scalars()
    assert loaded.weights_sha256() == running.weights_sha256()
    advance(running, 2)
    advance(loaded, 2)
    assert loaded.weights_sha256() == running.weights_sha256()


def test_the_hash_sees_every_bit() -> None:
    first, second = state(), state()
    assert first.weights_sha256() == second.weights_sha256()
    with torch.no_grad():
        weight = next(second.network.parameters())
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
    assert loaded.resume(run) == run.checkpoints / "step-00000002"
    assert loaded.step == 2
    message = capsys.readouterr().err
    assert "WARNING: damaged checkpoint refused" in message
    assert "step-00000004" in message


def test_without_a_good_checkpoint_a_resume_fails_and_never_starts_afresh(run: Run) -> None:
    saved(run, [2, 4])
    for folder in store.every(run):
        (folder / "state.json").write_text("{}")
    loaded = state()
    before = loaded.weights_sha256()
    with pytest.raises(RunFailed, match="no good checkpoint"):
        loaded.resume(run)
    assert loaded.weights_sha256() == before


def test_a_checkpoint_that_was_being_replaced_is_found(run: Run) -> None:
    running = state()
    for _ in range(2):
        advance(running)
        running.save(run, keep=3)
    hidden = run.checkpoints / ".step-00000002.99-aa.tmp"
    (run.checkpoints / "step-00000002").rename(hidden)
    begun = run.checkpoints / ".step-00000003.99-bb.tmp"
    begun.mkdir()
    (begun / "model.safetensors").write_text("not yet")
    loaded = state()
    loaded.resume(run)
    assert loaded.weights_sha256() == running.weights_sha256()
    assert sorted(one.name for one in run.checkpoints.glob("*step-*")) == [
        "step-00000001", "step-00000002",
    ]  # fmt: skip


def test_the_newest_and_the_best_stay(run: Run) -> None:
    running = state()
    for step in range(1, 8):
        advance(running)
        if step == 2:
            running.best, running.best_step = 0.5, 2
        running.save(run, keep=2)
    assert [p.name[-1] for p in store.every(run)] == ["2", "6", "7"]
    best = store.best(run)
    assert best is not None
    assert best.name == "step-00000002"
    plain = load_file(best / "model.safetensors")
    used = store.weights(run)
    assert all(torch.equal(plain[name], used[name]) for name in plain)
    assert json.loads((best / "state.json").read_text())["step"] == 2
    # As if it had been killed before the best one got its name.
    (run.checkpoints / "best").write_text("step-00000006\n")
    running.save(run, keep=1)
    assert [p.name[-1] for p in store.every(run)] == ["2", "7"]
    assert store.best(run) == best


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
        running.save(run, keep=1)
    assert len(writes) == 1
    assert {p.name for p in run.checkpoints.iterdir()} == {"step-00000002", "latest"}
    loaded = state(seed=9)
    loaded.resume(run)
    assert loaded.step == 2


def test_a_pickle_by_another_name_is_never_opened(run: Run) -> None:
    import pickle

    saved(run, [2])
    folder = run.checkpoints / "step-00000002"
    (folder / "model.safetensors").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(store.DamagedCheckpointError):
        store.weights(run)


def test_another_networks_checkpoint_is_refused_by_name(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    saved(run, [2])
    gpt = GPT(SHAPE.model_copy(update={"d_model": 32, "d_ffn": 64}))
    other = Trained(gpt, config.Optimizer())
    with pytest.raises(RunFailed, match="no good checkpoint"):
        other.resume(run)
    assert "does not fit this run" in capsys.readouterr().err


def test_a_run_without_checkpoints(run: Run) -> None:
    with pytest.raises(InputError, match="no checkpoint yet"):
        store.weights(run)


def test_milestones_stay(run: Run) -> None:
    running = state()
    for _ in range(7):
        advance(running)
        running.save(run, keep=1, keep_every=3)
    assert [folder.name[-1] for folder in store.every(run)] == ["3", "6", "7"]


def test_damaged_ones_do_not_push_the_good_ones_out(run: Run) -> None:
    saved(run, [1, 4, 5])
    for step in (4, 5):
        (run.checkpoints / f"step-0000000{step}" / "state.json").write_text("{}")
    running = state()
    running.resume(run)
    assert running.step == 1
    for step in (2, 3):
        advance(running)
        running.save(run, keep=2)
        assert store.damage(store.every(run)[-1]) is None
        assert running.step == step
    assert [folder.name[-1] for folder in store.every(run)] == ["2", "3"]
    assert {p.name for p in run.checkpoints.glob("damaged-*")} == {
        "damaged-step-00000004",
        "damaged-step-00000005",
    }


def test_a_checkpoint_under_another_name_is_refused(run: Run) -> None:
    saved(run, [2])
    (run.checkpoints / "step-00000002").rename(run.checkpoints / "step-00000009")
    with pytest.raises(RunFailed, match="no good checkpoint"):
        state().resume(run)
    assert "holds step 2" in str(store.damage(run.checkpoints / "step-00000009"))


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
    saver.save(running.scalars(), running.host)
    advance(running)
    running.callbacks["looks"] = 3
    moved_on.set()
    saver.close()
    loaded = state(seed=9)
    loaded.resume(run)
    assert (loaded.step, loaded.weights_sha256(), loaded.callbacks) == (1, expected[0], {})


@pytest.mark.parametrize("background", [True, False])
def test_a_failed_save_is_reported_and_harms_nothing(
    run: Run, background: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = saved(run, [1])
    saver = Saver(run, config.Checkpoint(background=background, keep=1))
    with monkeypatch.context() as patch:
        patch.setattr(stored, "save_file", _disk_full)
        advance(running)
        with pytest.raises(OSError, match="No space"):
            saver.save(running.scalars(), running.host)
            saver.wait()
    assert [folder.name[-1] for folder in store.every(run)] == ["1"]
    assert (run.checkpoints / "latest").read_text() == "step-00000001\n"
    saver.save(running.scalars(), running.host)
    saver.close()
    assert [folder.name[-1] for folder in store.every(run)] == ["2"]


def test_what_is_on_the_disk_is_not_written_again(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = state()
    saver = Saver(run, config.Checkpoint())
    saver.save(running.scalars(), running.host)
    saver.wait()
    assert saver.longest() > 0
    monkeypatch.setattr(stored, "save_file", _disk_full)
    saver.save(running.scalars(), running.host)
    saver.close()


def _disk_full(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_int8_weights_are_read_as_what_they_were_rounded_from(run: Run) -> None:
    weights = state().network.state_dict()
    folder = store.save_weights(stored.as_int8(weights), run)
    read = store.weights(run)
    assert set(read) == set(weights)
    for name, values in weights.items():
        assert read[name].dtype == torch.float32
        assert read[name].shape == values.shape
        largest = values.abs().amax(-1, keepdim=True) if values.ndim == 2 else torch.zeros(1)
        assert ((read[name] - values).abs() <= largest / 254 * 1.001).all()
    whole = read["embedding.weight"]
    assert torch.equal(read.by_rows["embedding.weight"][3:7], whole[3:7])
    assert (folder / "model.safetensors").stat().st_size < sum(
        4 * w.numel() for w in weights.values()
    )


def test_what_may_not_be_read_is_not_taken_for_damaged(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(run, [3])

    def forbidden(path: Path) -> str:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr("wafergpt.files.sha256", forbidden)
    with pytest.raises(InputError, match=r"Permission denied: .*step-00000003"):
        state().resume(run)
    assert (run.checkpoints / "step-00000003").is_dir()


def test_a_folder_of_checkpoints_that_may_not_be_read_is_not_empty(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(run, [3])

    def forbidden(path: Path) -> Iterator[Path]:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "iterdir", forbidden)
    with pytest.raises(PermissionError):
        store.every(run)
    monkeypatch.undo()
    shutil.rmtree(run.checkpoints)
    assert store.every(run) == []


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("no room"), ProcessLost("gone")])
def test_what_has_no_room_is_not_taken_for_damaged(run: Run, error: RuntimeError) -> None:
    def take(_: object) -> None:
        raise error

    saved(run, [1, 2])
    before = store.every(run)
    assert before
    with pytest.raises(type(error)):
        store.resume(run, take)
    assert store.every(run) == before
