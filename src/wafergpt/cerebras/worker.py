"""The process in the SDK's environment: trains or lowers what the other side has prepared.

What it has to tell goes through a pipe of its own, one JSON object a line; stdout and stderr are
the SDK's.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import resource
import signal
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import cerebras.pytorch as cstorch
import torch
import yaml
from torch import Tensor, nn

from wafergpt.cerebras.program import Program, network_of
from wafergpt.cerebras.slices import Inputs, batches_of, input_fn, length_of, made_up, once
from wafergpt.config import Recipe, recipe_from
from wafergpt.data.labelled import LabelledBatches
from wafergpt.errors import InputError, RunFailed
from wafergpt.model.heads import Classifier
from wafergpt.parallel.launch import outlive
from wafergpt.run import Run
from wafergpt.shapes.counts import training_flops
from wafergpt.tasks import finetune as labelled
from wafergpt.tasks.finetune import Split
from wafergpt.train import checkpoint
from wafergpt.train import pretrain as language
from wafergpt.train.callbacks.evaluation import Evaluation, out_of_patience
from wafergpt.train.loop import autocast, reseed
from wafergpt.train.state import TrainState
from wafergpt.train.stored import MOMENTS, WEIGHTS, Stored
from wafergpt.train.validation import mean_loss


def main() -> None:
    """Do the job that the first argument describes."""
    job = json.loads(sys.argv[1])
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    outlive(job["launcher"])
    events = os.fdopen(job["events"], "w", encoding="utf-8")

    def tell(**event: Any) -> None:
        # Who listened may be gone; then there is a signal too.
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
            Training(Run(Path(job["run"])), tell).train()
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


CANNOT_SAVE = "a Cerebras system hands its weights over at checkpoint.every and evaluate.every only"

# --- training ------------------------------------------------------------------------------------


class Training:
    """One training, from the run's last good checkpoint to its horizon.

    Args:
        run: with its recipe and a checkpoint, which the other side has made.
        tell: sends an event.
    """

    def __init__(self, run: Run, tell: Any) -> None:
        self._run, self._tell, self._recipe = run, tell, run.recipe
        self._stopping = self._saving = False
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, self._asked)
        # From here on it can be asked for something.
        tell(ready=True)
        self._folder = run.path / "cerebras"
        newest = checkpoint.every(run)[-1]
        # The network on the host takes the weights at each look and save.
        host = checkpoint.restored(lambda: network_of(self._recipe), Stored(newest, WEIGHTS))
        self._moments = _Moments()
        self._state = TrainState(host, self._moments)  # type: ignore[arg-type]
        self._state.take_scalars(json.loads((newest / checkpoint.STATE).read_text("utf-8")))
        moments = self._moments.tensors = dict(Stored(newest, MOMENTS))
        counts = [float(t) for name, t in moments.items() if name.endswith("/step")]
        self._skipped = self._state.step - int(counts[0] if counts else self._state.step)
        weights = host.state_dict()
        self._program = Program(self._recipe, self._folder, self._state.step, weights, moments)
        self._validation = batches_of(self._recipe, run.path, "val")
        assert self._recipe.train.steps is not None
        self._evaluation = Evaluation(self._judge, self._recipe.evaluate, self._recipe.train.steps)
        # A run that stopped early goes on only if its patience has grown.
        self._state.finished = out_of_patience(self._state, self._recipe.evaluate)
        self._flops = _sequence_flops(self._recipe, host)
        self._row: dict[str, Any] = {}
        self._began = time.perf_counter()

    def _asked(self, number: int, frame: object) -> None:
        if number == signal.SIGUSR1:
            self._saving = True
        else:
            self._stopping = True

    def train(self) -> None:
        """Train to the horizon, or until asked to stop; only this CPU can save at any time."""
        recipe, state = self._recipe, self._state
        steps = recipe.train.steps
        assert steps is not None
        if state.pending is not None:
            # The other device was stopped before it could judge this step.
            self._row, state.pending = state.pending, None
            self._evaluation.after_step(state, self._row)
            self._send()
        if state.step >= steps or state.finished:
            self._tell(finished=True)
            return
        executor = cstorch.utils.data.DataExecutor(
            cstorch.utils.data.DataLoader(input_fn, str(self._run.path), state.samples),
            num_steps=steps - state.step,
            checkpoint_steps=_schedule([s - state.step for s in self._kept(state.step, steps)]),
        )
        record, keep = cstorch.step_closure(self._record), cstorch.checkpoint_closure(self._keep)
        on_host = recipe.system.cerebras.mode == "cpu"
        for inputs in executor:
            # What follows a step runs when the next one is asked for: only now is it over.
            if state.finished or self._stopping:
                break
            if self._saving:
                self._saving = False
                self._save() if on_host else self._tell(say=CANNOT_SAVE)
            if on_host:
                reseed(recipe.seed, state.step, 0)
            record(*self._program.step(inputs))
            keep()
        if self._stopping and state.step < steps and not state.finished:
            if on_host:
                self._save()
            self._tell(stopped=state.step)
            return
        self._tell(finished=True)

    def _kept(self, first: int, steps: int) -> list[int]:
        """Return the steps after which the host looks at the weights."""
        return [step for step in range(first + 1, steps + 1) if self._is_kept(step)]

    def _is_kept(self, step: int) -> bool:
        every = (self._recipe.evaluate.every, self._recipe.checkpoint.every)
        last = step == self._recipe.train.steps
        return last or any(step % interval == 0 for interval in every)

    def _record(self, loss: Tensor, norm: Tensor, rates: list[Any]) -> None:
        state, recipe = self._state, self._recipe
        now = time.perf_counter()
        seconds, self._began = now - self._began, now
        tokens = recipe.train.batch_size * length_of(recipe)
        state.step += 1
        state.samples += recipe.train.batch_size
        state.tokens += tokens
        state.flops = self._flops * state.samples
        state.seconds += seconds
        for what, value in (("loss", float(loss)), ("gradient's norm", float(norm))):
            if not math.isfinite(value):
                raise RunFailed(
                    f"at step {state.step} the {what} is {value}, and the SDK leaves no update "
                    "out: lower optimizer.lr, and --resume from the last checkpoint"
                )
        self._row = {
            "step": state.step,
            "tokens": state.tokens,
            "flops": state.flops,
            "seconds": state.seconds,
            # That of the first group, without a group's own factor.
            "lr": float(rates[0]) / self._program.optimizer.param_groups[0]["factor"],
            "tokens_per_second": tokens / seconds,
            "loss": float(loss),
            "grad_norm": float(norm),
            "memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        }
        if not self._is_kept(state.step):
            self._send()

    def _send(self) -> None:
        if self._row:
            self._tell(row=self._row, best_step=self._state.best_step)
        self._row = {}

    def _keep(self) -> None:
        state, recipe = self._state, self._recipe
        self._read_weights()
        self._evaluation.after_step(state, self._row)
        self._send()
        best = state.best is not None and state.best_step == state.step
        over = state.step == recipe.train.steps or state.finished
        if best or over or state.step % recipe.checkpoint.every == 0:
            self._write()
        # Neither looks nor saves count as training.
        self._began = time.perf_counter()

    def _save(self) -> None:
        self._read_weights()
        self._write()

    def _read_weights(self) -> None:
        """Fetch weights and moments, by way of a file of the SDK's."""
        path = self._folder / "state.h5"
        self._program.save(path)
        updates = self._state.step - self._skipped
        weights, self._moments.tensors = self._program.read(path, updates)
        self._state.model.load_state_dict(weights)

    def _write(self) -> None:
        keep = self._recipe.checkpoint
        checkpoint.save(self._state, self._run, keep.keep, keep.keep_every)

    def _judge(self) -> dict[str, float]:
        """Judge validation data on the host, as it is judged without a Cerebras system."""
        recipe, network, rows = self._recipe, self._state.model, self._validation
        if isinstance(network, Classifier):
            assert isinstance(rows, LabelledBatches)
            return labelled.validation_scores(network, Split(rows.texts, rows.targets), recipe)
        size = recipe.train.micro_batch_size
        samples = min(size * recipe.evaluate.batches, rows.samples_per_epoch)

        def look(first: int, n: int) -> tuple[float, float]:
            batch = rows.batch(first, n)
            with autocast(recipe, torch.device("cpu")):
                loss = language.language_objective(recipe, network, batch)
            return float(loss), batch.weight

        loss = mean_loss(network, samples, size, look)
        return language.validation_scores(loss, language.corpus_of(recipe))


def _sequence_flops(recipe: Recipe, network: nn.Module) -> float:
    rows, score_weights = recipe.model.vocab_size, 0
    if isinstance(network, Classifier):
        rows, score_weights = 0, network.score.weight.numel()
    return training_flops(recipe.model, length_of(recipe), rows, score_weights)


class _Moments:
    """In place of an optimizer: what the device's has had to tell."""

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}

    def state_tensors(self) -> dict[str, Tensor]:
        return self.tensors


def _schedule(steps: list[int]) -> Any:
    from cerebras.pytorch.utils.data.data_executor import Schedule

    ranges = [Schedule.Range(start=s - 1, end=s, step=1, include_last=False) for s in steps]
    return Schedule(ranges)


# --- lowering ------------------------------------------------------------------------------------


def _lowered(recipe: Recipe, artifacts: Path) -> dict[str, Any]:
    """Have the SDK lower one training step on made-up data; return what came of it."""
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
        # The SDK says nothing and goes on.
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
        loss.backward()  # type: ignore[no-untyped-call]
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
