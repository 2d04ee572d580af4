"""A plan from what was measured, in a process of its own or at the start of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wafergpt.config import Recipe, recipe_from
from wafergpt.config.yaml_values import parsed
from wafergpt.planning.duration import Duration
from wafergpt.planning.hardware import Machine
from wafergpt.planning.laws import predicted
from wafergpt.planning.memory import estimated_memory
from wafergpt.planning.plan import Plan, fits, warnings


@dataclass(frozen=True)
class Measurement:
    """A training as settled and timed on this machine.

    Attributes:
        recipe: with every ``auto`` settled, the horizon in steps and all intervals.
        tokens: of the whole training, padding included.
        flops: of all forward and backward passes.
        epoch_tokens: of one pass over the training data.
        time: seconds of the whole training.
        memory_bytes: peak of one process.
        task_parameters: weights of the task's own.
        cold_compile_seconds: of compiling with an empty cache, if that was measured.
        notes: on how it was measured.
    """

    recipe: Recipe
    tokens: int
    flops: float
    epoch_tokens: int
    time: Duration
    memory_bytes: int
    task_parameters: int = 0
    cold_compile_seconds: float | None = None
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON."""
        values = {**self.__dict__, "recipe": self.recipe.to_yaml(), "time": self.time.to_dict()}
        return {**values, "notes": list(self.notes)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Measurement:
        """Read the JSON of ``to_dict``."""
        recipe, time = recipe_from(parsed(values["recipe"])), Duration(**values["time"])
        return cls(**{**values, "recipe": recipe, "time": time, "notes": tuple(values["notes"])})

    def plan(self, asked: Recipe, machine: Machine) -> Plan:
        """Return the plan of the recipe that was asked for.

        Args:
            asked: before anything was settled.
            machine: with the memory that was free before.
        """
        recipe = self.recipe
        roomy = fits(self.memory_bytes, machine, recipe)
        notes = warnings(recipe, self.tokens, self.epoch_tokens, roomy)
        return Plan(
            asked=asked,
            resolved=recipe,
            tokens=self.tokens,
            flops=self.flops,
            time=self.time,
            tokens_per_second=self.tokens / self.time.updates if self.time.updates else 0.0,
            memory_bytes=self.memory_bytes,
            machine=machine,
            prediction=predicted(asked, recipe, self.epoch_tokens),
            measured=True,
            # A device that no estimate knows computes like its host here.
            memory=estimated_memory(recipe, machine.device),
            task_parameters=self.task_parameters,
            cold_compile_seconds=self.cold_compile_seconds,
            notes=(*notes, *self.notes),
        )
