"""A run: one folder with its recipe, metrics, checkpoints, samples and result."""

from __future__ import annotations

import json
import math
import os
import re
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from wafergpt import atomic_files, files
from wafergpt.config import Recipe, load_recipe
from wafergpt.config.files import ROW_FILES
from wafergpt.errors import InputError, nearest
from wafergpt.runs.holding import held, hold_new
from wafergpt.runs.moved import located

RUNS = Path("runs")
"""Where runs are looked up by name, below the current folder."""

SCRATCH = "scratch"
"""In place of a run to start from: fresh weights."""

SHIPPED = Path(__file__).parents[1] / "shipped"
"""Where names are looked up last: the runs that come with the package, which nothing writes to."""

CHECKPOINTS = "checkpoints"

PROMPT = "The"
"""Of a language model, if no text is available."""

OUTPUTS = "outputs.safetensors"
"""The outputs of a task's best checkpoint for the rows that it was evaluated on."""

ROW_BYTES = 1 << 20
"""A longer line is no row of metrics.jsonl."""


def command_line(*words: str | Path, root: Path = RUNS) -> str:
    """Return a ``wafergpt`` command to be pasted into a shell, for a root of runs."""
    where = () if root == RUNS else ("--runs", root)
    return shlex.join(["wafergpt", *map(str, (*words, *where))])


@dataclass(frozen=True)
class Run:
    """A run's folder, and its contents.

    Attributes:
        path: the folder.
        checkpoint: the checkpoint that was asked for by its path, else None.
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
            asked: the recipe before anything was derived or detected, if this process will train
                the run, which it then holds from the start.

        Returns:
            The new run.

        Raises:
            InputError: if the folder exists.
        """
        cls.require_new(recipe.name, root)
        run = cls(root / recipe.name)
        with atomic_files.appearing(run.path) as temporary:
            unfinished = cls(temporary)
            unfinished.checkpoints.mkdir()
            unfinished.save_recipe(recipe)
            if asked is not None:
                unfinished.write("asked", asked)
                hold_new(run.path, temporary)
        return run

    @classmethod
    def require_new(cls, name: str, root: Path = RUNS) -> None:
        """Require that a run of this name can be made.

        Args:
            name: of the new run.
            root: the folder that holds runs.

        Raises:
            InputError: if it exists, or its folder cannot be written.
        """
        path = root / name
        if files.is_file(path / "recipe.yaml"):
            raise InputError(
                f"{path} exists: resume it with --resume {shlex.quote(str(path))}, "
                "or choose another name=NAME"
            )
        if path.exists() or path.is_symlink():
            raise InputError(
                f"{path} exists, and is no run: remove it, or choose another name=NAME"
            )
        files.require_writable(root, "--runs")

    @classmethod
    def find(cls, name: AnyRun, root: Path = RUNS) -> Run:
        """Open a run by its name, or by its path or that of a checkpoint or file in it.

        A name that is not found may be that of a run which comes with the package.

        Args:
            name: the name or path; a ``Run`` is returned as it is, and that of a predictor.
            root: the folder in which names are looked up.

        Returns:
            The run; with its ``checkpoint`` set if one was named.

        Raises:
            InputError: if there is none, or a name is that of two runs, one of them in ``root``.
        """
        name = getattr(name, "run", name)
        if isinstance(name, Run):
            return name
        if not isinstance(name, str | os.PathLike):
            raise InputError(f"a run is wanted, or its name or path, not {files.short(name)}")
        path = files.from_home(name)
        here, named = _at(path), _at(root / path)
        # A bare name may be of either; with a folder, or a dot, it is a path.
        alone = isinstance(name, str) and name == path.name
        if alone and here and named and not here.path.samefile(named.path):
            raise InputError(f"there are two runs '{name}': write ./{name} or {named.path}")
        shipped = _at(SHIPPED / path) if path == Path(path.name) else None
        if run := here or named or shipped:
            return run
        raise InputError(_why_none(name, path, root))

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.path.name if self.path.name not in ("", "..") else self.path.resolve().name

    def command(self, verb: str, *words: str) -> str:
        """Return a shell command on this run, or on its one checkpoint."""
        if self.checkpoint or self.name != self.path.name:
            return command_line(verb, self.checkpoint or self.path, *words)
        root = RUNS if self.shipped else self.path.parent
        return command_line(verb, self.name, *words, root=root)

    def usage(self, prompt: str = PROMPT) -> str:
        """Return the command that uses the run: on a text, on a file, or on a prompt.

        Args:
            prompt: for a language model.

        Returns:
            One line of shell.
        """
        task = self.recipe.task
        return self.command(*(("generate", "--prompt", prompt) if task is None else task.usage()))

    @property
    def shipped(self) -> bool:
        """Whether it comes with the package, and is read only."""
        return self.path.resolve().parent == SHIPPED.resolve()

    @property
    def checkpoints(self) -> Path:
        """The folder that holds the checkpoints."""
        return self.path / CHECKPOINTS

    @contextmanager
    def held(self) -> Iterator[None]:
        """Lock this run for training; the lock of a process that dies is released.

        Raises:
            InputError: if another process trains in it.
        """
        with held(self.path):
            yield

    @property
    def tokenizer(self) -> Path:
        """The tokenizer that the model reads with, copied from its corpus."""
        return self.path / "tokenizer.json"

    @property
    def recipe(self) -> Recipe:
        """The resolved recipe, with paths that were moved together with the run updated."""
        path = self.path / "recipe.yaml"
        if files.is_file(path) and not path.stat().st_size:
            raise InputError(f"{path} is empty: the run's recipe is lost; copy it again")
        return located(load_recipe(path), self.path)

    def save_recipe(self, recipe: Recipe) -> None:
        """Write the resolved recipe."""
        atomic_files.write_text(self.path / "recipe.yaml", recipe.to_yaml())

    def log(self, row: Mapping[str, Any]) -> None:
        """Append one row to metrics.jsonl."""
        with (self.path / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def metrics(self) -> list[dict[str, Any]]:
        """Read metrics.jsonl, without a last line that a kill cut short.

        Returns:
            One row per step, oldest first.

        Raises:
            InputError: if a line before it is no JSON object, or the run's folder is gone.
        """
        path = self.path / "metrics.jsonl"
        if not path.is_file():
            self._require_there()
            return []
        rows = []
        with path.open("rb") as file:
            while (line := file.readline(ROW_BYTES)).endswith(b"\n"):
                if line.strip():
                    rows.append(_row(line, path))
        if len(line) == ROW_BYTES:
            raise InputError(f"{path} is damaged: a line is longer than {ROW_BYTES >> 10} KiB")
        return rows

    def _require_there(self) -> None:
        """Require the folder, which a relative path names from where it was opened alone."""
        if not files.exists(self.path):
            raise InputError(f"the run {self.path} is not there (looked from {Path.cwd()})")

    def rewind(self, step: int) -> None:
        """Drop the metrics and samples after ``step``, which a resumed run writes again."""
        rows = [row for row in self.metrics() if row.get("step", math.inf) <= step]
        atomic_files.write_text(
            self.path / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows)
        )
        samples = self.path / "samples.md"
        if samples.is_file():
            # Sampled lines are quoted, so that only our own headings match.
            text = samples.read_text(encoding="utf-8", errors="replace")
            chapters = re.findall(r"(?ms)^## step (\d{1,18})\b(.*?)(?=^## step |\Z)", text)
            kept = [f"## step {number}{rest}" for number, rest in chapters if int(number) <= step]
            atomic_files.write_text(samples, "".join(kept))

    def read(self, name: str) -> Any:
        """Read one of the run's JSON files.

        Args:
            name: without its extension: ``result``, ``plan``, ``comparison``.

        Returns:
            Its value, or None if there is no such file.

        Raises:
            InputError: if it is not JSON, or the run's folder is gone.
        """
        path = self.path / f"{name}.json"
        if path.is_file():
            return files.read_json(path, fault="is damaged")
        self._require_there()
        return None

    def write(self, name: str, value: Any) -> None:
        """Write one of the run's JSON files."""
        atomic_files.write_json(self.path / f"{name}.json", value)

    def read_outputs(self) -> dict[str, NDArray[Any]]:
        """Return the arrays of ``write_outputs``; {} if there are none that can be read."""
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        path = self.path / OUTPUTS
        self._require_there()
        try:
            return load_file(path) if path.is_file() else {}
        # A type that numpy lacks is a TypeError.
        except (OSError, SafetensorError, TypeError, ValueError, KeyError):
            return {}

    def outputs_of(self, part: str) -> dict[str, NDArray[Any]]:
        """Return the outputs for ``validation`` or ``test`` rows by name; {} if there are none."""
        start = f"{part}/"
        found = self.read_outputs().items()
        return {name.removeprefix(start): kept for name, kept in found if name.startswith(start)}

    def write_outputs(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Write the outputs of the best checkpoint for the rows that it was evaluated on.

        Args:
            arrays: by ``test/…`` or ``validation/…``, ``[n, …]`` in the order of the rows.
        """
        from safetensors.numpy import save_file

        with atomic_files.replacing(self.path / OUTPUTS) as temporary, files.system_errors():
            save_file(dict(arrays), temporary)


class HasRun(Protocol):
    """Anything that was loaded from a run, such as a predictor."""

    @property
    def run(self) -> Run:
        """The run."""


AnyRun = Run | HasRun | str | Path
"""A run or what was loaded from it, its name, or its path or that of a checkpoint in it."""


def _at(path: Path) -> Run | None:
    """Return the run at a path, or the one that contains the path."""
    if files.is_file(path / "recipe.yaml"):
        return Run(path)
    if not files.exists(path):
        return None
    if path.name == CHECKPOINTS or files.is_file(path):
        # A file of the run, such as report.html or recipe.yaml itself.
        owner = path.parent
        if files.is_file(owner / "recipe.yaml") and (owner / CHECKPOINTS).is_dir():
            return Run(owner)
    folder = path.parent if files.is_file(path) else path
    if folder.parent.name == CHECKPOINTS and files.is_file(folder / "manifest.json"):
        return Run(folder.parent.parent, folder)
    return None


def _why_none(name: str | Path, path: Path, root: Path) -> str:
    """Describe in one line what a path is instead of a run."""
    there = next((p for p in (path, root / path) if files.exists(p)), None)
    if there is None:
        names = [p.parent.name for place in (root, SHIPPED) for p in place.glob("*/recipe.yaml")]
        return f"no run '{name}'{nearest(str(name), names) or f' (looked in {root}/ too)'}"
    if not there.is_dir():
        if there.suffix.lower() in ROW_FILES:
            return f"no run '{name}': labelled rows are named task.train={there}, after the run"
        return f"no run '{name}': {there} is a file, and belongs to none"
    if files.is_corpus(there):
        return f"no run '{name}': {there} is a corpus, for wafergpt pretrain data.corpus={there}"
    if files.is_file(there / "config.json"):
        return (
            f"no run '{name}': {there} has a config.json; if it is a model of Hugging Face's, "
            f"wafergpt import {there} --name NAME makes a run of it"
        )
    if there.parent.name == CHECKPOINTS:
        return f"no run '{name}': the checkpoint {there} has lost its manifest.json"
    return f"no run '{name}': {there} has no recipe.yaml"


def _row(line: bytes, path: Path) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        reason = "too deep" if isinstance(error, RecursionError) else error
        raise InputError(f"{path} is damaged: {reason}; remove the line {line[:40]!r}") from None
    if not isinstance(row, dict) or not isinstance(row.get("step", 0), int | float):
        raise InputError(f"{path} is damaged: {line[:40]!r} is no row of numbers")
    return row
