"""Settings that tune themselves: trials of a recipe, the best of which is judged once."""

from __future__ import annotations

import shutil
import time
import uuid
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from wafergpt import atomic_files
from wafergpt.config import Recipe, recipe_with
from wafergpt.config.recipe import DEFAULT_TASK
from wafergpt.errors import InputError, Interrupted, RunFailed
from wafergpt.locks import locked
from wafergpt.logs import each_kind_once, only_warnings, say
from wafergpt.progress import duration, progress, working
from wafergpt.runs.run import SCRATCH, Run
from wafergpt.train.signals import Signals
from wafergpt.tuning.gpus import require_gpus
from wafergpt.tuning.judging import is_better, judge, require_target, take
from wafergpt.tuning.making import ASKED, STOPPED, TrialMaker
from wafergpt.tuning.ray_workers import RayWorkers, connected
from wafergpt.tuning.records import Outcome
from wafergpt.tuning.spaces import is_space
from wafergpt.tuning.study import STUDY_LOCK
from wafergpt.tuning.study_spec import StudySpec
from wafergpt.tuning.summary import default_of, explained, settings_of, summary
from wafergpt.tuning.workers import Workers

LOOK_SECONDS = 0.5
"""Between two looks at what other machines have settled."""

RECIPE = "best.yaml"
"""The recipe of what is chosen, in the folder of the study."""


@dataclass
class Tuning:
    """A study, from what was asked for to its result.

    Attributes:
        asked: what is tuned, by what, and for how long.
        folder: of the study: a run whose result names the best trial.
    """

    asked: StudySpec
    folder: Path

    @cached_property
    def maker(self) -> TrialMaker:
        """This process' part in the trials."""
        return TrialMaker(self.asked, self.folder)

    def tuned(self) -> Run:
        """Make trials until the budget is used, and judge the best.

        Returns:
            The run of the study; its result has ``best``, ``value``, ``default_value``, ``trials``.

        Raises:
            InputError: if the study is impossible, or the folder is of another one.
            RunFailed: if no trial could be trained.
            Interrupted: by a signal; the same call goes on.
        """
        asked = self.asked
        asked.require_possible()
        if not asked.ray:
            require_gpus(asked.plain.system, asked.workers)
        with connected(asked.ray) if asked.ray else nullcontext():
            is_new = not self.folder.exists()
            run = self._new() if is_new else Run(self.folder)
            name = self.maker.require_same()
            target = Run(asked.root / asked.plain.name)
            if asked.width is None:
                require_target(target, name)
            with run.held():
                self._opened(is_new)
                run.write(ASKED, {**run.read(ASKED), "asked": asked.to_json()})
                if asked.ray:
                    self._work_on_ray()
                else:
                    self._work_here()
                self._end(run, target, name)
        return run

    def _opened(self, is_new: bool) -> None:
        """Open the study; leave nothing of a new one that cannot be opened."""
        try:
            _ = self.maker.study
        except InputError:
            # No database, for instance.
            if is_new:
                shutil.rmtree(self.folder)
            raise

    def _work_here(self) -> None:
        """Make trials in this process, and in others of this machine."""
        with Workers(self.folder, self.asked.workers - 1, self.asked.plain.system.nproc) as workers:
            self.maker.work()
            workers.wait()
            self._wait_for_others()
            # What a worker left when it died.
            self.maker.work()

    def _wait_for_others(self) -> None:
        """Wait for trials of processes that have joined in, here or on other machines."""
        study = self.maker.study
        if not study.others_at_work():
            return
        with Signals() as signals, working("waiting for trials that others make"):
            while study.others_at_work():
                if signals.requested:
                    raise Interrupted(STOPPED)
                time.sleep(LOOK_SECONDS)

    def _work_on_ray(self) -> None:
        """Have trials made on a cluster, and say what becomes of them."""
        asked, maker = self.asked, self.maker
        outcomes = maker.study.outcomes()
        maker.show(outcomes)
        workers = RayWorkers(self.folder, asked.plain.system, asked.workers)
        with (
            Signals() as signals,
            workers,
            progress(self.folder.name, asked.trials, "trials", len(outcomes)) as bar,
        ):
            at_work = True
            while at_work:
                at_work = workers.at_work(len(outcomes), LOOK_SECONDS)
                if signals.requested:
                    raise Interrupted(STOPPED)
                outcomes = maker.follow(bar)

    def _end(self, run: Run, target: Run, name: str) -> None:
        """Write the result, and make the run of what is chosen."""
        study = self.maker.study
        # A process that has joined in frees the space of trials that are not the best any more.
        with locked(self.folder / STUDY_LOCK):
            outcomes = study.outcomes()
            self.maker.show(outcomes)
            best = study.best_of(outcomes)
            if best is None:
                whys = sorted({one.why for one in outcomes if one.why})
                raise RunFailed(f"no trial could be trained: {'; '.join(whys)[:200]}")
            default = default_of(outcomes)
            chosen = self._chosen(best, default)
            run.write("result", self._result(run, outcomes, chosen))
            self._write_recipe(run, chosen)
            if self.asked.width is None:
                is_new = take(run, chosen, target, name)
        if self.asked.width is None:
            judge(run, chosen, default, target, is_new)
            # The test figures are above the recipe too.
            self._write_recipe(run, chosen)

    # --- the study -------------------------------------------------------------------------------

    def _require_room_for_one(self) -> None:
        """Refuse a budget that is less than what the default is estimated to take."""
        asked, budget = self.asked, self.asked.limit()
        if budget is None or (budget.kind == "seconds" and asked.ray):
            # The trials are made on other machines.
            return
        one, whole = asked.plan.cost(budget.kind), budget.amount
        texts = [duration(one), duration(whole)]
        if budget.kind == "flops":
            texts = [f"{one:.2g} FLOPs", f"{whole:.2g}"]
        if one > whole:
            raise InputError(
                f"one trial takes about {texts[0]}, more than the budget of {texts[1]}: a larger "
                "--budget, fewer rows, or fewer train.epochs"
            )

    def _new(self) -> Run:
        """Make the run of the study; its files appear together."""
        asked = self.asked
        self._require_room_for_one()
        if asked.width is None:
            require_target(Run(asked.root / asked.plain.name), "")
        # In a database there may be others of the folder's name.
        name = f"{self.folder.name}-{uuid.uuid4().hex}"
        about = {"name": name, "identity": asked.identity(), "asked": asked.to_json()}
        return Run.create(asked.default.replace(name=self.folder.name), asked.root, about)

    # --- the result ------------------------------------------------------------------------------

    def _chosen(self, best: Outcome, default: Outcome | None) -> Outcome:
        """Return the best trial, or the default where it is as good but for chance."""
        if default is None or default.values is None or default.run == best.run:
            return best
        ours, theirs = (Run(self.folder / one.run) for one in (best, default))
        if is_better(ours, theirs, self.asked.objective):
            return best
        say(
            "the best trial is no better than the default on these validation rows but for chance: "
            "the default is kept; more of them, as with task.held_out=0.3, tell more"
        )
        return default

    def _result(self, run: Run, outcomes: Sequence[Outcome], chosen: Outcome) -> dict[str, Any]:
        return {
            **(run.read("result") or {}),
            **summary(self.asked, self.maker.study, outcomes),
            "study": str(run.path),
            "chosen_trial": chosen.run,
            "chosen": settings_of(self.asked, chosen),
            "recipe": str(run.path / RECIPE),
        }

    def _write_recipe(self, run: Run, chosen: Outcome) -> None:
        """Write the recipe of what is chosen, and above it what that has gained."""
        asked = self.asked
        settings = {} if chosen.is_default else settings_of(asked, chosen)
        overrides = [f"{key}={text}" for key, text in settings.items()]
        with only_warnings():
            recipe = asked.recipe_of(overrides)
        recipe = recipe.replace(name=asked.plain.name, evaluate={"metric": asked.objective})
        lines = [f"# {line}\n" for line in explained(run.read("result"))]
        atomic_files.write_text(run.path / RECIPE, "".join(lines) + recipe.to_yaml())


def tuned(
    recipe: Recipe | str | Path | None,
    overrides: Sequence[str],
    start: str | None,
    root: Path,
    **options: Any,
) -> Run:
    """Tune a recipe; see ``wafergpt.api.tune``.

    Args:
        recipe: a recipe, a YAML file, or the name of a shipped recipe.
        overrides: values and spaces.
        start: the run to start from, or ``scratch``; None for a pretraining.
        root: the folder of runs.
        options: of ``StudySpec``.

    Returns:
        The run of the study.
    """
    values: str | dict[str, Any] | None = None
    if isinstance(recipe, Recipe):
        values = recipe.model_dump(mode="json", exclude_unset=True)
    elif recipe is not None:
        values = str(recipe)
    given = recipe_with(recipe, [o for o in overrides if o.startswith("task.name=")])
    task = given.task
    if task is None and start not in (None, SCRATCH):
        task = Run.find(str(start), root).recipe.task
    kind = DEFAULT_TASK if task is None else task.name
    parted = [o.partition("=") for o in overrides if is_space(o, kind)]
    asked = StudySpec(
        values,
        tuple(o for o in overrides if not is_space(o, kind)),
        start,
        {**given.tune, **{key.strip(): text for key, _, text in parted}},
        root=root,
        folder=Path.cwd(),
        **options,
    )
    # The rows are read again for each trial.
    with each_kind_once(differs=""):
        return Tuning(asked, asked.root / f"{asked.plain.name}-tune").tuned()
