"""Several real processes of one training, against one process."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from benchmarks import soak
from tests.distributed.processes import (
    COMMAND,
    RECIPE,
    STEPS,
    begin,
    end,
    losses,
    run_script,
    wait_for_step,
)
from wafergpt.checkpoint import store
from wafergpt.devices.peak_memory import is_out_of_memory
from wafergpt.distributed import launcher
from wafergpt.distributed.collectives import ProcessGroup
from wafergpt.distributed.commands import Command, send
from wafergpt.distributed.replicas import without_sync
from wafergpt.errors import ProcessLost
from wafergpt.runs.run import Run

pytestmark = pytest.mark.slow

TORCHRUN = [
    sys.executable, "-m", "torch.distributed.run", "--standalone", "--max-restarts=1",
    "--nproc-per-node=2", "--no-python",
]  # fmt: skip

DROPOUT = ["model.dropout=0.2"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return soak.corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def single(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("single")
    end(begin(root, "name=run", f"data.corpus={corpus}", *RECIPE))
    return root


@pytest.mark.parametrize("nproc", [2, 3])
def test_several_are_as_one(corpus: Path, single: Path, tmp_path: Path, nproc: int) -> None:
    """With document ends and three processes no two of them have the same number of targets."""
    errors = end(
        begin(tmp_path, "name=run", f"data.corpus={corpus}", *RECIPE, "--nproc", str(nproc))
    )
    assert errors.count("step 15: validation") == 1
    assert losses(tmp_path, "run") == pytest.approx(losses(single, "run"), rel=1e-5)
    ours, theirs = (Run.find("run", root).metrics() for root in (tmp_path, single))
    for key in ("tokens", "lr"):
        assert [row[key] for row in ours] == [row[key] for row in theirs]
    assert ours[-1]["val_loss"] == pytest.approx(theirs[-1]["val_loss"], rel=1e-5)
    assert Run.find("run", tmp_path).recipe.system.nproc == nproc


def test_a_killed_process_is_named_and_fewer_resume(
    corpus: Path, single: Path, tmp_path: Path
) -> None:
    recipe = [f"data.corpus={corpus}", *RECIPE, "system.timeout=20"]
    process = begin(tmp_path, "name=run", *recipe, "--nproc", "4")
    victim = soak.ranked(process, 2)
    wait_for_step(tmp_path, "run", 12)
    victim.kill()
    errors = end(process, code=1)
    assert "process 2 of 4 was ended by SIGKILL" in errors
    assert "another process of this training is gone" in errors
    assert "Traceback" not in errors
    assert not (tmp_path / "run" / "result.json").exists()
    end(begin(tmp_path, "--resume", "run", "--nproc", "3"))
    assert losses(tmp_path, "run") == pytest.approx(losses(single, "run"), rel=1e-5)
    assert [row["tokens"] for row in Run.find("run", tmp_path).metrics()] == [
        row["tokens"] for row in Run.find("run", single).metrics()
    ]


def test_a_stopped_process_is_named_in_time(corpus: Path, tmp_path: Path) -> None:
    longer = ("train.steps=5000", "system.timeout=5")
    process = begin(tmp_path, "name=run", f"data.corpus={corpus}", *RECIPE, *longer, "--nproc", "3")
    victim = soak.ranked(process, 1)
    wait_for_step(tmp_path, "run", 5)
    victim.suspend()
    assert "process 1 of 3 hangs, and is killed" in end(process, code=1)


def test_dropout_repeats_at_the_same_number_and_a_signal_saves(
    corpus: Path, straight: Run, tmp_path: Path
) -> None:
    recipe = ["name=run", f"data.corpus={corpus}", *RECIPE, *DROPOUT, "--nproc", "2"]
    process = begin(tmp_path, *recipe)
    wait_for_step(tmp_path, "run", 5)
    process.send_signal(signal.SIGTERM)
    assert "everything is saved" in end(process, code=130)
    assert len(losses(tmp_path, "run")) < STEPS
    # The recipe records the number of processes.
    end(begin(tmp_path, "--resume", "run"))
    same_bits(straight, Run.find("run", tmp_path))


@pytest.fixture(scope="module")
def straight(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Train in two processes that nobody disturbs."""
    root = tmp_path_factory.mktemp("straight")
    end(begin(root, "name=run", f"data.corpus={corpus}", *RECIPE, *DROPOUT, "--nproc", "2"))
    return Run.find("run", root)


@pytest.mark.parametrize("victim", [0, 1])
def test_killed_all_start_again_by_themselves(
    corpus: Path, straight: Run, tmp_path: Path, victim: int
) -> None:
    recipe = ["name=run", f"data.corpus={corpus}", *RECIPE, *DROPOUT, "system.timeout=20"]
    process = begin(tmp_path, *recipe, "--nproc", "2", "--restarts", "1")
    kill_in_the_middle(process, tmp_path, victim)
    errors = end(process)
    assert f"process {victim} of 2 was ended by SIGKILL" in errors
    assert "starting all 2 again" in errors
    same_bits(straight, Run.find("run", tmp_path))


def test_torchrun_starts_all_again(corpus: Path, straight: Run, tmp_path: Path) -> None:
    """Its store still has the addresses of dead processes."""
    recipe = ["name=run", f"data.corpus={corpus}", *RECIPE, *DROPOUT, "system.timeout=8"]
    process = begin(tmp_path, *recipe, "--go-on", launcher=TORCHRUN)
    kill_in_the_middle(process, tmp_path, 0)
    end(process)
    same_bits(straight, Run.find("run", tmp_path))


def test_a_process_that_failed_is_not_restarted(corpus: Path, tmp_path: Path) -> None:
    recipe = [f"data.corpus={corpus}", *RECIPE, "optimizer.lr=1e30"]
    process = begin(tmp_path, "name=run", *recipe, "guard.limit=1", "--nproc=2", "--restarts=2")
    errors = end(process, code=1)
    assert "diverged" in errors
    assert "starting all" not in errors
    assert "process 1" not in errors


def test_asked_to_stop_before_it_started_it_ends_as_interrupted(
    corpus: Path, tmp_path: Path
) -> None:
    process = begin(tmp_path, "name=run", f"data.corpus={corpus}", *RECIPE, "--nproc", "2")
    soak.ranked(process, 1)
    asked = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert "hangs" not in end(process, code=130)
    assert time.monotonic() - asked < 9


@pytest.mark.parametrize(("code", "is_named"), [(130, False), (0, False), (launcher.LOST, True)])
def test_who_still_waits_for_a_leader_that_was_asked_to_stop_does_not_hang(
    code: int,
    is_named: bool,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(launcher, "GRACE_SECONDS", 0.1)
    lines = (f"raise SystemExit({code})", "import time; time.sleep(60)")
    children = [subprocess.Popen([sys.executable, "-I", "-S", "-c", line]) for line in lines]
    assert launcher._watch(children, lambda: True) == code
    assert ("process 1 of 2 hangs" in capsys.readouterr().err) == is_named
    launcher._end(children)


def test_torchrun_does_not_restart_a_run_that_was_asked_to_stop(
    corpus: Path, tmp_path: Path
) -> None:
    recipe = [f"data.corpus={corpus}", *RECIPE, "train.steps=5000", "name=run"]
    process = begin(tmp_path, *recipe, "--go-on", launcher=TORCHRUN)
    wait_for_step(tmp_path, "run", 12)
    soak.ranked(process, 0).send_signal(signal.SIGTERM)
    assert "everything is saved" in end(process)
    run = Run.find("run", tmp_path)
    assert run.read("result") is None
    assert store.every(run)[-1].name == f"step-{run.metrics()[-1]['step']:08d}"


def kill_in_the_middle(process: subprocess.Popen[str], root: Path, victim: int) -> None:
    wait_for_step(root, "run", 12)
    soak.ranked(process, victim).kill()


def test_a_killed_launcher_leaves_no_process(corpus: Path, tmp_path: Path) -> None:
    recipe = [f"data.corpus={corpus}", *RECIPE, "train.steps=5000"]
    process = begin(tmp_path, "name=run", *recipe, "--nproc", "2")
    children = [soak.ranked(process, rank) for rank in (0, 1)]
    wait_for_step(tmp_path, "run", 12)
    process.kill()
    process.communicate()
    _, alive = psutil.wait_procs(children, timeout=20)
    assert not alive
    run = Run.find("run", tmp_path)
    assert store.every(run)[-1].name == f"step-{run.metrics()[-1]['step']:08d}"


def same_bits(one: Run, other: Run) -> None:
    hashes, curves = (
        [run.read("result")["weights_sha256"] for run in (one, other)],
        [[row["loss"] for row in run.metrics()] for run in (one, other)],
    )
    assert hashes[0] == hashes[1]
    assert curves[0] == curves[1]


@pytest.mark.usefixtures("preloaded")
@pytest.mark.parametrize("adversarial", [0, 0.1])
def test_fine_tuning_of_two_is_that_of_one(tmp_path: Path, adversarial: float) -> None:
    rows = tmp_path / "rows.csv"
    lines = [f"row {n} is {word},{word}" for n in range(120) for word in ("good", "bad")]
    rows.write_text("text,label\n" + "\n".join(lines) + "\n", encoding="utf-8")
    results = by_one_and_two(tmp_path, rows, f"task.adversarial={adversarial}", "--no-refit")
    assert losses(tmp_path, "n1") == pytest.approx(losses(tmp_path, "n2"), rel=1e-5)
    assert results[0]["test"]["loss"] == pytest.approx(results[1]["test"]["loss"], rel=1e-4)


def test_a_head_for_next_tokens_that_a_task_does_not_use_is_not_waited_for(tmp_path: Path) -> None:
    rows = tmp_path / "rows.csv"
    lines = [f"row {n} is {word},{word}" for n in range(60) for word in ("good", "bad")]
    rows.write_text("text,label\n" + "\n".join(lines) + "\n", encoding="utf-8")
    by_one_and_two(tmp_path, rows, "model.tied=false", "--no-refit")
    assert losses(tmp_path, "n1") == pytest.approx(losses(tmp_path, "n2"), rel=1e-5)


def test_processes_of_one_machine_know_each_other() -> None:
    script = (
        "import os\n"
        "from wafergpt.distributed.rendezvous import joined\n"
        "with joined(60) as group:\n"
        "    print(os.environ['LOCAL_RANK'], group.on_this_machine)\n"
    )
    said = run_script(script, 2)
    assert sorted(one.split()[-2:] for one in said) == [["0", "2"], ["1", "2"]]


def test_an_error_of_one_process_is_not_taken_for_a_lost_one() -> None:
    program = torch.nn.Linear(1, 1)
    with (
        pytest.raises(torch.OutOfMemoryError),
        without_sync(program, program, True, is_out_of_memory),
    ):
        raise torch.OutOfMemoryError("CUDA out of memory")
    with (
        pytest.raises(ProcessLost, match="Connection closed by peer"),
        without_sync(program, program, True, is_out_of_memory),
    ):
        raise RuntimeError("[gloo/pair.cc:1] Connection closed by peer")


def test_tagging_of_two_is_that_of_one(tmp_path: Path) -> None:
    rows = tmp_path / "rows.conll"
    names = ("Ann", "Bob", "Eve", "Tom")
    rows.write_text("".join(f"{n} O\nis O\n{names[n % 4]} B-PER\n\n" for n in range(60)))
    results = by_one_and_two(tmp_path, rows, "task.name=tag")
    assert losses(tmp_path, "n1") == pytest.approx(losses(tmp_path, "n2"), rel=1e-5)
    assert results[0]["test"]["f1"] == results[1]["test"]["f1"]


def by_one_and_two(root: Path, rows: Path, *more: str) -> list[dict[str, Any]]:
    """Fine-tune in one process and in two, as ``n1`` and ``n2``; return what they print."""
    settings = [
        f"task.train={rows}", f"task.test={rows}", "train.steps=12", "train.batch_size=10",
        "model.n_layers=1", "model.d_model=16", "model.n_heads=2", "model.seq_len=16",
        "model.vocab_size=300", "system.precision=fp32", "system.compile=off", "seed=3",
        "system.threads=1", "model.dropout=0", *more, "--json", "--runs", str(root),
    ]  # fmt: skip
    results = []
    for nproc in ("1", "2"):
        command = [*COMMAND, "finetune", "scratch", f"name=n{nproc}", *settings, "--nproc", nproc]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        assert len(done.stdout.splitlines()) == 1
        results.append(json.loads(done.stdout))
    return results


FAULTY = """
import os, sys
from pathlib import Path
from wafergpt.api import pretrain
from wafergpt.checkpoint.format import weights_sha256
from wafergpt.engines.torch import TorchEngine
from wafergpt.tasks.language_model import LanguageModel

loss = LanguageModel.loss
calls = []
def faulty(self, network, batch):
    calls.append(0)
    # In the second process' share of an update: 4 of 8 sequences, two at a time.
    bad = os.environ["RANK"] == "1" and len(calls) == int(sys.argv[2])
    return loss(self, network, batch) * (float(sys.argv[3]) if bad else 1)
LanguageModel.loss = faulty

run_commands = TorchEngine.run_commands
def watched(self):
    run = run_commands(self)
    print("worker", weights_sha256(self.network.state_dict()), flush=True)
    return run
TorchEngine.run_commands = watched
run = pretrain(None, sys.argv[4:], root=Path(sys.argv[1]))
if os.environ["RANK"] == "0":
    print("leader", run.read("result")["weights_sha256"], flush=True)
os._exit(0)
"""


@pytest.mark.parametrize(
    ("call", "factor", "guard", "skipped", "reason"),
    [
        # The third update.
        ("6", "nan", [], [16, 24], "the loss is nan"),
        # The 25th: back to step 20, and on behind it.
        ("53", "100", ["guard.spike=6", "guard.action=rollback"], [160, 200], "the loss spikes to"),
    ],
)
def test_an_update_that_is_not_finite_in_one_process_is_skipped_by_all(
    corpus: Path,
    tmp_path: Path,
    call: str,
    factor: str,
    guard: list[str],
    skipped: list[int],
    reason: str,
) -> None:
    recipe = [f"data.corpus={corpus}", "name=run", *RECIPE, *guard]
    outputs = run_script(FAULTY, 2, str(tmp_path), call, factor, *recipe)
    words = [output.split() for output in outputs]
    assert [word[0] for word in words] == ["leader", "worker"]
    assert words[0][1] == words[1][1]
    run = Run.find("run", tmp_path)
    ((*samples, said),) = run.read("result")["skipped_updates"]
    assert samples == skipped
    assert said.startswith(reason)
    assert [row["step"] for row in run.metrics()] == list(range(1, STEPS + 1))


FLIPPED = """
import os, sys
from pathlib import Path
import torch
from wafergpt.api import pretrain
from wafergpt.errors import RunFailed
from wafergpt.tasks.language_model import LanguageModel

loss = LanguageModel.loss
calls = []
def flipping(self, network, batch):
    calls.append(0)
    if os.environ["RANK"] == "1" and len(calls) == 30:
        with torch.no_grad():
            network.position.weight.view(torch.int32)[3, 5] ^= 1 << 20
    return loss(self, network, batch)
LanguageModel.loss = flipping
try:
    pretrain(None, sys.argv[2:], root=Path(sys.argv[1]))
except RunFailed as error:
    print(error, flush=True)
os._exit(0)
"""


def test_one_flipped_bit_in_a_copy_of_the_weights_is_found(corpus: Path, tmp_path: Path) -> None:
    recipe = [f"data.corpus={corpus}", "name=run", "system.timeout=20", *RECIPE]
    leader, _ = run_script(FLIPPED, 2, str(tmp_path), *recipe)
    assert "the weights of process 1 are not those of process 0" in leader
    assert [folder.name for folder in store.every(Run.find("run", tmp_path))][-1:] == [
        "step-00000010"
    ]


def test_more_processes_than_sequences_are_refused(corpus: Path, tmp_path: Path) -> None:
    process = begin(tmp_path, "name=run", f"data.corpus={corpus}", *RECIPE, "--nproc", "9")
    errors = end(process, code=2)
    assert errors.count("error:") == 1, errors
    assert "a batch of 8 is less than a sequence for each of 9 processes" in errors


@pytest.mark.parametrize(("n", "size"), [(8, 3), (512, 16), (5, 5), (1, 1)])
def test_shares_are_disjoint_and_complete(n: int, size: int) -> None:
    samples: list[int] = []
    for rank in range(size):
        first, count = ProcessGroup(rank, size).share(100, n)
        assert count in {n // size, -(-n // size)}
        samples += range(first, first + count)
    assert samples == list(range(100, 100 + n))


def test_a_single_process_sends_nothing() -> None:
    group = ProcessGroup()
    assert group.sum(1, 2.5) == [1, 2.5]
    assert group.broadcast({"a": 1}) == {"a": 1}
    assert torch.equal(group.all_gather_rows(torch.ones(2)), torch.ones(2))
    send(group, Command.END)


def test_signals_of_real_time_have_a_number(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launcher, "GRACE_SECONDS", 0.1)
    lines = ("import time; time.sleep(60)", "import os; os.kill(os.getpid(), 40)")
    children = [subprocess.Popen([sys.executable, "-I", "-S", "-c", line]) for line in lines]
    launcher._watch(children[::-1], lambda: True)
    launcher._end(children)
    assert "process 0 of 2 was ended by signal 40" in capsys.readouterr().err
