"""Benchmarks that are measured cell by cell: what was measured is kept, and not measured again."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from wafergpt import atomic_files

Cell = dict[str, Any]


class Cells(dict[str, Cell]):
    """The cells measured so far by name, in ``cells.json`` of a folder."""

    def __init__(self, out: Path) -> None:
        self.out = out.resolve()
        self.out.mkdir(parents=True, exist_ok=True)
        self._file = self.out / "cells.json"
        super().__init__(json.loads(self._file.read_text()) if self._file.exists() else {})

    def measure(self, name: str, cell: Callable[[], Cell]) -> None:
        """Measure a cell that is not there yet, keep it, and print it without its lists."""
        if name not in self:
            self[name] = cell()
            atomic_files.write_json(self._file, self)
            shown = {key: value for key, value in self[name].items() if not isinstance(value, list)}
            print(name, shown, flush=True)


def parser(doc: str, out: str) -> argparse.ArgumentParser:
    """Return a parser with what such benchmarks have in common.

    Args:
        doc: docstring of the benchmark, whose first line describes it.
        out: name of the folder that cells are kept in unless asked otherwise.
    """
    made = argparse.ArgumentParser(description=doc.splitlines()[0])
    made.add_argument("--out", type=Path, default=Path(out))
    made.add_argument("--table", action="store_true", help="Only print what is there.")
    return made
