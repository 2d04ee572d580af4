"""Predictions for a file of any size, written beside its own columns, in bounded memory.

Of a ranking, a list is never divided, and 80 bytes are kept for each.
Rows are read, predicted and written in parts. ``OUT.part`` holds what is written, and
``OUT.part.json`` how much of it is whole and what it was made from; both are gone when OUT appears.
A part depends on the rows alone, so an interrupted file that is continued has the same bytes.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wafergpt import __version__, atomic_files, files
from wafergpt.checkpoint import store
from wafergpt.data.file_formats import require_file, whole
from wafergpt.data.json_rows import TWICE
from wafergpt.data.table_writing import TableKind, header_line, row_line, table_kind
from wafergpt.data.tokenizer_files import SPELLING
from wafergpt.errors import InputError, Interrupted
from wafergpt.files import short
from wafergpt.locks import Lock
from wafergpt.logs import each_kind_once, say, silent
from wafergpt.progress import progress, working
from wafergpt.tasks.base import InputFormat, InputRow

if TYPE_CHECKING:
    from wafergpt.inference.predictor import Predictor

ROWS, CHARACTERS = 1024, 1 << 22
"""Of a part, at most: so much is in memory, and is lost by a kill."""

COLUMNS = 10_000
"""Of a file at most; more are keys of other things."""


@dataclass(frozen=True)
class Written:
    """How much of a file is written.

    Attributes:
        names: columns of the input.
        new: columns that are put beside them.
        total: rows of the input.
        rows: of these, how many are written.
        blank: how many of them have no answer.
        bytes: of the part file that are whole.
    """

    names: Sequence[str]
    new: Sequence[str]
    total: int
    rows: int = 0
    blank: int = 0
    bytes: int = 0


@dataclass(frozen=True)
class PredictionFile:
    """What is predicted, and where it is written.

    Attributes:
        predictor: of the answers.
        source: the file of inputs.
        out: the file to write, a .csv, .tsv or .jsonl.
        column: of the inputs; the recipe's if None.
        file_format: of ``source``; detected if None.
        prefix: of the new columns' names.
    """

    predictor: Predictor
    source: Path
    out: Path
    column: str | None = None
    file_format: InputFormat | None = None
    prefix: str = "predicted"

    def write(self) -> dict[str, Any]:
        """Write the file, or what an interrupted call has left to write.

        Returns:
            ``out``, and its ``rows``; how many of them are ``blank``, and how many were there
            ``before``; and the ``seconds``.

        Raises:
            InputError: if the input cannot be read, has a new column's name, or ``out`` exists or
                was begun with something else.
            Interrupted: on Ctrl-C; what is written by then is kept.
        """
        start = time.monotonic()
        kind = self._require_possible()
        with self._locked():
            plan = self._plan()
            try:
                done = self._begun(plan) or self._begin(kind, plan)
                before = done.rows
                done = self._go_on(kind, plan, done)
            except KeyboardInterrupt:
                raise Interrupted(
                    f"interrupted; {self._part} has what was predicted: the same command goes on"
                ) from None
            atomic_files.sync(self._part)
            self._part.replace(self.out)
            atomic_files.sync(self.out.parent)
            self._state.unlink()
        seconds = time.monotonic() - start
        return {
            "out": str(self.out), "rows": done.rows, "blank": done.blank, "before": before,
            "seconds": seconds,
        }  # fmt: skip

    # --- before ----------------------------------------------------------------------------------

    @property
    def _part(self) -> Path:
        return self.out.with_name(f"{self.out.name}.part")

    @property
    def _state(self) -> Path:
        return self.out.with_name(f"{self.out.name}.part.json")

    def _require_possible(self) -> TableKind:
        require_file(self.source)
        kind = table_kind(self.out)
        files.require_new(self.out, "--out", self.source)
        # One that a call has begun has its state from the first.
        if not self._state.exists() and self._part.exists() and self._part.stat().st_size:
            raise InputError(
                f"{self._part} is in the way, and {self._state.name}, which would tell what it is, "
                "is not there: move it, or choose another --out"
            )
        return kind

    @contextmanager
    def _locked(self) -> Iterator[None]:
        # The lock stays with its file, which becomes the output.
        lock = Lock(self._part)
        if not lock.acquire():
            raise InputError(f"{self._part} is being written by another process: wait for it")
        try:
            yield
        finally:
            if not self._state.exists():
                self._part.unlink(missing_ok=True)
            lock.release()

    def _plan(self) -> dict[str, Any]:
        """Return what the output depends on."""
        run = self.predictor.run
        with working(f"reading {self.source}"):
            return {
                "input": files.sha256(self.source),
                "run": [
                    files.sha256(path)
                    for path in (
                        store.weights(run).folder / "manifest.json",
                        run.path / "recipe.yaml",
                        run.tokenizer,
                        run.tokenizer.with_name(SPELLING),
                    )
                    if path.name != SPELLING or path.is_file()
                ],
                "settings": {
                    "column": self.column, "format": self.file_format, "prefix": self.prefix,
                    "device": str(self.predictor.device), "below": self._below,
                    "wafergpt": __version__,
                },
            }  # fmt: skip

    @property
    def _below(self) -> float:
        """The probability below which no answer is given."""
        return getattr(self.predictor.task.recipe.task, "abstain_below", None) or 0.0

    def _begun(self, plan: Mapping[str, Any]) -> Written | None:
        """Return what an interrupted call has written, if it has begun."""
        if not self._state.is_file():
            return None
        before = files.read_json(self._state, fault="is damaged: remove it")
        try:
            done = Written(**before["written"])
            changed = [key for key in plan if before["plan"][key] != plan[key]]
        except (TypeError, KeyError):
            raise InputError(f"{self._state} is damaged: remove it") from None
        if changed:
            raise InputError(
                f"{self._part} was begun with other {' and '.join(changed)}: remove it and "
                f"{self._state.name}, or choose another --out"
            )
        if self._part.stat().st_size < done.bytes:
            say(f"{self._part} has lost what it held: all rows are predicted again")
            return None
        say(f"going on after {done.rows:,} of {done.total:,} rows of {self.out}")
        return done

    def _begin(self, kind: TableKind, plan: Mapping[str, Any]) -> Written:
        """Read the whole input once, before any of it is predicted and anything is written."""
        names: dict[str, None] = {}
        lists = Lists(self.source)
        total, first = 0, None
        with working(f"reading {self.source}"):
            for row in self._rows():
                total += 1
                names.update(dict.fromkeys(row.columns))
                self._require_columns(row, len(names))
                value = self._value(row)
                if value is not None:
                    lists.require_in_a_row(row)
                first = value if first is None else first
        new = self._new_names(kind, first)
        if taken := [name for name in new if name in names]:
            raise InputError(
                f"{self.source} has a column '{taken[0]}' already: --prefix NAME names the new "
                "ones NAME_…"
            )
        done = Written((*names,), new, total)
        head = header_line(kind, (*names, *new)).encode()
        done = self._save(plan, replace(done, bytes=len(head)))
        self._part.write_bytes(head)
        return done

    def _new_names(self, kind: TableKind, first: Any) -> list[str]:
        """Return the new columns, by the answer to the first input."""
        # What is said of it is said again of all.
        with silent():
            (answer,) = self.predictor.answers([first])
        if answer is not None and kind != "jsonl":
            answer = dict.fromkeys((*answer, *self.predictor.task.occasional)) | answer
        return list(self._new_columns(kind, answer))

    def _new_columns(self, kind: TableKind, answer: Mapping[str, Any] | None) -> dict[str, Any]:
        """Return what an answer adds to a row: in csv and tsv but for the scores of all labels."""
        return {
            f"{self.prefix}_{key}": value
            for key, value in (answer or {}).items()
            if kind == "jsonl" or not isinstance(value, dict)
        }

    def _require_columns(self, row: InputRow, count: int) -> None:
        """Check that a row's columns can be written again."""
        place = f"{self.source}, line {row.line}"
        if count > COLUMNS:
            raise InputError(f"{place}: more than {COLUMNS:,} different columns")
        for name, value in row.columns.items():
            if value is TWICE:
                raise InputError(f"{place}: more than one column '{name}': rename all but one")
            for text in (name, value):
                if isinstance(text, str):
                    whole(text, self.source, row.line)

    # --- rows ------------------------------------------------------------------------------------

    def _rows(self) -> Iterator[InputRow]:
        task = self.predictor.task
        return task.stream_inputs(self.source, self.column, self.file_format)

    def _value(self, row: InputRow) -> Any:
        try:
            return self.predictor.task.require_input(row.value)
        except InputError as error:
            raise InputError(f"{self.source}, line {row.line}: {error}") from None

    def _go_on(self, kind: TableKind, plan: Mapping[str, Any], done: Written) -> Written:
        """Predict and write the rows that are left."""
        os.truncate(self._part, done.bytes)
        with (
            progress("predicting", done.total, "rows", done.rows) as bar,
            each_kind_once(),
            self._part.open("ab") as file,
        ):
            for part in _parts(islice(self._rows(), done.rows, done.total)):
                values = [self._value(row) for row in part]
                answers = self.predictor.answers(values, bar.advance)
                lines = "".join(
                    self._line(kind, done, row, answer)
                    for row, answer in zip(part, answers, strict=True)
                )
                file.write(lines.encode())
                file.flush()
                done = replace(
                    done,
                    rows=done.rows + len(part),
                    blank=done.blank + answers.count(None),
                    bytes=file.tell(),
                )
                # What the state counts is on the disk before it.
                atomic_files.sync(self._part)
                self._save(plan, done)
        if done.rows < done.total or self._plan() != plan:
            raise InputError(f"{self.source} has changed meanwhile: remove {self._part}")
        return done

    def _line(
        self, kind: TableKind, done: Written, row: InputRow, answer: Mapping[str, Any] | None
    ) -> str:
        new = dict.fromkeys(done.new) | self._new_columns(kind, answer)
        if len(new) > len(done.new) and kind != "jsonl":
            raise InputError(
                f"{self.source}, line {row.line}: its answer has a '{list(new)[-1]}', which the "
                "first one had not: a .jsonl takes it"
            )
        return row_line(kind, (*done.names, *done.new), {**row.columns, **new})

    def _save(self, plan: Mapping[str, Any], done: Written) -> Written:
        atomic_files.write_json(self._state, {"plan": plan, "written": asdict(done)})
        return done


class Lists:
    """The lists of a file so far, each of which is answered as a whole."""

    def __init__(self, source: Path) -> None:
        self._source = source
        self._last: str | None = None
        # Of many short lists, their hashes take the least memory.
        self._ended: set[int] = set()

    def require_in_a_row(self, row: InputRow) -> None:
        """Check that a row does not belong to a list that has ended, as parts are read."""
        if row.list_key is None or row.list_key == self._last:
            return
        if hash(row.list_key) in self._ended:
            raise InputError(
                f"{self._source}, line {row.line}: rows of {short(row.list_key)} stood further up, "
                "with others between: --out wants the rows of a list together: sort the file"
            )
        if self._last is not None:
            self._ended.add(hash(self._last))
        self._last = row.list_key


def _parts(rows: Iterable[InputRow]) -> Iterator[list[InputRow]]:
    """Divide rows, but not the rows of a list."""
    part: list[InputRow] = []
    size = 0
    for row in rows:
        full = len(part) >= ROWS or size > CHARACTERS
        if full and (row.list_key is None or row.list_key != part[-1].list_key):
            yield part
            part, size = [], 0
        part.append(row)
        size += _characters(row.columns)
    if part:
        yield part


def _characters(cell: object) -> int:
    """Return about how many characters a cell has, or a list or mapping of them."""
    if isinstance(cell, Mapping):
        return sum(map(_characters, cell.values()))
    if isinstance(cell, list):
        return sum(map(_characters, cell))
    return len(cell) if isinstance(cell, str) else 1
