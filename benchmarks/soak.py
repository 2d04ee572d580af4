"""What the checkpoints promise, tried until it would have broken.

Real processes are killed with SIGKILL at random moments, and in the middle of saves; checkpoints
are damaged in every way that disks and people damage them; every write of a save fails in turn.
Every resume must end in the same bits, and nothing that is not whole may ever be loaded.

    python benchmarks/soak.py --runs 8 --kills 10 --damages 300
"""

from __future__ import annotations

import argparse
import errno
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import psutil

from wafergpt import atomic_files, config
from wafergpt.checkpoint import format as stored
from wafergpt.checkpoint import store
from wafergpt.checkpoint.format import weights_sha256
from wafergpt.config import load_recipe
from wafergpt.data.prepare import prepare
from wafergpt.distributed.sharding import fill
from wafergpt.engines.optimizers import Optimizer
from wafergpt.errors import RunFailed
from wafergpt.model.gpt import GPT
from wafergpt.runs.run import Run
from wafergpt.sparsity.masks import SUFFIX
from wafergpt.train.state import TrainState

STEPS = 1200
RECIPE = [
    "seed=5", "train.batch_size=8", "train.micro_batch_size=4", "model.n_layers=2",
    "model.d_model=32", "model.n_heads=2", "model.seq_len=32", "model.dropout=0.2",
    "optimizer.name=muon", "checkpoint.every=20", "checkpoint.keep=3", "evaluate.every=100",
    "evaluate.batches=2", "system.compile=off", "system.precision=fp32", "system.threads=1",
]  # fmt: skip
COMMAND = [sys.executable, "-c", "from wafergpt.cli import main; main()", "pretrain"]


def corpus(root: Path) -> Path:
    """Prepare a small corpus of made-up sentences."""
    rng = random.Random(0)
    words = ["the", "cat", "sat", "on", "a", "mat", "and", "saw", "two", "dogs", "run"]
    lines = [json.dumps({"text": " ".join(rng.choices(words, k=60))}) for _ in range(200)]
    (root / "text.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return prepare(root / "text.jsonl", root / "corpus", vocab_size=270).path


# --- killing -------------------------------------------------------------------------------------

KINDS: dict[str, list[str]] = {
    "one process": [],
    "one process with masks": [
        "sparsity.algorithm=rigl",
        "sparsity.sparsity=0.75",
        "sparsity.every=7",
    ],
    "two with copies of the weights": ["--nproc", "2"],
    "two that spread them": ["--nproc", "2", "system.shard=0"],
}


@dataclass
class Kills:
    """What was killed, and what came of it."""

    runs: int = 0
    kills: int = 0
    in_a_save: int = 0
    different: int = 0


def outcome(run: Run) -> tuple[str, list[float]]:
    """Return the hash of the final weights, and every loss."""
    return run.read("result")["weights_sha256"], [row["loss"] for row in run.metrics()]


def finish(root: Path, name: str, recipe: list[str]) -> tuple[str, list[float]]:
    """Begin a run, or go on with it, to its end."""
    done = subprocess.run(_command(root, name, recipe), capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{name} failed: {done.stderr}")
    return outcome(Run.find(name, root))


def _command(root: Path, name: str, recipe: list[str]) -> list[str]:
    return [*COMMAND, "--runs", str(root), "--go-on", f"name={name}", *recipe]


def kill_once(root: Path, name: str, recipe: list[str], rng: random.Random) -> bool | None:
    """Start or resume, kill one process; return whether it saved just then, None if it ended."""
    run, in_a_save = root / name, rng.random() < 0.5
    process = subprocess.Popen(_command(root, name, recipe), stderr=subprocess.DEVNULL)
    size = _size(run / "metrics.jsonl")
    while process.poll() is None and _size(run / "metrics.jsonl") <= size:
        time.sleep(0.002)
    victim: Any = process
    if process.poll() is None and "--nproc" in recipe:
        victim = ranked(process, rng.randrange(2))
    time.sleep(rng.uniform(0.0, 0.4))
    while in_a_save and process.poll() is None and not _unfinished(run):
        time.sleep(0.0002)
    if process.poll() is not None:
        return None
    victim.kill()
    saving = bool(_unfinished(run))
    process.wait()
    return saving


def ranked(process: subprocess.Popen[Any], rank: int) -> psutil.Process:
    """Return one of the processes that a launcher has started, in their order, once it is there."""
    while True:
        with suppress(psutil.Error):
            children = psutil.Process(process.pid).children()
            children.sort(key=lambda child: child.create_time())
            if len(children) > rank:
                return children[rank]
        time.sleep(0.01)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _unfinished(run: Path) -> list[Path]:
    return list((run / "checkpoints").glob(".step-*.tmp"))


def kill(root: Path, kind: str, runs: int, kills: int, steps: int, seed: int) -> tuple[Run, Kills]:
    """Kill each of ``runs`` runs up to ``kills`` times; compare with an undisturbed one.

    Half of them save beside the training.
    """
    short = kind.replace(" ", "-")
    recipe = [*RECIPE, f"train.steps={steps}", f"data.corpus={root / 'corpus'}", *KINDS[kind]]
    expected = finish(root, f"undisturbed-{short}", recipe)
    count = Kills()
    for number in range(runs):
        rng = random.Random(f"{seed}/{kind}/{number}")
        own = [*recipe, f"checkpoint.background={'true' if number % 2 else 'false'}"]
        for _ in range(kills):
            saved = kill_once(root, f"{short}-{number}", own, rng)
            if saved is None:
                break
            count.kills += 1
            count.in_a_save += saved
        count.runs += 1
        count.different += finish(root, f"{short}-{number}", own) != expected
        print(f"{kind}, run {number}: {count}", file=sys.stderr, flush=True)
    return Run.find(f"undisturbed-{short}", root), count


# --- damaging ------------------------------------------------------------------------------------


def damage(folder: Path, other: Path, rng: random.Random) -> str:
    """Damage one file of a checkpoint in one way; return what was done."""
    path = rng.choice(sorted(folder.iterdir()))
    data = bytearray(path.read_bytes())
    kind = rng.choice(["flip", "flip", "truncate", "append", "empty", "zeros", "delete", "swap"])
    if kind == "flip":
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif kind == "truncate":
        del data[rng.randrange(len(data)) :]
    elif kind == "append":
        data += rng.randbytes(rng.randint(1, 64))
    elif kind == "empty":
        data.clear()
    elif kind == "zeros":
        data = bytearray(len(data))
    elif kind == "swap":
        data = bytearray((other / path.name).read_bytes())
    path.write_bytes(data)
    if kind == "delete":
        path.unlink()
    return f"{kind} {path.name}"


class Trained(TrainState):
    """A state with the network and the optimizer that it is of, without an engine."""

    def __init__(self, network: GPT, settings: config.Optimizer) -> None:
        super().__init__()
        self.network = network
        self.optimizer = Optimizer(network.named_parameters(), settings)

    def host(self) -> store.HostState:
        """Return weights and moments."""
        return store.HostState.of(self.network.state_dict(), self.optimizer.state_tensors())

    def save(self, run: Run, keep: int, keep_every: int = 0) -> Path:
        """Write a checkpoint."""
        return store.save(self.host(), self.scalars(), run, keep, keep_every)

    def load(self, stored: store.StoredState) -> None:
        """Take over a checkpoint."""
        fill(self.network, stored.weights.by_rows.items())
        moments = stored.moments.by_rows.items()
        # Masks are the engine's.
        moments_alone = {name: rows for name, rows in moments if not name.endswith(SUFFIX)}
        self.optimizer.load_state_tensors(moments_alone)
        self.take_scalars(stored.scalars)

    def read(self, folder: Path) -> None:
        """Take over one checkpoint.

        Raises:
            DamagedCheckpointError: if it is not what was written, or does not fit.
        """
        store.load(folder, self.load)

    def resume(self, run: Run) -> Path:
        """Take over the newest good checkpoint."""
        return store.resume(run, self.load)

    def weights_sha256(self) -> str:
        """Return a hash of the weights."""
        return weights_sha256(self.network.state_dict())


def fresh_state(run: Run) -> Trained:
    """Return the state that a run of this recipe begins with."""
    recipe = run.recipe
    return Trained(GPT(recipe.model).initialize(recipe.seed), recipe.optimizer)


def damage_many(run: Run, count: int, seed: int) -> int:
    """Damage a run's newest checkpoint ``count`` times; return how many were loaded wrongly."""
    *_, before, newest = store.every(run)
    state = fresh_state(run)
    state.read(before)
    expected = state.weights_sha256(), state.scalars()
    wrong = 0
    for number in range(count):
        with tempfile.TemporaryDirectory() as folder:
            copy = Run(Path(folder) / "run")
            shutil.copytree(run.path, copy.path)
            target = copy.checkpoints / newest.name
            done = damage(target, copy.checkpoints / before.name, random.Random(f"{seed}/{number}"))
            if not store.damage(target) and _same(target, newest):
                continue  # a bit in a blank of the manifest: what it says is the same
            state = fresh_state(run)
            state.resume(copy)
            if (state.weights_sha256(), state.scalars()) != expected:
                wrong += 1
                print(f"wrongly loaded after: {done}", file=sys.stderr)
    return wrong


def _same(folder: Path, other: Path) -> bool:
    names = {path.name for path in other.iterdir()} - {"manifest.json"}
    return all((folder / n).read_bytes() == (other / n).read_bytes() for n in names)


# --- a full disk ---------------------------------------------------------------------------------


@contextmanager
def full_disk_at(write: int) -> Iterator[list[int]]:
    """Let the ``write``-th thing that a save does to the disk, from 0 on, fail for want of room."""
    done = [0]

    def failing(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            done[0] += 1
            if done[0] == write + 1:
                raise OSError(errno.ENOSPC, "No space left on device")
            return function(*arguments, **named)

        return call

    targets: list[tuple[Any, str]] = [(stored, "save_file"), (atomic_files, "sync")]
    targets += [
        (Path, name) for name in ("write_text", "write_bytes", "mkdir", "rename", "replace")
    ]
    with ExitStack() as stack:
        for owner, name in targets:
            stack.enter_context(mock.patch.object(owner, name, failing(getattr(owner, name))))
        yield done


def fill_the_disk(run: Run) -> tuple[int, int]:
    """Let each write of a save fail in turn; return how many there are, and how many lost a run."""
    lost = write = 0
    while True:
        with tempfile.TemporaryDirectory() as folder:
            copy = Run(Path(folder) / "run")
            shutil.copytree(run.path, copy.path)
            state = fresh_state(run)
            newest = state.resume(copy)
            state.step += 20
            failed = False
            with full_disk_at(write) as done:
                try:
                    state.save(copy, keep=1)
                except OSError:
                    failed = True
            if not failed and done[0] <= write:
                return write, lost
            again = fresh_state(run)
            try:
                found = again.resume(copy)
                lost += again.step < int(newest.name[5:]) or bool(store.damage(found))
            except RunFailed:
                lost += 1
            write += 1


# --- the cost ------------------------------------------------------------------------------------


def cost(root: Path, background: bool) -> float:
    """Return the share of a run's time that ten saves, the default, take from its training."""
    from wafergpt.api import pretrain
    from wafergpt.checkpoint.background import Saver

    spent = [0.0]
    save = Saver.save

    def timed(self: Saver, *state: Any) -> None:
        start = time.perf_counter()
        save(self, *state)
        spent[0] += time.perf_counter() - start

    settings = [
        f"name=cost-{background}", f"data.corpus={root / 'corpus'}", "train.steps=200",
        "model.n_layers=2", "model.d_model=192", "model.n_heads=3", "model.seq_len=256",
        "train.batch_size=16", f"checkpoint.background={str(background).lower()}",
        "evaluate.every=200", "evaluate.batches=1", "system.compile=off",
    ]  # fmt: skip
    with mock.patch.object(Saver, "save", timed):
        run = pretrain(load_recipe(None, settings), root=root)
    return float(spent[0] / run.read("result")["seconds"])


def main() -> None:
    """Print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=8, help="Of each kind.")
    parser.add_argument("--kills", type=int, default=10, help="Of each run.")
    parser.add_argument("--damages", type=int, default=300)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--seed", type=int, default=0)
    choice = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        corpus(root)
        counts = {}
        undisturbed = []
        for kind in KINDS:
            run, counts[kind] = kill(
                root, kind, choice.runs, choice.kills, choice.steps, choice.seed
            )
            undisturbed.append(run)
        whole, *_, spread = undisturbed
        wrong = sum(damage_many(r, choice.damages, choice.seed) for r in (whole, spread))
        writes, lost = fill_the_disk(whole)
        costs = {how: cost(root, how == "beside") for how in ("beside", "in between")}
    print(f"seed {choice.seed}\n\n| what was done | how often | what went wrong |\n|---|---|---|")
    for kind, killed in counts.items():
        print(
            f"| SIGKILL in {killed.runs} runs of {kind}, half saving beside the training | "
            f"{killed.kills}, of these {killed.in_a_save} inside a save | "
            f"{killed.different} runs ended in other bits |"
        )
    print(
        f"| newest checkpoint damaged, of one file for each kind, and in parts | "
        f"{2 * choice.damages} | {wrong} wrong loads |"
    )
    print(f"| disk full, at each write of a save | {writes} | {lost} runs lost |")
    for how, share in costs.items():
        print(f"| saving {how} the training, ten times a run | | {share:.2%} of the time |")


if __name__ == "__main__":
    main()
