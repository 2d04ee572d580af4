"""Settings that tune themselves: trials of a recipe, the best of which is judged once."""

from __future__ import annotations

import math
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from wafergpt import atomic_files
from wafergpt.config import Recipe, load_recipe
from wafergpt.config.recipe import DEFAULT_TASK
from wafergpt.devices.probe import probe
from wafergpt.errors import InputError, Interrupted, RunFailed
from wafergpt.locks import Lock
from wafergpt.progress import duration, each_kind_once, only_warnings, progress, say, silent
from wafergpt.runs.run import Run
from wafergpt.train.planner import plan_training
from wafergpt.tuning.asked import Asked
from wafergpt.tuning.judging import is_better, take
from wafergpt.tuning.spaces import is_space
from wafergpt.tuning.spending import Spending
from wafergpt.tuning.study import Outcome, Study, Trial
from wafergpt.tuning.table import TrialTable
from wafergpt.tuning.trials import StoppedEarlyError, costs, forget_weights, trained
from wafergpt.tuning.workers import Workers

ASKED = "study"
"""Name of the JSON file of a study that says what was asked for."""

IN_A_ROW = 5
"""So many impossible trials, one after the other, end a study."""


@dataclass
class Tuning:
    """A study, from what was asked for to its result.

    Attributes:
        asked: what is tuned, by what, and for how long.
        folder: of the study: a run whose result names the best trial.
    """

    asked: Asked
    folder: Path
    _shown: int = field(default=0, init=False)

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
        if is_new:
            self._require_room_for_one()
        run = self._opened()
        try:
            study = self.study
        except InputError:
            # No database, for instance.
            if is_new:
                shutil.rmtree(self.folder)
            raise
        with self._only_here(), Workers(self.folder, asked.workers - 1) as workers:
            self.work()
            workers.wait()
            # What a worker left when it died.
            self.work()
        self._show_new()
        best = study.best()
        if best is None:
            whys = sorted({one.why for one in study.outcomes() if one.why})
            raise RunFailed(f"no trial could be trained: {'; '.join(whys)[:200]}")
        default = next((one for one in study.outcomes() if one.is_default), None)
        chosen = self._chosen(best, default)
        run.write("result", self._result(run, best, default, chosen))
        if asked.width is None:
            test = None if asked.plain.task is None else asked.plain.task.test
            take(run, chosen, default, Run(asked.root / self.name), test)
        return run

    def work(self) -> None:
        """Make trials until the budget is used.

        Raises:
            InputError: if trials are impossible.
            Interrupted: by a signal; the trial is taken up by whoever is next.
        """
        study, impossible = self.study, 0
        done = len(study.outcomes())
        with progress(self.folder.name, self.asked.trials, "trials", done) as bar:
            while self._spending.may_go_on(study.outcomes()):
                with study.taken(self.asked.trials) as trial:
                    if trial is None:
                        break
                    error = self._made(trial)
                    impossible = impossible + 1 if error else 0
                    if error and impossible == IN_A_ROW:
                        raise error
                self._forget()
                self._show_new()
                bar.advance(1, self._spending.left(study.outcomes()))

    # --- one trial -------------------------------------------------------------------------------

    def _made(self, trial: Trial) -> InputError | None:
        """Train a trial and settle it; return why it is impossible, if it is."""
        asked, study, began = self.asked, self.study, time.monotonic()
        before = _elapsed(Run(self.folder / trial.run))
        watched = asked.pruner != "none" and not asked.also

        def settle(values: Sequence[float] | None, why: str = "") -> None:
            run = Run(self.folder / trial.run)
            seconds = before + time.monotonic() - began
            study.settle(trial, values, seconds, why, _scores(run))

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
        except RunFailed as failure:
            settle(None, str(failure))
        except Interrupted as stop:
            reason = str(stop).partition("; next:")[0]
            raise Interrupted(f"{trial.run}: {reason}; the same command goes on") from None
        except KeyboardInterrupt:
            raise Interrupted(f"{trial.run}: interrupted; the same command goes on") from None
        return None

    def _recipe_of(self, trial: Trial) -> Recipe:
        asked = self.asked
        recipe = asked.trained_with(trial.overrides()).replace(name=trial.run)
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
        recipe = self.asked.trained_with()
        with silent():
            plan = plan_training(recipe, probe(recipe.system.host), self.asked.base, quick=True)
        if plan.seconds > budget.amount:
            raise InputError(
                f"one trial takes about {duration(plan.seconds)}, more than the budget of "
                f"{duration(budget.amount)}: a larger --budget, fewer rows, or fewer train.epochs"
            )

    @cached_property
    def _spending(self) -> Spending:
        return Spending(self.asked.limit(), self.asked.workers)

    @cached_property
    def study(self) -> Study:
        """The trials."""
        asked = self.asked
        return Study(
            self.folder,
            asked.tuned,
            asked.default(),
            ["minimize" if way == "min" else "maximize" for way in asked.directions],
            sampler=asked.sampler,
            pruner="none" if asked.also else asked.pruner,
            seed=asked.plain.seed,
            storage=asked.storage,
        )

    def _opened(self) -> Run:
        """Return the run of the study, new or of the same call before."""
        run, identity = Run(self.folder), self.asked.identity()
        if self.folder.exists():
            before = run.read(ASKED)
            if not isinstance(before, dict) or "identity" not in before:
                raise InputError(f"{self.folder} is no study: choose another name=NAME")
            keys = identity.keys() | before["identity"].keys()
            differ = sorted(k for k in keys if identity.get(k) != before["identity"].get(k))
            if differ:
                raise InputError(
                    f"{self.folder} is a study of another command ({', '.join(differ[:3])} "
                    "differ): remove it, or choose another name=NAME"
                )
        else:
            if self.asked.width is None:
                Run.require_new(self.name, self.asked.root)
            recipe = self.asked.trained_with().replace(name=self.folder.name)
            Run.create(recipe, self.asked.root)
            run = Run(self.folder)
        run.write(ASKED, {"identity": identity, "asked": self.asked.to_json()})
        return run

    @property
    def name(self) -> str:
        """The name of the run that the best trial becomes."""
        return self.asked.plain.name

    @contextmanager
    def _only_here(self) -> Iterator[None]:
        """Hold the study as the process that ends it; others may join in.

        Raises:
            InputError: if another process does.
        """
        lock = Lock(self.folder / "tune.lock")
        if not lock.acquire():
            raise InputError(
                f"{self.folder} is being tuned by another process: to work on it too, "
                f"wafergpt tune --join {self.folder}"
            )
        try:
            yield
        finally:
            lock.release()

    def _forget(self) -> None:
        """Delete the weights of trials that cannot be the result."""
        if self.asked.keep:
            return
        outcomes, best = self.study.outcomes(), self.study.best()
        kept = {best.run} if best is not None else set()
        if self.asked.also:
            kept |= set(self.study.not_beaten())
        for outcome in outcomes:
            if not outcome.is_default and outcome.run not in kept:
                forget_weights(Run(self.folder / outcome.run))

    # --- the result ------------------------------------------------------------------------------

    def _show_new(self) -> None:
        outcomes = self.study.outcomes()
        table = TrialTable(self.asked, outcomes)
        if not self._shown and outcomes:
            say(table.head())
        for outcome in outcomes[self._shown :]:
            say(table.line(outcome))
        self._shown = len(outcomes)

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
        self, run: Run, best: Outcome, default: Outcome | None, chosen: Outcome
    ) -> dict[str, Any]:
        asked, study = self.asked, self.study
        outcomes = study.outcomes()
        assert best.values is not None
        with only_warnings():
            recipe = asked.recipe_with(self._overrides(chosen)).replace(name=self.name)
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
    given = recipe
    if isinstance(recipe, Recipe):
        # Other processes read it from a file.
        given = root / f".{recipe.name}-tune.yaml"
        atomic_files.write_text(given, recipe.to_yaml())
    named = None if given is None else str(given)
    task = load_recipe(named, [o for o in overrides if o.startswith("task.name=")]).task
    kind = DEFAULT_TASK if task is None else task.name
    spaces = {
        key.strip(): text
        for key, _, text in (o.partition("=") for o in overrides if is_space(o, kind))
    }
    asked = Asked(
        named,
        tuple(o for o in overrides if not is_space(o, kind)),
        start,
        spaces,
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
        InputError: if there is none.
        Interrupted: by a signal; the trial is taken up by whoever is next.
    """
    found = Run(folder.resolve()).read(ASKED) if folder.is_dir() else None
    if not isinstance(found, dict) or "asked" not in found:
        raise InputError(f"{folder} is no study: wafergpt tune makes one")
    asked, folder = Asked.of_json(found["asked"]), folder.resolve()
    os.chdir(asked.folder)
    Tuning(asked, folder).work()


def _elapsed(run: Run) -> float:
    """Return the seconds that a trial's run took in processes which died."""
    rows = run.metrics() if run.path.exists() else []
    return float(rows[-1].get("elapsed", 0.0)) if rows else 0.0


def _scores(run: Run) -> dict[str, float]:
    rows = run.metrics() if run.path.exists() else []
    return {"flops": float(rows[-1]["flops"])} if rows and "flops" in rows[-1] else {}
