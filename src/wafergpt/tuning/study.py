"""The trials of a study: who takes which, and what is known of them.

They are kept by Optuna, in a file of the study's folder or in a database. Several processes, on any
machines that see the folder, may work on one study: each holds the lock of its trial, so that a
trial whose process died is known by its free lock, and is taken up where it stopped.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wafergpt.errors import InputError
from wafergpt.locks import Lock, locked
from wafergpt.runs.run import Run
from wafergpt.tuning.records import (
    AGAIN,
    DEATHS,
    DEFAULT,
    LEFT,
    REACHED,
    RUN,
    SCORES,
    SECONDS,
    WHY,
    Outcome,
    Trial,
    outcome_of,
    state_of,
)
from wafergpt.tuning.samplers import (
    LEAST_TO_TELL,
    Pruner,
    Sampler,
    pruner_of,
    sampler_of,
)
from wafergpt.tuning.spaces import Space, combinations
from wafergpt.tuning.storage import Way, of_whole_trials, opened

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

STUDY_LOCK = "study.lock"

MAX_DEATHS = 3
"""A trial that kills so many processes at the same place is not taken up again."""


class Study:
    """A study in a folder.

    Args:
        folder: of the study, with the runs of its trials.
        name: of the study, unlike that of any other one in the database.
        spaces: what is tuned.
        default: settings of the recipe as it stands, as far as the spaces hold them.
        directions: of each objective.
        sampler: what chooses settings.
        pruner: what stops trials early.
        seed: of the sampler.
        storage: address of a database; the folder's journal if "".

    Raises:
        InputError: if Optuna is missing, the journal is damaged, the database cannot be reached, or
            sampler and spaces do not go together.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        spaces: Mapping[str, Space],
        default: Mapping[str, Any],
        directions: Sequence[Way],
        *,
        sampler: Sampler = "tpe",
        pruner: Pruner = "none",
        seed: int = 0,
        storage: str = "",
    ) -> None:
        self.folder, self._spaces, self._default = folder, spaces, default
        self._directions, self._sampler, self._seed = directions, sampler, seed
        # What is missing is said before anything is written.
        sampler_of(sampler, seed, len(directions))
        with locked(folder / STUDY_LOCK):
            self._study = opened(folder, name, storage, directions)
            self._study.pruner = pruner_of(pruner)
            known = self._study.get_trials(deepcopy=False)
            tried = {frozenset(_settings(one).items()) for one in known}
            if not any(DEFAULT in one.user_attrs for one in known):
                self._study.enqueue_trial({**default}, user_attrs={DEFAULT: True})
            grid = combinations(spaces) if sampler == "grid" else []
            for params in grid:
                if params != default and frozenset(params.items()) not in tried:
                    self._study.enqueue_trial(params)

    @contextmanager
    def taken(
        self,
        limit: int | None = None,
        fits: Callable[[Sequence[Outcome], int], bool] = lambda settled, running: True,
    ) -> Iterator[Trial | None]:
        """Take a trial: one whose process died, or a new one.

        Leaving without having settled it leaves it to be taken up again.

        Args:
            limit: of all trials; None for any number.
            fits: whether another one does, beside those that are settled and those that run.

        Yields:
            The trial; None if no other one is to be made.
        """
        with ExitStack() as held:
            with locked(self.folder / STUDY_LOCK):
                self._retry_dead()
                trial = self._next(held, limit, fits)
            try:
                yield trial
            finally:
                if trial is not None and not trial._settled:
                    # What went wrong may be the database.
                    with suppress(Exception):
                        trial._trial.set_user_attr(LEFT, True)

    def _next(
        self,
        held: ExitStack,
        limit: int | None,
        fits: Callable[[Sequence[Outcome], int], bool],
    ) -> Trial | None:
        """Ask Optuna for a trial whose lock is ``held``; None if no other one is to be made."""
        trials = self._study.get_trials(deepcopy=False)
        counts = Counter(one.state for one in trials)
        waiting = counts[state_of("WAITING")]
        if limit is not None and len(trials) - waiting - counts[state_of("FAIL")] >= limit:
            return None
        if self._sampler == "grid" and not waiting:
            return None
        if not fits(self.outcomes(), counts[state_of("RUNNING")]):
            return None
        # No two trials have one seed.
        seed = self._seed + len(trials) - waiting
        self._study.sampler = sampler_of(self._sampler, seed, len(self._directions))
        trial = self._study.ask()
        name = trial.user_attrs.get(RUN) or self._next_name()
        trial.set_user_attr(RUN, name)
        lock = Lock(self._lock_of(name))
        lock.acquire(wait=True)
        held.callback(lock.release)
        is_default = DEFAULT in trial.user_attrs
        drawing = self._drawing(trial)
        texts = {
            key: space.drawn(drawing)
            for key, space in self._spaces.items()
            if not is_default or key in self._default
        }
        return Trial(name, {} if is_default else texts, is_default, trial)

    def others_at_work(self) -> bool:
        """Return whether another process is making a trial, as far as the locks tell."""
        running = self._study.get_trials(deepcopy=False, states=(state_of("RUNNING"),))
        for trial in running:
            lock = Lock(self._lock_of(trial.user_attrs.get(RUN) or "none"))
            if not lock.acquire():
                return True
            lock.release()
        return False

    def _drawing(self, trial: optuna.Trial) -> optuna.Trial:
        """Return a trial as its settings are drawn."""
        if self._sampler not in ("gp", "cmaes"):
            return trial
        import optuna

        # They model what all settled trials have: a default outside a space would take the setting
        # away from them for good.
        return optuna.Trial(of_whole_trials(self._study, self._spaces), trial._trial_id)

    def beside(self, number: int) -> Trial:
        """Join in a trial that another process has taken.

        Args:
            number: of Optuna's.

        Returns:
            The trial, to report for it what it reaches.
        """
        import optuna

        kept = self._study.get_trials(deepcopy=False)[number]
        # It has its settings: nothing is to be drawn for it.
        self._study.sampler = sampler_of("random", 0, len(self._directions))
        trial = optuna.Trial(self._study, kept._trial_id)
        return Trial(kept.user_attrs[RUN], {}, DEFAULT in kept.user_attrs, trial)

    def _next_name(self) -> str:
        """Return a run's name that no trial has."""
        trials = self._study.get_trials(deepcopy=False)
        return f"trial-{len({one.user_attrs.get(RUN) for one in trials} - {None}):03}"

    def settle(
        self,
        trial: Trial,
        values: Sequence[float] | None,
        seconds: float,
        why: str = "",
        scores: Mapping[str, float] | None = None,
    ) -> None:
        """Record what became of a trial.

        Args:
            trial: taken by this process.
            values: of the objectives; None if it stopped early, or could not be trained.
            seconds: that it took.
            why: it has no value.
            scores: other numbers by name.
        """
        for key, value in ((SECONDS, seconds), (WHY, why), (SCORES, {**(scores or {})})):
            trial._trial.set_user_attr(key, value)
        state = state_of("PRUNED" if values is None else "COMPLETE")
        self._study.tell(trial._trial.number, None if values is None else list(values), state=state)
        trial._settled = True

    def outcomes(self) -> list[Outcome]:
        """Return the trials that are settled, the oldest first."""
        ended = self._study.get_trials(
            deepcopy=False, states=(state_of("COMPLETE"), state_of("PRUNED"))
        )
        return [outcome_of(trial) for trial in ended]

    def best_of(self, outcomes: Sequence[Outcome]) -> Outcome | None:
        """Return the trial that is best by the first objective."""
        sign = self._sign()
        ended = [(sign * one.values[0], one) for one in outcomes if one.values is not None]
        return min(ended, key=lambda pair: pair[0])[1] if ended else None

    def _sign(self) -> int:
        return 1 if self._directions[0] == "minimize" else -1

    def not_beaten(self) -> list[str]:
        """Return the runs of the trials that no other one beats in every objective."""
        return [trial.user_attrs[RUN] for trial in self._study.best_trials]

    def importances(self) -> dict[str, float]:
        """Return how much of the spread of the first objective goes with each setting.

        By PED-ANOVA (Watanabe et al., arXiv:2304.10255); {} of too few trials.
        """
        from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

        found = [one for one in self.outcomes() if one.values is not None]
        varied = [
            key for key in self._spaces if len({str(one.params.get(key)) for one in found}) > 1
        ]
        if len(found) < LEAST_TO_TELL or not varied:
            return {}
        sign = self._sign()

        def first(trial: FrozenTrial) -> float:
            # The lowest are what is looked for.
            return sign * float(trial.values[0])

        with warnings.catch_warnings(action="ignore"):
            importances = get_param_importances(
                self._study,
                evaluator=PedAnovaImportanceEvaluator(),
                params=varied,
                target=first,
            )
        return {key: float(value) for key, value in importances.items()}

    def _retry_dead(self) -> None:
        """Queue again what other processes left unfinished when they died."""
        trials = self._study.get_trials(deepcopy=False)
        queued = {trial.user_attrs.get(AGAIN) for trial in trials}
        for trial in trials:
            if trial.state is not state_of("RUNNING"):
                continue
            # Without a name, its process died while this lock was its own.
            name = trial.user_attrs.get(RUN)
            lock = Lock(self._lock_of(name or "none"))
            if not lock.acquire():
                continue
            works = lock.works
            lock.release()
            if not works:
                # Nobody can tell whether its process lives.
                continue
            if trial.number in queued:
                self._study.tell(trial.number, state=state_of("FAIL"))
                continue
            attributes = self._after_death(trial)
            if attributes[DEATHS] >= MAX_DEATHS:
                why = f"{MAX_DEATHS} processes died in it"
                self._study._storage.set_trial_user_attr(trial._trial_id, WHY, why)
                self._study.tell(trial.number, state=state_of("PRUNED"))
                continue
            fixed = self._default if DEFAULT in attributes else {}
            self._study.enqueue_trial({**fixed, **_settings(trial)}, user_attrs=attributes)
            self._study.tell(trial.number, state=state_of("FAIL"))

    def _after_death(self, trial: FrozenTrial) -> dict[str, Any]:
        """Return the attributes of a trial that takes up another one."""
        before = {key: value for key, value in trial.user_attrs.items() if key != LEFT}
        rows: Sequence[Mapping[str, Any]] = []
        # There may be none yet, and a loss of power may have damaged them.
        with suppress(InputError, OSError):
            rows = Run(self.folder / before.get(RUN, "none")).metrics()
        earlier = before.get(REACHED, 0)
        reached = max((int(row.get("step", 0)) for row in rows), default=0)
        deaths = before.get(DEATHS, 0) if reached <= earlier else 0
        # Without a name it has not begun.
        died = LEFT not in trial.user_attrs and RUN in trial.user_attrs
        return {
            **before,
            AGAIN: trial.number,
            DEATHS: deaths + died,
            REACHED: max(reached, earlier),
        }

    def _lock_of(self, run: str) -> Path:
        return self.folder / f"{run}.lock"


def _settings(trial: FrozenTrial) -> dict[str, Any]:
    """Return a trial's settings, and those that it is still to draw as they are."""
    return {**trial.system_attrs.get("fixed_params", {}), **trial.params}
