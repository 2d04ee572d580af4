"""What a study was asked for, and the recipe of each of its trials."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wafergpt import files
from wafergpt.checkpoint import store
from wafergpt.config import Recipe, recipe_from, recipe_with
from wafergpt.config.files import flat
from wafergpt.devices.probe import probe
from wafergpt.errors import InputError, nearest, require_one_of
from wafergpt.logs import silent
from wafergpt.planning.budget import Budget, budget_of
from wafergpt.runs.run import SCRATCH, Run
from wafergpt.runs.teacher import with_teacher
from wafergpt.tasks.base import Direction, task_of
from wafergpt.tasks.labelled_task import LabelledTask
from wafergpt.tasks.language_model import corpus_of, for_corpus
from wafergpt.train.finetuning import with_task
from wafergpt.train.planner import plan_training
from wafergpt.train.resume import asked_for, language_model, on_top_of, start_run
from wafergpt.tuning.proxy import proxy_of
from wafergpt.tuning.samplers import Pruner, Sampler
from wafergpt.tuning.spaces import Space, combinations, default_spaces, read_spaces
from wafergpt.tuning.storage import without_password

if TYPE_CHECKING:
    from wafergpt.planning.plan import Plan

WEIGHTS = "weights of the start"
"""Key of an identity, which studies of older versions have not."""

COSTS: Mapping[str, Direction] = {"latency": "min", "size": "min"}
"""Objectives beside a metric: seconds of an evaluation, and parameters."""


@dataclass(frozen=True)
class StudySpec:
    """A study as it was asked for; as JSON, it is all that another process needs to join in.

    Attributes:
        recipe: a YAML file, a shipped recipe's name, values of a recipe, or None for settings
            chosen by the rows.
        overrides: ``section.key=value`` strings.
        start: the run to start from, or ``scratch``; None for a pretraining from fresh weights.
        spaces: texts by key; none for the default ones.
        metric: the objective; the recipe's ``evaluate.metric`` if None.
        also: further objectives, of ``COSTS``.
        sampler: what chooses settings.
        pruner: what stops trials early.
        budget: time, or FLOPs, of all trials; None for no limit.
        trials: their number; None for no limit.
        width: under µP, d_model of the proxy that is trained instead.
        steps: updates of the proxy; None for 20 tokens per parameter.
        workers: processes that work at the same time.
        storage: address of a database; a file in the study's folder if "".
        ray: address of a Ray cluster that makes the trials; this machine does if "".
        keep: keep the weights of all trials.
        root: the folder of runs.
        folder: the current folder of whoever asked, that relative paths are of.
    """

    recipe: str | Mapping[str, Any] | None
    overrides: tuple[str, ...]
    start: str | None
    spaces: Mapping[str, str] = field(default_factory=dict)
    metric: str | None = None
    also: tuple[str, ...] = ()
    sampler: Sampler = "tpe"
    pruner: Pruner = "asha"
    budget: str | float | None = None
    trials: int | None = None
    width: int | None = None
    steps: int | None = None
    workers: int = 1
    storage: str = ""
    ray: str = ""
    keep: bool = False
    root: Path = Path("runs")
    folder: Path = Path()

    def to_json(self) -> dict[str, Any]:
        """Return plain values, of which ``of_json`` makes the same."""
        return {**asdict(self), "root": str(self.root), "folder": str(self.folder)}

    @classmethod
    def of_json(cls, values: Mapping[str, Any]) -> StudySpec:
        """Return what ``to_json`` has written."""
        known = {name: values[name] for name in cls.__dataclass_fields__ if name in values}
        for name in ("overrides", "also"):
            known[name] = tuple(known[name])
        for name in ("root", "folder"):
            known[name] = Path(known[name])
        return cls(**known)

    def recipe_of(self, changes: Sequence[str] = ()) -> Recipe:
        """Return the recipe with overrides, as ``pretrain`` or ``finetune`` would take it.

        Raises:
            InputError: if it is impossible, or its data unusable.
        """
        recipe = self._loaded(changes)
        if self.goes_on:
            assert self.base is not None
            recipe = on_top_of(recipe, self.base)
        elif self.start is not None:
            recipe = with_task(recipe, self.base, chooses=self.recipe is None)
        # Trials are trained in a folder of their own. What is replaced counts as given.
        return with_teacher(recipe, self.root)

    @cached_property
    def goes_on(self) -> bool:
        """Whether a language model is pretrained further."""
        recipe = self._loaded(())
        is_pretraining = recipe.task is None and recipe.data.corpus is not None
        return is_pretraining and self.start not in (None, SCRATCH)

    def _loaded(self, changes: Sequence[str]) -> Recipe:
        """Return the recipe with overrides, without reading data."""
        given = recipe_from(self.recipe) if isinstance(self.recipe, Mapping) else self.recipe
        return recipe_with(given, [*self.overrides, *changes])

    def trained_with(self, changes: Sequence[str] = ()) -> Recipe:
        """Return the recipe of a trial, which is the proxy's if there is one."""
        recipe = self.recipe_of(changes)
        if self.width is not None:
            recipe = proxy_of(recipe, self.width, self.steps)
        if recipe.task is None:
            recipe = for_corpus(recipe, corpus_of(recipe))
        return recipe.replace(evaluate={"metric": self.objective})

    @cached_property
    def base(self) -> Run | None:
        """The run to start from; None for fresh weights."""
        if self.goes_on:
            return language_model(str(self.start), self.root)
        return start_run(self.start, self.root)

    @cached_property
    def plain(self) -> Recipe:
        """The recipe as it stands."""
        return self.recipe_of()

    @cached_property
    def default(self) -> Recipe:
        """The recipe of the first trial."""
        return self.trained_with()

    @property
    def objective(self) -> str:
        """The first objective, a metric."""
        return self.metric or self.plain.evaluate.metric

    @property
    def directions(self) -> list[Direction]:
        """Whether less or more of each objective is better."""
        return [task_of(self.plain).metrics[self.objective], *(COSTS[name] for name in self.also)]

    @cached_property
    def tuned(self) -> dict[str, Space]:
        """The spaces.

        Raises:
            InputError: if one is impossible.
        """
        texts = self.spaces or default_spaces(self.plain)
        return read_spaces(texts, self.plain, self._possible)

    def _possible(self, changes: Sequence[str]) -> Recipe:
        """Return the recipe with overrides that go with the run to start from."""
        recipe = self._loaded(changes)
        recipe.lora.require_start(self.base)
        return recipe if self.base is None else on_top_of(recipe, self.base)

    def default_parameters(self) -> dict[str, Any]:
        """Return the recipe's own settings as Optuna knows them, as far as the spaces hold them."""
        values = flat(self.plain.model_dump(mode="json"))
        found = {}
        for key, space in self.tuned.items():

            def read(text: str, key: str = key) -> Any:
                try:
                    return flat(self._loaded([f"{key}={text}"]).model_dump(mode="json"))[key]
                except InputError:
                    # Possible with other settings alone: the recipe does not have it.
                    return object()

            if (parameter := space.parameter(values[key], read)) is not None:
                found[key] = parameter
        return found

    def limit(self) -> Budget | None:
        """Return the budget.

        Raises:
            InputError: if it cannot be read, or counts tokens.
        """
        if self.budget is None:
            return None
        budget = budget_of(self.budget)
        if budget.kind == "tokens":
            raise InputError("a study has a budget of time or FLOPs: --budget 30m, or --trials N")
        return budget

    @cached_property
    def plan(self) -> Plan:
        """What the first trial is estimated to cost on this machine."""
        return self.plan_of(self.default)

    def plan_of(self, recipe: Recipe) -> Plan:
        """Return what a trial is estimated to cost on this machine."""
        with silent():
            return plan_training(recipe, probe(recipe.system.host), self.base, quick=True)

    def identity(self) -> dict[str, Any]:
        """Return all that makes trials comparable, by key: the recipe, its data, the spaces."""
        recipe = self.default
        task = task_of(recipe)
        if isinstance(task, LabelledTask):
            recipe = recipe.replace(data={"fingerprint": task.read_ahead().fingerprint()})
        values = flat(asked_for(recipe))
        # What is chosen for each trial anew.
        kept = {
            key: value
            for key, value in values.items()
            if key not in ("system.threads", "evaluate.every") and not key.startswith("tracking.")
        }
        spaces = {f"space of {key}": space.text for key, space in self.tuned.items()}
        objectives = [self.objective, *self.also]
        found = {**kept, **spaces, "objectives": objectives}
        if self.base is not None:
            found[WEIGHTS] = files.sha256(store.folder_of(self.base) / store.MANIFEST)
        return {**found, "storage": without_password(self.storage)}

    def require_possible(self) -> None:
        """Check what can be checked before anything is trained.

        Raises:
            InputError: if the objective is none of the task, or what is asked for is impossible.
        """
        require_one_of(Sampler, "sampler", self.sampler)
        require_one_of(Pruner, "pruner", self.pruner)
        for name in ("trials", "workers"):
            if (count := getattr(self, name)) is not None and count < 1:
                raise InputError(f"{name}={count}: 1 at least")
        task = task_of(self.plain)
        if self.plain.task is not None and self.start is None:
            raise InputError("which model is fine-tuned? name a run, or scratch, before the recipe")
        if self.objective not in task.metrics:
            raise InputError(
                f"{self.objective} is no metric of this training"
                f"{nearest(self.objective, task.metrics)} (there are {', '.join(task.metrics)})"
            )
        for name in self.also:
            if name not in COSTS:
                raise InputError(f"no objective '{name}'{nearest(name, COSTS)}")
        if len({*self.also}) < len(self.also):
            raise InputError(f"an objective is given twice: {', '.join(self.also)}")
        if self.steps is not None and self.width is None:
            raise InputError("steps are those of a proxy: add --width")
        if self.plain.task is not None and not self.plain.task.holds_out:
            raise InputError("trials are compared on rows that are held out: task.held_out is 0")
        nproc = self.plain.system.nproc
        self.plain.train.require_enough_for(nproc)
        self.plain.system.require_groups(nproc)
        if self.start is not None and self.width is not None:
            raise InputError("a proxy is of a pretraining: leave --width out")
        if self.budget is None and self.trials is None and self.sampler != "grid":
            raise InputError("how long? --budget 30m, or --trials 20")
        self.limit()
        if self.sampler == "grid":
            combinations(self.tuned)

    @property
    def takes_all(self) -> bool:
        """Whether every combination of the lists is tried once: if asked for, or if there are few.

        A sampler would try some of them again.
        """
        # A range has no choices.
        count = math.prod(len(space.choices) for space in self.tuned.values())
        # The default is a trial beside those of the grid, unless it is one of them.
        beside = len(self.default_parameters()) < len(self.tuned)
        return self.sampler == "grid" or 0 < count <= (self.trials or 0) - beside
