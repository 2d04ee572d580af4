"""Regression: one number per text."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from wafergpt.data.labelled_rows import Table, encode_scores, require_whole
from wafergpt.data.labels import settle_numbers
from wafergpt.data.text_columns import shown
from wafergpt.errors import InputError
from wafergpt.evaluation.intervals import Bootstrap
from wafergpt.evaluation.regression import regression_metrics
from wafergpt.tasks.base import Direction, EvaluationSet, Outputs
from wafergpt.tasks.ngram_scores import Factors
from wafergpt.tasks.tables import Tables
from wafergpt.tasks.text_settings import TextTaskSettings
from wafergpt.tasks.text_task import Targets, TextTask

if TYPE_CHECKING:
    from torch import Tensor, nn

    from wafergpt.data.batches import Batch
    from wafergpt.tasks.graph import Graph


class RegressSettings(TextTaskSettings):
    """The section ``task`` of a regression."""

    name: Literal["regress"] = "regress"
    factors: Factors = (0.5, 0.5)
    """Of the GPT's numbers and the n-grams': each is an estimate of its own, so their mean."""
    center: float = Field(0.0, allow_inf_nan=False)
    """Mean of the training rows' numbers, which 0 stands for in training; set by the run."""
    scale: float = Field(1.0, gt=0, allow_inf_nan=False)
    """Their standard deviation, which 1 stands for; set by the run."""
    known: bool = False
    """Whether both are those of the run that it goes on from; set by the run."""


class Regress(TextTask):
    """Predicts a number for each text, by the squared error."""

    Settings = RegressSettings
    metrics: ClassVar[Mapping[str, Direction]] = {
        "loss": "min",
        "mean_absolute_error": "min",
        "rmse": "min",
        "r2": "max",
        "pearson": "max",
        "spearman": "max",
        "quadratic_kappa": "max",
    }
    distils = True
    n_outputs = 1

    @property
    def settings(self) -> RegressSettings:
        """The recipe's section ``task``."""
        assert isinstance(self.recipe.task, RegressSettings)
        return self.recipe.task

    def settle(self, tables: dict[str, Table]) -> tuple[dict[str, Table], list[str]]:
        """Read numbers as spreadsheets write them."""
        settled, notes = settle_numbers(list(tables.values()))
        return dict(zip(tables, settled, strict=True)), notes

    def from_rows(self, tables: Tables) -> dict[str, Any]:
        """Return mean and standard deviation of the training rows' numbers.

        A run that was begun keeps its own, as does one that goes on: older ones have none.
        """
        numbers = encode_scores(tables.train, "train")
        if self.recipe.evaluate.metric == "quadratic_kappa":
            for name, table in (
                ("train", tables.train),
                ("validation", tables.validation),
                ("test", tables.test),
            ):
                if table is not None:
                    require_whole(table, name)
        if self.recipe.data.fingerprint is not None or self.settings.known:
            return {}
        with np.errstate(over="ignore", invalid="ignore"):
            center, scale = float(numbers.mean()), float(numbers.std())
        if numbers.min() == numbers.max():
            raise InputError(f"all training rows have the number {center:g}: nothing to learn")
        if not 0 < scale < math.inf:
            raise InputError(
                f"numbers from {numbers.min():g} to {numbers.max():g} are too far apart"
            )
        return {"center": center, "scale": scale}

    def targets(self, table: Table, where: str) -> Targets:
        """Return the number of each row."""
        return encode_scores(table, where)

    def loss_of(
        self,
        scores: Tensor,
        targets: Tensor,
        weights: Tensor | None = None,
        training: bool = False,
    ) -> Tensor:
        """Return the summed squared error, in standard deviations of the training rows."""
        from wafergpt.model.loss import classification_loss

        targets = (targets - self.settings.center) / self.settings.scale
        return classification_loss(scores, targets, "squared_error", weights=weights)

    def absolute(self, scores: Tensor) -> Tensor:
        """Return the numbers that scores stand for."""
        return scores * self.settings.scale + self.settings.center

    def divergence(self, scores: Tensor, others: Tensor, weights: Tensor | None) -> Tensor:
        """Return the summed squared distance from the teacher's numbers."""
        from wafergpt.model.loss import divergence

        others = (others - self.settings.center) / self.settings.scale
        return divergence(scores, others, "squared_error", weights)

    def answers(self, scores: Tensor) -> dict[str, Tensor]:
        """Return the ``value [n]``."""
        return {"value": self.absolute(scores[:, 0].double())}

    def graph(self) -> Graph:
        """Describe the network; its score is the ``value``."""
        graph = super().graph()

        def forward(network: nn.Module, batch: Batch) -> dict[str, Tensor]:
            (logits,) = graph.forward(network, batch).values()
            return {"value": self.absolute(logits[:, 0])}

        return replace(
            graph,
            outputs={"value": "`[batch]`, the number"},
            forward=forward,
            answer="for text, number in zip(texts, value):\n    print(number, text)",
            evaluated=lambda found, batch: found,
        )

    def compute_metrics(self, outputs: Outputs, references: Any) -> dict[str, Any]:
        """Return the metrics of ``RegressionMetrics``."""
        return regression_metrics(outputs["value"], references, self.settings.scale).to_dict()

    def resampled(self, outputs: Outputs, references: Any) -> Bootstrap:
        """Compute all metrics on resamples of the rows."""
        values, scale, n = outputs["value"], self.settings.scale, len(references)

        def metrics(rows: NDArray[np.int64]) -> Mapping[str, float]:
            return regression_metrics(values[rows], references[rows], scale).to_dict()

        return Bootstrap.of(metrics, n)

    def mistakes(self, outputs: Outputs, evaluated: EvaluationSet) -> list[dict[str, Any]]:
        """List all rows, by the size of their error."""
        true, found = evaluated.references, outputs["value"]
        return [
            {
                "text": shown(evaluated.texts[row]),
                "value": float(true[row]),
                "predicted": float(found[row]),
                "error": float(found[row] - true[row]),
            }
            for row in np.argsort(-np.abs(found - true), kind="stable").tolist()
        ]

    def decode(self, outputs: Outputs, inputs: Sequence[Any]) -> list[dict[str, Any]]:
        """Return the ``value``."""
        return [{"value": float(value)} for value in outputs["value"]]
