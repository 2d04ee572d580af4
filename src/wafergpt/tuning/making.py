"""Making trials of a study, in any of the processes that work on it."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from wafergpt import atomic_files, files
from wafergpt.config import Recipe, recipe_from
from wafergpt.devices.limits import cores
from wafergpt.errors import (
    Diverged,
    InputError,
    Interrupted,
    ProcessLost,
    RunFailed,
    TrainingAlready,
)
from wafergpt.locks import locked
from wafergpt.logs import each_kind_once, is_worker, only_warnings, say
from wafergpt.progress import Bar, progress
from wafergpt.runs.run import Run
from wafergpt.train.signals import Signals
from wafergpt.tuning.gpus import require_gpus
from wafergpt.tuning.records import Outcome, Trial
from wafergpt.tuning.several import ENDS, trained_by_several
from wafergpt.tuning.spending import Spending
from wafergpt.tuning.storage import without_password
from wafergpt.tuning.study import STUDY_LOCK, Study
from wafergpt.tuning.study_spec import WEIGHTS, StudySpec
from wafergpt.tuning.summary import TRIALS, summary
from wafergpt.tuning.table import TrialTable
from wafergpt.tuning.trials import (
    StoppedEarlyError,
    costs,
    forget_weights,
    reached,
    trained_here,
)

TEACHER = "train.teacher"

ASKED = "asked"
"""Name of the JSON file of a study's run that says what was asked for."""

STOPPED = "the trials are saved; the same command goes on"

TOO_LONG = "longer than what is left of the budget"
"""Why a trial was not made."""

IN_A_ROW = 5
"""So many trials that cannot be trained or are too long, one after the other, end a study."""


@dataclass
class TrialMaker:
    """What one process does for a study: its trials, one after the other.

    Attributes:
        asked: what is tuned, by what, and for how long.
        folder: of the study.
        threads: of a process of a trial; 0 for a share of this machine's cores.
    """

    asked: StudySpec
    folder: Path
    threads: int = 0
    _shown: set[str] = field(default_factory=set, init=False)
    _too_long: int = field(default=0, init=False)
    _failed: int = field(default=0, init=False)
    _noted: int = field(default=-1, init=False)

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
            sampler="grid" if asked.takes_all else asked.sampler,
            pruner="none" if asked.also else asked.pruner,
            seed=asked.plain.seed,
            storage=asked.storage,
        )

    def require_same(self) -> str:
        """Require that the study is of this recipe, rows and spaces.

        Returns:
            The study's own name.

        Raises:
            InputError: if the folder is no study, or one of another command.
        """
        before = Run(self.folder).read(ASKED)
        if not isinstance(before, dict) or "identity" not in before:
            raise InputError(f"{self.folder} is no study: choose another name=NAME")
        now = self.asked.identity()
        known = {WEIGHTS: now.get(WEIGHTS), **before["identity"]}
        known["storage"] = without_password(known.get("storage", ""))
        if teacher := known.get(TEACHER):
            # Of an older version, as it was typed.
            known[TEACHER] = str(Path(str(teacher)).resolve())
        differ = sorted(k for k in known.keys() | now.keys() if known.get(k) != now.get(k))
        if differ:
            raise InputError(
                f"{self.folder} is a study of another command ({', '.join(differ[:3])} differ): "
                "remove it, or choose another name=NAME"
            )
        return str(before["name"])

    def work(self) -> None:
        """Make trials until the budget is used.

        Raises:
            InputError: if trials are impossible.
            RunFailed: if they cannot be trained.
            Interrupted: by a signal; the trial is taken up by whoever is next.
        """
        study = self.study
        outcomes = study.outcomes()
        self.show(outcomes)
        with (
            Signals() as signals,
            progress(self.folder.name, self.asked.trials, "trials", len(outcomes)) as bar,
        ):
            while max(self._too_long, self._failed) < IN_A_ROW:
                with study.taken(self.asked.trials, self.spending.may_go_on) as trial:
                    if trial is None:
                        break
                    failure = self._made(trial) if self._fits(trial) else None
                self.follow(bar)
                if signals.requested:
                    raise Interrupted(STOPPED)
                self._failed = self._failed + 1 if failure else 0
                if failure and self._failed == IN_A_ROW:
                    if not any(one.values for one in study.outcomes()):
                        raise failure
                    say(f"{IN_A_ROW} trials in a row cannot be trained, no other one is made: "
                        f"{failure}")  # fmt: skip

    def _fits(self, trial: Trial) -> bool:
        """Return whether a trial is expected to end within the budget; settle one that is not."""
        if self.asked.budget is None or trial.is_default or (self.folder / trial.run).exists():
            return True
        try:
            with only_warnings():
                recipe = self._recipe_of(trial)
            fits = self.spending.has_room_for(recipe, self.asked, self.study.outcomes())
        except InputError:
            # It is impossible, which its training says.
            fits = True
        self._too_long = 0 if fits else self._too_long + 1
        if not fits:
            self.study.settle(trial, None, 0.0, TOO_LONG)
        return fits

    @cached_property
    def spending(self) -> Spending:
        """The budget."""
        return Spending(self.asked.limit(), self.asked.workers)

    def follow(self, bar: Bar) -> list[Outcome]:
        """Say the trials that have been settled, free their space, and return all of them."""
        outcomes = self._note()
        bar.advance(len(outcomes) - len(self._shown), self.spending.left(outcomes))
        self.show(outcomes)
        return outcomes

    def show(self, outcomes: Sequence[Outcome]) -> None:
        """Say the trials that were not said before, others' among them."""
        table = TrialTable(self.asked, outcomes)
        if not self._shown and outcomes:
            say(table.head())
        for outcome in outcomes:
            if outcome.run not in self._shown:
                say(table.line(outcome))
        self._shown = {outcome.run for outcome in outcomes}

    def _note(self) -> list[Outcome]:
        """Write what is known of the trials, and free the space of those that are not needed.

        Returns:
            The settled trials.
        """
        outcomes = self.study.outcomes()
        if len(outcomes) == self._noted:
            # Whoever waits for workers on other machines looks often.
            return outcomes
        # Several workers come to this at once.
        with locked(self.folder / STUDY_LOCK):
            outcomes = self.study.outcomes()
            found = summary(self.asked, self.study, outcomes)
            Run(self.folder).write(TRIALS, found)
            kept = {found["best_trial"], *found["not_beaten"]}
            for outcome in outcomes:
                if not (self.asked.keep or outcome.is_default or outcome.run in kept):
                    forget_weights(Run(self.folder / outcome.run))
        self._noted = len(outcomes)
        return outcomes

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
                run = self._trained(trial, recipe, watched)
                value = reached(run, asked.objective)
            if not math.isfinite(value):
                settle(None, f"{asked.objective} is not finite")
                return None
            settle([value, *costs(run, asked.also)])
        except StoppedEarlyError:
            settle(None, "stopped early")
        except InputError as error:
            if trial.is_default or isinstance(error, TrainingAlready):
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

    def _trained(self, trial: Trial, recipe: Recipe, watched: bool) -> Run:
        """Train a trial, or go on where its process died."""
        if recipe.system.nproc == 1:
            return trained_here(trial if watched else None, recipe, self.asked.base, self.folder)
        trained_by_several(trial, recipe, self.folder, watched)
        return Run(self.folder / recipe.name)

    def _recipe_of(self, trial: Trial) -> Recipe:
        asked = self.asked
        recipe = asked.default if trial.is_default else asked.trained_with(trial.overrides())
        recipe = recipe.replace(name=trial.run)
        if recipe.system.threads or not (self.threads or asked.workers > 1):
            return recipe
        share = max(1, cores() // (asked.workers * recipe.system.nproc))
        return recipe.replace(system={"threads": self.threads or share})


def join(folder: Path, threads: int = 0) -> None:
    """Make trials of a study that another process has begun, until its budget is used.

    Args:
        folder: of the study, which all its processes see.
        threads: of a process of a trial; 0 for a share of this machine's cores.

    Raises:
        InputError: if there is none, its recipe or rows are others here, or there are too few GPUs.
        RunFailed: if trials cannot be trained.
        Interrupted: by a signal; the trial is taken up by whoever is next.
    """
    folder = folder.resolve()
    found = Run(folder).read(ASKED) if folder.is_dir() else None
    if not isinstance(found, dict) or "identity" not in found:
        raise InputError(f"{folder} is no study: wafergpt tune makes one")
    asked = StudySpec.of_json(found["asked"])
    try:
        os.chdir(asked.folder)
    except OSError as error:
        raise InputError(
            f"the study was begun in {asked.folder}, which this machine does not see "
            f"({error.strerror})"
        ) from None
    with each_kind_once(differs=""):
        maker = TrialMaker(asked, folder, threads)
        maker.require_same()
        require_gpus(asked.plain.system, 1)
        maker.work()
        say(f"no other trial is begun; who began the study gives its result: {folder}")


def train_trial(job: Path) -> None:
    """Be one of the processes that train a trial.

    Args:
        job: the file that says which.

    Raises:
        Interrupted: after saving, if a signal requested a stop.
        ProcessLost: if another one of the processes has ended.
    """
    folder, given = job.parent, files.read_json(job)
    asked = StudySpec.of_json(Run(folder).read(ASKED)["asked"])
    recipe, trial = recipe_from(given["recipe"]), None
    if given["watched"] and not is_worker():
        trial = TrialMaker(asked, folder).study.beside(given["number"])
    end: dict[str, Any] = {"kind": "trained", "reason": ""}
    try:
        trained_here(trial, recipe, asked.base, folder)
    except tuple(ENDS.values()) as error:
        if is_worker() or isinstance(error, ProcessLost):
            raise
        kind = next(kind for kind, of in ENDS.items() if isinstance(error, of))
        end = {"kind": kind, "reason": str(error)}
    if not is_worker():
        atomic_files.write_json(job.with_suffix(".end"), end)


def _last(run: Run) -> dict[str, Any]:
    """Return the last row of a run's metrics; {} if there is none."""
    rows = run.metrics() if run.path.exists() else []
    return rows[-1] if rows else {}
