"""Tuning small to train large: what is kept, what is refused, and that a study resumes."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from wafergpt.config import Recipe, load_recipe
from wafergpt.data.prepare import prepare
from wafergpt.errors import Diverged, InputError, Interrupted, RunFailed
from wafergpt.runs.run import Run
from wafergpt.train.run import train
from wafergpt.tuning.transfer import proxy_of, transfer

SETTINGS = [
    "model.d_model=32", "model.n_heads=4", "model.base_d_model=8", "model.seq_len=16",
    "train.batch_size=4", "train.steps=500", "system.device=cpu", "system.compile=off",
    "system.threads=1", "optimizer.lr=0.01", "name=big",
]  # fmt: skip


@pytest.fixture
def target(tmp_path: Path) -> Recipe:
    text = tmp_path / "text.jsonl"
    rows = [{"text": f"{n} sheep went over the hill and {n * 7} came back"} for n in range(300)]
    text.write_text("".join(json.dumps(row) + "\n" for row in rows))
    corpus = prepare(text, tmp_path / "corpus", vocab_size=300)
    return load_recipe("mup-check", [f"data.corpus={corpus.path}", *SETTINGS])


def test_a_study_finds_settings_and_resumes(target: Recipe, tmp_path: Path) -> None:
    first = transfer(target, 8, trials=2, steps=3, settings=("lr", "init_std"), root=tmp_path)
    assert first.trials == 2
    assert first.recipe.optimizer.lr == pytest.approx(first.best["lr"], rel=1e-2)
    assert first.recipe.model.init_std == pytest.approx(first.best["init_std"], rel=1e-2)
    # All else is the target's own, its width and horizon too.
    same = first.recipe.replace(
        optimizer={"lr": target.optimizer.lr}, model={"init_std": target.model.init_std}
    )
    assert same == target
    # A kill while the journal was written leaves a torn line, and a trial that never ended.
    journal = tmp_path / "big-transfer" / "study.jsonl"
    with journal.open("a") as file:
        file.write('{"op_code": 4, "worker_')
    more = transfer(target, 8, trials=3, steps=3, settings=("lr", "init_std"), root=tmp_path)
    assert more.trials == 3
    rates = {
        load_recipe(path / "recipe.yaml").optimizer.lr
        for path in (tmp_path / "big-transfer").iterdir()
        if path.is_dir()
    }
    assert len(rates) == 3
    assert more.value <= first.value
    kept = {path.name for path in (tmp_path / "big-transfer").iterdir() if path.is_dir()}
    assert len(kept) == 3
    losses = [
        json.loads((tmp_path / "big-transfer" / name / "result.json").read_text())["val_loss"]
        for name in kept
    ]
    assert more.value == min(losses)


def test_an_interrupted_trial_is_finished_first(
    target: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = Run.log

    def interrupt(run: Run, row: dict[str, object]) -> None:
        log(run, row)
        if row["step"] == 2:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Run, "log", interrupt)
    with pytest.raises(Interrupted, match="run the same command to resume"):
        transfer(target, 8, trials=1, steps=4, root=tmp_path)
    monkeypatch.setattr(Run, "log", log)
    found = transfer(target, 8, trials=1, steps=4, root=tmp_path)
    assert [path.name for path in found.folder.iterdir() if path.is_dir()] == ["trial-000"]
    assert [row["step"] for row in Run(found.folder / "trial-000").metrics()] == [1, 2, 3, 4]
    whole = transfer(target, 8, trials=1, steps=4, root=tmp_path / "whole")
    assert found.best == whole.best
    assert found.value == whole.value


def test_nothing_is_started_without_a_corpus(target: Recipe, tmp_path: Path) -> None:
    lost = target.replace(data={"corpus": str(tmp_path / "nowhere"), "fingerprint": None})
    with pytest.raises(InputError, match="nowhere"):
        transfer(lost, 8, trials=1, steps=2, root=tmp_path)
    assert not (tmp_path / "big-transfer").exists()


def test_a_study_of_something_else_is_refused(target: Recipe, tmp_path: Path) -> None:
    transfer(target, 8, trials=1, steps=2, root=tmp_path)
    for width, steps, settings in ((16, 2, ("lr",)), (8, 3, ("lr",)), (8, 2, ("init_std",))):
        with pytest.raises(InputError, match="a study of another proxy"):
            transfer(target, width, trials=1, steps=steps, settings=settings, root=tmp_path)


def test_a_diverged_trial_does_not_end_the_study(
    target: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from wafergpt.tuning import transfer as module

    calls: list[str] = []

    def sometimes(recipe: Recipe, root: Path) -> Run:
        calls.append(recipe.name)
        if len(calls) == 1:
            raise Diverged("the loss is nan")
        return train(recipe, root=root)

    monkeypatch.setattr(module, "train", sometimes)
    found = transfer(target, 8, trials=2, steps=3, root=tmp_path)
    assert len(calls) == found.trials == 2
    assert found.value < 10


def test_a_trial_that_fails_otherwise_says_nothing_of_its_settings(
    target: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from wafergpt.tuning import transfer as module

    def never(recipe: Recipe, root: Path) -> Run:
        raise RunFailed("the device has too little memory")

    with monkeypatch.context() as patch:
        patch.setattr(module, "train", never)
        with pytest.raises(RunFailed, match="too little memory"):
            transfer(target, 8, trials=1, steps=3, root=tmp_path)
    found = transfer(target, 8, trials=1, steps=3, root=tmp_path)
    assert found.value < 10


def test_the_proxy_keeps_all_but_width_and_horizon() -> None:
    target = load_recipe("cerebras-gpt/1.3b-mup")
    proxy = proxy_of(target, 256)
    assert (proxy.model.d_model, proxy.model.d_ffn, proxy.model.n_heads) == (256, 1024, 2)
    assert proxy.train.steps is None
    assert proxy.model.n_layers == target.model.n_layers
    # 346 of 24,334 steps, whatever the proxy's number.
    assert proxy.schedule.warmup == "1.422%"
    # Where heads of the target's width do not fit, their number stays.
    assert proxy_of(load_recipe("cerebras-gpt/256m-mup"), 136).model.n_heads == 17


def test_the_proxy_has_one_batch_and_a_share_of_warmup() -> None:
    changes = ["model.parametrization=mup", "schedule.warmup=375M tokens"]
    proxy = proxy_of(load_recipe("cerebras-gpt/13b", changes), 256)
    assert (proxy.train.first_steps, proxy.train.batch_size) == (0, 1080)
    assert proxy.schedule.warmup == "0.1463%"
    with pytest.raises(InputError, match="as a share"):
        proxy_of(load_recipe("cerebras-gpt/111m-mup", ["train.epochs=1"]), 256)


@pytest.mark.parametrize(
    ("changes", "width", "settings", "message"),
    [
        (["model.parametrization=sp"], 8, ("lr",), "settings transfer only under µP"),
        ([], 32, ("lr",), "no narrower than d_model=32"),
        ([], 8, ("beta3",), "no setting 'beta3'"),
        ([], 6, ("lr",), "4 heads do not divide a proxy of width 6: try 8"),
    ],
)
def test_mistakes_are_named(
    changes: list[str], width: int, settings: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    target = load_recipe("mup-check", [*SETTINGS, *changes])
    with pytest.raises(InputError, match=message):
        transfer(target, width, settings=settings, root=tmp_path)
