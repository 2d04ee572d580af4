"""A run: one folder with its recipe, metrics, checkpoints, samples and result."""

from __future__ import annotations

import json
import math
import os
import re
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wafergpt import files
from wafergpt.config import Recipe, load_recipe
from wafergpt.errors import InputError, nearest
from wafergpt.locks import Lock
from wafergpt.progress import say

RUNS = Path("runs")
"""Where runs are looked up by name, below the current folder."""

ROW_BYTES = 1 << 20
"""A longer line is no row of metrics.jsonl."""


LOCK = ".lock"

HOLDER = "holder"
"""Says for people who trains in the run."""

CLOCK_SECONDS = 2.0
"""By which a file system's clock may be behind."""

_created: dict[Path, Lock] = {}
"""Locks of runs that this process has made and not trained yet."""


def _row(line: bytes, path: Path) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        reason = "too deep" if isinstance(error, RecursionError) else error
        raise InputError(f"{path} is damaged: {reason}") from None
    if not isinstance(row, dict) or not isinstance(row.get("step", 0), int | float):
        raise InputError(f"{path} is damaged: {line[:40]!r} is no row of numbers")
    return row


def _lives_since(process: int, file: Path) -> bool:
    """Say whether a process lives that is older than a file; a later one has only its number."""
    import psutil

    try:
        return psutil.Process(process).create_time() <= file.stat().st_mtime + CLOCK_SECONDS
    except (psutil.Error, OSError):
        return False


@dataclass(frozen=True)
class Run:
    """A run's folder, and what is in it.

    Attributes:
        path: the folder.
        checkpoint: the one checkpoint that was asked for by its path, else None.
    """

    path: Path
    checkpoint: Path | None = None

    @classmethod
    def create(
        cls, recipe: Recipe, root: Path = RUNS, asked: Mapping[str, Any] | None = None
    ) -> Run:
        """Make a new run folder for ``recipe``; it appears whole or not at all.

        Args:
            recipe: whose name it takes.
            root: the folder that holds runs.
            asked: the recipe before anything was derived or detected, if it will be trained by
                this process, which holds the run from the first moment on.

        Raises:
            InputError: if the folder exists.
        """
        cls.require_new(recipe.name, root)
        run = cls(root / recipe.name)
        with files.appearing(run.path) as temporary:
            unfinished = cls(temporary)
            unfinished.checkpoints.mkdir()
            unfinished.save_recipe(recipe)
            if asked is not None:
                unfinished.write("asked", asked)
                # A lock goes with its file, whatever the name of the folder.
                _created[run.path] = Lock(temporary / LOCK)
                _created[run.path].acquire()
        return run

    @classmethod
    def require_new(cls, name: str, root: Path = RUNS) -> None:
        """Check that a run of this name can be made.

        Raises:
            InputError: if it exists, or its folder cannot be written.
        """
        path = root / name
        if path.exists():
            raise InputError(
                f"{path} exists: go on with --resume {path}, or choose another name=NAME"
            )
        files.require_writable(root, "--runs")

    @classmethod
    def find(cls, name: str | Path, root: Path = RUNS) -> Run:
        """Open a run by its name, its path, or the path of a checkpoint in it.

        Raises:
            InputError: if there is none.
        """
        for path in (Path(name), root / name):
            if files.is_file(path / "recipe.yaml"):
                return cls(path)
            if files.is_file(path / "manifest.json") and path.parent.name == "checkpoints":
                return cls(path.parent.parent, path)
        names = [p.parent.name for p in root.glob("*/recipe.yaml")]
        raise InputError(
            f"no run '{name}'{nearest(str(name), names) or f' (looked in {root}/ too)'}"
        )

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.path.name

    @property
    def checkpoints(self) -> Path:
        """The folder that holds the checkpoints."""
        return self.path / "checkpoints"

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep every other process from training in this run; a process that dies lets go of it.

        Raises:
            InputError: if another one trains in it now.
        """
        lock = _created.pop(self.path, None)
        if lock is None:
            lock = Lock(self.path / LOCK)
            if not lock.acquire():
                raise self._in_use(self._holder() or "another process")
        try:
            if not lock.works:
                self._require_no_holder()
            holder = self.path / HOLDER
            files.write_text(holder, f"process {os.getpid()} on {socket.gethostname()}\n")
            try:
                yield
            finally:
                holder.unlink(missing_ok=True)
        finally:
            lock.release()

    def _in_use(self, by: str) -> InputError:
        return InputError(f"{self.path} is in use by {by}: wait for it, or stop it first")

    def _holder(self) -> str:
        """Return what the process that trains here, or was killed here, has left of itself."""
        try:
            return (self.path / HOLDER).read_text(encoding="utf-8", errors="replace")[:100].strip()
        except OSError:
            return ""

    def _require_no_holder(self) -> None:
        """Do what can be done without locks to find another process that trains here.

        Raises:
            InputError: if one on this machine does.
        """
        who = self._holder()
        found = re.fullmatch(r"process (\d{1,18}) on (.+)", who)
        if not found:
            return
        number, host = int(found[1]), found[2]
        if host != socket.gethostname():
            say(f"warning: {self.path} was in use by {who}: if it still is, stop one of the two")
        elif number != os.getpid() and _lives_since(number, self.path / HOLDER):
            raise self._in_use(who)

    @property
    def tokenizer(self) -> Path:
        """The tokenizer that the model reads with, copied from its corpus."""
        return self.path / "tokenizer.json"

    @property
    def recipe(self) -> Recipe:
        """The resolved recipe."""
        return load_recipe(self.path / "recipe.yaml")

    def save_recipe(self, recipe: Recipe) -> None:
        """Write the recipe with all that was derived and detected."""
        files.write_text(self.path / "recipe.yaml", recipe.to_yaml())

    def log(self, row: Mapping[str, Any]) -> None:
        """Append one row to metrics.jsonl."""
        with (self.path / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def metrics(self) -> list[dict[str, Any]]:
        """Read metrics.jsonl; a last line that a kill cut short is left out.

        Raises:
            InputError: if a line before it is no JSON object.
        """
        path = self.path / "metrics.jsonl"
        if not path.is_file():
            return []
        rows = []
        with path.open("rb") as file:
            while (line := file.readline(ROW_BYTES)).endswith(b"\n"):
                if line.strip():
                    rows.append(_row(line, path))
        if len(line) == ROW_BYTES:
            raise InputError(f"{path} is damaged: a line is longer than {ROW_BYTES >> 10} KiB")
        return rows

    def rewind(self, step: int) -> None:
        """Drop the metrics and samples after ``step``, which a resumed run will write again."""
        rows = [row for row in self.metrics() if row.get("step", math.inf) <= step]
        files.write_text(
            self.path / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows)
        )
        samples = self.path / "samples.md"
        if samples.is_file():
            # Sampled lines are quoted, so that only our own headings start like one.
            text = samples.read_text(encoding="utf-8", errors="replace")
            chapters = re.findall(r"(?ms)^## step (\d{1,18})\b(.*?)(?=^## step |\Z)", text)
            kept = [f"## step {number}{rest}" for number, rest in chapters if int(number) <= step]
            files.write_text(samples, "".join(kept))

    def read(self, name: str) -> Any:
        """Read one of the run's JSON files (``result``, ``plan``, ``comparison``), or None.

        Raises:
            InputError: if it is there and is not JSON.
        """
        path = self.path / f"{name}.json"
        return files.read_json(path, fault="is damaged") if path.is_file() else None

    def write(self, name: str, value: Any) -> None:
        """Write one of the run's JSON files."""
        files.write_json(self.path / f"{name}.json", value)
