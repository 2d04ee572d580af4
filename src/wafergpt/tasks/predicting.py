"""What ``predict`` asks of a task: inputs, from a caller or a file, and the answers to them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wafergpt.data.file_formats import counted
from wafergpt.data.labelled_rows import text_rows
from wafergpt.data.text_columns import names_of, shown
from wafergpt.data.tokenizer import Tokenizer
from wafergpt.errors import InputError
from wafergpt.logs import say
from wafergpt.tasks.samples import EvaluationSet, InputFormat, InputRow, Outputs

if TYPE_CHECKING:
    from wafergpt.data.file_formats import FileFormat


def require_no_conll(path: Path, file_format: InputFormat | None) -> FileFormat | None:
    """Refuse CoNLL's form where rows are wanted.

    Args:
        path: the file.
        file_format: as the user named it; None if it is to be detected.

    Returns:
        The same.

    Raises:
        InputError: if it is CoNLL's, which is for tagging.
    """
    if file_format == "conll":
        raise InputError(f"{path}: conll is for task.name=tag")
    return file_format


class Predicting:
    """The part of ``Task`` that reads inputs and writes answers."""

    input_column = "text"
    """The column that ``predict`` reads from a table."""
    occasional: Sequence[str] = ()
    """Keys that only some answers have, each no mapping."""

    def decode(self, outputs: Outputs, inputs: Sequence[Any]) -> list[dict[str, Any]]:
        """Turn outputs into answers, as ``predict`` prints them.

        Args:
            outputs: of the network, ``[inputs, …]``.
            inputs: that they belong to.

        Returns:
            The answer to each input.

        Raises:
            NotImplementedError: if the task has no answers.
        """
        raise NotImplementedError

    def require_input(self, value: object) -> Any:
        """Check one input of ``predict``.

        Args:
            value: as the caller gave it.

        Returns:
            The input as ``encode`` takes it; None if there is nothing to answer.

        Raises:
            InputError: if it is not one, with a message that continues after its index.
        """
        return value

    def inputs_of(self, texts: Sequence[str]) -> list[Any]:
        """Return inputs that are made of texts, without those in which there is nothing."""
        return [given for text in texts if (given := self.require_input(text)) is not None]

    def inputs_of_rows(self, rows: Any) -> list[Any]:
        """Return the inputs of labelled rows of the task, as ``require_input`` returns them."""
        return self.inputs_of(rows.texts)

    def stream_inputs(
        self, path: Path, column: str | None, file_format: InputFormat | None
    ) -> Iterator[InputRow]:
        """Read the inputs of ``predict`` from a file, one after the other.

        Args:
            path: the file.
            column: of the inputs; the recipe's if omitted.
            file_format: the kind of file; detected if omitted.

        Yields:
            A row for each input.

        Raises:
            InputError: if one is none, or there are none.
        """
        kind = require_no_conll(path, file_format)
        names, count = self.columns_named(column), 0
        for line, columns, text in text_rows(path, names, kind):
            count += 1
            yield InputRow(line, columns, text, shown(text))
        if not count:
            raise InputError(f"{path} has no rows")
        say(counted(path, count, file_format=kind, names=names_of(names)))

    def columns_named(self, column: str | None) -> str | tuple[str, ...]:
        """Return the column of inputs, or several, that ``column`` stands for."""
        return column or self.input_column

    def read_inputs(
        self, path: Path, column: str | None, file_format: InputFormat | None
    ) -> tuple[list[Any], list[str]]:
        """Read all inputs of ``predict`` from a file, as ``stream_inputs`` does.

        Args:
            path: the file.
            column: of the inputs; the recipe's if omitted.
            file_format: the kind of file; detected if omitted.

        Returns:
            The inputs, and the text of each for people.

        Raises:
            InputError: if there are none.
        """
        rows = [(row.value, row.text) for row in self.stream_inputs(path, column, file_format)]
        return [value for value, _ in rows], [text for _, text in rows]

    def encode(self, inputs: Sequence[Any], tokenizer: Tokenizer) -> EvaluationSet:
        """Encode inputs as samples without references, for ``outputs``.

        Args:
            inputs: as ``require_input`` returned them.
            tokenizer: of the run.

        Returns:
            The samples.

        Raises:
            NotImplementedError: if the task has no answers.
        """
        raise NotImplementedError
