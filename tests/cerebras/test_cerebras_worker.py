"""The pipe of a worker, a script in the place of the SDK's Python: no failure hangs or is mute."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from benchmarks import soak
from wafergpt import atomic_files
from wafergpt.api import pretrain
from wafergpt.cerebras import environment, worker_process
from wafergpt.cerebras.worker_process import answer
from wafergpt.checkpoint import store
from wafergpt.errors import InputError, Interrupted, RunFailed
from wafergpt.runs.run import Run

PYTHON = f"""#!{sys.executable}
import json, os, pathlib, signal, subprocess, sys, time
job = json.loads(sys.argv[-1])
events = os.fdopen(job["events"], "w")

def tell(**event):
    print(json.dumps(event), file=events, flush=True)

def updates(first, last):
    sync = json.loads(pathlib.Path(job["folder"], "sync.json").read_text())
    for step in range(first, last + 1):
        tell(update={{
            "step": step, "samples": 4 * step, "tokens": 32, "loss": 3.0 / step, "grad_norm": 1.0,
            "lr": 0.1, "seconds": 0.01, "state_ready": step in sync,
        }})
        if step in sync:
            assert os.read(job["commands"], 99).split() == [b"continue"]

print("the SDK begins", flush=True)
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An environment of the SDK whose Python is yet to be written."""
    home = tmp_path / "sdk"
    (home / "bin").mkdir(parents=True)
    monkeypatch.setenv("WAFERGPT_CEREBRAS", str(home))
    # The log of a short job that failed is left there.
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(worker_process, "END_SECONDS", 0.5)
    monkeypatch.setattr(worker_process, "POLL_SECONDS", 0.02)
    sdk = environment.SDK.partition("==")[2]
    atomic_files.write_json(
        home / environment.RECORD, {"sdk": sdk, "package": environment.fingerprint()}
    )
    return home


def install(home: Path, script: str) -> Path:
    python = home / "bin" / "python"
    python.write_text(PYTHON + script)
    python.chmod(0o755)
    return python


def recipe(root: Path) -> list[str]:
    return [
        f"data.corpus={soak.corpus(root)}", "name=run", "train.steps=6", "train.batch_size=4",
        "model.n_layers=1", "model.d_model=16", "model.n_heads=2", "model.seq_len=8",
        "evaluate.every=3", "evaluate.batches=1", "checkpoint.every=3", "system.threads=1",
        "system.device=cerebras", "system.cerebras.mode=cpu",
    ]  # fmt: skip


FAILURES = {
    "exit code": ("sys.exit('no such system')", r"exit code 1; .*begins / no such system \("),
    "other code": ("os._exit(7)", r"the worker ended with exit code 7; it said last: the SDK"),
    "signal": ("os.kill(os.getpid(), signal.SIGKILL)", r"was ended by SIGKILL; it said last: the"),
    "garbage": ("events.write('Segmentation \\n'); events.flush()\ntime.sleep(60)",
                r"sent what is no message: b'Segmentation '; it said last: the SDK begins \("),
    "no object": ("events.write('[1]\\n'); events.flush()\ntime.sleep(60)", r"no message: b'\[1"),
    "closed": ("events.close()\ntime.sleep(60)", r"ended at step 4 of 6; it said last: the SDK"),
    "too early": ("", r"the worker ended at step 4 of 6; it said last: the SDK begins"),
    "pipe held": ("subprocess.Popen(['sleep', '9'], pass_fds=[job['events']], stdout=-3, stderr=-3)"
                  "\nos.kill(os.getpid(), signal.SIGSEGV)", r"was ended by SIGSEGV"),
    "its own": ("tell(error='out of memory there', code=1)",
                r"^out of memory there \(the SDK's output: "),
}  # fmt: skip


@pytest.mark.slow
def test_a_worker_that_fails_ends_a_run_in_one_line_and_the_run_goes_on(
    home: Path, tmp_path: Path
) -> None:
    asked = recipe(tmp_path)
    for failure, message in FAILURES.values():
        # Four updates, of which the third is a checkpoint.
        install(home, f'updates(job["step"] + 1, 4)\n{failure}\n')
        start = time.monotonic()
        with pytest.raises(RunFailed, match=message) as error:
            pretrain(None, asked, root=tmp_path, auto_resume=True)
        assert time.monotonic() - start < 8
        assert "\n" not in str(error.value)
        run = Run.find("run", tmp_path)
        assert "the SDK begins" in (run.path / "cerebras" / "worker.log").read_text()
        assert store.every(run)[-1].name == "step-00000003"
        assert run.read("result") is None
    install(home, 'updates(job["step"] + 1, 6)')
    pretrain(None, resume="run", root=tmp_path)
    assert [row["step"] for row in run.metrics()] == [1, 2, 3, 4, 5, 6]
    assert run.metrics()[-1]["loss"] == 0.5
    assert run.read("result")["step"] == 6


def test_a_worker_that_was_asked_to_stop_may_end(home: Path, tmp_path: Path) -> None:
    install(
        home,
        "updates(1, 2)\nos.kill(job['launcher'], signal.SIGTERM)\n"
        "assert os.read(job['commands'], 99) == b'stop\\n'",
    )
    with pytest.raises(Interrupted, match="stopped at step 2; saved up to step 0"):
        pretrain(None, recipe(tmp_path), root=tmp_path)


def test_a_short_job_answers_or_says_why_not(home: Path) -> None:
    python = install(home, "tell(say='wait'); tell(verified={'sdk': '1'})")
    assert answer({"what": "verify"}, "verified", python) == {"sdk": "1"}
    install(home, "print('no licence', flush=True)")
    with pytest.raises(RunFailed, match=r"without an answer; it said last: .* / no licence \("):
        answer({"what": "verify"}, "verified", python)
    install(home, "tell(error='no Cerebras cluster', code=2); sys.exit(1)")
    with pytest.raises(InputError, match=r"^no Cerebras cluster \(the SDK's output: "):
        answer({"what": "verify"}, "verified", python)
