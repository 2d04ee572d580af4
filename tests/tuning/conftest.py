"""What the tests of tuning train on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from wafergpt.tuning import judging


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Write rows to train on, and others as a test."""
    for name, first in (("train", 0), ("test", 200)):
        lines = [
            {"text": f"{'good' if n % 2 else 'bad'} film number {n}", "label": f"l{n % 2}"}
            for n in range(first, first + 120)
        ]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (tmp_path / f"{name}.jsonl").write_text(text)
    return tmp_path


@pytest.fixture
def any_gain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the best trial however little it gains."""
    monkeypatch.setattr(judging, "CHANCE", 1.0)
