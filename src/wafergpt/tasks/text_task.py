"""What tasks with one answer per text share: cutting to length, and a pooled head."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from wafergpt.config import Recipe
from wafergpt.data.cells import is_missing
from wafergpt.data.labelled_rows import Table, read_table
from wafergpt.data.row_sources import together
from wafergpt.data.text_columns import (
    BETWEEN,
    SEPARATOR,
    names_of,
    shown,
    text_of_columns,
)
from wafergpt.data.text_ngrams import text_ngrams
from wafergpt.data.tokenizer import Tokenizer
from wafergpt.errors import InputError
from wafergpt.progress import working
from wafergpt.shapes.counts import pooled_width, training_flops
from wafergpt.tasks.adversarial import SHIFT, adversarial_loss
from wafergpt.tasks.augmented import changed_copies, consistent_loss, excerpts
from wafergpt.tasks.base import EvaluationSet, Splits, Task, Teacher
from wafergpt.tasks.chosen import with_choices
from wafergpt.tasks.graph import graph_of_texts
from wafergpt.tasks.labelled_task import LabelledTask
from wafergpt.tasks.ngram_scores import mean_of_each, mixed
from wafergpt.tasks.spelled import spelled, with_spelling
from wafergpt.tasks.tables import Tables, as_before
from wafergpt.tasks.text_settings import TextTaskSettings

if TYPE_CHECKING:
    from torch import Tensor, nn

    from wafergpt.data.batches import Batch
    from wafergpt.tasks.graph import Graph

Targets = NDArray[np.int64] | NDArray[np.float64]


class TextTask(LabelledTask[Table]):
    """A task with one answer per text, computed from a pooled hidden state."""

    Settings = TextTaskSettings
    chosen = frozenset({"pooling", "ngrams", "ngram_rows", "ngram_ratios"})
    lowers = True

    @property
    def settings(self) -> TextTaskSettings:
        """The recipe's section ``task``."""
        assert isinstance(self.recipe.task, TextTaskSettings)
        return self.recipe.task

    def read_rows(self, path: Path) -> Table:
        """Read a file of labelled texts."""
        return read_table(path, self.settings.text, self.settings.label)

    def as_before(self, named: Mapping[str, Table]) -> Tables | None:
        """Return the rows as older versions read them, if the run's are those."""
        return as_before(named, self.recipe.data.fingerprint)

    def with_choices(self, asked: Collection[str]) -> Recipe:
        """Choose the settings of a fine-tuning by the rows."""
        return with_choices(self.recipe, asked, self.read_ahead().train.texts, self.n_classes)

    @property
    def n_classes(self) -> int | None:
        """Number of classes of the training rows, if the answers are classes."""
        return None

    @property
    @abstractmethod
    def n_outputs(self) -> int:
        """Number of outputs of the head."""

    @abstractmethod
    def targets(self, table: Table, where: str) -> Targets:
        """Return the answers ``[n]`` to the rows; ``where`` names the table in an error."""

    def class_weights(self, targets: Targets) -> NDArray[np.float64] | None:
        """Return the weight of each class in the loss, or None."""
        return None

    def tokenizer(self, source: Tokenizer | None) -> Tokenizer:
        """Return the tokenizer, with the words to read texts with if the recipe wants them."""
        found = super().tokenizer(source)
        if not self.settings.spelling:
            return found
        if source is not None and self.recipe.data.fingerprint is not None:
            # Of a run that has begun.
            return source
        return with_spelling(found, source, self.texts())

    def from_tokenizer(self, tokenizer: Tokenizer) -> dict[str, Any]:
        """Return the end-of-text token."""
        return {"end_of_text": tokenizer.end_of_text}

    def encoded(self, tables: Tables, tokenizer: Tokenizer) -> Splits:
        """Encode the rows, and changed copies of them if they are asked for."""
        from wafergpt.data.labelled_batches import LabelledBatches
        from wafergpt.data.paired_batches import Copies, PairedBatches

        size, settings, rows = self.recipe.train.batch_size, self.settings, tables.train
        copies: list[Table] = []
        if settings.augment:
            with working("changing copies of the rows"):
                copies = changed_copies(
                    rows, settings.augment, settings.augment_copies, self.recipe.seed
                )
        if settings.excerpts:
            copies += excerpts(rows, settings.excerpts, self.recipe.seed)
        joined = 0 if settings.consistency else len(copies)
        if joined:
            rows, copies = together([rows, *copies], rows.path or Path()), []
        rows, *copies = (self._as_read(table, tokenizer) for table in (rows, *copies))
        texts, targets = self._encode_table(rows, tokenizer, "train")
        self.require_batch(len(texts))
        tokens = sum(map(len, texts))
        paired = [
            Copies(self._encode_texts(copy.texts, tokenizer)[0], self._ngrams(copy.texts))
            for copy in copies
        ]
        tokens += sum(len(text) for copy in paired[:1] for text in copy.texts)
        given = texts, targets, size, self.recipe.seed, self.class_weights(targets)
        # The table is trained on whole texts alone: most sentences of one say little.
        apart = 0 if paired else settings.excerpts * len(tables.train.texts)
        ngrams = self._ngrams(rows.texts[: len(rows.texts) - apart])
        if ngrams is not None:
            ngrams += [np.zeros(0, dtype=np.int32)] * apart
        train = (
            PairedBatches(paired, *given, ngrams=ngrams)
            if paired
            else LabelledBatches(*given, ngrams=ngrams, copies=joined)
        )
        return Splits(train, *self.all_evaluated(tables, tokenizer), tokens)

    def evaluated(
        self, table: Table, tokenizer: Tokenizer, name: str = "validation"
    ) -> EvaluationSet:
        """Encode rows whose answers are known."""
        from wafergpt.data.labelled_batches import LabelledBatches

        read = self._as_read(table, tokenizer)
        texts, targets = self._encode_table(read, tokenizer, name)
        ngrams = self._ngrams(read.texts)
        batches = LabelledBatches(texts, targets, self.evaluation_rows(), None, ngrams=ngrams)
        listed = table.texts if name == "test" else ()
        return EvaluationSet.of(batches, targets, listed)

    def _as_read(self, table: Table, tokenizer: Tokenizer) -> Table:
        if not self.settings.spelling:
            return table
        return replace(table, texts=spelled(table.texts, tokenizer))

    def _encode_table(
        self, table: Table, tokenizer: Tokenizer, name: str
    ) -> tuple[list[NDArray[np.int64]], Targets]:
        texts, cut = self._encode_texts(table.texts, tokenizer)
        self.warn_of_cut(cut, len(texts), f"{name} texts", self.settings.cut)
        return texts, self.targets(table, name)

    def _encode_texts(
        self, texts: Sequence[str], tokenizer: Tokenizer
    ) -> tuple[list[NDArray[np.int64]], int]:
        """Return the tokens of each text, and how many texts were cut.

        An empty text is the end-of-text token alone.
        """
        from wafergpt.data.labelled_batches import cut_columns, encode_texts

        limit, k = self.limit, len(self.settings.columns)
        if k == 1:
            return encode_texts(texts, tokenizer, limit, self.settings.cut)
        between = tokenizer.encode(SEPARATOR) or [tokenizer.end_of_text]
        if limit < k + (k - 1) * len(between):
            raise InputError(f"task.max_tokens={limit} leaves no room for {k} columns of task.text")
        parts = tokenizer.encode_batch([part for text in texts for part in text.split(BETWEEN)])
        rows = [
            cut_columns(parts[first : first + k], between, limit, self.settings.cut)
            for first in range(0, len(parts), k)
        ]
        return [row for row, _ in rows], sum(cut for _, cut in rows)

    def _ngrams(self, texts: Sequence[str]) -> list[NDArray[np.int32]] | None:
        """Return the n-grams of each whole text, which need not fit the context."""
        kind, rows = self.settings.ngrams, self.settings.ngram_rows
        return None if kind == "none" else [text_ngrams(text, kind, rows) for text in texts]

    def encode(self, inputs: Sequence[Any], tokenizer: Tokenizer) -> EvaluationSet:
        """Return texts as samples, sorted by length."""
        from wafergpt.data.labelled_batches import unlabelled

        with working("encoding the texts"):
            read = spelled(inputs, tokenizer) if self.settings.spelling else inputs
            texts, cut = self._encode_texts(read, tokenizer)
        self.warn_of_cut(cut, len(texts), "texts", self.settings.cut)
        return EvaluationSet.of(unlabelled(texts, self.evaluation_rows(), self._ngrams(read)))

    def texts_of(self, table: Table) -> Iterator[str]:
        """Yield the texts of rows as they are read."""
        yield from map(shown, table.texts)

    def require_input(self, value: object) -> Any:
        """Return a text; of several columns, joined."""
        if len(self.settings.columns) > 1 and not is_missing(value):
            if isinstance(value, str) and not value.strip():
                return None
            value = text_of_columns(value, self.settings.columns)
        return super().require_input(value)

    def columns_named(self, column: str | None) -> str | tuple[str, ...]:
        """Return the recipe's columns of texts, or ``column``: names between commas, if several."""
        names: str | tuple[str, ...] = self.settings.text
        if column is not None:
            names = column if isinstance(names, str) else tuple(column.split(","))
            if len(names_of(names)) != len(self.settings.columns):
                wanted = ", ".join(self.settings.columns)
                raise InputError(f"--column={column}: the run reads as many columns as {wanted}")
        return names

    def graph(self) -> Graph:
        """Describe the network; its ``logits`` are the sum of the GPT's and the n-grams'."""
        return graph_of_texts(self)

    def flops(self, batch: Batch) -> float:
        """Return the FLOPs of a forward and backward pass, padding included."""
        from wafergpt.data.paired_batches import changed_of

        texts, length = batch["tokens"].shape
        recipe = self.recipe
        weights = self.n_outputs * pooled_width(recipe.model, self.settings.pooling)
        flops = texts * training_flops(recipe.model, length, 0, weights, recipe.lora)
        changed = changed_of(batch)
        return flops if changed is None else flops + self.flops(changed)

    def network(self) -> nn.Module:
        """Build a GPT with a pooled head."""
        from wafergpt.model.gpt import GPT
        from wafergpt.model.heads import Classifier

        settings = self.settings
        rows = 0 if settings.ngrams == "none" else settings.ngram_rows
        return Classifier(
            GPT(self.recipe.model), self.n_outputs, settings.pooling, rows, self.weighs_ngrams,
            settings.ngram_kept,
        )  # fmt: skip

    @property
    def weighs_ngrams(self) -> bool:
        """Whether the rows of the n-grams' table have weights of their own."""
        return False

    @abstractmethod
    def answers(self, scores: Tensor) -> dict[str, Tensor]:
        """Return the outputs ``[n, …]`` of scores ``[n, n_outputs]``."""

    def outputs(self, network: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        """Return the answers; with n-grams, both ``scores [batch, 2, n_outputs]`` too."""
        scores = self.scores(network, batch)
        found = self.answers(mixed(scores, self.settings.factors))
        if scores.ndim == 3:
            found["scores"] = scores.float().transpose(0, 1)
        return found

    @abstractmethod
    def loss_of(
        self,
        scores: Tensor,
        targets: Tensor,
        weights: Tensor | None = None,
        training: bool = False,
    ) -> Tensor:
        """Compute the loss of scores ``[n, n_outputs]``.

        Args:
            scores: of the GPT, of the n-grams, or of both together.
            targets: ``[n]``, as ``targets`` gives them.
            weights: ``[n]``, of the rows.
            training: whether they are trained on this.

        Returns:
            Its sum, a scalar.
        """

    def loss(self, network: nn.Module, batch: Batch) -> Tensor:
        """Return the summed loss; with n-grams, the mean of the two scores' own losses."""
        targets, weights, training = batch["targets"], batch.get("weights"), network.training
        return mean_of_each(
            self.scores_of_each(network, batch),
            lambda one: self.loss_of(one, targets, weights, training),
        )

    def training_loss(self, network: nn.Module, batch: Batch) -> Tensor:
        """Return the loss; with changed copies beside the rows, that of both, kept together."""
        from wafergpt.data.paired_batches import changed_of

        changed = changed_of(batch)
        if changed is not None:
            return consistent_loss(self, network, batch, changed)
        if self.settings.adversarial:
            return adversarial_loss(self, network, batch)
        return super().training_loss(network, batch)

    def training_flops(self, batch: Batch) -> float:
        """Return the FLOPs of a batch in training, all passes of it included."""
        flops = super().training_flops(batch)
        # Copies are counted as they are, by their own lengths.
        return self.settings.passes * flops if self.settings.adversarial else flops

    def distilled_loss(self, network: nn.Module, batch: Batch, teacher: Teacher) -> Tensor:
        """Return the loss, a share of it the divergence of each score from the teacher's answer."""
        import torch

        assert isinstance(teacher.task, TextTask)
        with torch.no_grad():
            theirs = teacher.task.scores(teacher.network, batch)
            theirs = teacher.task.absolute(mixed(theirs, teacher.task.settings.factors))
        targets, weights, share = batch["targets"], batch.get("weights"), teacher.share
        return mean_of_each(
            self.scores_of_each(network, batch),
            lambda one: (
                (1 - share) * self.loss_of(one, targets, weights, training=True)
                + share * self.divergence(one, theirs, weights)
            ),
        )

    def absolute(self, scores: Tensor) -> Tensor:
        """Return scores ``[n, n_outputs]`` as another run of the task can read them."""
        return scores

    def divergence(self, scores: Tensor, others: Tensor, weights: Tensor | None) -> Tensor:
        """Return how far scores ``[n, n_outputs]`` are from a teacher's, summed over rows.

        Args:
            scores: that are trained.
            others: of the teacher, ``absolute``.
            weights: ``[n]``, of the rows.

        Returns:
            A scalar.

        Raises:
            NotImplementedError: if the task cannot learn from a teacher.
        """
        raise NotImplementedError

    def require_teacher(self, teacher: Task) -> None:
        """Require that it reads the n-grams that the rows are encoded with, or none."""
        super().require_teacher(teacher)
        assert isinstance(teacher, TextTask)
        for key in ("consistency", "adversarial"):
            if getattr(self.settings, key):
                raise InputError(f"has no use beside task.{key}: one of the two")
        ours, theirs = ((t.settings.ngrams, t.settings.ngram_rows) for t in (self, teacher))
        if theirs[0] != "none" and ours != theirs:
            raise InputError(
                f"reads n-grams: task.ngrams={theirs[0]} task.ngram_rows={theirs[1]} must be set "
                "here too"
            )

    def scores(self, network: nn.Module, batch: Batch) -> Tensor:
        """Return the network's outputs (see ``Classifier``), with word dropout in training."""
        import torch

        tokens, dropout = batch["tokens"], self.settings.word_dropout
        if network.training and dropout:
            assert self.settings.end_of_text is not None
            # Whole tokens are hidden, so that no single one decides (Iyyer et al., 2015).
            places = torch.rand(tokens.shape, device=tokens.device) < dropout
            tokens = tokens.masked_fill(places, self.settings.end_of_text)
        further = {name: batch[name] for name in ("ngrams", SHIFT) if name in batch}
        scores: Tensor = network(tokens, batch["lengths"], **further)
        return scores

    def scores_of_each(self, network: nn.Module, batch: Batch) -> Tensor:
        """Return the scores ``[1 or 2, n, n_outputs]``, those of n-grams last."""
        scores = self.scores(network, batch)
        return scores if scores.ndim == 3 else scores[None]
