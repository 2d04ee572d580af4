"""What tasks that learn from labelled rows share: reading, held-out rows, and the recipe."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal

import numpy as np
from numpy.typing import NDArray

from wafergpt.config import Recipe, TaskSettings
from wafergpt.data.folds import dealt
from wafergpt.data.given_texts import text_or_none
from wafergpt.data.labelled_split import R, hold_out, same_texts
from wafergpt.data.row_checks import in_short
from wafergpt.data.row_sources import listed, row_files, together
from wafergpt.data.tokenizer import Tokenizer, warn_of_another_script
from wafergpt.errors import InputError
from wafergpt.evaluation.intervals import Bootstrap
from wafergpt.logs import is_worker, say
from wafergpt.planning.intervals import DEFAULT_EPOCHS
from wafergpt.progress import working
from wafergpt.tasks import rows_ahead
from wafergpt.tasks.base import NOTHING_HELD_OUT, EvaluationSet, Outputs, Splits, Task
from wafergpt.tasks.tables import SplitRows


class LabelledTask(Task, Generic[R]):
    """A task that learns from labelled rows.

    Args:
        recipe: of the training, resolved or not.

    Attributes:
        chosen: settings that are chosen by the rows, which are not read by them.
        formats: what files of labelled rows may be, for people.
        pooled: whether outputs of networks that were trained apart can be judged together.
    """

    chosen: ClassVar[frozenset[str]] = frozenset()
    formats: ClassVar[str] = "csv, tsv or jsonl"
    pooled: ClassVar[bool] = True

    def __init__(self, recipe: Recipe) -> None:
        super().__init__(recipe)
        self._tables: SplitRows[R] | None = None
        self._by_letter = False

    @property
    def settings(self) -> TaskSettings:
        """The recipe's section ``task``."""
        assert self.recipe.task is not None
        return self.recipe.task

    @abstractmethod
    def read_rows(self, path: Path) -> R:
        """Read a file of labelled rows.

        Args:
            path: the file.

        Returns:
            The rows.

        Raises:
            InputError: if it is none.
        """

    @property
    def tables(self) -> SplitRows[R]:
        """The labelled rows, read once; validation rows are held out where none are named.

        Raises:
            InputError: if the rows are unusable, or the labels cannot be trained on.
        """
        if self._tables is None:
            self._tables = rows_ahead.take(self)
        if self._tables is None:
            with working("reading the rows"):
                self._tables = self._read()
            for note in self._tables.notes:
                say(note)
        return self._tables

    def read_ahead(self) -> SplitRows[R]:
        """Read the rows for the training too that follows, which may choose more settings."""
        rows_ahead.keep(self, self.tables)
        return self.tables

    @abstractmethod
    def with_choices(self, asked: Collection[str]) -> Recipe:
        """Choose the settings of a fine-tuning by the rows.

        Args:
            asked: keys as in ``train.epochs``, which stay as they are.

        Returns:
            The recipe with what was chosen.
        """

    def read_named(self) -> dict[str, R]:
        """Read the files of rows that are named: ``train``, and perhaps the others.

        A path may be a pattern of several files; that of ``train`` may be a folder with the others.

        Returns:
            The rows of each, as they are written.

        Raises:
            InputError: if the recipe names none to train on, or they cannot be read.
        """
        settings = self.settings
        if settings.train is None:
            raise InputError(f"which labelled rows? add task.train=FILE ({self.formats})")
        named = settings.sources
        found = row_files(named)
        if settings.train.is_dir():
            say(f"{settings.train}: {listed(found)}")
        return {
            name: together([self.read_rows(path) for path in paths], named[name] or paths[0].parent)
            for name, paths in found.items()
        }

    def class_names(self, table: R) -> Sequence[str]:
        """Return the classes of all rows, if a text has one right answer; none by default.

        Args:
            table: rows of the task.

        Returns:
            As many as there are labels, or labelled parts of texts.
        """
        return ()

    def _read(self) -> SplitRows[R]:
        named = self.read_named()
        if (before := self.as_before(named)) is not None:
            return before
        notes = [note for table in named.values() for note in table.notes]
        named, more = self.settle(named)
        if not is_worker():
            more += in_short(named, bool(self.class_names(named["train"])))
        tables = self._split(named)
        if self.recipe.data.fingerprint not in (None, tables.fingerprint()):
            # Older versions told texts apart by their letters.
            self._by_letter = True
            before = self._split(named)
            self._by_letter = before.fingerprint() == self.recipe.data.fingerprint
            tables = before if self._by_letter else tables
        return replace(tables, notes=(*notes, *more, *tables.notes))

    def _split(self, named: Mapping[str, R]) -> SplitRows[R]:
        train, validation, notes = named["train"], named.get("validation"), list[str]()
        if validation is None:
            train, validation, notes = self._divided(train)
        return SplitRows(train, validation, named.get("test"), tuple(notes))

    def as_before(self, named: Mapping[str, R]) -> SplitRows[R] | None:
        """Return the rows as older versions read them, if the run's are those."""
        return None

    def settle(self, tables: dict[str, R]) -> tuple[dict[str, R], list[str]]:
        """Settle the spelling of the answers in all tables.

        Args:
            tables: ``train``, and ``validation`` and ``test`` where there are any.

        Returns:
            The tables, and notes on them.

        Raises:
            InputError: if the answers cannot be learned, or are ambiguous.
        """
        return tables, []

    def _divided(self, train: R) -> tuple[R, R | None, list[str]]:
        settings = self.settings
        if settings.folds:
            return *self.of_fold(train, settings.fold), []
        if not settings.held_out:
            return (
                train,
                None,
                ["all rows are trained on, so the last checkpoint is taken as it is"],
            )
        return self.hold_out(train)

    def hold_out(self, train: R) -> tuple[R, R, list[str]]:
        """Split the training rows into train and validation, and return notes on the split."""
        return *hold_out(train, self.settings.held_out, by=self.known_by(train.texts)), []

    def known_by(self, texts: Sequence[str]) -> Sequence[str]:
        """Return what names each text, so that the same ones are held out together."""
        return texts if self._by_letter else same_texts(texts)

    def of_fold(self, rows: R, fold: int) -> tuple[R, R]:
        """Split rows into those that a fold's training learns from, and those it holds out."""
        held = self.folds_of(rows) == fold - 1
        return rows.take(np.flatnonzero(~held)), rows.take(np.flatnonzero(held))

    def folds_of(self, rows: R) -> NDArray[np.int64]:
        """Return the fold ``[n]`` of each row, from 0."""
        return dealt(self.known_by(rows.texts), self.settings.folds, self.classes_of(rows))

    def classes_of(self, rows: R) -> Sequence[str] | None:
        """Return the class of each row, if every fold is to have its share of each."""
        return None

    def resampled(self, outputs: Outputs, references: Any) -> Bootstrap | None:
        """Compute metrics on resamples of the rows, for intervals and paired tests.

        Args:
            outputs: of the rows.
            references: their answers.

        Returns:
            Those metrics that are known of each row; None if there are none.
        """
        return None

    def intervals(self, outputs: Outputs, references: Any) -> dict[str, list[float]]:
        """Return the 95% intervals of metrics, of those that have one.

        Args:
            outputs: of the rows.
            references: their answers.

        Returns:
            Both ends by name.
        """
        sampled = self.resampled(outputs, references)
        return {} if sampled is None else sampled.intervals()

    def from_rows(self, tables: SplitRows[R]) -> dict[str, Any]:
        """Derive keys of the section ``task`` from the rows.

        Args:
            tables: all rows, settled.

        Returns:
            Values by key.

        Raises:
            InputError: if the task cannot be learned from them.
        """
        return {}

    def texts(self) -> Iterator[str]:
        """Yield the training texts."""
        return self.texts_of(self.tables.train)

    def texts_of(self, table: R) -> Iterator[str]:
        """Yield all texts that are read in rows."""
        yield from table.texts

    def prepare(self, tokenizer: Tokenizer) -> tuple[Recipe, Splits]:
        """Read the rows; where the recipe sets no horizon, three epochs are trained."""
        tables = self.tables
        recipe = self._resolved(tables, tokenizer)
        if recipe.start is not None:
            warn_of_another_script(tokenizer, self.texts())
        task = type(self)(recipe)
        with working("encoding the rows"):
            return recipe, task.encoded(tables, tokenizer)

    @abstractmethod
    def encoded(self, tables: SplitRows[R], tokenizer: Tokenizer) -> Splits:
        """Encode the rows of a resolved recipe."""

    def validation(self, tokenizer: Tokenizer) -> EvaluationSet:
        """Encode the validation rows alone."""
        return self.part("validation", tokenizer)

    def part(self, name: Literal["validation", "test"], tokenizer: Tokenizer) -> EvaluationSet:
        """Encode the rows of one part of a resolved recipe's data.

        Args:
            name: of the part.
            tokenizer: of the model.

        Returns:
            The samples with their answers.

        Raises:
            InputError: if the rows are not those of the training, or there are none.
        """
        return self.evaluated(self.rows(name), tokenizer, name)

    def rows(self, name: Literal["train", "validation", "test"]) -> R:
        """Return the rows of one part of a resolved recipe's data.

        Args:
            name: of the part.

        Returns:
            The rows, as they were in the training.

        Raises:
            InputError: if they are not those of the training, or there are none.
        """
        if self.tables.fingerprint() != self.recipe.data.fingerprint:
            raise InputError(f"the rows of {self.settings.train} are not those of the training")
        table: R | None = getattr(self.tables, name)
        if table is None:
            raise InputError(NOTHING_HELD_OUT if name == "validation" else "there are no test rows")
        return table

    def all_evaluated(
        self, tables: SplitRows[R], tokenizer: Tokenizer
    ) -> tuple[EvaluationSet | None, EvaluationSet | None]:
        """Encode the validation and the test rows, where there are any."""
        validation, test = (
            None if table is None else self.evaluated(table, tokenizer, name)
            for name, table in (("validation", tables.validation), ("test", tables.test))
        )
        return validation, test

    @abstractmethod
    def evaluated(self, table: R, tokenizer: Tokenizer, name: str = "validation") -> EvaluationSet:
        """Encode rows of a resolved recipe whose answers are known.

        Args:
            table: the rows.
            tokenizer: of the model.
            name: ``validation`` or ``test``, for people; a task that writes answers writes some of
                the first, and all of the second.

        Returns:
            The samples.
        """

    def _resolved(self, tables: SplitRows[R], tokenizer: Tokenizer) -> Recipe:
        recipe, settings, train = self.recipe, self.settings, self.recipe.train
        fingerprint = tables.fingerprint()
        if recipe.data.fingerprint not in (None, fingerprint):
            raise InputError(
                f"the labelled rows are not those that this run started with: {settings.train}"
            )
        if train.tokens:
            raise InputError("fine-tuning counts in train.epochs, train.steps or train.seconds")
        paths = {key: path and path.resolve() for key, path in settings.sources.items()}
        horizon = train.steps or train.epochs or train.seconds
        decided = {"max_tokens": self.limit, **self.from_tokenizer(tokenizer)}
        return recipe.replace(
            task={**decided, **paths, **self.from_rows(tables)},
            data={"fingerprint": fingerprint},
            # An imported model may have more rows than its tokenizer has tokens.
            model={"vocab_size": max(recipe.model.vocab_size, tokenizer.vocab_size)},
            train={} if horizon else {"epochs": DEFAULT_EPOCHS},
        )

    def from_tokenizer(self, tokenizer: Tokenizer) -> dict[str, Any]:
        """Return values of keys of the section ``task`` that the tokenizer decides."""
        return {}

    @property
    def limit(self) -> int:
        """Tokens of a row, or of a part of it, at most."""
        context = self.recipe.model.seq_len
        limit = self.settings.max_tokens or context
        if limit > context:
            raise InputError(
                f"task.max_tokens={limit} is more than the model's context of {context}"
            )
        return limit

    def warn_of_cut(self, cut: int, of: int, what: str, where: str = "") -> None:
        """Say how many texts are longer than what is read of one, if any is, and how it is set."""
        if cut:
            by = f" (task.cut={where})" if where else ""
            say(
                f"warning: {cut:,} of {of:,} {what} are longer than {self.limit} tokens; what is "
                f"beyond is cut{by}"
            )

    def require_batch(self, rows: int) -> None:
        """Require as many training rows as a batch has.

        Args:
            rows: their number.

        Raises:
            InputError: if there are fewer.
        """
        size = self.recipe.train.batch_size
        if rows < size:
            raise InputError(
                f"{rows} training rows are less than one batch of {size}: lower train.batch_size"
            )

    def require_input(self, value: object) -> Any:
        """Return a text, or None where there is none: blank, None, NaN."""
        return text_or_none(value)
