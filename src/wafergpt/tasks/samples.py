"""Samples of a task and what a network computes for them: encoded rows, inputs, outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from wafergpt.errors import InputError

if TYPE_CHECKING:
    from wafergpt.data.batches import Batches
    from wafergpt.data.length_order import OrderedBatches

Outputs = Mapping[str, NDArray[Any]]
"""The network's outputs for some samples: named arrays ``[samples, …]``."""

InputFormat = Literal["txt", "jsonl", "csv", "tsv", "conll"]
"""Kinds of files that inputs are read from."""

NOTHING_HELD_OUT = (
    "the run has learned from all of its rows, and has no validation rows; after a refit, "
    "NAME-held-out has them"
)


class InputRow(NamedTuple):
    """A row of a file that is predicted.

    Attributes:
        line: where it begins in the file.
        columns: all of its columns.
        value: the input, as ``require_input`` takes it.
        text: it, for people.
        list_key: of the list that it is answered with, all of whose rows have it; None if it is
            answered by itself.
    """

    line: int
    columns: Mapping[str, Any]
    value: Any
    text: str
    list_key: str | None = None


@dataclass(frozen=True)
class EvaluationSet:
    """Samples whose answers are known.

    Attributes:
        batches: the samples.
        references: the answers in the order of the rows, or what else ``compute_metrics`` needs.
        rows: ``[n]``, the row of each sample; None where samples are in the order of rows.
        texts: of the rows, where mistakes are listed with them.
    """

    batches: Batches
    references: Any
    rows: NDArray[np.int64] | None = None
    texts: Sequence[str] = ()

    @classmethod
    def of(
        cls, batches: OrderedBatches, references: Any = None, texts: Sequence[str] = ()
    ) -> EvaluationSet:
        """Return all samples of batches that are in an order of their own."""
        return cls(batches, references, batches.indices(0, batches.samples_per_epoch), texts)


@dataclass(frozen=True)
class Splits:
    """The data of a training, encoded.

    Attributes:
        train: training samples.
        validation: samples that checkpoints are chosen by; None if all are trained on.
        test: samples that the best checkpoint is evaluated on at the end, if any.
        tokens: number of tokens in one pass over ``train``.
    """

    train: Batches
    validation: EvaluationSet | None
    test: EvaluationSet | None
    tokens: int

    @property
    def held_out(self) -> EvaluationSet:
        """The validation samples.

        Raises:
            InputError: if all rows are trained on.
        """
        if self.validation is None:
            raise InputError(NOTHING_HELD_OUT)
        return self.validation


def joined(parts: Sequence[Outputs], rows: NDArray[np.int64] | None) -> Outputs:
    """Concatenate the outputs of batches, in the order of ``rows``."""
    found = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    if rows is None:
        return found
    order = np.argsort(rows, kind="stable")
    return {name: values[order] for name, values in found.items()}
