"""A recipe's training step for the SDK. Runs in the SDK's environment."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import cerebras.pytorch as cstorch
import numpy as np
import torch
from torch import Tensor, nn

from wafergpt.cerebras.cluster import cluster_arguments, micro_batch_size, sparsity_arguments
from wafergpt.cerebras.dataloader import Inputs
from wafergpt.config import Recipe
from wafergpt.config.warmup import warmup_steps
from wafergpt.data.batches import Batch
from wafergpt.shapes.parametrization import Rule, rules
from wafergpt.tasks.base import Task, task_of

NO_CLIP = 1e30


def backend_of(recipe: Recipe, artifacts: Path) -> Any:
    """Return the SDK's backend for the recipe's mode; a process can have only one."""
    settings = recipe.system.cerebras
    if recipe.system.precision == "bf16":
        cstorch.amp.set_half_dtype(settings.half)
    if settings.mode == "cpu":
        torch.set_num_threads(recipe.system.threads or torch.get_num_threads())
        return cstorch.backend("CPU", artifact_dir=str(artifacts))
    csx = cstorch.backends.csx
    csx.performance.micro_batch_size = micro_batch_size(settings)
    csx.precision.optimization_level = settings.precision_level
    return cstorch.backend(
        "CSX",
        artifact_dir=str(artifacts),
        compile_only=settings.mode == "compile",
        validate_only=settings.mode == "validate",
        cluster_config=cstorch.distributed.ClusterConfig(**cluster_arguments(settings)),
    )


class MeanLoss(nn.Module):
    """A network with its loss, so that the SDK compiles both as one."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.network = task.network()
        self._loss = task.traced_loss

    def forward(self, inputs: Inputs) -> Tensor:
        """Return the mean loss of a batch."""
        targets = inputs["targets"]
        loss: Tensor = self._loss(self.network, Batch(inputs, targets.numel()))
        return loss / targets.numel()


class Schedule(cstorch.optim.lr_scheduler.LRScheduler):  # type: ignore[misc]
    """The learning rate of each parameter group as a function of the SDK's step counter."""

    def __init__(self, optimizer: Any, recipe: Recipe, done: int) -> None:
        self._recipe = recipe
        super().__init__(optimizer, total_iters=recipe.train.steps, last_epoch=done - 1)

    def get(self) -> list[Tensor]:
        """Return each group's learning rate."""
        value = self._get_closed_form()
        return [value * group["factor"] for group in self.optimizer.param_groups]

    def _get_closed_form(self) -> Tensor:
        # As in wafergpt.engines.schedules, for a step that only the device knows.
        recipe, schedule = self._recipe, self._recipe.schedule
        steps = recipe.train.steps
        assert steps is not None
        warmup = warmup_steps(
            schedule.warmup, steps, recipe.train.batch_size * recipe.model.seq_len
        )
        step = self.last_epoch.float()
        factor = torch.ones_like(step)
        if schedule.name != "constant":
            start = warmup
            if schedule.name == "wsd":
                start = max(warmup, steps - math.ceil(schedule.decay * steps)) - 1
            progress = torch.clamp((step - start) / max(steps - 1 - start, 1), 0.0, 1.0)
            fall = progress
            if schedule.name == "cosine":
                fall = (1 - torch.cos(math.pi * progress)) / 2
            factor = 1.0 - (1.0 - schedule.final) * fall
        rising = (step + 1) / (warmup + 1)
        return recipe.optimizer.lr * torch.where(step < warmup, rising, factor)


class Program:
    """One training in the SDK's terms.

    Args:
        recipe: resolved.
        artifacts: folder for the SDK's files.
        done: number of steps done.
        weights: by our names; if omitted, the SDK initializes them.
        moments: by the names of ``Optimizer.state_tensors``, and ``…/mask`` of sparse weights.

    Attributes:
        network: with our parameter names.
        step: updates the weights by a batch; returns its loss, gradient norm and learning rates.
    """

    def __init__(
        self,
        recipe: Recipe,
        artifacts: Path,
        done: int = 0,
        weights: Mapping[str, Tensor] | None = None,
        moments: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.recipe = recipe
        self._backend = backend_of(recipe, artifacts)
        with self._backend.device:
            self._loss = MeanLoss(task_of(recipe))
        self.network = self._loss.network
        compiled = cstorch.compile(self._loss, self._backend)
        if weights:
            self.network.load_state_dict(dict(weights))
        self._groups = list(self._grouped())
        self.optimizer = self._optimizer()
        self.schedule = Schedule(self.optimizer, recipe, done)
        if moments:
            self._load_moments(moments)
        self._sparsify(done, moments or {})
        self.step: Callable[[Inputs], tuple[Tensor, Tensor, list[Any]]] = self._traced(compiled)

    def _grouped(self) -> Iterator[tuple[Rule, list[str]]]:
        names = [name for name, _ in self.network.named_parameters()]
        found = rules(self.recipe.model, self.recipe.optimizer.name, names)
        groups: dict[Rule, list[str]] = {}
        for name in names:
            groups.setdefault(found[name], []).append(name)
        yield from groups.items()

    @property
    def order(self) -> list[str]:
        """The names of the parameters in the order of the optimizer's indices."""
        return [name for _, names in self._groups for name in names]

    def _optimizer(self) -> Any:
        settings, named = self.recipe.optimizer, dict(self.network.named_parameters())
        groups = [
            {
                "params": [named[name] for name in names],
                "weight_decay": settings.weight_decay if rule.decays else 0.0,
                "l2_regularization_rate": settings.l2 if rule.decays else 0.0,
                "factor": rule.factor,
            }
            for rule, names in self._groups
        ]
        kind = cstorch.optim.AdamW if settings.name == "adamw" else cstorch.optim.Adam
        betas = (settings.beta1, settings.beta2)
        return kind(groups, lr=settings.lr, betas=betas, eps=settings.eps)

    def _sparsify(self, done: int, moments: Mapping[str, Tensor]) -> None:
        if self.recipe.sparsity.algorithm == "none":
            return
        torch.manual_seed(self.recipe.seed)
        sparsity = cstorch.sparse.configure(sparsity_arguments(self.recipe))
        self._loss.apply(sparsity)
        self.optimizer.apply(sparsity)
        masks = {
            f"network.{name.removesuffix('/mask')}_mask": mask.bool()
            for name, mask in moments.items()
            if name.endswith("/mask")
        }
        if masks:
            # By full names from the root: otherwise the SDK draws new masks.
            self._loss.load_state_dict({**self._loss.state_dict(), **masks})
            states = sparsity.state_dict()
            for state in states:
                if "step" in state:
                    state["step"] = torch.tensor(done)
            sparsity.load_state_dict(states)

    def _traced(self, compiled: Any) -> Callable[[Inputs], Any]:
        settings, half = self.recipe.optimizer, self.recipe.system.precision == "bf16"
        clip = settings.clip or NO_CLIP
        parameters = list(self.network.parameters())
        scales = half and self.recipe.system.cerebras.half != "bfloat16"
        scaler = cstorch.amp.GradScaler(loss_scale="dynamic") if scales else None

        @cstorch.trace  # type: ignore[untyped-decorator]
        def step(inputs: Inputs) -> tuple[Tensor, Tensor, list[Any]]:
            with cstorch.amp.autocast() if half else contextlib.nullcontext():
                loss = compiled(inputs)
            (loss if scaler is None else scaler.scale(loss)).backward()
            if scaler is not None:
                scaler.unscale_(self.optimizer)
            # Clipping over many tensors at once does not lower.
            norm = nn.utils.clip_grad_norm_(parameters, clip, foreach=False)
            if scaler is None:
                self.optimizer.step()
            else:
                scaler.step(self.optimizer)
                scaler.update()
            self.optimizer.zero_grad()
            rates = self.schedule.get_last_lr()
            self.schedule.step()
            return loss, norm, rates

        return step  # type: ignore[no-any-return]

    # --- state in and out ------------------------------------------------------------------------

    def _load_moments(self, moments: Mapping[str, Tensor]) -> None:
        state = self.optimizer.state_dict()
        settings = self.recipe.optimizer
        for index, name in enumerate(self.order):
            own = state["state"][index]
            if f"{name}/step" not in moments:
                continue
            done = int(moments[f"{name}/step"])
            own["exp_avg"] = moments[f"{name}/exp_avg"]
            own["exp_avg_sq"] = moments[f"{name}/exp_avg_sq"]
            own["beta1_power"] = _power(settings.beta1, done + 1)
            own["beta2_power"] = _power(settings.beta2, done + 1)
        self.optimizer.load_state_dict(state)

    def save(self, path: Path) -> None:
        """Write weights and moments in the SDK's own format (HDF5)."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        state = {"model": self.network.state_dict(), "optimizer": self.optimizer.state_dict()}
        cstorch.save(state, str(path))

    def read(self, path: Path, updates: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return weights and moments, by our names, from a file of ``save``."""
        state = cstorch.load(str(path))
        weights = _on_host(state["model"])
        masks = [name for name in weights if name.endswith("_mask")]
        moments = {f"{name.removesuffix('_mask')}/mask": weights.pop(name).byte() for name in masks}
        for index, name in enumerate(self.order):
            own = _on_host(state["optimizer"]["state"][index])
            moments[f"{name}/exp_avg"] = own["exp_avg"]
            moments[f"{name}/exp_avg_sq"] = own["exp_avg_sq"]
            # Powers of beta underflow; the count does not.
            moments[f"{name}/step"] = torch.tensor(float(updates))
        return weights, moments


def _power(beta: float, n: int) -> Tensor:
    """Return a power of beta, rounded as by the SDK, which multiplies once per step."""
    value, factor = np.float32(beta), np.float32(beta)
    for _ in range(n - 1):
        if not value:
            break
        value *= factor
    return torch.tensor(float(value))


def _on_host(tensors: Mapping[str, Any]) -> dict[str, Tensor]:
    found = {name: torch.as_tensor(value) for name, value in tensors.items()}
    return {name: value.detach().clone().contiguous() for name, value in found.items()}
