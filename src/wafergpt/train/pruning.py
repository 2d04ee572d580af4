"""Pruning a trained run: a new run whose blocks have many zeros."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wafergpt.checkpoint import store
from wafergpt.checkpoint.imported_run import require_new, run_with
from wafergpt.config import Recipe
from wafergpt.config.sparsity import BLOCKS
from wafergpt.data.tokenizer import Tokenizer
from wafergpt.engines.outputs import evaluate
from wafergpt.errors import InputError
from wafergpt.inference.devices import inference_device
from wafergpt.planning.intervals import with_intervals
from wafergpt.planning.memory import FP32
from wafergpt.progress import say, working
from wafergpt.runs.run import Run
from wafergpt.shapes.counts import training_flops
from wafergpt.shapes.roles import role_of
from wafergpt.sparsity import criteria
from wafergpt.tasks.base import Splits, Task, gpt_of, task_of

ROUNDS = 8
"""Sparsities that are tried for a limit of the loss: to within a hundredth."""

MOST = 0.99

NOTABLE = 0.02
"""Share of zeros from which on a run counts as pruned; rounding to int8 leaves some."""


@dataclass(frozen=True)
class Pruning:
    """How to prune.

    Attributes:
        method: which weights are zeros.
        sparsity: share of them; of the pattern 2:4 it is 0.5.
        pattern: two zeros of each four inputs.
        together: by magnitude, rank all matrices together.
        samples: sequences or rows of the training data that inputs are measured on.
        max_loss_increase: as a share: the largest sparsity that keeps to it is found, at most
            ``sparsity``; None for exactly that.
    """

    method: criteria.Method = "sparsegpt"
    sparsity: float = 0.5
    pattern: bool = False
    together: bool = False
    samples: int = 128
    max_loss_increase: float | None = None

    def __post_init__(self) -> None:
        if not 0 < self.sparsity < 1:
            raise InputError(f"a sparsity of {self.sparsity:g} is not between 0 and 1")
        if self.samples < 1:
            raise InputError("at least one sample is needed to measure inputs on")
        if self.pattern and self.sparsity != criteria.KEPT / criteria.GROUP:
            raise InputError("the pattern 2:4 has a sparsity of 0.5: leave the sparsity out")
        if self.together and (self.pattern or self.method != "magnitude"):
            raise InputError("only magnitudes are ranked over all matrices, and without a pattern")
        if self.max_loss_increase is not None and (self.pattern or self.max_loss_increase <= 0):
            raise InputError("a limit of the loss is above 0, and finds a sparsity: no pattern")


def prune(run: Run, recipe: Recipe, name: str, how: Pruning, root: Path) -> Run:
    """Make a run from another one's weights, many of them set to zero.

    Args:
        run: a language model or a task's, with its data.
        recipe: the run's, with its data where that is now.
        name: of the new run.
        how: which weights, and how many.
        root: the folder that holds runs.

    Returns:
        The new run; its result has loss, time and sizes before and after.

    Raises:
        InputError: if the name is taken, the data is gone, or no sparsity keeps to the limit.
        DamagedCheckpointError: if the checkpoint is not what was written.
    """
    require_new(name, root)
    work = _Work.on(run, recipe)
    before = work.evaluated()
    zeros = work.zeros()
    if how.pattern and (odd := work.odd()):
        raise InputError(
            f"2:4 takes inputs four by four, and {odd} has a width that is no multiple"
        )
    if zeros > how.sparsity:
        raise InputError(f"{run.name} has {zeros:.1%} zeros in its blocks: more than asked for")
    if zeros > NOTABLE:
        say(f"{run.name} has {zeros:.0%} zeros in its blocks already; these count")
    sparsity = how.sparsity
    if how.max_loss_increase is None:
        work.prune(how, sparsity)
        after = work.evaluated()
    else:
        sparsity, after = work.largest_within(how, (1 + how.max_loss_increase) * before.loss)
    weights = sum(matrix.numel() for matrix in work.matrices().values())
    total = sum(parameter.numel() for parameter in work.network.parameters())
    lost = round(weights * work.zeros())
    flops = training_flops(recipe.model, rows=None if recipe.task is None else 0) / 3
    spared = 2.0 * recipe.model.seq_len
    return run_with(
        work.network.state_dict(),
        work.recipe.replace(
            name=name,
            sparsity={"algorithm": "none"},
            **({"task": after.fitted} if after.fitted else {}),
        ),
        root,
        work.tokenizer,
        {
            "pruned": str(run.path.resolve()),
            "method": how.method,
            "pattern": "2:4" if how.pattern else None,
            "sparsity": lost / weights,
            "parameters_before": total - round(weights * zeros),
            "parameters_after": total - lost,
            "flops_before": flops - spared * weights * zeros,
            "flops_after": flops - spared * lost,
            "bytes_before": FP32 * total,
            "bytes_after": FP32 * total,
            "seconds_before": before.seconds,
            "seconds_after": after.seconds,
            "val_loss_before": before.loss,
            "val_loss_after": after.loss,
            "val_loss": after.loss,
            "metrics": after.metrics,
            "tokens": None,
            "loss": None,
        },
    )


def _task_section(fitted: dict[str, Any]) -> dict[str, Any]:
    return {"task": fitted} if fitted else {}


@dataclass(frozen=True)
class _Evaluated:
    metrics: dict[str, float]
    seconds: float
    fitted: dict[str, Any]

    @property
    def loss(self) -> float:
        return self.metrics["loss"]


@dataclass
class _Work:
    """A network that is pruned, and what it is measured on."""

    recipe: Recipe
    task: Task
    splits: Splits
    tokenizer: Tokenizer
    network: nn.Module
    device: torch.device
    dense: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def on(cls, run: Run, recipe: Recipe) -> _Work:
        device = inference_device(recipe)
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
        task = task_of(recipe)
        network = store.restored(task.network, store.weights(run)).to(device).eval()
        work = cls(recipe, task, splits, tokenizer, network, torch.device(device))
        work.dense = {name: weights.clone() for name, weights in work.matrices().items()}
        return work

    def matrices(self) -> dict[str, Tensor]:
        """Return the weights of the blocks' matrices."""
        named = self.network.named_parameters()
        return {name: p.detach() for name, p in named if role_of(name) in BLOCKS}

    def zeros(self) -> float:
        """Return their share of zeros."""
        found = self.matrices().values()
        return sum(int((m == 0).sum()) for m in found) / sum(m.numel() for m in found)

    def odd(self) -> str:
        """Return the name of a matrix whose inputs are no multiple of four; "" if there is none."""
        found = self.matrices().items()
        return next((name for name, m in found if m.shape[1] % criteria.GROUP), "")

    def evaluated(self) -> _Evaluated:
        start = time.perf_counter()
        with working("evaluating"):
            data = self.splits.validation
            outputs = evaluate(self.task, self.network, data, self.recipe, self.device)
        seconds = time.perf_counter() - start
        fitted, outputs = self.task.fit(outputs, data.references)
        metrics = dict(self.task.compute_metrics(outputs, data.references))
        return _Evaluated(metrics, seconds, dict(fitted))

    def largest_within(self, how: Pruning, limit: float) -> tuple[float, _Evaluated]:
        """Find the largest sparsity, at most that of ``how``, whose loss is within a limit.

        Raises:
            InputError: if none of those tried is.
        """
        low, high, found = 0.0, min(how.sparsity, MOST), None
        for round_ in range(ROUNDS):
            tried = high if round_ == 0 else (low + high) / 2
            self.prune(how, tried)
            now = self.evaluated()
            say(f"sparsity {tried:.1%}: validation loss {now.loss:.4f} (limit {limit:.4f})")
            if now.loss <= limit:
                low, found = tried, now
                if round_ == 0:
                    return tried, now
            else:
                high = tried
        if found is None:
            raise InputError(f"no sparsity from {high:.1%} on keeps the loss within {limit:.4f}")
        self.prune(how, low)
        return low, found

    @torch.no_grad()
    def prune(self, how: Pruning, sparsity: float) -> None:
        """Set weights to zero, from the dense ones on."""
        matrices = self.matrices()
        for name, weights in self.dense.items():
            matrices[name].copy_(weights)
        if how.method == "magnitude":
            masks = (
                {name: criteria.two_of_four(m.abs()) for name, m in matrices.items()}
                if how.pattern
                else criteria.magnitude(matrices, sparsity, how.together)
            )
            for name, mask in masks.items():
                matrices[name].mul_(mask)
            return
        blocks = gpt_of(self.network).blocks
        for number, block in enumerate(blocks):
            with working(f"pruning block {number + 1} of {len(blocks)}"):
                # Inputs are those of the pruned blocks before it.
                for module, gram in self._grams(block, how.samples).items():
                    _prune_one(module.weight, gram, how, sparsity)

    def _grams(self, block: nn.Module, samples: int) -> dict[nn.Linear, Tensor]:
        """Return the sums of XXᵀ of a block's matrices over some training data."""
        linears = [module for module in block.modules() if isinstance(module, nn.Linear)]
        grams = {
            module: torch.zeros(module.in_features, module.in_features, dtype=torch.float64)
            for module in linears
        }

        def add(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            assert isinstance(module, nn.Linear)
            # Apple's GPUs have no double precision.
            x = inputs[0].detach().flatten(0, -2).cpu().double()
            grams[module] += x.T @ x

        batches = self.splits.train
        count = min(samples, batches.samples_per_epoch)
        with _hooked(linears, add):
            for place in range(count):
                # One at a time: padding is no input.
                batch = batches.batch(place * batches.samples_per_epoch // count, 1)
                self.task.loss(self.network, batch.to(self.device))
        return grams


def _prune_one(weights: Tensor, gram: Tensor, how: Pruning, sparsity: float) -> None:
    matrix = weights.cpu()
    if how.method == "sparsegpt":
        try:
            matrix, _ = criteria.sparsegpt(matrix, gram, sparsity, pattern=how.pattern)
        except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
            raise InputError("the inputs of a matrix are not finite: this run is broken") from None
    elif how.pattern:
        matrix = matrix * criteria.two_of_four(matrix.abs() * gram.diagonal().sqrt().to(matrix))
    else:
        matrix = matrix * criteria.wanda(matrix, gram, sparsity)
    weights.copy_(matrix)


@contextmanager
def _hooked(modules: list[nn.Linear], hook: Any) -> Iterator[None]:
    handles = [module.register_forward_pre_hook(hook) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
