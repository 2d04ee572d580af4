"""Tuning small to train large: what is kept, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from wafergpt import api
from wafergpt.config import Recipe, load_recipe
from wafergpt.data.prepare import prepare
from wafergpt.errors import InputError
from wafergpt.runs.run import Run
from wafergpt.tuning.proxy import proxy_of

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


def tune(target: Recipe, root: Path, *spaces: str, **options: Any) -> dict[str, Any]:
    options = {"width": 8, "trials": 2, "steps": 3, **options}
    found: dict[str, Any] = api.tune(None, target, spaces, root=root, **options).read("result")
    return found


def test_the_wide_recipe_has_the_proxys_best_settings(target: Recipe, tmp_path: Path) -> None:
    spaces = ["optimizer.lr=0.001..0.1:log", "model.init_std=0.05..0.2:log"]
    found = tune(target, tmp_path, *spaces)
    recipe = load_recipe(found["recipe"])
    assert recipe.optimizer.lr == float(found["best"]["optimizer.lr"])
    assert recipe.model.init_std == float(found["best"]["model.init_std"])
    # All else is the target's own, its width and horizon too.
    same = recipe.replace(
        optimizer={"lr": target.optimizer.lr}, model={"init_std": target.model.init_std}
    )
    assert same == target
    proxy = Run(tmp_path / "big-tune" / "trial-000").recipe
    assert (proxy.model.d_model, proxy.train.steps) == (8, 3)
    assert proxy.optimizer.lr == target.optimizer.lr
    # The proxy is no result.
    assert not (tmp_path / "big").exists()


def test_without_spaces_all_that_transfers_is_tuned(target: Recipe, tmp_path: Path) -> None:
    found = tune(target, tmp_path, trials=1)
    assert found["spaces"].keys() == {
        "optimizer.lr", "model.init_std", "model.embedding_scale", "model.output_scale",
    }  # fmt: skip


def test_a_study_of_another_proxy_is_refused(target: Recipe, tmp_path: Path) -> None:
    tune(target, tmp_path, trials=1)
    for options in ({"width": 16}, {"steps": 4}):
        with pytest.raises(InputError, match="a study of another command"):
            tune(target, tmp_path, **options)


def test_nothing_is_started_without_a_corpus(target: Recipe, tmp_path: Path) -> None:
    lost = target.replace(data={"corpus": str(tmp_path / "nowhere"), "fingerprint": None})
    with pytest.raises(InputError, match="nowhere"):
        tune(lost, tmp_path)
    assert not (tmp_path / "big-tune").exists()


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
    ("changes", "width", "message"),
    [
        (["model.parametrization=sp"], 8, "settings transfer only under µP"),
        ([], 32, "no narrower than d_model=32"),
        ([], 6, "4 heads do not divide a proxy of width 6: try 8"),
    ],
)
def test_mistakes_are_named(changes: list[str], width: int, message: str, tmp_path: Path) -> None:
    target = load_recipe("mup-check", [*SETTINGS, *changes])
    with pytest.raises(InputError, match=message):
        tune(target, tmp_path, width=width)
