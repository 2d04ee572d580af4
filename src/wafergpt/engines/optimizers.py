"""The optimizers behind one interface: clip, decay, step, and a state of named tensors."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from wafergpt import config
from wafergpt.config.system import Precision
from wafergpt.devices.compiler import require_cache
from wafergpt.distributed.sharding import Part, Rows, like, whole
from wafergpt.engines.muon import BatchedMuon, ShardedMuon
from wafergpt.engines.row_adagrad import RowAdagrad
from wafergpt.errors import InputError
from wafergpt.shapes.parametrization import Rule
from wafergpt.shapes.roles import role_of
from wafergpt.sparsity.masks import SUFFIX, Masks

TABLES = ("ngram", "task_ngram")
"""Roles of the tables of which an update reads a few rows."""

TASK_NGRAM_POWER = 0.25
"""Between what news and many classes want: 1/2 and 0 (docs/log.md)."""


def is_hidden_matrix(name: str, parameter: Tensor) -> bool:
    """Return whether a parameter is a matrix inside the blocks, which Muon is for."""
    return parameter.ndim == 2 and ".blocks." in f".{name}"


def _fits(shape: tuple[int, ...], parameter: Tensor, is_table: bool) -> bool:
    """Return whether a state is a number, or as large as its parameter; a table's is per row."""
    wanted = (len(parameter), 1) if is_table else tuple(parameter.shape)
    return not shape or tuple(shape) == wanted


class Optimizer:
    """One recipe's optimizer over named parameters.

    Matrices decay, biases and norms never do. ``muon`` (Jordan et al., 2024) moves
    the matrices inside the blocks, its updates scaled to AdamW's size (arXiv:2502.16982) so that
    one learning rate serves both, and AdamW moves the rest. The tables of n-grams are moved by
    ``RowAdagrad``, whatever the name.

    Args:
        named: the parameters by name.
        settings: of the recipe.
        rules: by name; if omitted, all have the same learning rate, and matrices decay.
        masks: of weights that are zero, if there are some.
        precision: of Muon's iteration.

    Raises:
        InputError: if the recipe requires decoupled decay and the optimizer has none.
    """

    def __init__(
        self,
        named: Iterable[tuple[str, nn.Parameter]],
        settings: config.Optimizer,
        rules: Mapping[str, Rule] | None = None,
        masks: Masks | None = None,
        precision: Precision = "fp32",
    ) -> None:
        self._named = dict(named)
        self._precision = precision
        self._settings = settings
        self._rules = dict(rules or {n: Rule(1.0, p.ndim >= 2) for n, p in self._named.items()})
        self._masks = masks
        if masks is not None:
            for name, rule in self._rules.items():
                self._rules[name] = replace(rule, factor=rule.factor * masks.lr_factor(name))
        self._tables = [name for name in self._named if role_of(name) in TABLES]
        self._matrices = [
            p for n, p in self._named.items() if p.ndim >= 2 and n not in self._tables
        ]
        if settings.name in {"adam", "sgd"} and settings.weight_decay:
            raise InputError(
                f"{settings.name} has no decoupled weight decay: "
                "set optimizer.weight_decay=0 (and optimizer.l2 for true L2), or use adamw"
            )
        require_cache()
        self._parts = [part for part in self._build() if part.param_groups]

    def _build(self) -> list[torch.optim.Optimizer]:
        settings = self._settings
        sharded = any(hasattr(p, "device_mesh") for p in self._named.values())
        if settings.name == "sgd":
            groups = self._groups(self._named)
            # Torch has no fused SGD for sharded tensors.
            return [torch.optim.SGD(groups, settings.lr, settings.momentum, fused=not sharded)]
        muon = settings.name == "muon"
        hidden = [n for n, p in self._named.items() if muon and is_hidden_matrix(n, p)]
        rest = [n for n in self._named if n not in hidden and n not in self._tables]
        adam = torch.optim.Adam if settings.name == "adam" else torch.optim.AdamW
        betas = (settings.beta1, settings.beta2)
        parts: list[torch.optim.Optimizer] = []
        if rest:
            parts.append(adam(self._groups(rest), settings.lr, betas, settings.eps, fused=True))
        if self._tables:
            parts.append(RowAdagrad(self._table_groups(), settings.lr))
        if hidden:
            parts.append(self._muon(self._groups(hidden), sharded))
        return parts

    def _muon(self, groups: list[dict[str, Any]], sharded: bool) -> torch.optim.Optimizer:
        lr, momentum = self._settings.lr, self._settings.momentum
        dtype = torch.bfloat16 if self._precision == "bf16" else torch.float32
        if sharded:
            return ShardedMuon(groups, lr, momentum, dtype)
        if dtype == torch.float32 or groups[0]["params"][0].is_cuda:
            return BatchedMuon(groups, lr, momentum, dtype)
        # Whether batches in bf16 are as fast on a CPU was not measured.
        return torch.optim.Muon(groups, lr=lr, momentum=momentum, adjust_lr_fn="match_rms_adamw")

    def _groups(self, names: Iterable[str]) -> list[dict[str, Any]]:
        """Group parameters that share decay and factor of the learning rate."""
        groups: dict[Rule, list[nn.Parameter]] = {}
        for name in names:
            groups.setdefault(self._rules[name], []).append(self._named[name])
        decay = self._settings.weight_decay
        return [
            {
                "params": parameters,
                "weight_decay": decay if rule.decays else 0.0,
                "factor": rule.factor,
            }
            for rule, parameters in groups.items()
        ]

    def _table_groups(self) -> list[dict[str, Any]]:
        """Group the tables of n-grams: embeddings, and weights of a task's own."""
        settings, groups = self._settings, []
        for role in TABLES:
            for group in self._groups(n for n in self._tables if role_of(n) == role):
                if role == "task_ngram":
                    # Its own learning rate; only the schedule is shared.
                    group |= {
                        "power": TASK_NGRAM_POWER,
                        "factor": settings.task_ngram_lr / settings.lr,
                    }
                else:
                    group["factor"] *= settings.ngram_lr_factor
                groups.append(group)
        return groups

    def grad_norm(self, step: int = 0, steps: int = 0) -> Tensor:
        """Compute the norm of the whole gradient of an update.

        Args:
            step: of the update, from 0.
            steps: of the training.

        Returns:
            A scalar on its device.
        """
        if self._masks is not None:
            self._masks.mask_gradients(step, steps)
        return whole(torch.nn.utils.get_total_norm(self._gradients()))

    def merge_rows(self) -> None:
        """Sum what the passes so far have left for the same row of an n-gram table.

        A sparse gradient would keep a row for each token of the whole batch.
        """
        for name in self._tables:
            gradient = self._named[name].grad
            if gradient is not None and gradient.is_sparse:
                self._named[name].grad = gradient.coalesce()

    def _gradients(self) -> list[Tensor]:
        """Return all gradients; of a sparse one, the values of its rows."""
        self.merge_rows()
        found = [p.grad for p in self._named.values() if p.grad is not None]
        return [gradient.values() if gradient.is_sparse else gradient for gradient in found]

    def step(self, lr: float, norm: float | None = None, step: int = 0, steps: int = 0) -> None:
        """Clip, add L2, move the weights, clear the gradients.

        Args:
            lr: the learning rate, before the factors of roles.
            norm: of the gradient; computed if omitted.
            step: of the update, from 0.
            steps: of the training.
        """
        if self._settings.clip:
            norm = float(self.grad_norm(step, steps)) if norm is None else norm
            factor = (self._settings.clip / (torch.tensor(norm) + 1e-6)).clamp(max=1.0)
            torch._foreach_mul_(self._gradients(), float(factor))
        if self._settings.l2:
            for matrix in self._matrices:
                if matrix.grad is not None:
                    matrix.grad.add_(matrix.detach(), alpha=self._settings.l2)
        for part in self._parts:
            correction = self._eps_correction(part)
            for group in part.param_groups:
                group["lr"] = lr * group["factor"]
                if correction:
                    group["eps"] = self._settings.eps / correction
            part.step()
        if self._masks is not None:
            states = {p: state.values() for part in self._parts for p, state in part.state.items()}
            self._masks.after_update(step, steps, states)
        self.clear()

    def _eps_correction(self, part: torch.optim.Optimizer) -> float | None:
        """Return √(1 − β₂ᵗ), which divides torch's eps to add it before the bias correction."""
        if not self._settings.eps_hat or not isinstance(part, torch.optim.Adam):
            return None
        # All parameters have the same count.
        first = next(iter(part.state.values()), None)
        done = 0.0 if first is None else float(first["step"])
        return math.sqrt(1.0 - self._settings.beta2 ** (done + 1))

    def clear(self) -> None:
        """Drop all gradients."""
        if self._masks is not None:
            self._masks.forget()
        for parameter in self._named.values():
            parameter.grad = None

    def state_tensors(self) -> dict[str, Tensor]:
        """Return the whole state as tensors named ``parameter/key``."""
        found = {
            f"{name}/{key}": value
            for name, parameter in self._named.items()
            for part in self._parts
            for key, value in part.state.get(parameter, {}).items()
            if isinstance(value, Tensor)
        }
        return found if self._masks is None else {**found, **self._masks.tensors()}

    def load_state_tensors(self, tensors: Mapping[str, Rows]) -> None:
        """Load a state of ``state_tensors``; sharded parameters take their part.

        Args:
            tensors: the whole state by ``parameter/key``.

        Raises:
            ValueError: if a tensor fits no parameter.
        """
        if self._masks is not None:
            self._masks.load(tensors)
            tensors = {n: value for n, value in tensors.items() if not n.endswith(SUFFIX)}
        for part in self._parts:
            part.state.clear()
        owners = {p: part for part in self._parts for g in part.param_groups for p in g["params"]}
        for full_name, tensor in tensors.items():
            name, _, key = full_name.rpartition("/")
            parameter = self._named.get(name)
            if parameter is None or not _fits(tensor.shape, parameter, name in self._tables):
                raise ValueError(f"the optimizer state '{full_name}' fits no parameter")
            values = Part.of(parameter).rows_of(tensor) if tensor.shape else tensor[...]
            values = values.to(parameter.device, copy=True)
            moment = like(parameter, values) if tensor.shape else values
            owners[parameter].state[parameter][key] = moment
