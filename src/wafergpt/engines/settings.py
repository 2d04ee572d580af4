"""Settings that depend on the machine, resolved before a training starts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict

import torch

from wafergpt.config import Recipe, recipe_from
from wafergpt.config.yaml_values import parsed
from wafergpt.devices.allocator import keep_freed_memory
from wafergpt.devices.detect import resolve_device, resolve_precision
from wafergpt.devices.probe import probe
from wafergpt.distributed.collectives import SINGLE, ProcessGroup
from wafergpt.errors import InputError
from wafergpt.planning.hardware import Machine
from wafergpt.planning.memory import micro_batch_that_fits


def settled_by_leader(
    recipe: Recipe, group: ProcessGroup, settle: Callable[[Recipe], tuple[Recipe, Machine]]
) -> tuple[Recipe, Machine]:
    """Settle a recipe on the leader, and broadcast it to all processes.

    Args:
        recipe: as asked for.
        group: the processes of this training.
        settle: called on the leader; returns the resolved recipe and the machine.

    Returns:
        What ``settle`` returned on the leader.

    Raises:
        InputError: if there are more processes than sequences, or they do not divide into groups.
    """
    recipe.train.require_enough_for(group.size)
    recipe.system.require_groups(group.size)
    found = None
    if not group.is_worker:
        resolved, machine = settle(recipe)
        found = {"recipe": resolved.to_yaml(), "machine": asdict(machine)}
    found = group.broadcast(found)
    return recipe_from(parsed(found["recipe"])), Machine.from_json(found["machine"])


def settle_for_torch(recipe: Recipe, group: ProcessGroup = SINGLE) -> tuple[Recipe, Machine]:
    """Settle device, precision, threads and micro-batch.

    Args:
        recipe: as asked for.
        group: the processes of this training.

    Returns:
        The resolved recipe, and the leader's machine as measured.

    Raises:
        InputError: if the device is not available, or there are more processes than sequences.
    """
    recipe, machine = settled_by_leader(recipe, group, lambda asked: _resolved(asked, group))
    if recipe.system.device == "cpu":
        torch.set_num_threads(recipe.system.threads)
        keep_freed_memory()
    return recipe, machine


def _resolved(recipe: Recipe, group: ProcessGroup) -> tuple[Recipe, Machine]:
    device = resolve_device(recipe.system.device)
    if group.size > 1:
        _require_a_device_each(device, group.on_this_machine)
    if device == "mps" and recipe.model.ngrams:
        raise InputError(
            "model.ngrams needs products of 64 bits, which Apple's GPUs do not compute exactly: "
            "system.device=cpu"
        )
    machine = probe(device)
    precision = resolve_precision(recipe.system.precision, device, machine, recipe.model.d_model)
    recipe = recipe.replace(
        system={
            "device": device,
            "precision": precision,
            "threads": recipe.system.threads or max(1, machine.cores // group.on_this_machine),
            "nproc": group.size,
        }
    )
    sharing = group.on_this_machine if device == "cpu" else 1
    micro = micro_batch_that_fits(recipe, machine.memory_available // sharing)
    return recipe.replace(train={"micro_batch_size": micro}), machine


def _require_a_device_each(device: str, processes: int) -> None:
    if device == "mps":
        raise InputError("several processes train on CPUs or NVIDIA GPUs: system.device=cpu")
    if device == "cuda" and processes > torch.cuda.device_count():
        raise InputError(
            f"{processes} processes on this machine, but {torch.cuda.device_count()} GPUs: "
            "one for each, or system.device=cpu"
        )
