"""Real processes, killed in the middle: the bits that come out are those of an undisturbed run."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.preloaded import Popen
from wafergpt.data.prepare import prepare
from wafergpt.devices.detect import multiplies_bf16
from wafergpt.runs.run import Run

STEPS = 40
PRECISION = "bf16" if multiplies_bf16("cpu") else "fp32"
"""Emulated, bf16 takes ten times as long. Measured anew, it could differ from run to run."""

pytestmark = pytest.mark.slow

RECIPE = [
    "name=run", "seed=5", f"train.steps={STEPS}", "train.batch_size=8", "train.micro_batch_size=4",
    "model.n_layers=2", "model.d_model=32", "model.n_heads=2", "model.seq_len=32",
    "model.dropout=0.2", "optimizer.name=muon", "schedule.warmup=4", "checkpoint.every=6",
    "evaluate.every=8", "evaluate.batches=2", "evaluate.prompts=[the]", "system.compile=off",
    f"system.precision={PRECISION}", "system.threads=1", "train.first_steps=15",
    "train.first_batch_size=4", "model.parametrization=mup", "model.base_d_model=16",
    "train.sampled_softmax=32", "model.ngrams=[2]", "model.ngram_rows=500",
]  # fmt: skip

DRIVER = """
import signal, sys, time
from pathlib import Path
from wafergpt.errors import Interrupted
from wafergpt.runs.run import Run
from wafergpt.checkpoint import format as stored
from wafergpt.api import pretrain
from wafergpt.logs import show

show()
# It may be ignored here, where nohup has started the tests.
signal.signal(signal.SIGHUP, signal.SIG_DFL)

def announced(name, function):
    def wrapper(*arguments):
        print(name, flush=True)
        result = function(*arguments)
        # A wide window, so that the parent's signal falls inside.
        time.sleep(0.02)
        return result
    return wrapper

Run.log = announced("step", Run.log)
stored.save_file = announced("saving", stored.save_file)
root, resume, *recipe = sys.argv[1:]
from wafergpt.engines.torch import TorchEngine
TorchEngine.outputs = announced("evaluating", TorchEngine.outputs)
try:
    pretrain(None, recipe, resume=resume or None, root=Path(root))
except Interrupted as stop:
    print(stop)
    sys.exit(130)
"""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    rng = random.Random(0)
    words = ["the", "cat", "sat", "on", "a", "mat", "and", "saw", "two", "dogs", "run"]
    lines = [json.dumps({"text": " ".join(rng.choices(words, k=60))}) for _ in range(200)]
    (folder / "a.jsonl").write_text("\n".join(lines))
    prepare(folder / "a.jsonl", folder / "corpus", vocab_size=270)
    return folder / "corpus"


def start(root: Path, corpus: Path, resume: bool = False) -> subprocess.Popen[str]:
    recipe = [] if resume else [*RECIPE, f"data.corpus={corpus}"]
    command = [
        sys.executable,
        "-c",
        DRIVER,
        str(root),
        str(root / "run") if resume else "",
        *recipe,
    ]
    return Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def stop_at(process: subprocess.Popen[str], word: str, count: int, number: int) -> int:
    """Send a signal at the ``count``-th announcement of ``word``; return the exit code."""
    assert process.stdout is not None
    for line in process.stdout:
        count -= line.strip() == word
        if not count:
            process.send_signal(number)
            break
    else:
        pytest.fail(f"the run ended before '{word}': {process.stderr and process.stderr.read()}")
    process.communicate()
    return process.returncode


def outcome(run: Run) -> tuple[list[tuple[float, ...]], str, str]:
    rows: list[tuple[float, ...]] = [
        (row["step"], row["loss"], row["lr"], row["grad_norm"], row.get("val_loss", 0.0))
        for row in run.metrics()
    ]
    return rows, run.read("result")["weights_sha256"], (run.path / "samples.md").read_text()


@pytest.fixture(scope="module")
def undisturbed(
    corpus: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[list[tuple[float, ...]], str, str]:
    root = tmp_path_factory.mktemp("straight")
    process = start(root, corpus)
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    result = outcome(Run.find("run", root))
    assert [row[0] for row in result[0]] == list(range(1, STEPS + 1))
    return result


def test_killed_three_times_also_in_a_save_it_ends_in_the_same_bits(
    corpus: Path, undisturbed: object, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    moments = [("saving", 3), ("step", 9), ("saving", 4)]
    for attempt, (word, count) in enumerate(moments):
        process = start(tmp_path, corpus, resume=attempt > 0)
        assert stop_at(process, word, count, signal.SIGKILL) == -signal.SIGKILL
        assert not (run / "result.json").exists(), "the run was not in the middle"
        if word == "saving":
            assert list((run / "checkpoints").glob(".*.tmp")), "it was not in the middle of a save"
    process = start(tmp_path, corpus, resume=True)
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    assert outcome(Run.find("run", tmp_path)) == undisturbed
    assert not list((run / "checkpoints").glob(".*.tmp"))


MOMENTS = [
    ("saving", 1, signal.SIGTERM),
    ("step", 1, signal.SIGINT),
    ("saving", 4, signal.SIGINT),
    ("evaluating", 2, signal.SIGHUP),
]


@pytest.mark.parametrize(("word", "count", "number"), MOMENTS)
def test_a_signal_saves_exits_130_and_resumes_to_the_same_bits(
    corpus: Path, undisturbed: object, tmp_path: Path, word: str, count: int, number: int
) -> None:
    process = start(tmp_path, corpus)
    assert stop_at(process, word, count, number) == 130
    assert not (tmp_path / "run" / "result.json").exists()
    process = start(tmp_path, corpus, resume=True)
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    assert "resuming from" in errors
    assert outcome(Run.find("run", tmp_path)) == undisturbed


def test_sigusr1_saves_and_the_run_continues(
    corpus: Path, undisturbed: object, tmp_path: Path
) -> None:
    process = start(tmp_path, corpus)
    assert stop_at(process, "step", 2, signal.SIGUSR1) == 0
    # keep=2 has dropped the checkpoint since, but not its messages.
    assert outcome(Run.find("run", tmp_path)) == undisturbed
