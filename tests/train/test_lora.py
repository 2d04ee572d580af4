"""Trainings of adapters beside frozen weights, what they keep, and what is read of them."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.sparsity.test_masks import SMALL, corpus
from wafergpt.api import export, finetune, generate, plan, pretrain, prune
from wafergpt.checkpoint import store
from wafergpt.checkpoint.averaging import average
from wafergpt.checkpoint.format import WEIGHTS, Stored
from wafergpt.config import Lora, load_recipe
from wafergpt.engines.base import engine_for
from wafergpt.errors import InputError, RunFailed
from wafergpt.inference.predictor import Predictor
from wafergpt.planning.memory import checkpoint_bytes, estimated_memory
from wafergpt.runs.run import SHIPPED, Run
from wafergpt.shapes.counts import adapter_parameters

__all__ = ["corpus"]

QUICK = ["train.steps=6", "train.batch_size=4", "optimizer.lr=0.05", "system.threads=1",
         "system.precision=fp32", "system.compile=off", "lora.rank=4"]  # fmt: skip


@pytest.fixture(scope="module")
def home(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A language model, and rows for each task."""
    home = tmp_path_factory.mktemp("home")
    pretrain(None, [*SMALL, f"data.corpus={corpus}", "train.steps=20", "name=lm"], root=home)
    words = [(n, word) for n in range(20) for word in ("good", "bad")]
    rows: dict[str, list[dict[str, Any]]] = {
        "classify": [{"text": f"it is {w} {n}", "label": w} for n, w in words],
        "regress": [{"text": f"it is {n}", "label": n} for n, _ in words],
        "tag": [{"tokens": ["it", "is", w], "tags": ["O", "O", f"B-{w}"]} for _, w in words * 2],
        "translate": [{"source": f"{w} {n}", "target": f"{n} {w}"} for n, w in words],
        "dialogue": [
            {"messages": [{"role": "user", "content": f"how {n}"},
                          {"role": "assistant", "content": f"{n} good"}]}
            for n in range(100)
        ],
    }  # fmt: skip
    for task, some in rows.items():
        text = "".join(json.dumps(row) + "\n" for row in some)
        (home / f"{task}.jsonl").write_text(text)
    return home


def asked(home: Path, name: str, *more: str, task: str = "classify") -> list[str]:
    train = f"task.train={home / f'{task}.jsonl'}"
    return [*QUICK, f"task.name={task}", train, f"name={name}", *more]


def own(run: Run) -> dict[str, torch.Tensor]:
    """Return what the last checkpoint holds."""
    return dict(Stored(store.every(run)[-1], WEIGHTS))


@pytest.fixture(scope="module")
def adapted(home: Path) -> Run:
    more = ["checkpoint.every=2", "checkpoint.keep=9", "task.ngrams=words", "task.ngram_rows=64"]
    return finetune("lm", None, asked(home, "adapted", *more), root=home).run


INPUTS: dict[str, Any] = {
    "classify": "it is good 3", "regress": "it is 3", "tag": "it is good", "translate": "good 3",
    "dialogue": "how 3",
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("task", INPUTS)
def test_every_task_trains_adapters_alone(home: Path, task: str) -> None:
    found = finetune("lm", None, asked(home, f"of-{task}", task=task), root=home)
    base, kept = store.weights(Run(home / "lm")), own(found.run)
    adapters = {name for name in kept if name.endswith(("lora_a", "lora_b"))}
    assert len(adapters) == 2 * 4 * 2
    assert all(name in adapters or name.startswith("head") for name in kept)
    merged = store.weights(found.run)
    prefix = "" if task in ("translate", "dialogue") else "gpt."
    for name, before in base.items():
        moved = f"{prefix}{name.removesuffix('weight')}lora_a" in adapters
        assert torch.equal(merged[prefix + name], before) != moved, name
    assert found.predict([INPUTS[task]])[0]
    result = found.run.read("result")
    assert result["trained_parameters"] == sum(value.numel() for value in kept.values())
    assert result["parameters"] == result["trained_parameters"] + sum(
        value.numel() for value in base.values()
    )


@pytest.mark.slow
@pytest.mark.parametrize(("optimizer", "lr"), [("adamw", 0.01), ("muon", 0.02), ("sgd", 0.3)])
def test_a_language_model_goes_on_with_a_corpus(
    home: Path, corpus: Path, tmp_path: Path, optimizer: str, lr: float
) -> None:
    more = [f"data.corpus={corpus}", f"optimizer.name={optimizer}", "evaluate.batches=2",
            "optimizer.weight_decay=0", "name=more", "evaluate.prompts=[the]", "train.steps=20",
            "train.micro_batch_size=2", f"optimizer.lr={lr}"]  # fmt: skip
    run = pretrain(None, [*QUICK, *more], start=home / "lm", root=tmp_path)
    before, after = Run(home / "lm").read("result"), run.read("result")
    assert after["best_val_loss"] < before["val_loss"]
    assert all(name.endswith(("lora_a", "lora_b")) for name in own(run))
    assert generate(run, "the", root=tmp_path)
    written = export(run, tmp_path / "hf", root=tmp_path)
    assert written["max_relative_logit_difference"] < 1e-4


def test_what_is_merged_answers_as_in_training(home: Path, adapted: Run) -> None:
    """The validation loss of the network with adapters, and that of merged weights."""
    evaluated = [row["val_loss"] for row in adapted.metrics() if "val_loss" in row]
    merged = Predictor.load(adapted)
    assert not [name for name in merged.network.state_dict() if "lora" in name]
    lines = [json.loads(line) for line in (home / "classify.jsonl").read_text().splitlines()]
    assert len(merged.predict([line["text"] for line in lines])) == len(lines)
    metrics = adapted.read("result")["metrics"]
    assert metrics["loss"] == pytest.approx(evaluated[-1], rel=1e-4)


def test_a_resume_ends_in_the_same_bits(adapted: Run, tmp_path: Path) -> None:
    shutil.copytree(adapted.path.parent / "lm", tmp_path / "lm")
    cut = shutil.copytree(adapted.path, tmp_path / "cut")
    (cut / "result.json").unlink()
    for folder in store.every(Run(cut))[2:]:
        shutil.rmtree(folder)
    again = finetune(resume=cut, root=tmp_path).run
    ends = own(adapted), own(again)
    assert ends[0].keys() == ends[1].keys()
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
    digests = [run.read("result")["weights_sha256"] for run in (adapted, again)]
    assert digests[0] == digests[1]


@pytest.mark.slow
@pytest.mark.usefixtures("preloaded")
@pytest.mark.parametrize("shards", [1, 2])
def test_several_processes_train_the_same(
    home: Path, corpus: Path, tmp_path: Path, shards: int
) -> None:
    asked = [*QUICK, f"data.corpus={corpus}", "evaluate.batches=2"]
    one = pretrain(None, [*asked, "name=one"], start=home / "lm", root=tmp_path)
    command = [sys.executable, "-m", "wafergpt", "pretrain", "--runs", str(tmp_path)]
    more = ["--from", str(home / "lm"), "--nproc", "2", f"system.shard={shards}", "name=two"]
    subprocess.run([*command, *asked, *more], check=True, capture_output=True)
    two = Run(tmp_path / "two")
    losses = [[row["loss"] for row in run.metrics()] for run in (one, two)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert own(one).keys() == own(two).keys()
    merged = store.weights(one), store.weights(two)
    assert all(torch.allclose(merged[0][name], merged[1][name], atol=1e-4) for name in merged[0])


@pytest.mark.slow
@pytest.mark.usefixtures("preloaded")
def test_killed_and_resumed_it_ends_in_the_same_bits(home: Path, tmp_path: Path) -> None:
    shutil.copytree(home / "lm", tmp_path / "lm")
    more = ["train.steps=300", "checkpoint.every=10", "model.dropout=0.1", "evaluate.every=300"]
    straight = finetune(home / "lm", None, asked(home, "straight", *more), root=tmp_path).run
    command = [sys.executable, "-m", "wafergpt", "finetune", "--runs", str(tmp_path)]
    process = subprocess.Popen([*command, "lm", *asked(home, "cut", *more)],
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
    while process.poll() is None and not (tmp_path / "cut/checkpoints/step-00000010").exists():
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "cut" / "result.json").exists()
    again = finetune(resume="cut", root=tmp_path).run
    digests = [run.read("result")["weights_sha256"] for run in (straight, again)]
    assert digests[0] == digests[1]


def test_a_checkpoint_is_small_and_goes_with_its_base(
    home: Path, adapted: Run, tmp_path: Path
) -> None:
    sizes = [sum(file.stat().st_size for file in store.every(run)[-1].iterdir())
             for run in (Run(home / "lm"), adapted)]  # fmt: skip
    assert sizes[1] < 0.5 * sizes[0]
    texts = ["it is good 3", "it is bad 5"]
    before = Predictor.load(adapted).predict(texts)
    # A base may be trained on, as long as the old checkpoint is kept.
    moved = tmp_path / "elsewhere"
    for name in ("lm", "adapted"):
        shutil.copytree(home / name, moved / name)
    recipe = (moved / "adapted" / "recipe.yaml").read_text()
    recipe = recipe.replace(str(home.resolve()), "/old/place")
    (moved / "adapted" / "recipe.yaml").write_text(recipe)
    assert Predictor.load(Run(moved / "adapted")).predict(texts) == before
    later = Run(moved / "lm").recipe.train.steps
    pretrain(None, [f"train.steps={(later or 0) + 4}", "checkpoint.keep=9"], resume=moved / "lm")
    assert Predictor.load(Run(moved / "adapted")).predict(texts) == before
    for folder in store.every(Run(moved / "lm"))[:-1]:
        shutil.rmtree(folder)
    with pytest.raises(InputError, match=r"^adapted holds adapters of .*lm, which has other"):
        Predictor.load(Run(moved / "adapted"))
    path = tmp_path / "adapted" / "recipe.yaml"
    for name in ("lm", "adapted"):
        shutil.copytree(home / name, tmp_path / name)
    path.write_text(path.read_text().replace("  rank: 4\n", "  rank: 8\n"))
    with pytest.raises(RunFailed, match=r"lora_a' fits no matrix of rank 8"):
        Predictor.load(Run(path.parent))
    shutil.rmtree(moved / "lm")
    shutil.rmtree(tmp_path / "lm")
    with pytest.raises(InputError, match=r"^adapted holds adapters of .*lm, which is gone"):
        Predictor.load(Run(moved / "adapted"))
    with pytest.raises(InputError, match="is gone"):
        finetune(resume=moved / "adapted", overrides=[f"task.train={home / 'classify.jsonl'}"])


@pytest.mark.slow
def test_the_shipped_base_is_found_wherever_the_package_is(home: Path, tmp_path: Path) -> None:
    more = ["train.steps=1", "task.max_tokens=16"]
    found = finetune("base", None, asked(home, "on-base", *more), root=tmp_path)
    answers = found.predict(["it is good"])
    path = found.run.path / "recipe.yaml"
    path.write_text(path.read_text().replace(str(SHIPPED.resolve()), "/other/site-packages"))
    assert Predictor.load(found.run).predict(["it is good"]) == answers
    # Another base by that name is not taken for it.
    shutil.copytree(home / "lm", tmp_path / "base")
    assert Predictor.load(found.run).predict(["it is good"]) == answers


@pytest.mark.slow
def test_from_adapters_it_starts_with_them_merged_in(
    home: Path, adapted: Run, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = f"data.corpus={corpus}"
    first = pretrain(None, [*QUICK, data, "name=first", "evaluate.batches=2"], start=home / "lm",
                     root=tmp_path)  # fmt: skip
    capsys.readouterr()
    second = finetune(first, None, asked(home, "second", "train.steps=1"), root=tmp_path).run
    assert (
        "holds adapters: the weights to start from have them merged in" in capsys.readouterr().err
    )
    before, after = store.weights(first), store.weights(second)
    kept = [n for n in before if "lora_a" not in n and not n.endswith(("qkv.weight", "out.weight",
                                                                       "up.weight"))]  # fmt: skip
    assert all(torch.equal(before[n], after[f"gpt.{n}"]) for n in kept)
    step = Stored(store.every(second)[0], WEIGHTS)
    name = "blocks.0.attention.qkv."
    assert not step[f"gpt.{name}lora_b"].any()
    at_first = store.weights(Run(second.path, store.every(second)[0]))
    assert torch.equal(at_first[f"gpt.{name}weight"], before[f"{name}weight"])
    whole = finetune(first, None, [*asked(home, "whole")[:-1], "name=whole", "lora.rank=0"],
                     root=tmp_path).run  # fmt: skip
    assert own(whole).keys() >= {f"gpt.{name}" for name in before}


def test_means_of_checkpoints_and_pruned_ones(home: Path, adapted: Run, tmp_path: Path) -> None:
    texts = ["it is good 3", "it is bad 5"]
    mean = average(adapted, "mean", last=2, root=tmp_path)
    assert own(mean).keys() == own(adapted).keys()
    assert Predictor.load(mean).predict(texts)
    pruned = prune(adapted, "pruned", root=tmp_path)
    assert pruned.recipe.lora.rank == 0
    assert own(pruned).keys() == set(store.weights(adapted))
    assert Predictor.load(pruned).predict(texts)


@pytest.mark.slow
@pytest.mark.usefixtures("preloaded")
def test_a_plan_counts_what_is_trained(home: Path, corpus: Path, tmp_path: Path) -> None:
    shape = ["model.n_layers=2", "model.d_model=512", "model.n_heads=4", "model.seq_len=32",
             "train.batch_size=4", "train.steps=4", f"data.corpus={corpus}", "system.threads=1",
             "system.compile=off", "system.precision=fp32", "evaluate.batches=2"]  # fmt: skip
    wide = pretrain(None, [*shape, "name=wide"], root=tmp_path)
    with_lora = [*QUICK, f"data.corpus={corpus}", "evaluate.batches=2", "name=planned"]
    found = plan(None, with_lora, start=wide, root=tmp_path)
    lora = Lora(rank=4)
    assert found.measured
    assert found.to_dict()["trained_parameters"] == adapter_parameters(wide.recipe.model, lora)
    # In a process of its own, for the memory of this one has held more.
    command = [sys.executable, "-m", "wafergpt", "pretrain", "--runs", str(tmp_path)]
    subprocess.run([*command, "--from", "wide", *with_lora], check=True, capture_output=True)
    run = Run(tmp_path / "planned")
    result = run.read("result")
    assert found.memory_bytes == pytest.approx(result["peak_memory_bytes"], rel=0.15)
    assert found.flops == pytest.approx(run.metrics()[-1]["flops"], rel=0.01)
    stored = sum(file.stat().st_size for file in store.every(run)[-1].glob("*.safetensors"))
    planned = checkpoint_bytes(run.recipe.model, run.recipe.optimizer, lora=lora)
    assert planned == pytest.approx(stored, rel=0.1)
    whole = estimated_memory(run.recipe.replace(lora={"rank": 0}), "cpu")
    less = estimated_memory(run.recipe, "cpu")
    assert less.optimizer + less.gradients < 0.05 * (whole.optimizer + whole.gradients)
    assert less.weights > whole.weights


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["lora.rank=-1"], "lora.rank=-1 is impossible"),
        (["lora.rank=2.5"], "lora.rank=2.5 is impossible"),
        (["lora.rank=33"], "lora.rank=33 is more than qkv, 96 × 32, can have: at most 32"),
        (["lora.alpha=0"], "lora.alpha=0 is impossible"),
        (["lora.rank=0", "lora.alpha=32"], "lora.alpha is of no use without adapters"),
        (["lora.roles=[qkw]"], "'qkw' is no matrix of a block; did you mean 'qkv'?"),
        (["lora.roles=[]"], "lora.roles=[] is impossible"),
        (["lora.targets=[qkv]"], "unknown key 'lora.targets'"),
        (["sparsity.algorithm=static"], "lora.rank freezes the weights"),
        (["model.ngrams=[2]"], "model.ngrams are added to a network that is trained as a whole"),
    ],
)
def test_what_cannot_be_adapted_is_one_line(home: Path, overrides: list[str], words: str) -> None:
    with pytest.raises(InputError) as error:
        finetune("lm", None, asked(home, "never", *overrides), root=home)
    assert words in str(error.value)
    assert "\n" not in str(error.value)
    assert not (home / "never").exists()


def test_there_is_nothing_to_adapt_from_scratch(home: Path, corpus: Path) -> None:
    words = r"lora\.rank adapts a trained network"
    with pytest.raises(InputError, match=words):
        finetune("scratch", None, asked(home, "never"), root=home)
    for verb in (pretrain, plan):
        with pytest.raises(InputError, match=words):
            verb(None, [*QUICK, f"data.corpus={corpus}", "name=never"], root=home)
    assert not (home / "never").exists()
    recipe = load_recipe(None, [*QUICK, "system.device=cerebras"])
    with pytest.raises(InputError, match=r"lora\.rank is not for system\.device=cerebras"):
        engine_for("cerebras").require(recipe)
