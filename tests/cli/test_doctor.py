from __future__ import annotations

import json
from functools import partial
from importlib import metadata
from pathlib import Path

import pytest
from click.testing import CliRunner

from wafergpt.cli.doctor import command
from wafergpt.devices import report
from wafergpt.devices.probe import probe


@pytest.fixture(autouse=True)
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure briefly, into a cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("WAFERGPT_CEREBRAS", raising=False)
    monkeypatch.setattr(report, "probe", partial(probe, seconds=0.1))


def test_the_contract() -> None:
    result = CliRunner().invoke(command, ["--json"], catch_exceptions=False)
    facts = json.loads(result.stdout.splitlines()[-1])
    assert facts.keys() >= {"device", "torch", "python", "cerebras", "cores", "memory_bytes"}
    assert facts["torch"] == metadata.version("torch")
    assert facts["cerebras"] is None
    text = CliRunner().invoke(command, [], catch_exceptions=False).stdout
    assert "\x1b" not in text
    assert metadata.version("torch") in text


def test_what_is_missing_comes_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = report.examine()
    facts["extras"] = dict.fromkeys(facts["extras"])
    facts["compiler"] = None
    monkeypatch.setattr(report, "examine", lambda fresh: facts)
    text = CliRunner().invoke(command, [], catch_exceptions=False).stdout
    assert "missing  plotly: pip install" in text
    assert "install g++" in text
