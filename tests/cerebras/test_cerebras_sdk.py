"""With the vendor's SDK: the same curves, both ways, and what lowers to its IR."""

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

from benchmarks import soak
from tests.distributed.processes import COMMAND, begin, end, losses, wait_for_step
from wafergpt.cerebras import cluster, environment
from wafergpt.checkpoint import store
from wafergpt.checkpoint.format import MOMENTS, WEIGHTS, Stored
from wafergpt.runs.run import Run

pytestmark = [
    pytest.mark.cerebras,
    pytest.mark.slow,
    pytest.mark.skipif(
        environment.state() is None,
        reason="Cerebras' SDK is not installed: wafergpt doctor --install-cerebras",
    ),
]

RECIPE = [
    "seed=5", "train.steps=50", "train.batch_size=8", "model.n_layers=2", "model.d_model=32",
    "model.n_heads=2", "model.seq_len=32", "evaluate.every=25", "evaluate.batches=2",
    "checkpoint.every=20", "checkpoint.keep=9", "schedule.warmup=5", "optimizer.weight_decay=0.1",
    "optimizer.eps_hat=true", "optimizer.eps=1e-6", "system.precision=fp32", "system.compile=off",
    "system.threads=1",
]  # fmt: skip
HERE = ["system.device=cpu"]
THERE = ["system.device=cerebras", "system.cerebras.mode=cpu"]
MUP = ["model.parametrization=mup", "model.base_d_model=16", "model.tied=false"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return soak.corpus(tmp_path_factory.mktemp("corpus"))


def back_to(run: Run, step: int) -> None:
    """Leave a run as if it had been killed after one of its checkpoints."""
    for folder in store.every(run):
        if int(folder.name[5:]) > step:
            shutil.rmtree(folder)


@pytest.mark.parametrize(
    "overrides",
    [
        ["schedule.name=cosine"],
        [*MUP, "schedule.name=wsd", "model.activation=gelu_tanh"],
        ["optimizer.name=adam", "optimizer.weight_decay=0", "optimizer.l2=0.01"],
    ],
    ids=["sp", "mup", "adam"],
)
def test_fifty_steps_there_are_those_here_and_each_resumes_the_other(
    corpus: Path, tmp_path: Path, overrides: list[str]
) -> None:
    recipe = [f"data.corpus={corpus}", *RECIPE, *overrides]
    end(begin(tmp_path, "name=here", *recipe, *HERE))
    end(begin(tmp_path, "name=there", *recipe, *THERE))
    here, there = (Run.find(name, tmp_path) for name in ("here", "there"))
    for key in ("loss", "grad_norm", "lr", "tokens"):
        ours, theirs = ([row[key] for row in run.metrics()] for run in (here, there))
        assert theirs == pytest.approx(ours, rel=1e-4), key
    expected = losses(tmp_path, "here")
    assert there.metrics()[-1]["val_loss"] == pytest.approx(
        here.metrics()[-1]["val_loss"], rel=1e-4
    )
    assert (there.path / "cerebras" / "state.h5").is_file()
    assert store.damage(store.every(there)[-1]) is None
    for name, other in (("here", THERE), ("there", HERE)):
        back_to(Run.find(name, tmp_path), 20)
        errors = end(begin(tmp_path, "--resume", name, *other))
        assert "step-00000020" in errors
        assert losses(tmp_path, name) == pytest.approx(expected, rel=1e-4), name


def test_a_signal_stops_it_and_it_resumes(corpus: Path, tmp_path: Path) -> None:
    recipe = [f"data.corpus={corpus}", *RECIPE, *THERE, "name=run"]
    end(begin(tmp_path, *recipe, "name=straight"))
    process = begin(tmp_path, *recipe)
    wait_for_step(tmp_path, "run", 5)
    process.send_signal(signal.SIGTERM)
    assert "everything is saved" in end(process, code=130)
    assert len(losses(tmp_path, "run")) < 50
    end(begin(tmp_path, "--resume", "run"))
    assert losses(tmp_path, "run") == losses(tmp_path, "straight")


@pytest.mark.parametrize("loss", ["cross_entropy", "binary", "squared_error"])
def test_fine_tuning_there_learns_what_it_learns_here(tmp_path: Path, loss: str) -> None:
    rows = tmp_path / "rows.csv"
    answers = ("1.5", "-0.5") if loss == "squared_error" else ("good", "bad")
    lines = [f"row {n} is {word},{word}" for n in range(120) for word in answers]
    rows.write_text("text,label\n" + "\n".join(lines) + "\n", encoding="utf-8")
    settings = [
        f"task.train={rows}", f"task.test={rows}", f"task.loss={loss}", "train.steps=20",
        "train.batch_size=10", "model.n_layers=1", "model.d_model=16", "model.n_heads=2",
        "model.seq_len=32", "model.vocab_size=300", "system.precision=fp32", "seed=3",
        "system.compile=off", "system.threads=1", "optimizer.eps_hat=true",
        f"evaluate.metric={'loss' if loss == 'squared_error' else 'accuracy'}",
    ]  # fmt: skip
    results = {}
    for name, where in (("here", HERE), ("there", THERE)):
        command = [*COMMAND, "finetune", "scratch", f"name={name}", "--runs", str(tmp_path)]
        command += [*settings, *where, "--json"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stderr
        results[name] = json.loads(done.stdout.splitlines()[-1])
    assert losses(tmp_path, "there") == pytest.approx(losses(tmp_path, "here"), rel=1e-4)
    for key in ("val_loss", "val_accuracy", "val_macro_f1"):
        val_losses = [
            [row.get(key) for row in Run.find(name, tmp_path).metrics() if "val_loss" in row]
            for name in ("here", "there")
        ]
        assert val_losses[1] == (
            val_losses[0] if None in val_losses[0] else pytest.approx(val_losses[0], rel=1e-3)
        )
    assert results["there"]["test"]["loss"] == pytest.approx(
        results["here"]["test"]["loss"], rel=1e-3
    )


SMALL = ["model.n_layers=2", "model.d_model=64", "model.n_heads=4", "model.seq_len=128"]


@pytest.mark.parametrize(
    "arguments",
    [
        *[[f"cerebras-gpt/{name}"] for name in ("111m", "590m", "1.3b", "111m-mup", "590m-mup")],
        ["cerebras-gpt/1.3b-mup"],
        *[[*SMALL, "train.epochs=1", f"task.pooling={p}"] for p in ("last", "mean", "max")],
        [*SMALL, "train.epochs=1", "task.pooling=mean_max_last", "task.loss=binary"],
        [*SMALL, "train.epochs=1", "task.loss=squared_error"],
        *[
            [*SMALL, f"sparsity.algorithm={a}", "sparsity.every=10", "system.device=cerebras"]
            for a in ("static", "gmp", "set", "rigl")
        ],
        [*SMALL, "model.dropout=0.1", "system.cerebras.half=float16"],
        [*SMALL, "system.cerebras.half=cbfloat16", "system.cerebras.systems=4"],
    ],
    ids=" ".join,
)
def test_it_lowers(arguments: list[str], tmp_path: Path) -> None:
    command = [*COMMAND, "plan", *arguments, "--lower", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lowering = json.loads(done.stdout.splitlines()[-1])["lowering"]
    assert lowering["ir_bytes"] > 100_000
    assert lowering["operators"] > 500
    assert lowering["operator_kinds"]["MatMul"] >= 2
    assert lowering["seconds"] > 0
    print(json.dumps({"recipe": arguments, **lowering}))


def inside(code: str, *arguments: str) -> Any:
    """Run code in the SDK's environment; return what it prints last, as JSON."""
    done = subprocess.run(
        [str(environment.python()), "-c", code, *arguments],
        capture_output=True, text=True, env=environment.environment(), timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


SETTINGS = """
import json, sys
import cerebras.pytorch as cstorch
from cerebras.appliance.utils.debug_args import DebugArgs
from wafergpt.cerebras.cluster import cluster_arguments, micro_batch_size
from wafergpt.config import load_recipe
settings = load_recipe(None, sys.argv[1:]).system.cerebras
config = cstorch.distributed.ClusterConfig(**cluster_arguments(settings))
csx = cstorch.backends.csx
csx.performance.micro_batch_size = micro_batch_size(settings)
csx.precision.optimization_level = settings.precision_level
cstorch.amp.set_half_dtype(settings.half)
print(json.dumps({
    "systems": config.num_csx, "management": config.mgmt_address,
    "third": config.job_priority == DebugArgs.DebugMGR.JobPriority.JOB_PRIORITY_P3,
    "mounts": [str(mount.path) for mount in config.mount_dirs],
    "paths": config.python_paths,
    "micro": csx.performance.micro_batch_size, "level": csx.precision.optimization_level,
}))
"""


@pytest.mark.parametrize("micro", ["auto", "explore", "16"])
def test_the_sdk_takes_our_cluster_settings(tmp_path: Path, micro: str) -> None:
    found = inside(
        SETTINGS, "system.cerebras.systems=16", "system.cerebras.management=head.example:9000",
        "system.cerebras.priority=p3", f"system.cerebras.mounts=[{tmp_path}]",
        f"system.cerebras.python_paths=[{tmp_path}]", f"system.cerebras.micro_batch={micro}",
        "system.cerebras.precision_level=2", "system.cerebras.half=cbfloat16",
    )  # fmt: skip
    assert found["systems"] == 16
    assert found["third"]
    assert found["management"] == "head.example:9000"
    assert found["mounts"] == [str(tmp_path)]
    assert found["paths"] == [str(tmp_path)]
    assert str(found["micro"]) == micro
    assert found["level"] == 2


SPARSE = """
import json, sys
from pathlib import Path
from wafergpt.cerebras.program import Program
from wafergpt.config import load_recipe
recipe = load_recipe(None, sys.argv[2:])
program = Program(recipe, Path(sys.argv[1]), 0)
masks = [name for name, _ in program.network.named_buffers() if name.endswith("_mask")]
print(json.dumps(masks))
"""


@pytest.mark.parametrize("algorithm", ["static", "gmp", "set", "rigl"])
def test_no_embedding_norm_or_head_is_ever_sparse(tmp_path: Path, algorithm: str) -> None:
    masks = inside(
        SPARSE, str(tmp_path), *SMALL, *THERE, f"sparsity.algorithm={algorithm}",
        "model.vocab_size=300", "train.steps=50", "model.tied=false",
    )  # fmt: skip
    assert len(masks) == 2 * 4
    assert all(".attention." in f".{name}" or ".ffn." in f".{name}" for name in masks)


@pytest.mark.parametrize("algorithm", ["static", "gmp", "set", "rigl"])
def test_a_sparse_run_trains_and_resumes_with_its_masks(
    corpus: Path, tmp_path: Path, algorithm: str
) -> None:
    sparse = [f"sparsity.algorithm={algorithm}", "sparsity.every=5", "sparsity.sparsity=0.6"]
    recipe = [f"data.corpus={corpus}", *RECIPE, *THERE, *sparse, "train.steps=30"]
    end(begin(tmp_path, *recipe, "name=run"))
    run = Run.find("run", tmp_path)
    straight = losses(tmp_path, "run")
    masks = Stored(store.every(run)[-1], MOMENTS)
    for name, tensor in Stored(store.every(run)[-1], WEIGHTS).items():
        if ".blocks." in f".{name}" and tensor.ndim == 2:
            mask = masks[f"{name}/mask"].bool()
            assert float(mask.float().mean()) == pytest.approx(0.4, abs=0.02), name
            # What has just grown again begins at zero.
            assert not tensor[~mask].any()
        elif tensor.ndim == 2:
            assert float((tensor == 0).float().mean()) < 0.01, name
    back_to(run, 20)
    end(begin(tmp_path, "--resume", "run"))
    assert losses(tmp_path, "run") == pytest.approx(straight, rel=1e-5)


def test_its_own_time_limit_and_sigusr1_save(corpus: Path, tmp_path: Path) -> None:
    recipe = [
        f"data.corpus={corpus}",
        *RECIPE,
        *THERE,
        "train.steps=100000",
        "evaluate.every=99999",
    ]
    recipe += ["name=run", "checkpoint.every=99999", "checkpoint.time_limit=30"]
    process = begin(tmp_path, *recipe)
    wait_for_step(tmp_path, "run", 5)
    process.send_signal(signal.SIGUSR1)
    run = Run.find("run", tmp_path)
    while len(store.every(run)) < 2:
        time.sleep(0.05)
        assert process.poll() is None
    errors = end(process, code=130)
    assert "time limit is near" in errors
    assert run.metrics()[-1]["step"] <= int(store.every(run)[-1].name[5:])


def test_patience_stops_it_and_more_patience_resumes_it(corpus: Path, tmp_path: Path) -> None:
    recipe = [f"data.corpus={corpus}", *RECIPE, *THERE, "optimizer.lr=1", "schedule.warmup=0"]
    recipe += ["optimizer.clip=0", "evaluate.every=2", "evaluate.patience=2", "name=run"]
    end(begin(tmp_path, *recipe))
    run = Run.find("run", tmp_path)
    result = run.read("result")
    assert result["stopped_early"]
    end(begin(tmp_path, "--resume", "run", "evaluate.patience=50"))
    assert run.read("result")["step"] == 50 > result["step"]


def test_without_a_cluster_a_run_says_what_is_missing(corpus: Path, tmp_path: Path) -> None:
    if cluster.CLUSTER.exists():
        pytest.skip("there is a cluster here")
    process = begin(tmp_path, f"data.corpus={corpus}", *RECIPE, "system.device=cerebras", "name=r")
    assert "no Cerebras cluster is configured here" in end(process, code=2)
    assert not (tmp_path / "r").exists()
    command = [*COMMAND, "plan", "cerebras-gpt/111m", "--lower", "system.cerebras.mode=compile"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 2
    assert "system.cerebras.management" in done.stderr


def test_doctor_reports_it() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from wafergpt.cli import main; main()", "doctor", "--json"],
        capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    facts = json.loads(done.stdout.splitlines()[-1])["cerebras"]
    assert facts["sdk"] == "2.10.0"
    assert facts["torch"].startswith("2.4.0")
