"""Classification: one label per text; any number of them is ``multi_label``."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from wafergpt.config import Recipe
from wafergpt.data.labelled_rows import Table, label_names
from wafergpt.data.labelled_split import classes_kept, hold_out_of_each_class
from wafergpt.data.labels import doubts, settle_classes
from wafergpt.data.outside import encode_in_scope, in_scope, with_outside, without_outside
from wafergpt.data.text_columns import shown
from wafergpt.data.tokenizer import Tokenizer
from wafergpt.errors import InputError
from wafergpt.evaluation.decisions import class_offsets
from wafergpt.evaluation.hierarchy import CONFIDENT, confident_node, level_metrics
from wafergpt.evaluation.intervals import Bootstrap
from wafergpt.evaluation.metrics import (
    LEAST,
    RowScores,
    classification_metrics,
    classification_mistakes,
)
from wafergpt.evaluation.selective import detection_metrics, selective_metrics
from wafergpt.files import short
from wafergpt.logs import say
from wafergpt.tasks.base import Direction, EvaluationSet, Outputs, Task, is_of_task
from wafergpt.tasks.carried import notes_on
from wafergpt.tasks.classify_fit import confidence_of, decided_of, fitted
from wafergpt.tasks.classify_graph import graph_of_classes
from wafergpt.tasks.classify_settings import ClassifySettings
from wafergpt.tasks.tables import Tables
from wafergpt.tasks.text_task import Targets, TextTask

if TYPE_CHECKING:
    from torch import Tensor, nn

    from wafergpt.checkpoint.format import Stored
    from wafergpt.distributed.sharding import Rows
    from wafergpt.tasks.base import Splits
    from wafergpt.tasks.graph import Graph


class Classify(TextTask):
    """Predicts one of the labels of the training rows for each text."""

    Settings = ClassifySettings
    metrics: ClassVar[Mapping[str, Direction]] = {
        "loss": "min",
        "accuracy": "max",
        "macro_f1": "max",
        "balanced_accuracy": "max",
        "mcc": "max",
    }
    decisions: ClassVar[Collection[str]] = ("macro_f1", "balanced_accuracy", "mcc")
    """Metrics that more probable classes are not always best for."""
    chosen = TextTask.chosen | {"thresholds"}
    distils = True
    one_label: ClassVar[bool] = True
    """Whether a text has one label, not any number of them."""

    def __new__(cls, recipe: Recipe) -> Classify:
        """Make the task; with any number of labels to a text, ``MultiLabel``."""
        if cls is Classify and getattr(recipe.task, "multi", False):
            from wafergpt.tasks.multi_label import MultiLabel

            return super().__new__(MultiLabel)
        return super().__new__(cls)

    def __getnewargs__(self) -> tuple[Recipe]:
        """Return what a copy is made with, by ``copy`` and ``pickle`` too."""
        return (self.recipe,)

    @property
    def settings(self) -> ClassifySettings:
        """The recipe's section ``task``."""
        assert isinstance(self.recipe.task, ClassifySettings)
        return self.recipe.task

    @property
    def occasional(self) -> Sequence[str]:  # type: ignore[override]
        """With a threshold, why no answer is given."""
        return ("abstained",) if self.settings.abstain_below else ()

    @property
    def n_outputs(self) -> int:
        """One for each label; of two labels one, if the loss is binary."""
        return 1 if self.settings.loss == "binary" else len(self.settings.labels)

    @property
    def n_classes(self) -> int | None:
        """Number of labels of the training rows."""
        return len({*self.tables.train.labels} - {self.settings.out_of_scope})

    @property
    def weighs_ngrams(self) -> bool:
        """Whether the recipe asks for it."""
        return self.settings.ngrams != "none" and self.settings.ngram_ratios

    def sized(self, splits: Splits, start: Stored | None) -> Recipe:
        """Return the recipe with the rows that a table of n-grams with ratios has."""
        if not self.weighs_ngrams:
            return self.recipe
        from wafergpt.tasks.classify_weights import RATIOS, rows_to_keep

        weights = start.by_rows if start is not None and self._continues(start) else {}
        before = weights if RATIOS in weights else None
        known = self.before.settings.ngram_kept if isinstance(self.before, Classify) else 0
        if before and known and known == self.settings.ngram_kept:
            # It is trained on after a pruning.
            return self.recipe
        rows = rows_to_keep(self, splits, before)
        return self.recipe.replace(task={"ngram_kept": len(rows)})

    def _continues(self, start: Stored | None) -> bool:
        """Return whether the weights are those of a run of this task, its head included."""
        known = type(self.before) in (type(None), type(self))
        return start is not None and is_of_task(start) and known

    def initial_weights(
        self, network: nn.Module, start: Stored | None, splits: Splits | None = None
    ) -> Iterator[tuple[str, Rows]]:
        """Yield the initial weights; a table of n-grams with ratios starts near naive Bayes."""
        from wafergpt.tasks.classify_weights import near_naive_bayes

        weights = super().initial_weights(network, start, splits)
        if self.weighs_ngrams and not self._continues(start):
            weights = near_naive_bayes(self, weights, splits)
        yield from weights

    def carried(
        self, network: nn.Module, start: Stored, splits: Splits | None
    ) -> Iterator[tuple[str, Rows]]:
        """Yield the weights of a run, those of its labels in their new places."""
        from wafergpt.tasks.classify_weights import with_new_labels

        before = self.before
        if not isinstance(before, Classify):
            yield from super().carried(network, start, splits)
            return
        drawn = self.drawn_head(network)
        yield from with_new_labels(self, before, start.by_rows, drawn, splits)

    def class_names(self, table: Table) -> Sequence[str]:
        """Return the labels."""
        return table.labels

    def settle(self, tables: dict[str, Table]) -> tuple[dict[str, Table], list[str]]:
        """Merge the spellings of each label, and check that training has every label."""
        known = self.settings.known
        before = [] if (rows := self.known_rows()) is None else [rows]
        settled = settle_classes([*before, *tables.values()], self.settings.similar_labels)
        settled = settled[len(before) :]
        named = dict(zip(tables, settled, strict=True))
        outside, notes = self.settings.out_of_scope, list[str]()
        if outside:
            named, notes = without_outside(named, outside, self.settings.held_out)
        labels = label_names(in_scope(named["train"], outside), known)
        for name, table in named.items():
            encode_in_scope(table, labels, name, outside)
        inside = [in_scope(table, outside) for table in settled]
        notes += notes_on(known, in_scope(named["train"], outside).labels)
        return named, [*notes, *doubts(inside)]

    def known_rows(self) -> Table | None:
        """Return a row for each label of the run to start from, whose spelling others take."""
        known = self.settings.known
        return Table([""] * len(known), list(known), self.recipe.start) if known else None

    def hold_out(self, train: Table) -> tuple[Table, Table, list[str]]:
        """Hold out a share of each class, and all that is out of scope."""
        outside, share = self.settings.out_of_scope, self.settings.held_out
        inside = in_scope(train, outside)
        by = self.known_by(inside.texts)
        kept, held, without = hold_out_of_each_class(inside, share, by)
        held = with_outside(held, train, outside)
        return kept, held, [classes_kept(without, kept)] if without else []

    def of_fold(self, rows: Table, fold: int) -> tuple[Table, Table]:
        """Split rows into those of a fold; what is out of scope is judged alone."""
        train, held = super().of_fold(rows, fold)
        return in_scope(train, self.settings.out_of_scope), held

    def encoded(self, tables: Tables, tokenizer: Tokenizer) -> Splits:
        """Encode the rows; none that is out of scope is trained on."""
        train = in_scope(tables.train, self.settings.out_of_scope)
        return super().encoded(replace(tables, train=train), tokenizer)

    def classes_of(self, rows: Table) -> Sequence[str] | None:
        """Return the labels."""
        return rows.labels

    def resampled(self, outputs: Outputs, references: Any) -> Bootstrap:
        """Compute the metrics of decisions and the loss on resamples of the rows."""
        inside = references >= 0
        scores = RowScores.of(
            outputs["probabilities"][inside],
            references[inside].astype(np.int64),
            decided_of(outputs)[inside],
        )
        return Bootstrap.of(scores.metrics, int(inside.sum()), shares=("accuracy",))

    def from_rows(self, tables: Tables) -> dict[str, Any]:
        """Return the labels of the training rows."""
        settings = self.settings
        if settings.abstain and settings.abstain_below is None and tables.validation is None:
            raise InputError(
                "task.abstain is a share of validation rows, and there are none: leave it or "
                "task.held_out=0 out, or add a validation file (task.validation=FILE)"
            )
        if settings.calibrate and settings.temperature == 1 and tables.validation is None:
            say("warning: there are no validation rows for task.calibrate to fit a temperature to")
        labels = label_names(in_scope(tables.train, settings.out_of_scope), settings.known)
        if self.settings.loss == "binary" and len(labels) != 2:
            raise InputError(f"task.loss=binary needs two labels, not {len(labels)}: {labels}")
        separator = self.settings.hierarchy
        if separator and not any(separator in label for label in labels):
            raise InputError(
                f"no label is a path with task.hierarchy={separator} in it: {short(labels[0])} …"
            )
        return {"labels": labels}

    def targets(self, table: Table, where: str) -> Targets:
        """Return the class of each row; -1 for one that is out of scope."""
        return encode_in_scope(table, self.settings.labels, where, self.settings.out_of_scope)

    def class_weights(self, targets: Targets) -> NDArray[np.float64] | None:
        """Return weights that make every class count alike, if the recipe asks for them."""
        if self.settings.class_weights == "none":
            return None
        counts = self.rows_of(targets)
        # Labels that only the run to start from has are on no row.
        return np.asarray(len(targets) / (np.count_nonzero(counts) * np.maximum(counts, 1)))

    def rows_of(self, targets: Targets) -> NDArray[np.int64]:
        """Return the number of rows ``[n_labels]`` with each label."""
        return np.bincount(targets.astype(np.int64), minlength=len(self.settings.labels))

    def loss_of(
        self,
        scores: Tensor,
        targets: Tensor,
        weights: Tensor | None = None,
        training: bool = False,
    ) -> Tensor:
        """Return the summed cross-entropy, smoothed only while training."""
        from wafergpt.model.loss import classification_loss

        smoothing = self.settings.label_smoothing if training else 0.0
        kind = self.settings.loss_kind
        return classification_loss(scores, targets.long(), kind, smoothing, weights)

    def divergence(self, scores: Tensor, others: Tensor, weights: Tensor | None) -> Tensor:
        """Return the summed KL divergence from the teacher's probabilities."""
        from wafergpt.model.loss import divergence

        return divergence(self.absolute(scores), others, self.settings.loss_kind, weights)

    def require_teacher(self, teacher: Task) -> None:
        """Require the same labels, and as many outputs."""
        super().require_teacher(teacher)
        assert isinstance(teacher, Classify)
        ours, theirs = (", ".join(task.settings.labels) for task in (self, teacher))
        if ours != theirs:
            raise InputError(f"has the labels {short(theirs)}, not {short(ours)}")
        for key in ("loss", "multi"):
            own, other = (getattr(task.settings, key) for task in (self, teacher))
            if own != other:
                raise InputError(f"has task.{key}={str(other).lower()}, not {str(own).lower()}")

    def compute_metrics(self, outputs: Outputs, references: Any) -> dict[str, Any]:
        """Return the metrics of ``ClassificationMetrics`` and ``selective_metrics``.

        With ``hierarchy``, also those of its ``levels``; with ``abstain``, the ``coverage`` and the
        ``accuracy_answered``; with ``out_of_scope``, AUROC and FPR95 of the probability and of the
        energy (Liu et al., arXiv:2010.03759).
        """
        targets = references.astype(np.int64)
        inside = targets >= 0
        kept = {name: values[inside] for name, values in outputs.items()}
        targets, probabilities = targets[inside], kept["probabilities"]
        metrics = classification_metrics(
            probabilities, targets, self.settings.labels, kept.get("decided")
        )
        right = decided_of(kept) == targets
        found = {**metrics.to_dict(), **selective_metrics(confidence_of(kept), right)}
        if separator := self.settings.hierarchy:
            found["levels"] = level_metrics(probabilities, targets, self.settings.labels, separator)
        if "answered" in kept:
            answered = kept["answered"]
            found["coverage"] = float(answered.mean())
            found["accuracy_answered"] = float(right[answered].mean()) if answered.any() else 1.0
        if "energy" in outputs and not inside.all():
            scores = {"": outputs["probabilities"].max(1), "_energy": outputs["energy"]}
            for suffix, values in scores.items():
                both = detection_metrics(values[inside], values[~inside])
                found[f"auroc{suffix}"], found[f"fpr95{suffix}"] = both
        return found

    def mistakes(self, outputs: Outputs, evaluated: EvaluationSet) -> list[dict[str, Any]]:
        """List the rows with another label, by the loss of the true one."""
        return classification_mistakes(
            outputs["probabilities"],
            decided_of(outputs),
            evaluated.references.astype(np.int64),
            self.settings.labels,
            [shown(text) for text in evaluated.texts],
        )

    def decode(self, outputs: Outputs, inputs: Sequence[Any]) -> list[dict[str, Any]]:
        """Return ``label``, its probability ``score``, and the ``scores`` of all labels.

        Where no answer is given ``label`` is None, and ``abstained`` says why. With ``hierarchy``
        the label is the deepest node that is probable enough.
        """
        labels, least = self.settings.labels, self.settings.abstain_below or 0.0
        separator = self.settings.hierarchy
        found = []
        for place, row in zip(decided_of(outputs), outputs["probabilities"], strict=True):
            label, score = labels[int(place)], float(row[place])
            if separator:
                label, score = confident_node(row, labels, separator, least or CONFIDENT)
            answer: dict[str, Any] = {"label": label, "score": score}
            if score < least:
                answer["label"] = None
                answer["abstained"] = f"{label} has {score:.3f}, less than {least:.3f}"
            found.append({**answer, "scores": dict(zip(labels, row.tolist(), strict=True))})
        return found

    def fit(self, outputs: Outputs, references: Any) -> tuple[dict[str, Any], Outputs]:
        """Fit factors and a temperature by the loss, and what decides by the metric."""
        return fitted(self, outputs, references)

    @property
    def decision_metric(self) -> str:
        """The metric that decisions are fitted to; "" if they are not."""
        metric = self.recipe.evaluate.metric
        return metric if self.settings.thresholds == "one" and metric in self.decisions else ""

    def fitted_offsets(
        self, probabilities: NDArray[np.floating], references: Any
    ) -> list[float] | None:
        """Return the offsets for ``decision_metric``; None if they do not help."""
        metric = self.decision_metric
        found = class_offsets(probabilities, references.astype(np.int64), metric)
        return None if found is None else found.tolist()

    def answers(self, scores: Tensor) -> dict[str, Tensor]:
        """Return ``probabilities [n, n_labels]``; with offsets, what is ``decided`` too.

        With ``calibrate`` the ``logits [n, n_labels]``, which no temperature has divided yet.
        """
        import torch

        found = {"probabilities": self.probabilities(scores.double())}
        probabilities, least = found["probabilities"], self.settings.abstain_below
        if self.settings.offsets:
            found["decided"] = self.decided(probabilities, self.settings.offsets)
        if self.settings.out_of_scope or self.settings.calibrate:
            alone = torch.nn.functional.pad(scores, (1, 0)) if self.n_outputs == 1 else scores
            if self.settings.out_of_scope:
                found["energy"] = alone.double().logsumexp(1)
            if self.settings.calibrate:
                found["logits"] = alone.double()
        if least:
            given = found["decided"] if "decided" in found else probabilities.argmax(1)
            found["answered"] = probabilities.gather(1, given[:, None])[:, 0] >= least
        return found

    def decided(self, probabilities: Tensor, offsets: Sequence[float]) -> Tensor:
        """Return the class ``[n]`` of the highest log probability plus offset."""
        logs = probabilities.clamp(min=LEAST).log()
        return (logs + logs.new_tensor(offsets)).argmax(1)

    def probabilities(self, scores: Tensor) -> Tensor:
        """Return the probabilities ``[n, n_labels]`` that scores ``[n, n_outputs]`` stand for."""
        import torch

        scores = scores / self.settings.temperature
        if self.settings.loss == "binary":
            positive = scores.sigmoid()
            return torch.cat([1 - positive, positive], 1)
        return scores.softmax(1)

    def graph(self) -> Graph:
        """Describe the network, which computes ``probabilities`` too."""
        return graph_of_classes(self, super().graph())
