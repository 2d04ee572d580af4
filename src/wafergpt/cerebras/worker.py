"""The worker process in the SDK's environment: trains or lowers a recipe for the engine.

It sends events through a pipe of its own, one JSON object per line; stdout and stderr are the
SDK's.
"""

from __future__ import annotations

import json
import logging
import os
import re
import select
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import cerebras.pytorch as cstorch
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from wafergpt.cerebras.cluster import MOMENTS_FILE, RECIPE, WEIGHTS_FILE
from wafergpt.cerebras.dataloader import Inputs, input_fn, length_of, made_up, once
from wafergpt.cerebras.program import Program
from wafergpt.config import Recipe, recipe_from
from wafergpt.distributed.launcher import stop_with
from wafergpt.engines.base import reseed
from wafergpt.errors import InputError, RunFailed


def main() -> None:
    """Do the job that the first argument describes."""
    job = json.loads(sys.argv[1])
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    stop_with(job["launcher"])
    events = os.fdopen(job["events"], "w", encoding="utf-8")

    def tell(**event: Any) -> None:
        # If the reader is gone, a signal ends this process.
        with suppress(BrokenPipeError):
            events.write(json.dumps(event) + "\n")
            events.flush()

    try:
        if job["what"] == "verify":
            tell(verified=_verified())
        elif job["what"] == "lower":
            recipe = recipe_from(yaml.safe_load(job["recipe"]))
            tell(lowering=_lowered(recipe, Path(job["artifacts"])))
        else:
            Training(job, tell).train()
    except Exception as error:
        import traceback

        traceback.print_exc()
        tell(**_explained(error))
        sys.exit(1)


def _explained(error: Exception) -> dict[str, Any]:
    from cerebras.appliance.cluster.config import ClusterConfigError

    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, ClusterConfigError):
        text = f"no Cerebras cluster: {text} (set system.cerebras.management=NAME:PORT)"
    elif isinstance(error, InputError):
        text = str(error)
    else:
        return {"error": text, "code": 1}
    return {"error": text, "code": 2}


CANNOT_SAVE = "a Cerebras system returns its weights at checkpoint.every and evaluate.every only"

# --- training ------------------------------------------------------------------------------------


class Training:
    """The training steps from a given one to the recipe's last.

    Args:
        job: the engine's request: ``folder`` with the recipe, the weights and the moments, and
            ``step`` and ``samples`` to continue from.
        tell: sends an event.
    """

    def __init__(self, job: dict[str, Any], tell: Any) -> None:
        self._tell, self._commands = tell, job["commands"]
        self._folder, self._step = Path(job["folder"]), int(job["step"])
        self._samples = int(job["samples"])
        self._recipe = recipe_from(yaml.safe_load((self._folder / RECIPE).read_text("utf-8")))
        self._sync = set(json.loads((self._folder / "sync.json").read_text("utf-8")))
        self._stopping = self._saving = False
        weights = load_file(self._folder / WEIGHTS_FILE)
        moments = load_file(self._folder / MOMENTS_FILE)
        counts = [float(t) for name, t in moments.items() if name.endswith("/step")]
        self._skipped = self._step - int(counts[0] if counts else self._step)
        self._program = Program(self._recipe, self._folder, self._step, weights, moments)
        self._on_host = self._recipe.system.cerebras.mode == "cpu"
        self._began = time.perf_counter()

    def train(self) -> None:
        """Train to the horizon or until a stop; only the CPU backend can save at any time."""
        recipe, steps = self._recipe, self._recipe.train.steps
        assert steps is not None
        executor = cstorch.utils.data.DataExecutor(
            cstorch.utils.data.DataLoader(input_fn, str(self._folder), self._samples),
            num_steps=steps - self._step,
            checkpoint_steps=_schedule([n - self._step for n in sorted(self._sync)]),
        )
        record = cstorch.step_closure(self._record)
        keep = cstorch.checkpoint_closure(self._hand_over)
        for inputs in executor:
            # A step's closures run when the next one is requested: only now is it complete.
            if self._stopping:
                break
            if self._on_host:
                reseed(recipe.seed, self._step, 0)
            record(*self._program.step(inputs))
            keep()

    def _record(self, loss: Tensor, norm: Tensor, rates: list[Any]) -> None:
        recipe = self._recipe
        now = time.perf_counter()
        seconds, self._began = now - self._began, now
        self._step += 1
        self._samples += recipe.train.batch_size
        self._update = {
            "step": self._step,
            "samples": self._samples,
            "tokens": recipe.train.batch_size * length_of(recipe),
            "loss": float(loss),
            "grad_norm": float(norm),
            # Of the first group, without its own factor.
            "lr": float(rates[0]) / self._program.optimizer.param_groups[0]["factor"],
            "seconds": seconds,
        }
        if self._step in self._sync:
            # Sent together with the weights.
            return
        self._read_commands()
        wanted = self._saving or self._stopping
        if wanted and self._on_host:
            self._hand_over()
        else:
            if self._saving:
                self._tell(say=CANNOT_SAVE)
            self._tell(update={**self._update, "state_ready": False})
        self._saving = False

    def _hand_over(self) -> None:
        """Write weights and moments, through a file of the SDK's, and wait for the engine."""
        path = self._folder / "state.h5"
        self._program.save(path)
        weights, moments = self._program.read(path, self._step - self._skipped)
        save_file(weights, self._folder / WEIGHTS_FILE)
        save_file(moments, self._folder / MOMENTS_FILE)
        self._tell(update={**self._update, "state_ready": True})
        self._read_commands(until="continue")
        # Evaluations and saves do not count as training.
        self._began = time.perf_counter()

    def _read_commands(self, until: str | None = None) -> None:
        """Read the commands that have come; wait for ``until``, if given."""
        while until or select.select([self._commands], [], [], 0)[0]:
            commands = os.read(self._commands, 1 << 10).decode().split()
            self._stopping = self._stopping or "stop" in commands
            self._saving = self._saving or "save" in commands
            if not commands or until in commands:
                return


def _schedule(steps: list[int]) -> Any:
    from cerebras.pytorch.utils.data.data_executor import Schedule

    ranges = [Schedule.Range(start=s - 1, end=s, step=1, include_last=False) for s in steps]
    return Schedule(ranges)


# --- lowering ------------------------------------------------------------------------------------


def _lowered(recipe: Recipe, artifacts: Path) -> dict[str, Any]:
    """Have the SDK lower one training step on zeros; return the size of the result."""
    start = time.perf_counter()
    program = Program(recipe, artifacts, 0)
    loader = cstorch.utils.data.DataLoader(once, made_up(recipe))
    executor = cstorch.utils.data.DataExecutor(loader, num_steps=1)
    for batch in executor:
        program.step(batch)
    found = list(artifacts.rglob("cirh.mlir"))
    if not found:
        raise RunFailed(f"the SDK wrote no Cerebras IR into {artifacts}")
    text = found[0].read_text(encoding="utf-8", errors="replace")
    kinds = Counter(re.findall(r"\bcirh\.(\w+)", text))
    if not kinds:
        # The SDK reports nothing and continues.
        raise RunFailed("the step does not lower to Cerebras IR: the SDK wrote none")
    return {
        "ir_bytes": found[0].stat().st_size,
        "operators": kinds.total(),
        "operator_kinds": dict(kinds.most_common()),
        "seconds": time.perf_counter() - start,
    }


def _verified() -> dict[str, Any]:
    """Make one step of a tiny network on the SDK's CPU backend."""
    backend = cstorch.backend("CPU")
    with backend.device:
        network = nn.Linear(4, 1)
    compiled = cstorch.compile(network, backend)
    optimizer = cstorch.optim.AdamW(network.parameters(), lr=0.1)
    losses: list[float] = []

    @cstorch.trace  # type: ignore[untyped-decorator]
    def step(inputs: Inputs) -> Tensor:
        loss: Tensor = (compiled(inputs["x"]) ** 2).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss

    record = cstorch.step_closure(lambda loss: losses.append(float(loss)))

    loader = cstorch.utils.data.DataLoader(once, {"x": torch.ones(2, 4)})
    for inputs in cstorch.utils.data.DataExecutor(loader, num_steps=5):
        record(step(inputs))
    if not losses[-1] < losses[0]:
        raise RunFailed(f"five steps of the SDK did not lower a loss: {losses}")
    return {"sdk": cstorch.__version__, "torch": torch.__version__}


if __name__ == "__main__":
    main()
