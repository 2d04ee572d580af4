"""Cross-validation: every labelled row is judged once, by a network that has not learned from it.

Each fold is an ordinary run below ``NAME-folds``; the same call, made again, goes on.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from wafergpt.config import Recipe
from wafergpt.data.tokenizer import Tokenizer
from wafergpt.errors import InputError
from wafergpt.logs import place, say, silent
from wafergpt.progress import working
from wafergpt.runs.run import RUNS, Run
from wafergpt.tasks.base import Outputs, task_of
from wafergpt.tasks.labelled_task import LabelledTask
from wafergpt.tasks.tables import SplitRows
from wafergpt.train.refit import of_all_rows
from wafergpt.train.resume import asked_for, require_same_command, require_same_rows
from wafergpt.train.run import trained_once


@dataclass(frozen=True)
class CrossValidation:
    """The folds of a training, and their network of all rows.

    Attributes:
        recipe: of the first fold, with ``task.folds``; its name is that of the network of all rows.
        start: the run to start from; None for fresh weights.
        root: the folder that holds runs.
        refit: whether a network is trained on all rows at the end.
        test: rows that this one is judged by.
    """

    recipe: Recipe
    start: Run | None = None
    root: Path = RUNS
    refit: bool = False
    test: Path | None = None
    _done: dict[int, Run] = field(default_factory=dict, init=False)

    def made(self) -> Run:
        """Train what is not trained yet.

        Returns:
            ``NAME-folds``, whose result has the metrics of each fold and over all rows.

        Raises:
            InputError: if the recipe is impossible, the rows unusable, or a name taken.
            RunFailed: if a training diverges.
            Interrupted: after saving, if a signal requested a stop.
        """
        self._require_possible()
        run = self._run()
        with run.held():
            run.write("result", self._summary(run))
            for fold in range(1, self._count + 1):
                self._done[fold] = trained_once(
                    self._of_fold(fold), start=self.start, root=run.path
                )
                row = self._row(fold)
                say(f"fold {fold} of {self._count}: {_written(row['metrics'])}")
                run.write("result", self._summary(run))
            with working("judging all rows"):
                outputs, references = self._pooled()
                result = self._summary(run) | self._judged(outputs, references)
            run.write("result", result)
            if outputs:
                run.write_outputs({f"validation/{name}": kept for name, kept in outputs.items()})
        if self.refit:
            recipe = self._of_all_rows(self._fitted(outputs, references))
            say(f"{recipe.name}: on all {len(self._whole.texts):,} rows, {_passes(recipe)}")
            network = trained_once(recipe, start=self.start, root=self.root)
            network.write("result", network.read("result") | {"folds": result["folds"]})
            run.write("result", result | {"refit": str(network.path)})
        return run

    # --- what is trained -------------------------------------------------------------------------

    @property
    def _count(self) -> int:
        assert self.recipe.task is not None
        return self.recipe.task.folds

    @property
    def _name(self) -> str:
        return f"{self.recipe.name}-folds"

    def _of_fold(self, fold: int) -> Recipe:
        return self.recipe.replace(name=f"fold-{fold}", task={"fold": fold})

    def _of_all_rows(self, fitted: Mapping[str, Any]) -> Recipe:
        """Return the recipe without held-out rows, for as many passes as the folds' best took."""
        passes = statistics.median(self._row(fold)["epochs"] for fold in self._done)
        whole = self.recipe.replace(task={"test": self.test})
        return of_all_rows(whole, fitted, passes)

    # --- before anything is trained --------------------------------------------------------------

    def _require_possible(self) -> None:
        recipe = self.recipe
        if not isinstance(task_of(recipe), LabelledTask):
            name = "" if recipe.task is None else recipe.task.name
            raise InputError(f"task.name={name} has no labelled rows to deal into folds")
        if self._count < 2:
            raise InputError("one part of the rows is held out of the others: 2 folds or more")
        if recipe.system.nproc > 1 or place()[1] > 1:
            raise InputError("folds are trained one after the other, in one process: nproc=1")
        if self.test is not None and not self.refit:
            raise InputError(
                "task.test is judged once, by the network of all rows: add --refit (refit=True), "
                "or leave it out"
            )
        self._task.folds_of(self._whole)

    def _run(self) -> Run:
        """Return the run of the folds, new or of the same call before."""
        run, recipe = Run(self.root / self._name), self.recipe.replace(name=self._name)
        if not run.path.exists():
            if self.refit:
                Run.require_new(self.recipe.name, self.root)
            Run.create(recipe, self.root, asked_for(recipe))
            return run
        require_same_command(run, recipe)
        for fold in range(1, self._count + 1):
            known = Run(run.path / f"fold-{fold}")
            if known.path.exists():
                require_same_rows(known, self._tables(fold), f"{self._whole.path} has")
        return run

    # --- rows ------------------------------------------------------------------------------------

    @cached_property
    def _task(self) -> LabelledTask[Any]:
        task = task_of(self.recipe)
        assert isinstance(task, LabelledTask)
        return task

    @cached_property
    def _whole(self) -> Any:
        """All rows, in their order; rows of the test are checked with them."""
        task = task_of(self._undivided())
        assert isinstance(task, LabelledTask)
        with silent():
            return task.tables.train

    def _undivided(self) -> Recipe:
        return self.recipe.replace(
            task={"folds": 0, "fold": 1, "held_out": 0.0, "test": self.test},
            evaluate={"patience": 0, "prompts": ()},
        )

    def _tables(self, fold: int) -> SplitRows[Any]:
        return SplitRows(*self._task.of_fold(self._whole, fold), None)

    # --- metrics ---------------------------------------------------------------------------------

    def _row(self, fold: int) -> dict[str, Any]:
        run, tables = self._done[fold], self._tables(fold)
        result, recipe = run.read("result"), run.recipe
        assert tables.validation is not None
        # Some are of some rows alone, such as the kappa of whole numbers.
        found = result["metrics"]
        metrics = {name: found[name] for name in self._task.metrics if name in found}
        return {
            "run": str(run.path),
            "rows": len(tables.validation.texts),
            # Of a fold that an older version trained, whose rows were samples.
            "epochs": result.get("passes")
            or recipe.train.samples(result["best_step"]) / len(tables.train.texts),
            "elapsed": result["elapsed"],
            "metrics": metrics,
        }

    def _summary(self, run: Run) -> dict[str, Any]:
        """Return what is known of the folds that are done."""
        rows = [self._row(fold) for fold in self._done]
        everywhere = [n for n in self._task.metrics if all(n in row["metrics"] for row in rows)]
        found = {name: [row["metrics"][name] for row in rows] for name in everywhere}
        return {
            "run": str(run.path),
            "folds": {
                "count": self._count,
                "rows": len(self._whole.texts),
                "done": rows,
                "mean": {name: statistics.fmean(v) for name, v in found.items() if v},
                "deviation": {name: statistics.stdev(v) for name, v in found.items() if v[1:]},
            },
            "elapsed": sum(row["elapsed"] for row in rows),
            "metrics": None,
            "refit": (run.read("result") or {}).get("refit"),
        }

    def _pooled(self) -> tuple[Outputs, Any]:
        """Return the outputs for all rows, each by the fold that held it out, and their answers.

        They are in the order of the rows where each has one; {} where they were not kept, or mean
        nothing beside those of another network.
        """
        if not self._task.pooled:
            return {}, None
        outputs = _joined([run.outputs_of("validation") for run in self._done.values()])
        # By fold, and in the order of the rows in each.
        order = np.argsort(self._task.folds_of(self._whole), kind="stable")
        rows = self._whole.take(order)
        if all(len(values) == len(order) for values in outputs.values()):
            outputs = {name: values[np.argsort(order)] for name, values in outputs.items()}
            rows = self._whole
        with silent():
            return outputs, self._first.evaluated(rows, self._tokenizer).references

    def _judged(self, outputs: Outputs, references: Any) -> dict[str, Any]:
        """Return the metrics over all rows, with their intervals."""
        if not self._task.pooled:
            say("vectors of different networks cannot be compared: each fold is judged by itself")
            return {}
        if not outputs:
            say("warning: the folds' outputs are not all there, so rows are not judged together")
            return {}
        metrics = self._first.compute_metrics(outputs, references)
        return {"metrics": metrics, "intervals": self._first.intervals(outputs, references)}

    def _fitted(self, outputs: Outputs, references: Any) -> dict[str, Any]:
        """Return what a training fits to held-out rows, fitted to all of them."""
        return self._first.fit(outputs, references)[0] if outputs else {}

    @cached_property
    def _first(self) -> LabelledTask[Any]:
        """The task of the first fold, as it was resolved."""
        task = task_of(self._done[1].recipe)
        assert isinstance(task, LabelledTask)
        return task

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        return Tokenizer.load(self._done[1].tokenizer)


def _joined(found: Sequence[Outputs]) -> Outputs:
    """Concatenate the outputs of folds; without those whose rows have other shapes."""
    names = [name for name in found[0] if all(name in one for one in found)]
    return {
        name: np.concatenate([one[name] for one in found])
        for name in names
        if len({one[name].shape[1:] for one in found}) == 1
    }


def _written(metrics: Mapping[str, float]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in metrics.items())


def _passes(recipe: Recipe) -> str:
    return f"{recipe.train.epochs:.3g} passes"
