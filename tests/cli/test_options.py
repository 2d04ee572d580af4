"""Every option of a verb reaches the function behind it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from wafergpt import api
from wafergpt.cli import cli

CALLS: dict[str, tuple[str, dict[str, Any]]] = {
    "tune": (
        "base task.train=rows.csv --budget 30m --trials 7 --metric accuracy --also size,latency "
        "--sampler random --pruner none --workers 3 --ray local --width 64 --steps 9 "
        "--storage sqlite://x --keep --runs folder --nproc 2",
        {
            "budget": "30m", "trials": 7, "metric": "accuracy", "also": ("size", "latency"),
            "sampler": "random", "pruner": "none", "workers": 3, "ray": "local", "width": 64,
            "steps": 9, "storage": "sqlite://x", "keep": True, "root": Path("folder"),
        },
    ),
    "prepare": (
        "a.txt b.txt --out corpus --vocab-size 99 --lowercase --tokenizer t.json --text body "
        "--format txt --errors replace --val-fraction 0.25 --workers 3",
        {
            "vocab_size": 99, "lowercase": True, "tokenizer": "t.json", "text": "body",
            "file_format": "txt", "errors": "replace", "val_fraction": 0.25, "workers": 3,
        },
    ),
    "prune": (
        "base task.train=rows.csv --name new --method wanda --sparsity 40% --pattern 2:4 --global "
        "--samples 5 --max-loss-increase 1% --curves --layers 1 --heads 2 --channels 3 --width 4 "
        "--retrain 4M --distill --rows 25% --vocabulary --runs folder",
        {
            "method": "wanda", "sparsity": 0.4, "pattern": True, "together": True, "samples": 5,
            "max_loss_increase": 0.01, "curves": True, "layers": 1, "heads": 2, "channels": 3,
            "width": 4, "retrain": "4M", "distill": True, "rows": 0.25, "vocabulary": True,
            "root": Path("folder"),
        },
    ),
    "evaluate": (
        "base rows language task.text=body --file f.csv --labels a=b --outside o.csv "
        "--cases c.yaml --against other --corpus read.txt --corpus-column body --kinds typos,case "
        "--tasks piqa --tasks-folder tasks --rows 3 --documents 4 --seed 5 --device cpu",
        {
            "files": (Path("f.csv"),), "labels": {"a": "b"}, "outside": Path("o.csv"),
            "cases": Path("c.yaml"), "against": ("other",), "corpus": (Path("read.txt"),),
            "corpus_column": "body", "kinds": ("typos", "case"), "tasks": ("piqa",),
            "tasks_folder": Path("tasks"), "rows": 3, "documents": 4, "seed": 5, "device": "cpu",
        },
    ),
}  # fmt: skip

APART = {"json", "help", "runs", "join", "trial", "nproc", "out", "name"}
"""Options that are no keyword of the function, or are said by another name above."""


class CalledError(Exception):
    """Raised in place of the work."""


@pytest.mark.parametrize("verb", list(CALLS))
def test_every_option_is_passed_on(
    verb: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    line, expected = CALLS[verb]
    given: dict[str, Any] = {}

    def called(*args: Any, **options: Any) -> None:
        given.update(options)
        given["args"] = args
        raise CalledError

    monkeypatch.setattr(api, verb, called)
    done = CliRunner().invoke(cli, [verb, *line.split()])
    assert isinstance(done.exception, CalledError), done.output
    assert {name: given[name] for name in expected} == expected
    if verb == "tune":
        assert given["args"] == ("base", None, ["task.train=rows.csv", "system.nproc=2"])
    # No option was forgotten above.
    command = cli.get_command(click.Context(cli), verb)
    assert command is not None
    for option in command.params:
        apart = {one.lstrip("-") for one in option.opts} & APART
        if isinstance(option, click.Option) and not option.hidden and not apart:
            assert any(one in line.split() for one in option.opts), option.opts
