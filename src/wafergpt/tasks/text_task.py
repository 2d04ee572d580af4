"""What tasks with one answer per text share: rows, cutting to length, and a pooled head."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from wafergpt.config import Recipe, TaskSettings
from wafergpt.data.labelled_rows import Table, described, is_missing, read_table
from wafergpt.data.labelled_split import hold_out
from wafergpt.data.text_ngrams import TextNgrams, text_ngrams
from wafergpt.data.tokenizer import Tokenizer
from wafergpt.errors import InputError
from wafergpt.planning.intervals import DEFAULT_EPOCHS
from wafergpt.progress import say, working
from wafergpt.tasks.base import EvaluationSet, Splits, Task, Teacher
from wafergpt.tasks.ngram_scores import START, Factors, mixed
from wafergpt.tasks.tables import VALIDATION_SHARE, Tables, as_before

if TYPE_CHECKING:
    from torch import Tensor, nn

    from wafergpt.data.batches import Batch

Targets = NDArray[np.int64] | NDArray[np.float64]


class TextTaskSettings(TaskSettings):
    """The settings of every task with one answer per text."""

    text: str = "text"
    label: str = "label"
    cut: Literal["end", "start", "middle"] = "end"
    """Where a text that is too long is cut."""
    pooling: Literal["last", "mean", "max", "mean_max_last"] = "last"
    """How hidden states are pooled for the head; ``last`` is Hugging Face's."""
    ngrams: TextNgrams = "none"
    """Score a text also by its words and pairs of words, as fastText does; with ``characters``, by
    the n-grams of the characters of its words too. The table is trained beside the GPT, each by a
    loss of its own, and both scores are added up."""
    ngram_rows: int = Field(1 << 16, ge=2, le=1 << 26)
    """Rows of that table, which n-grams share by a hash."""
    factors: Factors = START
    """Of the GPT's scores and the n-grams' in that sum; set by the run, from validation rows."""
    word_dropout: float = Field(0.0, ge=0, lt=1)
    """Share of a text's tokens that training replaces by the end-of-text token."""
    end_of_text: int | None = None
    """That token; set by the run."""


CHOSEN = {"pooling", "ngrams", "ngram_rows", "ngram_ratios"}
"""Settings that are chosen by the rows, which are not read by them."""

_read_ahead: dict[str, Tables] = {}
"""Rows that were read to choose settings by, until the training takes them."""


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
            self._tables = _read_ahead.pop(self._source(), None)
        if self._tables is None:
            with working("reading the rows"):
                self._tables = self._read()
            for note in self._tables.notes:
                say(note)
        return self._tables

    def read_ahead(self) -> Tables:
        """Read the rows for the training too that follows, which may choose more settings."""
        _read_ahead.clear()
        _read_ahead[self._source()] = self.tables
        return self.tables

    def _source(self) -> str:
        """Return what the rows depend on: settings, and when the files were written."""
        settings = self.settings
        read = settings.model_dump_json(exclude=CHOSEN)
        named = (settings.train, settings.validation, settings.test)
        times = [path.stat().st_mtime_ns for path in named if path is not None and path.exists()]
        return f"{type(self).__name__} {self.recipe.data.fingerprint} {times} {read}"

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
        if (before := as_before(named, self.recipe.data.fingerprint)) is not None:
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
        tokens, characters = sum(map(len, texts)), sum(map(len, tables.train.texts))
        if tokens > characters:
            say(
                f"warning: the tokenizer takes {tokens / characters:.1f} tokens for a character of "
                "these texts, so it was made for another script, as was the model that reads with "
                "it: start from one of their language, or from scratch"
            )
        weights = self.class_weights(targets)
        ngrams = self._ngrams(tables.train.texts)
        train = LabelledBatches(texts, targets, size, self.recipe.seed, weights, ngrams=ngrams)
        validation, test = (
            None if table is None else self._evaluated(table, tokenizer, name)
            for name, table in (("validation", tables.validation), ("test", tables.test))
        )
        assert validation is not None
        return Splits(train, validation, test, tokens)

    def _evaluated(self, table: Table, tokenizer: Tokenizer, name: str) -> EvaluationSet:
        from wafergpt.data.labelled_batches import LabelledBatches

        texts, targets = self._encode_table(table, tokenizer, name)
        ngrams = self._ngrams(table.texts)
        batches = LabelledBatches(texts, targets, self.evaluation_rows(), None, ngrams=ngrams)
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

    def _ngrams(self, texts: Sequence[str]) -> list[NDArray[np.int32]] | None:
        """Return the n-grams of each whole text, which need not fit the context."""
        kind, rows = self.settings.ngrams, self.settings.ngram_rows
        return None if kind == "none" else [text_ngrams(text, kind, rows) for text in texts]

    def encode(self, inputs: Sequence[Any], tokenizer: Tokenizer) -> EvaluationSet:
        """Return texts as samples, sorted by length."""
        from wafergpt.data.labelled_batches import LabelledBatches

        with working("encoding the texts"):
            texts, _ = self._encode_texts(inputs, tokenizer)
        nothing, ngrams = np.zeros(len(texts), dtype=np.int64), self._ngrams(inputs)
        batches = LabelledBatches(texts, nothing, self.evaluation_rows(), None, ngrams=ngrams)
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

        settings = self.settings
        rows = 0 if settings.ngrams == "none" else settings.ngram_rows
        ratios = self.weighs_ngrams
        return Classifier(GPT(self.recipe.model), self.n_outputs, settings.pooling, rows, ratios)

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
        return _mean_of_each(
            self.scores(network, batch),
            lambda one: self.loss_of(one, targets, weights, training),
        )

    def distilled_loss(self, network: nn.Module, batch: Batch, teacher: Teacher) -> Tensor:
        """Return the loss, a share of it the divergence of each score from the teacher's answer."""
        import torch

        assert isinstance(teacher.task, TextTask)
        with torch.no_grad():
            theirs = teacher.task.scores(teacher.network, batch)
            theirs = mixed(theirs, teacher.task.settings.factors)
        targets, weights, share = batch["targets"], batch.get("weights"), teacher.share
        return _mean_of_each(
            self.scores(network, batch),
            lambda one: (
                (1 - share) * self.loss_of(one, targets, weights, training=True)
                + share * self.divergence(one, theirs, weights)
            ),
        )

    def divergence(self, scores: Tensor, others: Tensor, weights: Tensor | None) -> Tensor:
        """Return how far scores ``[n, n_outputs]`` are from a teacher's, summed over rows.

        Args:
            scores: that are trained.
            others: of the teacher.
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
        ngrams = [batch["ngrams"]] if "ngrams" in batch else []
        scores: Tensor = network(tokens, batch["lengths"], *ngrams)
        return scores


def _mean_of_each(scores: Tensor, loss: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the loss of scores ``[n, n_outputs]``; of two of them, the mean of their own."""
    losses = [loss(one) for one in (scores if scores.ndim == 3 else scores[None])]
    # Trained together, one would stop where the other has learned the rows by heart.
    return sum(losses[1:], losses[0]) / len(losses)
