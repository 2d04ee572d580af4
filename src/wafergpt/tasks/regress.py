"""Regression: one number per text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from wafergpt.data.labelled_rows import Table, encode_scores
from wafergpt.data.labels import settle_numbers
from wafergpt.evaluation.intervals import Bootstrap
from wafergpt.evaluation.metrics import regression_metrics
from wafergpt.tasks.base import Direction, EvaluationSet, Outputs
from wafergpt.tasks.ngram_scores import Factors
from wafergpt.tasks.text_task import (
    Targets,
    TextTask,
    TextTaskSettings,
)

if TYPE_CHECKING:
    from torch import Tensor, nn

    from wafergpt.data.batches import Batch
    from wafergpt.tasks.graph import Graph


class RegressSettings(TextTaskSettings):
    """The section ``task`` of a regression."""

    name: Literal["regress"] = "regress"
    factors: Factors = (0.5, 0.5)
    """Of the GPT's numbers and the n-grams': each is an estimate of its own, so their mean."""


class Regress(TextTask):
    """Predicts a number for each text, by the squared error."""

    Settings = RegressSettings
    metrics: ClassVar[Mapping[str, Direction]] = {
        "loss": "min",
        "mean_absolute_error": "min",
        "r2": "max",
    }
    distils = True
    n_outputs = 1

    def settle(self, tables: dict[str, Table]) -> tuple[dict[str, Table], list[str]]:
        """Read numbers as spreadsheets write them."""
        settled, notes = settle_numbers(list(tables.values()))
        return dict(zip(tables, settled, strict=True)), notes

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
        """Return the summed squared error."""
        from wafergpt.model.loss import classification_loss

        return classification_loss(scores, targets, "squared_error", weights=weights)

    def divergence(self, scores: Tensor, others: Tensor, weights: Tensor | None) -> Tensor:
        """Return the summed squared distance from the teacher's numbers."""
        from wafergpt.model.loss import divergence

        return divergence(scores, others, "squared_error", weights)

    def answers(self, scores: Tensor) -> dict[str, Tensor]:
        """Return the ``value [n]``."""
        return {"value": scores[:, 0].double()}

    def graph(self) -> Graph:
        """Describe the network; its score is the ``value``."""
        graph = super().graph()

        def forward(network: nn.Module, batch: Batch) -> dict[str, Tensor]:
            (logits,) = graph.forward(network, batch).values()
            return {"value": logits[:, 0]}

        return replace(
            graph,
            outputs={"value": "`[batch]`, the number"},
            forward=forward,
            answer="for text, number in zip(texts, value):\n    print(number, text)",
            evaluated=lambda found, batch: found,
        )

    def compute_metrics(self, outputs: Outputs, references: Any) -> dict[str, Any]:
        """Return mean squared error (``loss``), mean absolute error and R²."""
        return regression_metrics(outputs["value"], references).to_dict()

    def intervals(self, outputs: Outputs, references: Any) -> dict[str, list[float]]:
        """Return those of all three metrics."""
        values, n = outputs["value"], len(references)

        def metrics(rows: NDArray[np.int64]) -> Mapping[str, float]:
            return regression_metrics(values[rows], references[rows]).to_dict()

        return Bootstrap.of(metrics, n).intervals(n)

    def mistakes(self, outputs: Outputs, evaluated: EvaluationSet) -> list[dict[str, Any]]:
        """List all rows, by the size of their error."""
        true, found = evaluated.references, outputs["value"]
        return [
            {
                "text": evaluated.texts[row],
                "value": float(true[row]),
                "predicted": float(found[row]),
                "error": float(found[row] - true[row]),
            }
            for row in np.argsort(-np.abs(found - true), kind="stable").tolist()
        ]

    def decode(self, outputs: Outputs, inputs: Sequence[Any]) -> list[dict[str, Any]]:
        """Return the ``value``."""
        return [{"value": float(value)} for value in outputs["value"]]
