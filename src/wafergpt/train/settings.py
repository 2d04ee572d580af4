"""What is settled before a training begins, by this machine and by what may change on a resume."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import torch
import yaml

from wafergpt.config import Recipe, load_recipe, recipe_from
from wafergpt.devices.allocator import keep_freed_memory
from wafergpt.devices.detect import cores, resolve_device, resolve_precision
from wafergpt.devices.probe import probe
from wafergpt.errors import InputError
from wafergpt.parallel.team import ALONE, Team
from wafergpt.progress import say
from wafergpt.recipe_files import merged
from wafergpt.scaling.machine import Machine
from wafergpt.scaling.memory import micro_batch_that_fits

MAY_CHANGE = (
    "train.steps", "evaluate.", "checkpoint.", "tracking.", "system.nproc", "system.shard",
    "system.threads", "system.timeout", "system.device", "system.compile", "system.cerebras.",
)  # fmt: skip
"""What a resumed run may override: nothing of it touches a weight before the old horizon, but for
the rounding of sums over another number of processes or threads or in other code, and the dropout
of processes."""

MAY_MOVE = {False: ("data.corpus",), True: ("task.train", "task.validation", "task.test")}
"""Without and with a task, where a resumed run finds its data; their fingerprint stays."""


def may_change(recipe: Recipe, overrides: Sequence[str]) -> Recipe:
    """Return a run's recipe with overrides that keep a resume bit-exact.

    Raises:
        InputError: on an override of anything else.
    """
    moves = MAY_MOVE[recipe.task is not None]
    for override in overrides:
        if not override.startswith(MAY_CHANGE + moves):
            raise InputError(
                f"'{override}' cannot change on resume; only train.steps, evaluate.*, "
                "checkpoint.*, tracking.*, system.device, compile, cerebras, nproc, shard, threads "
                f"and timeout can, and the place of the same data ({', '.join(moves)})"
            )
    changes = load_recipe(None, overrides).model_dump(exclude_unset=True)
    changed = recipe_from(merged(recipe.model_dump(), changes))
    if recipe.train.steps is None or changed.train.steps is None:
        raise InputError("a run has its horizon in steps: it cannot be resumed without train.steps")
    if changed.train.steps != recipe.train.steps:
        say(
            f"the horizon changes from {recipe.train.steps:,} to {changed.train.steps:,} steps: "
            "the learning rate follows the new one from here on"
        )
    return changed


def resolve_system(recipe: Recipe, team: Team = ALONE) -> tuple[Recipe, Machine]:
    """Settle device, precision, threads and micro-batch, and return what was measured.

    The leader of a team does, and all go by it.

    Raises:
        InputError: if the device is not here, or there are more processes than sequences.
    """
    recipe.train.require_enough_for(team.size)
    recipe.system.require_groups(team.size)
    told = None
    if not team.follows:
        resolved, machine = _resolved(recipe, team)
        told = {"recipe": resolved.to_yaml(), "machine": asdict(machine)}
    told = team.told(told)
    recipe = recipe_from(yaml.safe_load(told["recipe"]))
    machine = Machine.from_json(told["machine"])
    if recipe.system.device == "cpu":
        torch.set_num_threads(recipe.system.threads)
        keep_freed_memory()
    return recipe, machine


def _resolved(recipe: Recipe, team: Team) -> tuple[Recipe, Machine]:
    if recipe.system.device == "cerebras":
        return _for_cerebras(recipe, team.size), probe("cpu")
    device = resolve_device(recipe.system.device)
    if team.size > 1:
        _require_a_device_each(device, team.on_this_machine)
    machine = probe(device)
    precision = resolve_precision(recipe.system.precision, device, machine, recipe.model.d_model)
    recipe = recipe.replace(
        system={
            "device": device,
            "precision": precision,
            "threads": recipe.system.threads or max(1, machine.cores // team.on_this_machine),
            "nproc": team.size,
        }
    )
    sharing = team.on_this_machine if device == "cpu" else 1
    memory = machine.memory_available // sharing
    micro = recipe.train.micro_batch_size or micro_batch_that_fits(
        recipe.model,
        recipe.train.common_batch,
        recipe.optimizer,
        recipe.system,
        memory,
        recipe.checkpoint.background,
    )
    return recipe.replace(train={"micro_batch_size": micro}), machine


def _for_cerebras(recipe: Recipe, nproc: int) -> Recipe:
    """Settle what its SDK decides otherwise than torch: eps, precision, and how it is compiled."""
    on_cpu = recipe.system.cerebras.mode == "cpu"
    precision = recipe.system.precision
    if precision == "auto":
        precision = "fp32" if on_cpu else "bf16"
    return recipe.replace(
        system={
            "precision": precision,
            "compile": "off",
            "nproc": nproc,
            "threads": recipe.system.threads or cores(),
        },
        optimizer={"eps_hat": True},
        train={"micro_batch_size": recipe.train.micro_batch_size or recipe.train.batch_size},
    )


def _require_a_device_each(device: str, processes: int) -> None:
    if device == "mps":
        raise InputError("several processes train on CPUs or NVIDIA GPUs: system.device=cpu")
    if device == "cuda" and processes > torch.cuda.device_count():
        raise InputError(
            f"{processes} processes on this machine, but {torch.cuda.device_count()} GPUs: "
            "one for each, or system.device=cpu"
        )
