"""A trained network with its data: what pruning measures it on."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wafergpt.checkpoint import store
from wafergpt.checkpoint.restored import restored
from wafergpt.config import Recipe
from wafergpt.config.sparsity import BLOCKS
from wafergpt.data.batches import Batch
from wafergpt.data.tokenizer import Tokenizer
from wafergpt.engines.outputs import evaluate
from wafergpt.errors import InputError
from wafergpt.inference.devices import inference_device, on_device
from wafergpt.logs import silent
from wafergpt.planning.intervals import with_intervals
from wafergpt.progress import working
from wafergpt.runs.run import Run
from wafergpt.shapes.counts import training_flops
from wafergpt.shapes.roles import role_of
from wafergpt.tasks.base import Splits, Task, task_of

SHORT_EVALUATION = 20.0
"""Seconds of an evaluation in which those of the first passes of a process would count."""


@dataclass(frozen=True)
class Evaluated:
    """An evaluation on validation data.

    Attributes:
        metrics: of the task, with ``loss``.
        seconds: that it took.
        fitted: settings of the task that were fitted to it.
    """

    metrics: dict[str, float]
    seconds: float
    fitted: dict[str, Any]

    @property
    def loss(self) -> float:
        """The validation loss."""
        return self.metrics["loss"]


@dataclass
class Calibrated:
    """A run's network, which is to be changed, and what it is measured on."""

    recipe: Recipe
    task: Task
    splits: Splits
    tokenizer: Tokenizer
    network: nn.Module
    device: torch.device

    @classmethod
    def of(cls, run: Run, recipe: Recipe) -> Calibrated:
        """Load a run.

        Args:
            run: a language model or a task's.
            recipe: the run's, with its data where that is now.

        Raises:
            InputError: if the data is gone.
            DamagedCheckpointError: if the checkpoint is not what was written.
        """
        device = inference_device(recipe)
        recipe = on_device(recipe, device)
        precision = recipe.system.precision
        recipe = recipe.replace(
            system={"device": device, "precision": "fp32" if precision == "auto" else precision},
            train={"micro_batch_size": recipe.train.micro_batch_size or 1},
        )
        # An imported run has settled nothing.
        recipe = with_intervals(recipe, recipe.train.steps or 1)
        task = task_of(recipe)
        known = Tokenizer.load(run.tokenizer) if run.tokenizer.is_file() else None
        tokenizer = task.tokenizer(known)
        recipe, splits = task.prepare(tokenizer)
        # It has read the rows.
        task.recipe = recipe
        network = restored(task.network, store.weights(run)).to(device).eval()
        return cls(recipe, task, splits, tokenizer, network, torch.device(device))

    def with_weights(self, run: Run) -> Calibrated:
        """Return the network of another run of the same task, to be measured on the same data.

        Raises:
            DamagedCheckpointError: if its checkpoint is not what was written.
        """
        task = {} if run.recipe.task is None else {"task": run.recipe.task}
        recipe = self.recipe.replace(model=run.recipe.model, **task)
        found = replace(self, recipe=recipe, task=task_of(recipe))
        if recipe.model.vocab_size != self.recipe.model.vocab_size:
            found.tokenizer = Tokenizer.load(run.tokenizer)
            found.splits = self.encoded(found.tokenizer)
        weights = store.weights(run)
        found.network = restored(found.task.network, weights).to(self.device).eval()
        return found

    def encoded(self, tokenizer: Tokenizer) -> Splits:
        """Return the same data as another tokenizer reads it."""
        with silent():
            return self.task.prepare(tokenizer)[1]

    def settle(self, **changes: Mapping[str, Any]) -> None:
        """Change the recipe as the network was changed."""
        self.recipe = self.recipe.replace(**changes)
        # It has read the data.
        self.task.recipe = self.recipe

    def matrices(self) -> dict[str, Tensor]:
        """Return the weights of the blocks' matrices by name."""
        named = self.network.named_parameters()
        return {name: p.detach() for name, p in named if role_of(name) in BLOCKS}

    def zeros(self) -> float:
        """Return their share of zeros."""
        return self._lost() / sum(m.numel() for m in self.matrices().values())

    def _lost(self) -> int:
        return sum(int((m == 0).sum()) for m in self.matrices().values())

    def evaluated(self) -> Evaluated:
        """Evaluate on validation data."""
        start = time.perf_counter()
        with working("evaluating"):
            data = self.splits.held_out
            outputs = evaluate(self.task, self.network, data, self.recipe, self.device)
        seconds = time.perf_counter() - start
        fitted, outputs = self.task.fit(outputs, data.references)
        metrics = dict(self.task.compute_metrics(outputs, data.references))
        return Evaluated(metrics, seconds, dict(fitted))

    def first(self, name: str) -> Evaluated:
        """Evaluate the run ``name`` before it is changed.

        Raises:
            InputError: if its loss is not finite.
        """
        found = self.evaluated()
        if found.seconds < SHORT_EVALUATION:
            # The first passes of a process are slow, and evaluations are compared.
            found = self.evaluated()
        if not math.isfinite(found.loss):
            raise InputError(f"the validation loss of {name} is not finite: this run is broken")
        return found

    def samples(self, count: int, for_loss: bool = False) -> Iterator[Batch]:
        """Yield so many samples spread over the training data, one at a time: padding is none.

        Args:
            count: of the samples.
            for_loss: whether the loss is looked at: then as many together as it is computed over.
        """
        batches, train = self.splits.train, self.recipe.train
        size = train.micro_batch_size if for_loss and not self.task.independent else 1
        passes = max(1, min(count, batches.samples_per_epoch) // size)
        for place in range(passes):
            batch = batches.batch(place * batches.samples_per_epoch // passes, size)
            yield batch.to(self.device)

    @torch.no_grad()
    def grams(self, linears: Sequence[nn.Linear], count: int) -> dict[nn.Linear, Tensor]:
        """Return the sums of XXᵀ ``[inputs + 1, inputs + 1]`` of matrices' inputs and of a 1.

        Args:
            linears: of the network.
            count: samples of the training data.
        """
        grams = {m: torch.zeros(m.in_features + 1, m.in_features + 1).double() for m in linears}

        def add(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            assert isinstance(module, nn.Linear)
            # Apple's GPUs have no double precision.
            x = F.pad(inputs[0].detach().flatten(0, -2).cpu().double(), (0, 1), value=1.0)
            grams[module] += x.T @ x

        with hooked(linears, add):
            for batch in self.samples(count):
                self.task.loss(self.network, batch)
        return grams

    def facts(self, when: str, evaluated: Evaluated) -> dict[str, Any]:
        """Return what a result says of the network as it is.

        Args:
            when: ``before`` or ``after``, which ends the keys.
            evaluated: now.
        """
        total = sum(p.numel() for p in self.network.parameters())
        lost, model = self._lost(), self.recipe.model
        flops = training_flops(model, rows=None if self.recipe.vocabulary_head else 0) / 3
        return {
            f"parameters_{when}": total - lost,
            f"flops_{when}": flops - 2.0 * model.seq_len * lost,
            f"bytes_{when}": sum(t.nbytes for t in self.network.state_dict().values()),
            f"seconds_{when}": evaluated.seconds,
            f"val_loss_{when}": evaluated.loss,
        }


@contextmanager
def hooked(modules: Sequence[nn.Module], hook: Any, after: bool = False) -> Iterator[None]:
    """Have a hook called before each module's forward pass, or after it, with the output too."""
    handles = [
        module.register_forward_hook(hook) if after else module.register_forward_pre_hook(hook)
        for module in modules
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
