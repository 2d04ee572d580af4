"""Training and lowering through a worker in the SDK's environment; all else happens here."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial, update_wrapper
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from wafergpt import files
from wafergpt.cerebras import environment
from wafergpt.cerebras.cluster import ROWS, require_supported
from wafergpt.config import Recipe, load_recipe
from wafergpt.data.labelled import LabelledBatches
from wafergpt.errors import InputError, Interrupted, RunFailed
from wafergpt.progress import say
from wafergpt.scaling.plan import GPT2_VOCAB_SIZE
from wafergpt.tasks import finetune as labelled
from wafergpt.train import checkpoint
from wafergpt.train import pretrain as language
from wafergpt.train.callbacks.recording import Recording
from wafergpt.train.signals import StopRequested
from wafergpt.train.trainer import Trainer

LOG = "worker.log"

TICK_SECONDS = 0.2
"""Between two looks at what signals have asked for, while the worker tells nothing."""

CLUSTER = Path("/opt/cerebras/config_v2")
"""Where the SDK looks for its cluster, if it is told of none."""


class RemoteTrainer(Trainer):
    """Has a worker make the steps, judge and save; keeps the run, the bar and the signals here."""

    def __init__(self, recipe: Recipe, *rest: Any) -> None:
        # All that can be told before there is a run.
        require_supported(recipe)
        mode = recipe.system.cerebras.mode
        if mode in {"validate", "compile"}:
            raise InputError(
                f"system.cerebras.mode={mode} trains nothing: "
                "wafergpt plan RECIPE --lower shows what it gives"
            )
        environment.python()
        if mode == "run":
            _require_cluster(recipe)
        super().__init__(recipe, *rest)
        self._told = False

    def _run_loop(self) -> None:
        assert self._run is not None
        run, recipe = self._run, self.recipe
        folder = run.path / "cerebras"
        folder.mkdir(exist_ok=True)
        if recipe.task is not None:
            self._write_rows(folder / ROWS)
        (recording,) = (c for c in self.loop.callbacks if isinstance(c, Recording))
        stopped = None
        with worker({"what": "train", "run": str(run.path.resolve())}, folder / LOG) as job:
            for event in job.events(self._pass_on):
                if "row" in event:
                    row = event["row"]
                    self.state.step, self.state.best_step = row["step"], event["best_step"]
                    recording.after_step(self.state, row)
                if "say" in event:
                    say(event["say"])
                stopped = event.get("stopped", stopped)
        checkpoint.load(self.state, checkpoint.every(run)[-1])
        if stopped is not None:
            kept = f"saved up to step {self.state.step}"
            raise Interrupted(f"stopped at step {stopped}; {kept}")

    def _pass_on(self, process: subprocess.Popen[bytes]) -> None:
        """Tell the worker what signals, or the time limit, have asked for."""
        if self.signals.save_asked():
            process.send_signal(signal.SIGUSR1)
        if not self._told:
            try:
                self.signals.poll()
            except StopRequested:
                self._told = True
                process.terminate()

    def _write_rows(self, path: Path) -> None:
        tensors = {}
        for split, batches in (("train", self.loop.batches), ("val", self.loop.validation)):
            assert isinstance(batches, LabelledBatches)
            tokens = np.concatenate(batches.texts).astype(np.int32)
            ends = np.cumsum([len(text) for text in batches.texts])
            tensors[f"{split}.tokens"] = torch.from_numpy(tokens)
            tensors[f"{split}.ends"] = torch.from_numpy(ends)
            tensors[f"{split}.targets"] = torch.from_numpy(batches.targets.copy())
        with files.replacing(path) as temporary:
            save_file(tensors, temporary)


pretrain = partial(language.pretrain, elsewhere=RemoteTrainer)
"""Train a language model on whatever device the recipe names."""
update_wrapper(pretrain, language.pretrain)

finetune = partial(labelled.finetune, elsewhere=RemoteTrainer)
"""Teach a model a task on whatever device the recipe names."""
update_wrapper(finetune, labelled.finetune)


def _require_cluster(recipe: Recipe) -> None:
    if recipe.system.cerebras.management or CLUSTER.exists():
        return
    raise InputError(
        f"no Cerebras cluster is configured here ({CLUSTER}): set "
        "system.cerebras.management=NAME:PORT, or train by the same program on this CPU with "
        "system.cerebras.mode=cpu; wafergpt plan RECIPE --lower needs neither"
    )


def verify() -> dict[str, Any]:
    """Make a few steps with the SDK; return its version, and that of torch, there."""
    found = _told({"what": "verify"}, "verified", environment.interpreter())
    return dict(found)


def lower(name: str | Path | None, overrides: Sequence[str]) -> dict[str, Any]:
    """Lower one training step of a recipe to Cerebras IR, without any Cerebras system.

    With ``system.cerebras.mode=compile`` a cluster compiles it too.

    Returns:
        ``ir_bytes``, ``operators`` (how many), ``operator_kinds`` and ``seconds``.

    Raises:
        InputError: if the SDK is not installed, or the recipe uses what does not lower.
        RunFailed: if it does not lower; the SDK's own words are in the message.
    """
    recipe = load_recipe(name, overrides)
    settings = recipe.system.cerebras
    if settings.mode == "compile":
        _require_cluster(recipe)
    else:
        settings = settings.model_copy(update={"mode": "validate"})
    recipe = recipe.replace(
        system={"device": "cerebras", "cerebras": settings.model_dump()},
        model={"vocab_size": recipe.model.vocab_size or GPT2_VOCAB_SIZE},
        # Only the schedule reads it, and any number of steps is the same program.
        train={"steps": 1000, "tokens": None, "epochs": None, "seconds": None},
    )
    if recipe.system.precision == "auto":
        recipe = recipe.replace(system={"precision": "bf16"})
    if recipe.task is not None and not recipe.task.labels:
        recipe = recipe.replace(task={"labels": ("no", "yes")})
    require_supported(recipe)
    return dict(_told({"what": "lower", "recipe": recipe.to_yaml()}, "lowering"))


def _told(job: dict[str, Any], key: str, python: Path | None = None) -> Any:
    """Have a worker do something short, and return what it tells of it."""
    folder = Path(mkdtemp(prefix="wafergpt-cerebras-"))
    with worker({**job, "artifacts": str(folder)}, folder / LOG, python) as running:
        found = [event[key] for event in running.events() if key in event]
    # After a failure its log is still wanted.
    shutil.rmtree(folder)
    return found[0]


# --- the worker ----------------------------------------------------------------------------------


class Worker:
    """A process in the SDK's environment, and what it tells."""

    def __init__(self, process: subprocess.Popen[bytes], pipe: int, log: Path) -> None:
        self.process = process
        self._pipe, self._log, self._listens = pipe, log, False

    def events(
        self, tick: Callable[[subprocess.Popen[bytes]], None] = lambda process: None
    ) -> Iterator[dict[str, Any]]:
        """Yield what the worker tells, until it has ended.

        Args:
            tick: called several times a second once the worker listens to signals.

        Raises:
            InputError: if it says that something that was asked for is wrong.
            RunFailed: if it fails.
        """
        for line in self._lines(tick):
            event = json.loads(line)
            self._listens = self._listens or "ready" in event
            if "error" in event:
                kind = InputError if event["code"] == 2 else RunFailed
                raise kind(f"{event['error']} (all that the SDK said: {self._log})")
            yield event
        if self.process.wait():
            raise RunFailed(f"the worker ended with {self.process.returncode}: see {self._log}")

    def _lines(self, tick: Callable[[subprocess.Popen[bytes]], None]) -> Iterator[bytes]:
        """Yield whole lines, and tick while there are none."""
        waiting = b""
        while True:
            if self._listens:
                tick(self.process)
            if not select.select([self._pipe], [], [], TICK_SECONDS)[0]:
                continue
            data = os.read(self._pipe, 1 << 16)
            if not data:
                return
            *lines, waiting = (waiting + data).split(b"\n")
            yield from lines


@contextmanager
def worker(job: dict[str, Any], log: Path, python: Path | None = None) -> Iterator[Worker]:
    """Start a worker; at the end of the block it is gone."""
    python = python or environment.python()
    ours, theirs = os.pipe()
    job = {**job, "launcher": os.getpid(), "events": theirs}
    say(f"starting Cerebras' SDK; what it says goes into {log}")
    with log.open("ab") as output:
        process = subprocess.Popen(
            [str(python), "-m", "wafergpt.cerebras.worker", json.dumps(job)],
            env=environment.environment(), stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            pass_fds=(theirs,), cwd=log.parent,
            # A Ctrl-C is for this side, which passes it on.
            start_new_session=True,
        )  # fmt: skip
        os.close(theirs)
        try:
            yield Worker(process, ours, log)
        finally:
            os.close(ours)
            process.kill()
            process.wait()
