"""``wafergpt generate``: what it shows around the text."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result

from wafergpt.cli.generate import command
from wafergpt.decoding.generator import Sampling
from wafergpt.inference.writer import Writer
from wafergpt.runs.run import Run

asked: dict[str, Any] = {}
"""What the command asked of a writer."""


class Stream:
    """What a model writes, without the model."""

    def __init__(self, pieces: list[str], cut: bool) -> None:
        self.pieces, self.cut, self.drawn = iter(pieces), cut, list(range(len(pieces)))

    def __iter__(self) -> Stream:
        return self

    def __next__(self) -> str:
        return next(self.pieces)


def generate(
    monkeypatch: pytest.MonkeyPatch, pieces: list[str], cut: bool, *arguments: str
) -> Result:
    asked.clear()

    def stream(prompt: str, settings: Sampling) -> Stream:
        asked["settings"] = settings
        return Stream(pieces, cut)

    def load(run: Run, device: str, weights: str) -> Any:
        asked.update(device=device, weights=weights)
        return writer

    writer: Any = SimpleNamespace(
        stream=stream,
        tokenizer=SimpleNamespace(encode=list),
        gpt=SimpleNamespace(config=SimpleNamespace(seq_len=8)),
    )
    monkeypatch.setattr(Run, "find", lambda *a: None)
    monkeypatch.setattr(Writer, "load", load)
    return CliRunner().invoke(command, ["r", *arguments], catch_exceptions=False)


def test_a_cut_text_ends_with_a_sign_on_stderr(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("--prompt", "Once", "--max-tokens", "2")
    done = generate(monkeypatch, [" upon", " a"], True, *words)
    assert done.stdout == "Once upon a\n"
    assert done.stderr == "… cut at 2 tokens: --max-tokens 4 generates more\n"
    done = generate(monkeypatch, [" upon"], True, *words, "--json")
    assert json.loads(done.stdout)["cut"] is True
    done = generate(monkeypatch, [" upon", " a"], False, *words)
    assert done.stderr == ""


def test_a_model_that_ends_at_once_still_shows_the_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    assert generate(monkeypatch, [], False, "--prompt", "Once").stdout == "Once\n"


def test_a_prompt_beyond_the_context_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    done = generate(monkeypatch, [], False, "--prompt", "Once upon a time")
    assert "the prompt has 16 tokens and the model's context 8" in done.stderr


def test_other_weights_are_asked_for_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    assert generate(monkeypatch, ["x"], False, "--weights", "int8").exit_code == 0
    assert (asked["weights"], asked["device"]) == ("int8", "auto")
    done = generate(monkeypatch, ["x"], False, "--weights", "int3")
    assert done.exit_code == 2
    assert "'fp32', 'bf16', 'int8'" in done.stderr


def test_each_option_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    words = "--max-tokens 2 --temperature 0.5 --top-k 7 --top-p 0.9 --seed 3 --stop x --device cpu"
    generate(monkeypatch, ["x"], False, *words.split())
    assert asked["device"] == "cpu"
    assert asked["settings"] == Sampling(
        max_tokens=2, temperature=0.5, top_k=7, top_p=0.9, seed=3, stop=("x",)
    )
