"""The labelled rows of a task."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic

from wafergpt.config import TaskSettings
from wafergpt.data.labelled_rows import Table
from wafergpt.data.labelled_split import R, hold_out
from wafergpt.errors import InputError

VALIDATION_SHARE: float = TaskSettings.model_fields["held_out"].default
"""Share of the training rows that is held out where nothing else is asked for."""


@dataclass(frozen=True)
class SplitRows(Generic[R]):
    """The labelled rows of a task, and notes on them, one line each."""

    train: R
    validation: R | None
    test: R | None
    notes: tuple[str, ...] = ()

    def fingerprint(self) -> str:
        """Return a hash of all rows."""
        digest = hashlib.sha256()
        for rows in (self.train, self.validation, self.test):
            for text, label in [] if rows is None else zip(rows.texts, rows.labels, strict=True):
                digest.update(f"{len(text)} {label}\n{text}\n".encode("utf-8", "surrogatepass"))
        return digest.hexdigest()


Tables = SplitRows[Table]
"""Those of a task with one answer per text."""


def as_before(named: Mapping[str, Table], fingerprint: str | None) -> Tables | None:
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
