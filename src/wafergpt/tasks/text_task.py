"""What tasks with one answer per text share: rows, cutting to length, and a pooled head."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from wafergpt.config import Recipe, TaskSettings
from wafergpt.data.labelled_rows import Table, described, is_missing, read_table
from wafergpt.data.labelled_split import hold_out
from wafergpt.data.tokenizer import Tokenizer
from wafergpt.errors import InputError
from wafergpt.planning.intervals import DEFAULT_EPOCHS
from wafergpt.progress import say, working
from wafergpt.tasks.base import EvaluationSet, Splits, Task

if TYPE_CHECKING:
    from torch import Tensor, nn

    from wafergpt.data.batches import Batch
    from wafergpt.data.labelled_batches import LabelledBatches

VALIDATION_SHARE = 0.1
"""Share of the training rows that is held out where no validation file is named."""

Targets = NDArray[np.int64] | NDArray[np.float64]


class TextTaskSettings(TaskSettings):
    """The settings of every task with one answer per text."""

    text: str = "text"
    label: str = "label"
    cut: Literal["end", "start", "middle"] = "end"
    """Where a text that is too long is cut."""
    pooling: Literal["last", "mean", "max", "mean_max_last"] = "last"
    """How hidden states are pooled for the head; ``last`` is Hugging Face's."""
    word_dropout: float = Field(0.0, ge=0, lt=1)
    """Share of a text's tokens that training replaces by the end-of-text token."""
    end_of_text: int | None = None
    """That token; set by the run."""


@dataclass(frozen=True)
class Tables:
    """The labelled rows of a task, and notes on them, one line each."""

    train: Table
    validation: Table
    test: Table | None
    notes: tuple[str, ...] = ()

    def fingerprint(self) -> str:
        """Return a hash of all rows."""
        digest = hashlib.sha256()
        for table in (self.train, self.validation, self.test or Table([], [])):
            for text, label in zip(table.texts, table.labels, strict=True):
                digest.update(f"{len(text)} {label}\n{text}\n".encode("utf-8", "surrogatepass"))
        return digest.hexdigest()


class TextTask(Task):
    """A task with one answer per text, computed from a pooled hidden state."""

    Settings = TextTaskSettings
    lowers = True

    def __init__(self, recipe: Recipe) -> None:
        super().__init__(recipe)
        self._tables: Tables | None = None

    @property
    def settings(self) -> TextTaskSettings:
        """The recipe's section ``task``."""
        assert isinstance(self.recipe.task, TextTaskSettings)
        return self.recipe.task

    @property
    def tables(self) -> Tables:
        """The labelled rows, read once; validation rows are held out where none are named.

        Raises:
            InputError: if the rows are unusable, or the labels cannot be trained on.
        """
        if self._tables is None:
            with working("reading the rows"):
                self._tables = self._read()
            for note in self._tables.notes:
                say(note)
        return self._tables

    def _read(self) -> Tables:
        settings = self.settings
        if settings.train is None:
            raise InputError("which labelled rows? add task.train=FILE (csv, tsv or jsonl)")
        named = {
            name: read_table(path, settings.text, settings.label)
            for name, path in (
                ("train", settings.train),
                ("validation", settings.validation),
                ("test", settings.test),
            )
            if path is not None
        }
        if (before := _as_before(named, self.recipe.data.fingerprint)) is not None:
            return before
        notes = [note for table in named.values() for note in table.notes]
        named, more = self.settle(named)
        train, validation = named["train"], named.get("validation")
        if validation is None:
            train, validation, held_out = self.hold_out(train)
            more += held_out
        return Tables(train, validation, named.get("test"), (*notes, *more))

    @property
    @abstractmethod
    def n_outputs(self) -> int:
        """Number of outputs of the head."""

    def settle(self, tables: dict[str, Table]) -> tuple[dict[str, Table], list[str]]:
        """Settle the spelling of the answers in all tables.

        Args:
            tables: ``train``, and ``validation`` and ``test`` where there are any.

        Returns:
            The tables, and notes on them.

        Raises:
            InputError: if the answers cannot be learned, or are ambiguous.
        """
        return tables, []

    def hold_out(self, train: Table) -> tuple[Table, Table, list[str]]:
        """Split the training rows into train and validation, and return notes on the split."""
        return *hold_out(train, VALIDATION_SHARE), []

    def from_rows(self, tables: Tables) -> dict[str, Any]:
        """Derive keys of the section ``task`` from the rows.

        Args:
            tables: all rows, settled.

        Returns:
            Values by key.

        Raises:
            InputError: if the task cannot be learned from them.
        """
        return {}

    @abstractmethod
    def targets(self, table: Table, where: str) -> Targets:
        """Return the answers ``[n]`` to the rows; ``where`` names the table in an error."""

    def class_weights(self, targets: Targets) -> NDArray[np.float64] | None:
        """Return the weight of each class in the loss, or None."""
        return None

    def texts(self) -> Iterator[str]:
        """Yield the training texts."""
        yield from self.tables.train.texts

    def prepare(self, tokenizer: Tokenizer) -> tuple[Recipe, Splits]:
        """Read the rows; without a horizon it is three epochs."""
        tables = self.tables
        recipe = self._resolved(tables, tokenizer)
        task = type(self)(recipe)
        with working("encoding the rows"):
            return recipe, task._encoded(tables, tokenizer)

    def _resolved(self, tables: Tables, tokenizer: Tokenizer) -> Recipe:
        recipe, settings, train = self.recipe, self.settings, self.recipe.train
        fingerprint = tables.fingerprint()
        if recipe.data.fingerprint not in (None, fingerprint):
            raise InputError(
                f"the labelled rows are not those that this run started with: {settings.train}"
            )
        if train.tokens:
            raise InputError("fine-tuning counts in train.epochs, train.steps or train.seconds")
        limit = settings.max_tokens or recipe.model.seq_len
        if limit > recipe.model.seq_len:
            raise InputError(
                f"task.max_tokens={limit} is more than the model's context of "
                f"{recipe.model.seq_len}"
            )
        paths = {
            key: None if path is None else Path(path).resolve()
            for key in ("train", "validation", "test")
            for path in (getattr(settings, key),)
        }
        decided = {"max_tokens": limit, "end_of_text": tokenizer.end_of_text}
        horizon = train.steps or train.epochs or train.seconds
        return recipe.replace(
            task={**decided, **paths, **self.from_rows(tables)},
            data={"fingerprint": fingerprint},
            # An imported model may have more rows than its tokenizer has tokens.
            model={"vocab_size": max(recipe.model.vocab_size, tokenizer.vocab_size)},
            train={} if horizon else {"epochs": DEFAULT_EPOCHS},
        )

    def _encoded(self, tables: Tables, tokenizer: Tokenizer) -> Splits:
        from wafergpt.data.labelled_batches import LabelledBatches

        size = self.recipe.train.batch_size
        texts, targets = self._encode_table(tables.train, tokenizer, "train")
        if len(texts) < size:
            raise InputError(
                f"{len(texts)} training rows are less than one batch of {size}: "
                "lower train.batch_size"
            )
        weights = self.class_weights(targets)
        train = LabelledBatches(texts, targets, size, self.recipe.seed, weights)
        validation, test = (
            None if table is None else self._evaluated(table, tokenizer, name)
            for name, table in (("validation", tables.validation), ("test", tables.test))
        )
        assert validation is not None
        return Splits(train, validation, test, sum(len(text) for text in texts))

    def _evaluated(self, table: Table, tokenizer: Tokenizer, name: str) -> EvaluationSet:
        from wafergpt.data.labelled_batches import LabelledBatches

        texts, targets = self._encode_table(table, tokenizer, name)
        batches = LabelledBatches(texts, targets, self.evaluation_rows(), None)
        return EvaluationSet(batches, targets, batches.indices(0, len(texts)))

    def _encode_table(
        self, table: Table, tokenizer: Tokenizer, name: str
    ) -> tuple[list[NDArray[np.int64]], Targets]:
        texts, cut = self._encode_texts(table.texts, tokenizer)
        if cut:
            say(
                f"warning: {cut:,} of {len(texts):,} {name} texts are longer than "
                f"{self.settings.max_tokens} tokens; what is beyond is cut "
                f"(task.cut={self.settings.cut})"
            )
        return texts, self.targets(table, name)

    def _encode_texts(
        self, texts: Sequence[str], tokenizer: Tokenizer
    ) -> tuple[list[NDArray[np.int64]], int]:
        """Return the tokens of each text, and how many texts were cut.

        An empty text is the end-of-text token alone.
        """
        from wafergpt.data.labelled_batches import cut_tokens

        limit = self.settings.max_tokens or self.recipe.model.seq_len
        encoded = [list(ids) or [tokenizer.end_of_text] for ids in tokenizer.encode_batch(texts)]
        cut = sum(len(ids) > limit for ids in encoded)
        return [cut_tokens(ids, limit, self.settings.cut) for ids in encoded], cut

    def encode(self, inputs: Sequence[Any], tokenizer: Tokenizer) -> EvaluationSet:
        """Return texts as samples, sorted by length."""
        from wafergpt.data.labelled_batches import LabelledBatches

        with working("encoding the texts"):
            texts, _ = self._encode_texts(inputs, tokenizer)
        nothing = np.zeros(len(texts), dtype=np.int64)
        batches: LabelledBatches = LabelledBatches(texts, nothing, self.evaluation_rows(), None)
        return EvaluationSet(batches, None, batches.indices(0, len(texts)))

    def require_input(self, value: object) -> str | None:
        """Return a text, or None where there is none: blank, None, NaN."""
        if is_missing(value):
            return None
        if not isinstance(value, str):
            raise InputError(f"is {described(value)}; texts are wanted")
        try:
            value.encode()
        except UnicodeEncodeError:
            raise InputError("holds a lone surrogate, which is no character") from None
        return str(value) if value.strip() else None

    def flops(self, batch: Batch) -> float:
        """Return the FLOPs of a forward and backward pass, padding included."""
        from wafergpt.shapes.counts import training_flops

        texts, length = batch["tokens"].shape
        width = self.recipe.model.d_model * (3 if self.settings.pooling == "mean_max_last" else 1)
        return texts * training_flops(self.recipe.model, length, 0, self.n_outputs * width)

    def network(self) -> nn.Module:
        """Build a GPT with a pooled head."""
        from wafergpt.model.gpt import GPT
        from wafergpt.model.heads import Classifier

        return Classifier(GPT(self.recipe.model), self.n_outputs, self.settings.pooling)

    def scores(self, network: nn.Module, batch: Batch) -> Tensor:
        """Return the head's outputs ``[batch, n_outputs]``, with word dropout in training."""
        import torch

        tokens, dropout = batch["tokens"], self.settings.word_dropout
        if network.training and dropout:
            assert self.settings.end_of_text is not None
            # Whole tokens are hidden, so that no single one decides (Iyyer et al., 2015).
            places = torch.rand(tokens.shape, device=tokens.device) < dropout
            tokens = tokens.masked_fill(places, self.settings.end_of_text)
        scores: Tensor = network(tokens, batch["lengths"])
        return scores


def _as_before(named: Mapping[str, Table], fingerprint: str | None) -> Tables | None:
    """Return the tables as older versions read them, with labels as written and rows held out by
    hash alone; None if those are not the run's rows.
    """
    if fingerprint is None:
        return None
    train, validation = named["train"], named.get("validation")
    try:
        if validation is None:
            train, validation = hold_out(train, VALIDATION_SHARE)
    except InputError:
        return None
    tables = Tables(train, validation, named.get("test"))
    return tables if tables.fingerprint() == fingerprint else None
