"""Classification with any number of labels to a text (``task.multi``)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from wafergpt.data.label_sets import (
    encode_label_sets,
    hold_out_label_sets,
    label_set,
    label_set_names,
    labels_of,
    settle_label_sets,
)
from wafergpt.data.labelled_rows import Table, read_table, sorted_labels
from wafergpt.data.labelled_split import classes_kept
from wafergpt.data.text_columns import shown
from wafergpt.evaluation.decisions import label_offsets
from wafergpt.evaluation.intervals import Bootstrap
from wafergpt.evaluation.metrics import LEAST
from wafergpt.evaluation.multi_label import LabelledRowScores, multi_label_metrics
from wafergpt.tasks.base import Direction, EvaluationSet, Outputs
from wafergpt.tasks.carried import notes_on
from wafergpt.tasks.classify import Classify
from wafergpt.tasks.tables import Tables
from wafergpt.tasks.text_task import Targets

if TYPE_CHECKING:
    from torch import Tensor

    from wafergpt.tasks.graph import Graph


class MultiLabel(Classify):
    """Predicts any number of the labels of the training rows for each text.

    Each label has a binary cross-entropy of its own. Scores are added to the log-odds of the label
    among the training rows, since neither head nor n-grams have a bias.
    """

    one_label = False

    metrics: ClassVar[Mapping[str, Direction]] = {
        "loss": "min",
        "accuracy": "max",
        "micro_f1": "max",
        "macro_f1": "max",
        "lrap": "max",
    }
    decisions: ClassVar[Collection[str]] = ("micro_f1", "macro_f1", "accuracy")
    lowers = False

    def read_rows(self, path: Path) -> Table:
        """Read a file of texts with any number of labels."""
        return read_table(path, self.settings.text, self.settings.label, label_set)

    def as_before(self, named: Mapping[str, Table]) -> Tables | None:
        """Return None: older versions read no such rows."""
        return None

    def class_names(self, table: Table) -> Sequence[str]:
        """Return the labels of all rows, one after the other."""
        return [label for row in table.labels for label in labels_of(row)]

    def settle(self, tables: dict[str, Table]) -> tuple[dict[str, Table], list[str]]:
        """Split the labels, merge their spellings, and check that training has every label."""
        separator, similar = self.settings.separator, self.settings.similar_labels
        known = self.known_rows()
        settled, notes = settle_label_sets(list(tables.values()), separator, similar, known)
        named = dict(zip(tables, settled, strict=True))
        labels = self._names(named["train"])
        for name, table in named.items():
            encode_label_sets(table, labels, name)
        return named, [*notes, *notes_on(self.settings.known, label_set_names(named["train"]))]

    def _names(self, train: Table) -> tuple[str, ...]:
        return sorted_labels({*label_set_names(train), *self.settings.known})

    def hold_out(self, train: Table) -> tuple[Table, Table, list[str]]:
        """Hold out a share of the rows of each label."""
        kept, held, without = hold_out_label_sets(
            train, self.settings.held_out, self.known_by(train.texts)
        )
        return kept, held, [classes_kept(without, kept)] if without else []

    def classes_of(self, rows: Table) -> None:
        """Return None: folds are drawn without regard to labels, of which a row has several."""

    @property
    def n_classes(self) -> int | None:
        """Number of labels of the training rows."""
        return len(self._names(self.tables.train))

    def from_rows(self, tables: Tables) -> dict[str, Any]:
        """Return the labels of the rows, and their log-odds among those for training."""
        # A label of few rows may be on held-out ones alone.
        held = () if tables.validation is None else label_set_names(tables.validation)
        labels = sorted_labels({*self._names(tables.train), *held})
        # Rows with a label weigh as much as those without it, if that is asked for.
        priors = [0.0] * len(labels)
        if self.settings.class_weights == "none":
            counts = encode_label_sets(tables.train, labels, "train").sum(0) + 0.5
            priors = np.log(counts / (len(tables.train.texts) + 1 - counts)).tolist()
        # Labels of the run to start from keep theirs, beside which their weights were learned.
        settings = self.settings
        before = dict(zip(settings.labels or settings.known, settings.priors, strict=True))
        priors = [before.get(label, prior) for label, prior in zip(labels, priors, strict=True)]
        return {"labels": labels, "priors": priors}

    def targets(self, table: Table, where: str) -> Targets:
        """Return 1 for each label of each row, ``[n, n_labels]``."""
        return encode_label_sets(table, self.settings.labels, where)

    def class_weights(self, targets: Targets) -> NDArray[np.float64] | None:
        """Return ``[n_labels, 2]``, which make rows without and with a label count alike."""
        if self.settings.class_weights == "none":
            return None
        counts = self.rows_of(targets)
        both = np.stack([len(targets) - counts, counts], 1)
        return np.asarray(len(targets) / (2 * np.maximum(both, 1)))

    def rows_of(self, targets: Targets) -> NDArray[np.int64]:
        """Return the number of rows ``[n_labels]`` with each label."""
        return np.asarray(targets.sum(0), dtype=np.int64)

    def absolute(self, scores: Tensor) -> Tensor:
        """Return log-odds: scores plus those of the label among the training rows."""
        return scores + scores.new_tensor(self.settings.priors)

    def loss_of(
        self,
        scores: Tensor,
        targets: Tensor,
        weights: Tensor | None = None,
        training: bool = False,
    ) -> Tensor:
        """Return the binary cross-entropy, the mean of the labels, summed over rows."""
        return super().loss_of(self.absolute(scores), targets, weights, training)

    def compute_metrics(self, outputs: Outputs, references: Any) -> dict[str, Any]:
        """Return the metrics of ``MultiLabelMetrics``."""
        return multi_label_metrics(
            outputs["probabilities"], references, self.settings.labels, outputs.get("decided")
        ).to_dict()

    def resampled(self, outputs: Outputs, references: Any) -> Bootstrap:
        """Compute accuracy, both F1, LRAP and the loss on resamples of the rows."""
        scores = LabelledRowScores.of(outputs["probabilities"], references, outputs.get("decided"))
        return Bootstrap.of(scores.metrics, len(references), shares=("accuracy",))

    def mistakes(self, outputs: Outputs, evaluated: EvaluationSet) -> list[dict[str, Any]]:
        """List the rows with other labels, by their loss."""
        rows = LabelledRowScores.of(
            outputs["probabilities"], evaluated.references, outputs.get("decided")
        )
        wrong = np.flatnonzero(~rows.right)

        def named(found: NDArray[np.bool_]) -> str:
            return "; ".join(label for label, is_one in zip(labels, found, strict=True) if is_one)

        labels = self.settings.labels
        return [
            {
                "text": shown(evaluated.texts[row]),
                "labels": named(rows.targets[row]),
                "predicted": named(rows.decided[row]),
                "loss": float(rows.losses[row]),
            }
            for row in wrong[np.argsort(-rows.losses[wrong], kind="stable")].tolist()
        ]

    def decode(self, outputs: Outputs, inputs: Sequence[Any]) -> list[dict[str, Any]]:
        """Return the ``labels``, the most probable first, and the ``scores`` of all of them."""
        labels, probabilities = self.settings.labels, outputs["probabilities"]
        decided = outputs.get("decided", probabilities > 0.5)
        return [
            {
                "labels": [labels[int(i)] for i in np.argsort(-row, kind="stable") if answered[i]],
                "scores": dict(zip(labels, row.tolist(), strict=True)),
            }
            for row, answered in zip(probabilities, decided, strict=True)
        ]

    @property
    def decision_metric(self) -> str:
        """The metric that thresholds are fitted to; "" if they are not."""
        how, metric = self.settings.thresholds or "one", self.recipe.evaluate.metric
        usual = "macro_f1" if how == "each" else "micro_f1"
        return "" if how == "fixed" else metric if metric in self.decisions else usual

    def fitted_offsets(
        self, probabilities: NDArray[np.floating], references: Any
    ) -> list[float] | None:
        """Return the offsets for ``decision_metric``; None if they do not help."""
        wanted = (True, False) if self.settings.thresholds == "each" else (False,)
        for each in wanted:
            found = label_offsets(probabilities, references, self.decision_metric, each)
            if found is not None:
                return [float(offset) for offset in found]
        return None

    def decided(self, probabilities: Tensor, offsets: Sequence[float]) -> Tensor:
        """Return the labels ``[n, n_labels]`` whose log-odds plus offset are above 0."""
        odds = probabilities.double().logit(eps=LEAST)
        return odds + odds.new_tensor(offsets) > 0

    def probabilities(self, scores: Tensor) -> Tensor:
        """Return the probability ``[n, n_labels]`` of each label."""
        return self.absolute(scores).sigmoid()

    def graph(self) -> Graph:
        """Describe the network, which computes ``probabilities`` too."""
        graph = super().graph()
        offsets = np.array(self.settings.offsets or [0.0] * len(self.settings.labels))
        thresholds = (1 / (1 + np.exp(offsets))).tolist()
        return replace(
            graph,
            outputs={
                **graph.outputs,
                "logits": "`[batch, labels]`, the scores beside the share of each label",
            },
            settings={**graph.settings, "thresholds": thresholds},
            answer="for text, row in zip(texts, probabilities):\n"
            "    found = zip(settings['labels'], row, settings['thresholds'])\n"
            "    print([label for label, value, least in found if value > least], text)",
        )
