"""Real processes of one training, for the tests beside this file."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.preloaded import Popen
from wafergpt.runs.run import Run

STEPS = 30
RECIPE = [
    "seed=5", f"train.steps={STEPS}", "train.batch_size=8", "train.micro_batch_size=2",
    "model.n_layers=2", "model.d_model=32", "model.n_heads=2", "model.seq_len=32",
    "optimizer.name=muon", "checkpoint.every=10", "evaluate.every=15", "evaluate.batches=2",
    "evaluate.prompts=[the]", "system.compile=off", "system.precision=fp32", "system.threads=1",
    "data.document_mask=true", "model.ngrams=[2, 3]", "model.ngram_rows=1000",
]  # fmt: skip
COMMAND = [sys.executable, "-c", "from wafergpt.cli import main; main()"]


def begin(root: Path, *arguments: str, launcher: Sequence[str] = ()) -> subprocess.Popen[str]:
    command = [*launcher, *COMMAND, "pretrain", "--runs", str(root), *arguments]
    return Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def end(process: subprocess.Popen[str], code: int = 0) -> str:
    _, errors = process.communicate(timeout=120)
    assert process.returncode == code, errors
    return errors


def losses(root: Path, name: str) -> list[float]:
    return [row["loss"] for row in Run.find(name, root).metrics()]


def wait_for_step(root: Path, name: str, step: int) -> None:
    path, deadline = root / name / "metrics.jsonl", time.monotonic() + 60
    while not path.exists() or path.read_text().count("\n") < step:
        assert time.monotonic() < deadline, f"{path} does not reach step {step}"
        time.sleep(0.002)


def run_script(script: str, size: int, *arguments: str, killed: int | None = None) -> list[str]:
    """Run a script as so many processes of one training; return what each has printed.

    All must end well, but for the one that is ``killed``.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    place = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    processes = [
        Popen(
            [sys.executable, "-c", script, *arguments],
            env=os.environ | place | {"RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]
    outputs = [process.communicate(timeout=120) for process in processes]
    codes = [-signal.SIGKILL if rank == killed else 0 for rank in range(size)]
    assert [process.returncode for process in processes] == codes, outputs
    return [output for output, _ in outputs]
