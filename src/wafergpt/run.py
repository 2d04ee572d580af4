"""A run: one folder with its recipe, metrics, checkpoints, samples and result."""

from __future__ import annotations

import json
import math
import os
import re
import shlex
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
from wafergpt.moved import located
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


def command_line(*words: str | Path, root: Path = RUNS) -> str:
    """Return a ``wafergpt`` command to be pasted into a shell, for a root of runs."""
    where = () if root == RUNS else ("--runs", root)
    return shlex.join(["wafergpt", *map(str, (*words, *where))])


def _row(line: bytes, path: Path) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        reason = "too deep" if isinstance(error, RecursionError) else error
        raise InputError(f"{path} is damaged: {reason}") from None
    if not isinstance(row, dict) or not isinstance(row.get("step", 0), int | float):
        raise InputError(f"{path} is damaged: {line[:40]!r} is no row of numbers")
    return row


CHECKPOINTS = "checkpoints"


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
        if files.is_file(path / "recipe.yaml"):
            raise InputError(
                f"{path} exists: go on with --resume {shlex.quote(str(path))}, "
                "or choose another name=NAME"
            )
        if path.exists() or path.is_symlink():
            raise InputError(
                f"{path} exists, and is no run: remove it, or choose another name=NAME"
            )
        files.require_writable(root, "--runs")

    @classmethod
    def find(cls, name: str | Path, root: Path = RUNS) -> Run:
        """Open a run by its name, its path, or the path of a checkpoint in it.

        The path of a file in it will do as well: its recipe, its report.

        Raises:
            InputError: if there is none, or if a name is that of two runs, one of them in ``root``.
        """
        path = files.from_home(name)
        here, named = _at(path), _at(root / path)
        # A name alone may be either's; with a folder, or a dot, it is a path.
        alone = isinstance(name, str) and name == path.name
        if alone and here and named and not here.path.samefile(named.path):
            raise InputError(f"there are two runs '{name}': write ./{name} or {named.path}")
        if run := here or named:
            return run
        raise InputError(_why_none(name, path, root))

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.path.name if self.path.name not in ("", "..") else self.path.resolve().name

    def command(self, verb: str, *words: str) -> str:
        """Return the command that puts this run (or its one checkpoint) to work, to be pasted."""
        if self.checkpoint or self.name != self.path.name:
            return command_line(verb, self.checkpoint or self.path, *words)
        return command_line(verb, self.name, *words, root=self.path.parent)

    @property
    def checkpoints(self) -> Path:
        """The folder that holds the checkpoints."""
        return self.path / CHECKPOINTS

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
        """The resolved recipe; what was moved together with the run is named where it is now."""
        path = self.path / "recipe.yaml"
        if files.is_file(path) and not path.stat().st_size:
            raise InputError(f"{path} is empty: nothing says what this run is; copy it again")
        return located(load_recipe(path), self.path)

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


def _at(path: Path) -> Run | None:
    """Return the run that is at a path, or that what is there belongs to."""
    if files.is_file(path / "recipe.yaml"):
        return Run(path)
    if not files.exists(path):
        return None
    if path.name == CHECKPOINTS or files.is_file(path):
        # A file of the run's: report.html, or recipe.yaml itself.
        owner = path.parent
        if files.is_file(owner / "recipe.yaml") and (owner / CHECKPOINTS).is_dir():
            return Run(owner)
    folder = path.parent if files.is_file(path) else path
    if folder.parent.name == CHECKPOINTS and files.is_file(folder / "manifest.json"):
        return Run(folder.parent.parent, folder)
    return None


def _why_none(name: str | Path, path: Path, root: Path) -> str:
    """Say in one line what is there instead of a run."""
    there = next((p for p in (path, root / path) if files.exists(p)), None)
    if there is None:
        names = [p.parent.name for p in root.glob("*/recipe.yaml")]
        return f"no run '{name}'{nearest(str(name), names) or f' (looked in {root}/ too)'}"
    if not there.is_dir():
        return f"no run '{name}': {there} is a file, and belongs to none"
    if files.is_file(there / "corpus.json"):
        return f"no run '{name}': {there} is a corpus, for wafergpt pretrain data.corpus={there}"
    if files.is_file(there / "config.json"):
        return (
            f"no run '{name}': {there} has a config.json; if it is a model of Hugging Face's, "
            f"wafergpt import {there} --name NAME makes a run of it"
        )
    if there.parent.name == CHECKPOINTS:
        return f"no run '{name}': the checkpoint {there} has lost its manifest.json"
    return f"no run '{name}': {there} has no recipe.yaml"
