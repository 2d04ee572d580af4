"""Weights sharded over several real processes, against one process with whole weights."""

from __future__ import annotations

import gzip
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import soak
from tests.distributed.processes import RECIPE, STEPS, begin, end, losses, run_script, wait_for_step
from wafergpt.checkpoint import store
from wafergpt.checkpoint.format import SHARDS, WEIGHTS, Stored
from wafergpt.config import load_recipe
from wafergpt.data.prepare import prepare
from wafergpt.devices.detect import compiler_available
from wafergpt.errors import RunFailed
from wafergpt.planning.memory import training_memory
from wafergpt.runs.run import Run

pytestmark = pytest.mark.slow

SHARDED = [*RECIPE, "evaluate.prompts=[]", "optimizer.name=adamw", "system.shard=0"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return soak.corpus(tmp_path_factory.mktemp("corpus"))


@pytest.mark.parametrize(
    ("nproc", "shard", "near", "overrides"),
    [
        (2, 0, 1e-5, ("optimizer.name=muon",)),
        (4, 2, 1e-5, ()),
        (
            3,
            0,
            1e-5,
            (
                "optimizer.name=sgd",
                "optimizer.weight_decay=0",
                "optimizer.l2=0.01",
                "model.ngrams=[]",
            ),
        ),
        pytest.param(
            2,
            0,
            1e-5,
            ("system.compile=on", "train.steps=8"),
            marks=pytest.mark.skipif(not compiler_available("cpu"), reason="there is no compiler"),
        ),
    ],
)
def test_sharded_it_is_the_same_training(
    corpus: Path, tmp_path: Path, nproc: int, shard: int, near: float, overrides: tuple[str, ...]
) -> None:
    """A batch of 8 in passes of 2 gives three processes different numbers of passes."""
    recipe = [f"data.corpus={corpus}", *SHARDED, "train.steps=12", *overrides]
    end(begin(tmp_path, "name=alone", *recipe, "system.shard=1"))
    end(begin(tmp_path, "name=run", *recipe, f"system.shard={shard}", "--nproc", str(nproc)))
    ours, theirs = (Run.find(name, tmp_path).metrics() for name in ("run", "alone"))
    for key in ("loss", "grad_norm"):
        assert [row[key] for row in ours] == pytest.approx([r[key] for r in theirs], rel=near)
    assert ours[-1]["val_loss"] == pytest.approx(theirs[-1]["val_loss"], rel=near)


def test_a_teacher_is_whole_in_each_process(corpus: Path, tmp_path: Path) -> None:
    """Of copies and of shards; three processes make different numbers of passes."""
    recipe = [f"data.corpus={corpus}", *SHARDED, "train.steps=8", "model.ngrams=[]"]
    end(begin(tmp_path, "name=teacher", *recipe, "model.d_model=48", "system.shard=1"))
    recipe += ["train.teacher=teacher"]
    end(begin(tmp_path, "name=alone", *recipe, "system.shard=1"))
    end(begin(tmp_path, "name=copies", *recipe, "system.shard=1", "--nproc", "2"))
    end(begin(tmp_path, "name=shards", *recipe, "--nproc", "3"))
    expected = losses(tmp_path, "alone")
    for name in ("copies", "shards"):
        assert losses(tmp_path, name) == pytest.approx(expected, rel=1e-5)
        result = Run.find(name, tmp_path).read("result")
        assert result["parameters"] == Run.find("alone", tmp_path).read("result")["parameters"]


def test_killed_it_resumes_with_another_number_of_processes_over_the_same_samples(
    corpus: Path, tmp_path: Path
) -> None:
    """No number of rows of this vocabulary's table is the same in four processes and in three."""
    recipe = [f"data.corpus={corpus}", *SHARDED]
    end(begin(tmp_path, "name=alone", *recipe, "system.shard=1"))
    process = begin(tmp_path, "name=run", *recipe, "system.timeout=20", "--nproc", "4")
    victim = soak.ranked(process, 2)
    wait_for_step(tmp_path, "run", 12)
    victim.kill()
    assert "process 2 of 4 was ended by SIGKILL" in end(process, code=1)
    run = Run.find("run", tmp_path)
    folder = store.every(run)[-1]
    assert store.damage(folder) is None
    assert len(list(folder.glob("model-*-of-00004.safetensors"))) == 4
    process = begin(tmp_path, "--resume", "run", "--nproc", "3")
    wait_for_step(tmp_path, "run", 22)
    process.send_signal(signal.SIGTERM)
    assert "everything is saved" in end(process, code=130)
    end(begin(tmp_path, "--resume", "run", "--nproc", "4"))
    assert losses(tmp_path, "run") == pytest.approx(losses(tmp_path, "alone"), rel=1e-5)
    ours, theirs = (Run.find(name, tmp_path) for name in ("run", "alone"))
    assert [row["tokens"] for row in ours.metrics()] == [r["tokens"] for r in theirs.metrics()]
    # Whole again, for whatever takes a run.
    for name, tensor in store.weights(theirs).items():
        assert torch.allclose(store.weights(ours)[name], tensor, rtol=1e-2, atol=1e-4), name


def test_at_the_same_number_a_resume_gives_the_same_bits(corpus: Path, tmp_path: Path) -> None:
    recipe = [f"data.corpus={corpus}", *SHARDED, "model.dropout=0.2", "--nproc", "2"]
    end(begin(tmp_path, "name=straight", *recipe))
    process = begin(tmp_path, "name=killed", *recipe, "system.timeout=20")
    victim = soak.ranked(process, 1)
    wait_for_step(tmp_path, "killed", 15)
    victim.kill()
    end(process, code=1)
    assert len(losses(tmp_path, "killed")) < STEPS
    end(begin(tmp_path, "--resume", "killed"))
    hashes = {
        Run.find(n, tmp_path).read("result")["weights_sha256"] for n in ("straight", "killed")
    }
    assert len(hashes) == 1
    assert losses(tmp_path, "straight") == losses(tmp_path, "killed")
    _damaged_parts_are_found(Run.find("killed", tmp_path))


def _damaged_parts_are_found(run: Run) -> None:
    folder = store.every(run)[-1]
    assert store.damage(folder) is None
    weights = dict(Stored(folder, WEIGHTS))
    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        for bad in (data[:-1], b"", bytes([data[0] ^ 1, *data[1:]]), None):
            path.unlink() if bad is None else path.write_bytes(bad)
            assert store.damage(folder) is not None, path
            path.write_bytes(data)
    # A process that has the first half of the rows reads no file but that.
    other = folder / "model-00001-of-00002.safetensors"
    data = other.read_bytes()
    other.unlink()
    rows = Stored(folder, WEIGHTS).by_rows["embedding.weight"]
    assert torch.equal(rows[:135], weights["embedding.weight"][:135])
    with pytest.raises(RunFailed, match="00001-of-00002"):
        rows[134:136]
    other.write_bytes(data)
    # An index that names other rows, in a manifest that agrees with it.
    index = json.loads((folder / SHARDS).read_text())
    parts = index["model"]["embedding.weight"]["parts"]
    parts[1]["start"] += 1
    (folder / SHARDS).write_text(json.dumps(index))
    with pytest.raises(RunFailed, match="is incomplete"):
        Stored(folder, WEIGHTS)
    hostile: list[Any] = [
        {"shape": [], "parts": []},
        {"shape": [4], "parts": [{"file": "../x", "start": 0, "rows": 4}]},
        {"shape": [4], "parts": [{"file": "model-\0", "start": 0, "rows": 4}]},
        {"shape": [4], "parts": [{"file": parts[0]["file"], "start": 0, "rows": 1 << 70}]},
        {"shape": "x", "parts": 3},
        {"shape": [1], "parts": [{"file": parts[0]["file"], "start": None, "rows": 1}]},
        None,
        [],
    ]
    for value in hostile:
        index["model"] = {"a": value}
        (folder / SHARDS).write_text(json.dumps(index))
        with pytest.raises(RunFailed):
            Stored(folder, WEIGHTS)
        assert store.damage(folder) is not None
    # Right in itself, but no file has it.
    index["model"] = {"a": {"shape": [1], "parts": [{**parts[0], "rows": 1}]}}
    (folder / SHARDS).write_text(json.dumps(index))
    with pytest.raises(RunFailed, match="a"):
        Stored(folder, WEIGHTS)["a"]
    assert weights["embedding.weight"].shape == (270, 32)


def test_what_needs_whole_weights_is_refused(corpus: Path, tmp_path: Path) -> None:
    sharded = ("system.shard=0", "--nproc", "2")
    process = begin(tmp_path, "name=run", f"data.corpus={corpus}", *RECIPE, *sharded)
    assert "evaluate.prompts=[]" in end(process, code=2)
    odd = ("system.shard=2", "evaluate.prompts=[]", "--nproc", "3")
    process = begin(tmp_path, "name=run", f"data.corpus={corpus}", *RECIPE, *odd)
    assert "do not make groups of system.shard=2" in end(process, code=2)


FAKE = """
import json, sys
from unittest import mock
import torch
import torch.distributed as dist
from torch.distributed import device_mesh
from torch.testing._internal.distributed.fake_pg import FakeStore
from wafergpt.config import load_recipe
from wafergpt.model.gpt import GPT
from wafergpt.distributed.sharding import Part, shard
from wafergpt.distributed.collectives import ProcessGroup
from wafergpt.engines.optimizers import Optimizer

rank, processes, shards, name = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=processes)
recipe = load_recipe(name, ["model.vocab_size=50257"])
with torch.device("meta"):
    gpt = GPT(recipe.model)
shard(gpt, gpt.blocks, ProcessGroup(rank, processes), shards, "cpu")
optimizer = Optimizer(gpt.named_parameters(), recipe.optimizer)
for parameter in gpt.parameters():
    parameter.grad = torch.zeros_like(parameter)
for part in optimizer._parts:
    for group in part.param_groups:
        group["fused"] = False  # there is no fused update on the meta device
    part.step()

def held(tensors):
    return sum(Part.of(t).values.numel() * t.element_size() for t in tensors)

parameters = list(gpt.parameters())
print(json.dumps({
    "weights": held(parameters),
    "gradients": held(p.grad for p in parameters),
    "optimizer": held(optimizer.state_tensors().values()),
}))
"""


@pytest.mark.usefixtures("preloaded")
@pytest.mark.parametrize("rank", [0, 5, 63])
def test_thirteen_billion_weights_take_what_was_planned(rank: int) -> None:
    """On 64 processes that are not there, in groups of eight; nothing is allocated."""
    command = [sys.executable, "-c", FAKE, str(rank), "64", "8", "cerebras-gpt/13b"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    held = json.loads(done.stdout)
    settings = ["model.vocab_size=50257", "system.nproc=64", "system.shard=8"]
    recipe = load_recipe("cerebras-gpt/13b", [*settings, "system.device=cpu"])
    planned = training_memory(recipe.model, 1, recipe.optimizer, recipe.system)
    for part, found in held.items():
        assert found == pytest.approx(getattr(planned, part), rel=0.02), part


def test_checkpointed_activations_change_nothing(corpus: Path, tmp_path: Path) -> None:
    recipe = [f"data.corpus={corpus}", *RECIPE, "model.dropout=0.1", "train.steps=10"]
    end(begin(tmp_path, "name=kept", *recipe))
    end(begin(tmp_path, "name=again", *recipe, "system.activation_checkpointing=true"))
    assert losses(tmp_path, "kept") == losses(tmp_path, "again")
    sharded = ("evaluate.prompts=[]", "system.shard=0", "--nproc", "2")
    end(begin(tmp_path, "name=two", *recipe, *sharded))
    end(begin(tmp_path, "name=both", *recipe, *sharded, "system.activation_checkpointing=true"))
    assert losses(tmp_path, "two") == losses(tmp_path, "both")


CRASHING = """
import hashlib, os, signal, sys
from pathlib import Path
from wafergpt.errors import ProcessLost
from wafergpt.api import pretrain
from wafergpt.engines.torch import TorchEngine

root, resume, crash, *recipe = sys.argv[1:]
passes = TorchEngine._passes
gradients = TorchEngine._gradients_here

def counted(self, step, first, size, until):
    self.step = step
    return gradients(self, step, first, size, until)

def watched(self, batches, first, size, at_once):
    found = passes(self, batches, first, size, at_once)
    if batches is self._splits.train:
        if os.environ["RANK"] == "1" and self.step == int(crash):
            os.kill(os.getpid(), signal.SIGKILL)
        for batch, share in found:
            for row in batch["tokens"] if share else ():
                digest = hashlib.sha256(row.numpy().tobytes()).hexdigest()
                print(self.step, digest, flush=True)
    return found

TorchEngine._passes = watched
TorchEngine._gradients_here = counted
try:
    pretrain(None, recipe, resume=resume or None, root=Path(root))
except ProcessLost:
    pass
sys.stdout.flush()
os._exit(0)
"""


def stream(outputs: list[str]) -> dict[int, list[str]]:
    """Return the samples of each step, those of the first process first."""
    steps: dict[int, list[str]] = {}
    for line in "\n".join(outputs).split("\n"):
        if line:
            step, sample = line.split()
            steps.setdefault(int(step), []).append(sample)
    return steps


def test_three_then_two_then_three_read_the_same_tokens(real_data: Path, tmp_path: Path) -> None:
    """With GPT-2's vocabulary, 50,257 = 29·1733 rows, which no number of processes divides."""
    text = tmp_path / "text.txt"
    packed = (real_data / "tinyshakespeare" / "input.txt.gz").read_bytes()
    text.write_bytes(gzip.decompress(packed)[:60_000])
    corpus = prepare(text, tmp_path / "corpus", tokenizer=real_data / "gpt2_bpe")
    recipe = [
        f"data.corpus={corpus.path}", "name=run", *SHARDED, "train.steps=6", "train.batch_size=7",
        "train.micro_batch_size=1", "checkpoint.every=2", "evaluate.every=6", "model.n_layers=1",
        "model.d_model=16", "model.seq_len=16",
    ]  # fmt: skip
    never = "-1"
    expected = stream(run_script(CRASHING, 1, str(tmp_path), "", never, *recipe, "name=alone"))
    seen: dict[int, list[str]] = {}
    for size, crash, resume in ((3, "3", ""), (2, "5", "run"), (3, never, "run")):
        own = [] if resume else recipe
        killed = 1 if crash != never else None
        outputs = run_script(CRASHING, size, str(tmp_path), resume, crash, *own, killed=killed)
        seen |= stream(outputs)
    assert len(expected) == 6
    assert all(len(samples) == 7 for samples in expected.values())
    assert seen == expected
    assert store.weights(Run.find("run", tmp_path))["embedding.weight"].shape == (50257, 16)
    assert losses(tmp_path, "run") == pytest.approx(losses(tmp_path, "alone"), rel=1e-5)
