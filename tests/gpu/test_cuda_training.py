"""Every way to train, on a GPU: the CPU's losses, the bits of a resume, and what a plan says."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import soak
from tests.distributed.processes import COMMAND
from tests.gpu.device import DEVICE, NEEDS_DEVICE, losses
from wafergpt.api import finetune, plan, pretrain, prune
from wafergpt.checkpoint import store
from wafergpt.devices.probe import probe
from wafergpt.engines import passes
from wafergpt.errors import RunFailed
from wafergpt.runs.run import Run
from wafergpt.sparsity.criteria import Method

pytestmark = NEEDS_DEVICE
SHAPE = [
    "model.n_layers=2", "model.d_model=64", "model.n_heads=2", "model.seq_len=64",
    "train.batch_size=8", "train.micro_batch_size=4", "train.steps=30", "optimizer.lr=3e-3",
    "evaluate.batches=2", "evaluate.every=30", "system.compile=off",
    "system.threads=1",
]  # fmt: skip
NGRAMS = ["model.ngrams=[2, 3]", "model.ngram_rows=999"]
MUON = "optimizer.name=muon"
SPARSE = ["sparsity.sparsity=0.75", "sparsity.every=5"]
KINDS: dict[str, list[str]] = {
    "adamw": [],
    "muon": [MUON],
    "ngrams": NGRAMS,
    "sampled softmax": ["train.sampled_softmax=64", *NGRAMS, MUON],
    "mup": ["model.parametrization=mup", "model.base_d_model=32"],
    "documents": ["data.document_mask=true"],
    "recomputed": ["system.activation_checkpointing=true"],
    "sgd": ["optimizer.name=sgd", "optimizer.weight_decay=0", "optimizer.lr=0.1"],
    "untied": ["model.tied=false"],
    "rigl": [*SPARSE, "sparsity.algorithm=rigl"],
    "gmp": [*SPARSE, "sparsity.algorithm=gmp", MUON],
}
"""What differs from the plain recipe."""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"data.corpus={soak.corpus(tmp_path_factory.mktemp('corpus'))}"


def train(root: Path, name: str, *overrides: str) -> Run:
    return pretrain(None, [*SHAPE, *overrides, f"name={name}"], root=root)


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "sampled softmax"])
def test_losses_equal_the_cpus(kind: str, corpus: str, tmp_path: Path) -> None:
    same = [corpus, *KINDS[kind], "system.precision=fp32", "train.steps=12"]
    there = train(tmp_path, "gpu", *same, f"system.device={DEVICE}")
    here = train(tmp_path, "cpu", *same, "system.device=cpu")
    assert losses(there) == pytest.approx(losses(here), rel=2e-3)


# What torch's own compiler says is not ours.
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("compile_", ["off", "on"])
def test_passes_are_replayed_as_graphs(
    corpus: str, tmp_path: Path, compile_: str, capfd: pytest.CaptureFixture[str]
) -> None:
    found, replays = [], []
    replay = torch.cuda.CUDAGraph.replay

    def counted(graph: torch.cuda.CUDAGraph) -> None:
        replays.append(graph)
        replay(graph)

    for captured in (True, False):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.cuda.CUDAGraph, "replay", counted)
            if not captured:
                patch.setattr(passes, "MAX_SHAPES", 0)
            recipe = [corpus, "model.dropout=0.1", f"system.device={DEVICE}"]
            name = [f"captured-{captured}", *recipe, f"system.compile={compile_}"]
            found.append(losses(train(tmp_path, *name)))
        # Two passes an update, but for those that warm up.
        assert captured is (len(replays) >= 50)
        replays.clear()
    assert found[0] == found[1]
    assert "CUDA graph" not in capfd.readouterr().err


@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_run_ends_in_the_same_bits(kind: str, corpus: str, tmp_path: Path) -> None:
    recipe = [corpus, *KINDS[kind], "model.dropout=0.1", f"system.device={DEVICE}"]
    straight = train(tmp_path, "straight", *recipe, "checkpoint.every=10", "checkpoint.keep=9")
    cut = tmp_path / "cut"
    shutil.copytree(straight.path, cut)
    # As if it had been killed after 15 steps.
    (cut / "result.json").unlink()
    (cut / "checkpoints" / "latest").unlink()
    for later in ("step-00000020", "step-00000030"):
        shutil.rmtree(cut / "checkpoints" / later)
    again = pretrain(None, [], resume=cut, root=tmp_path)
    ends = [store.weights(run).by_rows for run in (straight, again)]
    for name in ends[0]:
        assert torch.equal(ends[0][name][...], ends[1][name][...]), name


def test_a_plan_knows_time_and_memory(corpus: str, tmp_path: Path) -> None:
    recipe = [
        corpus, "model.n_layers=8", "model.d_model=768", "model.n_heads=12", "model.seq_len=64",
        "train.batch_size=256", "train.micro_batch_size=256", "train.steps=200",
        "evaluate.every=1000", "evaluate.batches=2", "system.compile=off",
        f"system.device={DEVICE}",
    ]  # fmt: skip
    planned = plan(None, recipe)
    result = pretrain(None, [*recipe, "name=run"], root=tmp_path).read("result")
    assert planned.measured
    assert planned.memory_bytes == pytest.approx(result["peak_memory_bytes"], rel=0.15)
    assert planned.time.updates == pytest.approx(result["time"]["updates"], rel=0.15)


def test_too_large_a_micro_batch_is_one_line(corpus: str, tmp_path: Path) -> None:
    recipe = [
        corpus, "model.n_layers=12", "model.d_model=1024", "model.n_heads=16", "model.seq_len=64",
        "train.batch_size=256", "train.micro_batch_size=256", "train.steps=2",
        "system.device=cuda", "system.compile=off", "name=large",
    ]  # fmt: skip
    probe("cuda")
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(0.05)
    try:
        with pytest.raises(RunFailed, match="too little memory"):
            pretrain(None, recipe, root=tmp_path)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def test_killed_it_starts_again(corpus: str, tmp_path: Path) -> None:
    recipe = [*SHAPE, corpus, f"system.device={DEVICE}", "train.steps=200", "checkpoint.every=20"]
    for name in ("one", "two"):
        arguments = ["pretrain", "--runs", str(tmp_path), *recipe, f"name={name}"]
        process = subprocess.Popen([*COMMAND, *arguments], stderr=subprocess.DEVNULL)
        if name == "two":
            metrics = tmp_path / "two" / "metrics.jsonl"
            while not metrics.exists() or metrics.read_text().count("\n") < 60:
                assert process.poll() is None
            process.kill()
            process.wait()
            again = [*COMMAND, "pretrain", "--resume", str(tmp_path / "two")]
            process = subprocess.Popen(again, stderr=subprocess.DEVNULL)
        assert process.wait(timeout=120) == 0
    ends = [store.weights(Run.find(name, tmp_path)).by_rows for name in ("one", "two")]
    assert all(torch.equal(ends[0][n][...], ends[1][n][...]) for n in ends[0])


@pytest.mark.parametrize("method", ["magnitude", "wanda", "sparsegpt"])
def test_pruning_costs_what_it_costs_on_the_cpu(
    method: Method, corpus: str, tmp_path: Path
) -> None:
    train(tmp_path, "dense", corpus, f"system.device={DEVICE}", "train.steps=60")
    losses = [
        prune("dense", f"pruned-{device}", [f"system.device={device}", "system.precision=fp32"],
              method=method, root=tmp_path).read("result")["val_loss_after"]
        for device in ("cuda", "cpu")
    ]  # fmt: skip
    assert losses[0] == pytest.approx(losses[1], rel=5e-3)


def test_a_classifier_with_weighed_ngrams_and_zeros(tmp_path: Path) -> None:
    rng = random.Random(0)
    rows = [{"text": f"a {rng.choice(['good', 'bad'])} film with number {i}"} for i in range(400)]
    lines = [json.dumps({**row, "label": row["text"].split()[1]}) for row in rows]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    classifier = finetune(
        "scratch",
        None,
        ["model.n_layers=2", "model.d_model=64", "model.n_heads=2", "model.seq_len=32",
         "task.ngrams=words", "sparsity.algorithm=set", *SPARSE, f"system.device={DEVICE}",
         "name=clf"],
        data=tmp_path / "rows.jsonl",
        root=tmp_path,
    )  # fmt: skip
    found = classifier.predict(["a good film with number 3", "a bad film with number 7"])
    assert [row["label"] for row in found if row] == ["good", "bad"]


def test_the_report_of_this_machine_names_the_gpu() -> None:
    done = subprocess.run(
        [sys.executable, "-c", COMMAND[-1], "doctor"], capture_output=True, text=True,
        env=os.environ | {"COLUMNS": "120"}, timeout=300,
    )  # fmt: skip
    print(done.stdout)
    assert done.returncode == 0
    assert torch.cuda.get_device_name() in done.stdout
