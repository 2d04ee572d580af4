"""Classification: one label per text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from wafergpt.data.labelled_rows import Table, encode_labels, label_names
from wafergpt.data.labelled_split import classes_kept, hold_out_of_each_class
from wafergpt.data.labels import doubts, settle_classes
from wafergpt.errors import InputError
from wafergpt.evaluation.intervals import Bootstrap
from wafergpt.evaluation.metrics import RowScores, classification_metrics
from wafergpt.files import short
from wafergpt.tasks.base import Direction, EvaluationSet, Outputs, Task, gpt_of, is_of_task
from wafergpt.tasks.carried import notes_on, placed
from wafergpt.tasks.ngram_scores import fitted_factors, mixed
from wafergpt.tasks.tables import Tables
from wafergpt.tasks.text_task import Targets, TextTask, TextTaskSettings

if TYPE_CHECKING:
    from torch import Tensor, nn

    from wafergpt.checkpoint.format import Stored
    from wafergpt.data.batches import Batch
    from wafergpt.distributed.sharding import Rows
    from wafergpt.tasks.base import Splits
    from wafergpt.tasks.graph import Graph


NAIVE_BAYES = 0.1
"""Share of naive Bayes' scores that a table of n-grams with ratios starts from."""


class ClassifySettings(TextTaskSettings):
    """The section ``task`` of a classification."""

    name: Literal["classify"] = "classify"
    labels: tuple[str, ...] = ()
    """In the order of the model's outputs; set by the run."""
    known: tuple[str, ...] = ()
    """Those of the run that it goes on from, which stay; set by the run."""
    similar_labels: Literal["refuse", "merge", "keep"] = "refuse"
    """Labels that differ only in spelling, such as Positive and positive: refuse them, merge them
    into one class, or keep them apart."""
    loss: Literal["cross_entropy", "binary"] = "cross_entropy"
    """``binary`` has one output, the log-odds of the second of two labels."""
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    class_weights: Literal["none", "balanced"] = "none"
    ngram_ratios: bool = False
    """Weigh each n-gram by how unevenly the classes of the training rows use it, as NB-SVM does."""


class Classify(TextTask):
    """Predicts one of the labels of the training rows for each text."""

    Settings = ClassifySettings
    metrics: ClassVar[Mapping[str, Direction]] = {
        "loss": "min",
        "accuracy": "max",
        "macro_f1": "max",
    }
    distils = True

    @property
    def settings(self) -> ClassifySettings:
        """The recipe's section ``task``."""
        assert isinstance(self.recipe.task, ClassifySettings)
        return self.recipe.task

    @property
    def n_outputs(self) -> int:
        """One for each label; of two labels one, if the loss is binary."""
        return 1 if self.settings.loss == "binary" else len(self.settings.labels)

    @property
    def n_classes(self) -> int | None:
        """Number of labels of the training rows."""
        return len(set(self.tables.train.labels))

    @property
    def weighs_ngrams(self) -> bool:
        """Whether the recipe asks for it."""
        return self.settings.ngrams != "none" and self.settings.ngram_ratios

    def initial_weights(
        self, network: nn.Module, start: Stored | None, splits: Splits | None = None
    ) -> Iterator[tuple[str, Rows]]:
        """Yield the initial weights; a table of n-grams with ratios starts near naive Bayes."""
        import torch

        from wafergpt.data.labelled_batches import LabelledBatches

        continued = (
            start is not None
            and is_of_task(start)
            and type(self.before) in (type(None), type(self))
        )
        for name, values in super().initial_weights(network, start, splits):
            if continued or not (self.weighs_ngrams and name == "head_ngrams.weight"):
                yield name, values
                continue
            ratios = torch.zeros(values.shape)
            if splits is not None and isinstance(splits.train, LabelledBatches):
                ratios = torch.from_numpy(splits.train.ngram_ratios(*values.shape))
            sizes = ratios.abs().amax(1)
            yield name, NAIVE_BAYES * ratios / sizes.clamp(min=1e-6)[:, None]
            yield "head_ngrams.ratios", sizes

    def carried(
        self, network: nn.Module, start: Stored, splits: Splits | None
    ) -> Iterator[tuple[str, Rows]]:
        """Yield the weights of a run, those of its labels in their new places."""
        import torch

        from wafergpt.checkpoint.store import require_fit

        before, fresh = self.before, dict(self.drawn_head(network))
        if not isinstance(before, Classify):
            yield from super().carried(network, start, splits)
            return
        require_fit(gpt_of(network), start.below("gpt."))
        for name, values in start.by_rows.items():
            axis = {"head.weight": 0, "head_ngrams.weight": 1}.get(name)
            if axis is not None:
                # A table of n-grams adds nothing for a new label.
                new = fresh[name] if axis == 0 else torch.zeros_like(fresh[name])
                yield name, self._relabelled(values[...], new, before, axis)
            elif name == "head_ngrams.ratios" and not self.settings.ngram_kept:
                yield name, self._with_new_ngrams(values[...], splits)
            else:
                yield name, values

    def _relabelled(self, old: Tensor, fresh: Tensor, before: Classify, axis: int) -> Tensor:
        """Return a run's scores' weights for the labels of this one, label by label."""
        import torch

        theirs, ours = before.settings, self.settings
        if theirs.loss == ours.loss == "binary":
            return old
        if theirs.loss == "binary":
            # Log-odds are the scores of the second label above none of the first.
            old = torch.cat([torch.zeros_like(old), old], axis)
        if ours.loss == "binary":
            return old.diff(dim=axis)
        places = [ours.labels.index(label) for label in theirs.labels]
        return placed(fresh, old, places, [axis])

    def _with_new_ngrams(self, ratios: Tensor, splits: Splits | None) -> Tensor:
        """Return the weights of a run's n-grams, with those that only new rows have.

        What was never read has no score yet, so that no answer changes.
        """
        import torch

        from wafergpt.data.labelled_batches import LabelledBatches

        if splits is None or not isinstance(splits.train, LabelledBatches):
            return ratios
        found = torch.from_numpy(splits.train.ngram_ratios(len(ratios), self.n_outputs))
        if self.n_outputs > 1:
            found = found[:, torch.from_numpy(np.unique(splits.train.targets)).long()]
        return torch.where(ratios > 0, ratios, found.abs().amax(1))

    def class_names(self, table: Table) -> Sequence[str]:
        """Return the labels."""
        return table.labels

    def settle(self, tables: dict[str, Table]) -> tuple[dict[str, Table], list[str]]:
        """Merge the spellings of each label, and check that training has every label."""
        known, start = self.settings.known, self.recipe.start
        given = list(tables.values())
        if known:
            # First, so that labels are spelled as they were.
            given = [Table([""] * len(known), list(known), start), *given]
        settled = settle_classes(given, self.settings.similar_labels)[bool(known) :]
        named = dict(zip(tables, settled, strict=True))
        labels = label_names(named["train"], known)
        for name, table in named.items():
            encode_labels(table, labels, name)
        return named, [*notes_on(known, named["train"].labels), *doubts(settled)]

    def hold_out(self, train: Table) -> tuple[Table, Table, list[str]]:
        """Hold out a share of each class."""
        kept, held, without = hold_out_of_each_class(train, self.settings.held_out)
        return kept, held, [classes_kept(without, kept)] if without else []

    def classes_of(self, rows: Table) -> Sequence[str]:
        """Return the labels."""
        return rows.labels

    def intervals(self, outputs: Outputs, references: Any) -> dict[str, list[float]]:
        """Return those of accuracy, macro-F1 and loss."""
        scores = RowScores.of(outputs["probabilities"], references.astype(np.int64))
        n = len(references)
        return Bootstrap.of(scores.metrics, n).intervals(n, shares=("accuracy",))

    def from_rows(self, tables: Tables) -> dict[str, Any]:
        """Return the labels of the training rows."""
        labels = label_names(tables.train, self.settings.known)
        if self.settings.loss == "binary" and len(labels) != 2:
            raise InputError(f"task.loss=binary needs two labels, not {len(labels)}: {labels}")
        return {"labels": labels}

    def targets(self, table: Table, where: str) -> Targets:
        """Return the class of each row."""
        return encode_labels(table, self.settings.labels, where)

    def class_weights(self, targets: Targets) -> NDArray[np.float64] | None:
        """Return weights that make every class count alike, if the recipe asks for them."""
        if self.settings.class_weights == "none":
            return None
        counts = np.bincount(targets.astype(np.int64), minlength=len(self.settings.labels))
        # Labels that only the run to start from has are on no row.
        return np.asarray(len(targets) / (np.count_nonzero(counts) * np.maximum(counts, 1)))

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
        return classification_loss(scores, targets.long(), self.settings.loss, smoothing, weights)

    def divergence(self, scores: Tensor, others: Tensor, weights: Tensor | None) -> Tensor:
        """Return the summed KL divergence from the teacher's probabilities."""
        from wafergpt.model.loss import divergence

        return divergence(scores, others, self.settings.loss, weights)

    def require_teacher(self, teacher: Task) -> None:
        """Require the same labels, and as many outputs."""
        super().require_teacher(teacher)
        assert isinstance(teacher, Classify)
        ours, theirs = (", ".join(task.settings.labels) for task in (self, teacher))
        if ours != theirs:
            raise InputError(f"has the labels {short(theirs)}, not {short(ours)}")
        if self.settings.loss != teacher.settings.loss:
            raise InputError(f"has task.loss={teacher.settings.loss}, not {self.settings.loss}")

    def compute_metrics(self, outputs: Outputs, references: Any) -> dict[str, Any]:
        """Return loss, accuracy, macro-F1, the scores of each label, and the confusion matrix."""
        labels = self.settings.labels
        return classification_metrics(
            outputs["probabilities"], references.astype(np.int64), labels
        ).to_dict()

    def mistakes(self, outputs: Outputs, evaluated: EvaluationSet) -> list[dict[str, Any]]:
        """List the rows with another label, by the loss of the true one."""
        shares, labels = outputs["probabilities"], self.settings.labels
        true, found = evaluated.references.astype(np.int64), shares.argmax(1)
        losses = -np.log(np.maximum(shares[np.arange(len(true)), true], np.finfo(float).tiny))
        wrong = np.flatnonzero(found != true)
        return [
            {
                "text": evaluated.texts[row],
                "label": labels[true[row]],
                "predicted": labels[found[row]],
                "probability": float(shares[row].max()),
                "loss": float(losses[row]),
            }
            for row in wrong[np.argsort(-losses[wrong], kind="stable")].tolist()
        ]

    def decode(self, outputs: Outputs, inputs: Sequence[Any]) -> list[dict[str, Any]]:
        """Return ``label``, its probability ``score``, and the ``scores`` of all labels."""
        labels = self.settings.labels
        return [
            {
                "label": labels[int(row.argmax())],
                "score": float(row.max()),
                "scores": dict(zip(labels, row.tolist(), strict=True)),
            }
            for row in outputs["probabilities"]
        ]

    def fit(self, outputs: Outputs, references: Any) -> tuple[dict[str, Any], Outputs]:
        """Fit the factors of the two scores, by the loss."""
        import torch

        if self.settings.ngrams == "none":
            return {}, outputs
        scores = torch.from_numpy(outputs["scores"]).transpose(0, 1)
        factors = fitted_factors(scores.double(), torch.from_numpy(references), self.loss_of)
        found = self.answers(mixed(scores, factors))
        return {"factors": factors}, {**outputs, **{k: v.numpy() for k, v in found.items()}}

    def answers(self, scores: Tensor) -> dict[str, Tensor]:
        """Return ``probabilities [n, n_labels]``."""
        return {"probabilities": self._probabilities(scores.double())}

    def _probabilities(self, scores: Tensor) -> Tensor:
        import torch

        if self.settings.loss == "binary":
            positive = scores.sigmoid()
            return torch.cat([1 - positive, positive], 1)
        return scores.softmax(1)

    def graph(self) -> Graph:
        """Describe the network, which computes ``probabilities`` too."""
        graph = super().graph()

        def forward(network: nn.Module, batch: Batch) -> dict[str, Tensor]:
            (logits,) = graph.forward(network, batch).values()
            return {"logits": logits, "probabilities": self._probabilities(logits)}

        return replace(
            graph,
            outputs={
                "logits": "`[batch, 1]`, the log-odds of the second label"
                if self.n_outputs == 1
                else "`[batch, labels]`, the scores",
                "probabilities": "`[batch, labels]`, in the order of `labels`",
            },
            forward=forward,
            settings={**graph.settings, "labels": self.settings.labels},
            answer="for text, row in zip(texts, probabilities):\n"
            "    print(settings['labels'][row.argmax()], row.max(), text)",
        )
