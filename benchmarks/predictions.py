"""Rows per second and peak memory of ``predict FILE --out``, for each task on top of ``base``.

A network of ``base`` is fine-tuned for two steps, which is enough to time it, and predicts files
of two sizes, each in a process of its own. Texts have 5 to 60 words; a question has 8 beside its
text. Four rows of a ranking share a query, and a dialogue has two messages before the reply, which
is of 16 tokens at most, as a translation is. The time includes reading and writing, but not the
start; the memory is the process's, with torch.

    python -m benchmarks.predictions [TASK…] [--rows 2000]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from wafergpt.api import finetune
from wafergpt.devices.detect import processor_name

TEXT = "the film was a quiet and funny story of Anna who went to Oslo with her old dog"
WORDS = TEXT.split()
LARGER = 4
"""Times the rows of the smaller file."""

LISTED = 4
"""Candidates of a query to rank."""


@dataclass(frozen=True)
class Kind:
    """A task's rows, and what its run needs to be told.

    Attributes:
        row: makes a row of its number and the words of a text.
        settings: overrides.
        share: of the rows that are predicted; texts are written slowly.
    """

    row: Callable[[int, list[str]], dict[str, Any]]
    settings: tuple[str, ...] = ()
    share: float = 1.0


def _labelled(number: int, words: list[str]) -> dict[str, Any]:
    return {"text": " ".join(words), "label": random.choice(["good", "bad"])}


def _scored(number: int, words: list[str]) -> dict[str, Any]:
    return {"text": " ".join(words), "label": random.random()}


def _tagged(number: int, words: list[str]) -> dict[str, Any]:
    tags = ["B-NAME" if word[0].isupper() else "O" for word in words]
    return {"text": " ".join(words), "tokens": words, "tags": tags}


def _translated(number: int, words: list[str]) -> dict[str, Any]:
    return {"source": " ".join(words), "target": " ".join(words[:8]).upper()}


def _paired(number: int, words: list[str]) -> dict[str, Any]:
    # ``predict`` reads ``text``, a training the pair.
    return {"query": _asked(number), "positive": " ".join(words), "text": " ".join(words)}


def _ranked(number: int, words: list[str]) -> dict[str, Any]:
    return {"query": _asked(number // LISTED), "text": " ".join(words), "label": number % LISTED}


def _answered(number: int, words: list[str]) -> dict[str, Any]:
    return {"question": _asked(number), "context": " ".join(words), "answer": words[0]}


def _spoken(number: int, words: list[str]) -> dict[str, Any]:
    said = [(_asked(number), "user"), (" ".join(words), "assistant"), ("And then?", "user"),
            (" ".join(words[:8]), "assistant")]  # fmt: skip
    return {"messages": [{"role": role, "content": text} for text, role in said]}


def _asked(number: int) -> str:
    return f"what did {' '.join(WORDS[:5])} do {number}"


KINDS: dict[str, Kind] = {
    "classify": Kind(_labelled),
    "regress": Kind(_scored),
    "tag": Kind(_tagged),
    "embed": Kind(_paired),
    "rank": Kind(_ranked),
    "answer": Kind(_answered),
    "translate": Kind(_translated, ("task.max_new_tokens=16",), 1 / 16),
    "dialogue": Kind(_spoken, ("task.max_new_tokens=16",), 1 / 16),
}


def written(path: Path, kind: Kind, rows: int) -> Path:
    """Write a file of rows."""
    with path.open("w") as file:
        for number in range(rows):
            words = random.choices(WORDS, k=random.randint(5, 60))
            file.write(json.dumps(kind.row(number, words)) + "\n")
    return path


def predicted(run: Path, source: Path) -> tuple[float, float]:
    """Return the rows per second of a file, and the MiB that its process had at most."""
    out = source.with_suffix(".out.jsonl")
    command = [sys.executable, "-m", "wafergpt", "predict", str(run), str(source)]
    process = subprocess.Popen([*command, "--out", str(out), "--json"], stdout=subprocess.PIPE)
    assert process.stdout is not None
    result = json.loads(process.stdout.read().splitlines()[-1])
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return result["rows"] / result["seconds"], usage.ru_maxrss / 1024


def main() -> None:
    """Print the table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tasks", nargs="*", help=f"of {', '.join(KINDS)}")
    parser.add_argument("--rows", type=int, default=2000)
    asked = parser.parse_args()
    print(f"{processor_name()}, {torch.get_num_threads()} threads, torch {torch.__version__}\n")
    print("| task | rows | rows/s | peak MiB |\n|---|---|---|---|")
    for name in asked.tasks or KINDS:
        kind = KINDS[name]
        random.seed(0)
        with tempfile.TemporaryDirectory() as folder:
            home = Path(folder)
            rows = written(home / "train.jsonl", kind, 200)
            overrides = [f"task.name={name}", f"task.train={rows}", "train.steps=2", *kind.settings]
            run = finetune("base", None, [*overrides, "name=timed"], root=home).run
            for count in (int(asked.rows * kind.share), int(LARGER * asked.rows * kind.share)):
                rate, memory = predicted(run.path, written(home / f"{count}.jsonl", kind, count))
                print(f"| {name} | {count:,} | {rate:,.1f} | {memory:,.0f} |", flush=True)


if __name__ == "__main__":
    main()
