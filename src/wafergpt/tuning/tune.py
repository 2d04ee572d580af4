"""Settings that tune themselves: trials of a recipe, the best of which is judged once."""

from __future__ import annotations

import math
import os
import shutil
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from wafergpt import atomic_files
from wafergpt.config import Recipe, recipe_with
from wafergpt.config.recipe import DEFAULT_TASK
from wafergpt.devices.probe import probe
from wafergpt.errors import Diverged, InputError, RunFailed
from wafergpt.progress import duration, each_kind_once, only_warnings, progress, say, silent
from wafergpt.runs.run import Run
from wafergpt.train.planner import plan_training
from wafergpt.tuning.asked import Asked
from wafergpt.tuning.judging import is_better, require_target, take
from wafergpt.tuning.spaces import is_space
from wafergpt.tuning.spending import Spending
from wafergpt.tuning.study import Outcome, Study, Trial
from wafergpt.tuning.table import TrialTable
from wafergpt.tuning.trials import StoppedEarlyError, costs, forget_weights, trained
from wafergpt.tuning.workers import Workers

ASKED = "asked"
"""Name of the JSON file of a study's run that says what was asked for."""

IN_A_ROW = 5
"""So many trials that cannot be trained, one after the other, end a study."""


@dataclass
class Tuning:
    """A study, from what was asked for to its result.

    Attributes:
        asked: what is tuned, by what, and for how long.
        folder: of the study: a run whose result names the best trial.
    """

    asked: Asked
    folder: Path
    _shown: set[str] = field(default_factory=set, init=False)

    def tuned(self) -> Run:
        """Make trials until the budget is used, and judge the best.

        Returns:
            The run of the study; its result has ``best``, ``value``, ``default_value``, ``trials``.

        Raises:
            InputError: if the study is impossible, or the folder is of another one.
            RunFailed: if no trial could be trained.
            Interrupted: by a signal; the same call goes on.
        """
        asked, is_new = self.asked, not self.folder.exists()
        asked.require_possible()
        run = self._new() if is_new else Run(self.folder)
        name = self._require_same(run)
        target = Run(asked.root / asked.plain.name)
        if asked.width is None:
            require_target(target, name)
        with run.held():
            try:
                study = self.study
            except InputError:
                # No database, for instance.
                if is_new:
                    shutil.rmtree(self.folder)
                raise
            run.write(ASKED, {**run.read(ASKED), "asked": asked.to_json()})
            with Workers(self.folder, asked.workers - 1) as workers:
                self.work()
                workers.wait()
                # What a worker left when it died.
                self.work()
            outcomes = study.outcomes()
            self._show(outcomes)
            best = study.best_of(outcomes)
            if best is None:
                whys = sorted({one.why for one in outcomes if one.why})
                raise RunFailed(f"no trial could be trained: {'; '.join(whys)[:200]}")
            default = next((one for one in outcomes if one.is_default), None)
            chosen = self._chosen(best, default)
            run.write("result", self._result(run, outcomes, best, default, chosen))
            if asked.width is None:
                take(run, chosen, default, target, name)
        return run

    def joined(self) -> None:
        """Make trials of a study that another process has begun, until its budget is used.

        Raises:
            InputError: if the recipe or its rows are not those of the study any more.
            Interrupted: by a signal; the trial is taken up by whoever is next.
        """
        self._require_same(Run(self.folder))
        self.work()

    def work(self) -> None:
        """Make trials until the budget is used.

        Raises:
            InputError: if trials are impossible.
            RunFailed: if they cannot be trained.
            Interrupted: by a signal; the trial is taken up by whoever is next.
        """
        study, spending, failed = self.study, Spending(self.asked.limit(), self.asked.workers), 0
        outcomes = study.outcomes()
        with progress(self.folder.name, self.asked.trials, "trials", len(outcomes)) as bar:
            while spending.may_go_on(outcomes):
                with study.taken(self.asked.trials) as trial:
                    if trial is None:
                        break
                    failure = self._made(trial)
                outcomes = study.outcomes()
                self._forget(outcomes)
                self._show(outcomes)
                bar.advance(1, spending.left(outcomes))
                failed = failed + 1 if failure else 0
                if failure and failed == IN_A_ROW:
                    raise failure

    # --- one trial -------------------------------------------------------------------------------

    def _made(self, trial: Trial) -> InputError | RunFailed | None:
        """Train a trial and settle it; return why it cannot be trained, if it cannot."""
        asked, began = self.asked, time.monotonic()
        before = _last(Run(self.folder / trial.run)).get("elapsed", 0.0)
        watched = asked.pruner != "none" and not asked.also

        def settle(values: Sequence[float] | None, why: str = "") -> None:
            seconds = before + time.monotonic() - began
            flops = _last(Run(self.folder / trial.run)).get("flops", 0.0)
            self.study.settle(trial, values, seconds, why, {"flops": flops})

        try:
            with only_warnings():
                recipe = self._recipe_of(trial)
                run, value = trained(trial, recipe, asked.base, self.folder, watched)
            if not math.isfinite(value):
                settle(None, f"{asked.objective} is not finite")
                return None
            settle([value, *costs(run, asked.also)])
        except StoppedEarlyError:
            settle(None, "stopped early")
        except InputError as error:
            if trial.is_default:
                # The same call, made again, says it again.
                raise
            settle(None, str(error))
            return error
        except Diverged as failure:
            # It has cost something, and others need not.
            settle(None, str(failure))
        except RunFailed as failure:
            settle(None, str(failure))
            return failure
        return None

    def _recipe_of(self, trial: Trial) -> Recipe:
        asked = self.asked
        recipe = asked.default if trial.is_default else asked.trained_with(trial.overrides())
        recipe = recipe.replace(name=trial.run)
        if asked.workers > 1 and not recipe.system.threads:
            threads = max(1, len(os.sched_getaffinity(0)) // asked.workers)
            recipe = recipe.replace(system={"threads": threads})
        return recipe

    # --- the study -------------------------------------------------------------------------------

    def _require_room_for_one(self) -> None:
        """Refuse a budget of time that is less than what the default is estimated to take."""
        budget = self.asked.limit()
        if budget is None or budget.kind != "seconds":
            return
        recipe = self.asked.default
        with silent():
            plan = plan_training(recipe, probe(recipe.system.host), self.asked.base, quick=True)
        if plan.seconds > budget.amount:
            raise InputError(
                f"one trial takes about {duration(plan.seconds)}, more than the budget of "
                f"{duration(budget.amount)}: a larger --budget, fewer rows, or fewer train.epochs"
            )

    @cached_property
    def study(self) -> Study:
        """The trials."""
        asked = self.asked
        return Study(
            self.folder,
            Run(self.folder).read(ASKED)["name"],
            asked.tuned,
            asked.default_parameters(),
            ["minimize" if way == "min" else "maximize" for way in asked.directions],
            sampler=asked.sampler,
            pruner="none" if asked.also else asked.pruner,
            seed=asked.plain.seed,
            storage=asked.storage,
        )

    def _new(self) -> Run:
        """Make the run of the study; its files appear together."""
        asked = self.asked
        self._require_room_for_one()
        if asked.width is None:
            Run.require_new(asked.plain.name, asked.root)
        # In a database there may be others of the folder's name.
        name = f"{self.folder.name}-{uuid.uuid4().hex}"
        about = {"name": name, "identity": asked.identity(), "asked": asked.to_json()}
        return Run.create(asked.default.replace(name=self.folder.name), asked.root, about)

    def _require_same(self, run: Run) -> str:
        """Require that a study is of this recipe, rows and spaces, and return its own name."""
        before = run.read(ASKED)
        if not isinstance(before, dict) or "identity" not in before:
            raise InputError(f"{self.folder} is no study: choose another name=NAME")
        known, now = before["identity"], self.asked.identity()
        differ = sorted(k for k in known.keys() | now.keys() if known.get(k) != now.get(k))
        if differ:
            raise InputError(
                f"{self.folder} is a study of another command ({', '.join(differ[:3])} differ): "
                "remove it, or choose another name=NAME"
            )
        return str(before["name"])

    def _forget(self, outcomes: Sequence[Outcome]) -> None:
        """Delete the weights of trials that cannot be the result."""
        if self.asked.keep:
            return
        best = self.study.best_of(outcomes)
        kept = {best.run} if best is not None else set()
        if self.asked.also:
            kept |= set(self.study.not_beaten())
        for outcome in outcomes:
            if not outcome.is_default and outcome.run not in kept:
                forget_weights(Run(self.folder / outcome.run))

    # --- the result ------------------------------------------------------------------------------

    def _show(self, outcomes: Sequence[Outcome]) -> None:
        """Say the trials that were not said before, others' among them."""
        table = TrialTable(self.asked, outcomes)
        if not self._shown and outcomes:
            say(table.head())
        for outcome in outcomes:
            if outcome.run not in self._shown:
                say(table.line(outcome))
        self._shown = {outcome.run for outcome in outcomes}

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

    def _result(
        self,
        run: Run,
        outcomes: Sequence[Outcome],
        best: Outcome,
        default: Outcome | None,
        chosen: Outcome,
    ) -> dict[str, Any]:
        asked, study = self.asked, self.study
        assert best.values is not None
        with only_warnings():
            recipe = asked.recipe_of(self._overrides(chosen)).replace(name=asked.plain.name)
        path = run.path / "best.yaml"
        atomic_files.write_text(path, recipe.to_yaml())
        return {
            **(run.read("result") or {}),
            "study": str(run.path),
            "metric": asked.objective,
            "objectives": [asked.objective, *asked.also],
            "directions": asked.directions,
            "best": {key: asked.tuned[key].written(value) for key, value in best.params.items()},
            "best_trial": best.run,
            "chosen_trial": chosen.run,
            "value": best.values[0],
            "default_value": None if default is None or not default.values else default.values[0],
            "trials": len(outcomes),
            "recipe": str(path),
            "elapsed": sum(one.seconds for one in outcomes),
            "importances": study.importances(),
            "spaces": {key: space.text for key, space in asked.tuned.items()},
            "outcomes": [self._row(one) for one in outcomes],
            "not_beaten": study.not_beaten() if asked.also else [best.run],
        }

    def _overrides(self, outcome: Outcome) -> list[str]:
        if outcome.is_default:
            return []
        tuned = self.asked.tuned
        return [f"{key}={tuned[key].written(value)}" for key, value in outcome.params.items()]

    def _row(self, outcome: Outcome) -> dict[str, Any]:
        return {
            "number": outcome.number,
            "run": outcome.run,
            "params": dict(outcome.params),
            "values": None if outcome.values is None else list(outcome.values),
            "why": outcome.why,
            "seconds": outcome.seconds,
            "default": outcome.is_default,
        }


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
        options: of ``Asked``.

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
    if task is None and start not in (None, "scratch"):
        task = Run.find(str(start), root).recipe.task
    kind = DEFAULT_TASK if task is None else task.name
    parted = [o.partition("=") for o in overrides if is_space(o, kind)]
    asked = Asked(
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


def join(folder: Path) -> None:
    """Make trials of a study that another process has begun, until its budget is used.

    Args:
        folder: of the study, which all its processes see.

    Raises:
        InputError: if there is none, or its recipe or rows are others here.
        Interrupted: by a signal; the trial is taken up by whoever is next.
    """
    folder = folder.resolve()
    found = Run(folder).read(ASKED) if folder.is_dir() else None
    if not isinstance(found, dict) or "identity" not in found:
        raise InputError(f"{folder} is no study: wafergpt tune makes one")
    asked = Asked.of_json(found["asked"])
    try:
        os.chdir(asked.folder)
    except OSError as error:
        raise InputError(
            f"the study was begun in {asked.folder}, which this machine does not see "
            f"({error.strerror})"
        ) from None
    with each_kind_once(differs=""):
        Tuning(asked, folder).joined()


def _last(run: Run) -> dict[str, Any]:
    """Return the last row of a run's metrics; {} if there is none."""
    rows = run.metrics() if run.path.exists() else []
    return rows[-1] if rows else {}
