from __future__ import annotations

import json
from functools import partial
from importlib import metadata
from pathlib import Path

import pytest
from click.testing import CliRunner

from wafergpt.cli.doctor import command
from wafergpt.devices import doctor as report
from wafergpt.devices.compiler import trial
from wafergpt.devices.probe import probe


@pytest.fixture(autouse=True)
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure briefly, into a cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("WAFERGPT_CEREBRAS", raising=False)
    monkeypatch.setattr(report, "probe", partial(probe, seconds=0.1))
    monkeypatch.setattr(report, "trial", lambda device: None)


@pytest.mark.slow
def test_the_contract() -> None:
    result = CliRunner().invoke(command, ["--json"], catch_exceptions=False)
    facts = json.loads(result.stdout.splitlines()[-1])
    assert facts.keys() >= {"device", "torch", "python", "cerebras", "cores", "memory_bytes"}
    assert facts["torch"] == metadata.version("torch")
    assert facts["cerebras"] is None
    text = CliRunner().invoke(command, [], catch_exceptions=False).stdout
    assert "\x1b" not in text
    assert metadata.version("torch") in text


@pytest.mark.slow
def test_what_is_missing_comes_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = report.examine()
    facts["extras"] = dict.fromkeys(facts["extras"])
    facts |= {"compiler": None, "compiler_missing": "a C++ compiler: install g++"}
    monkeypatch.setattr(report, "examine", lambda fresh: facts)
    text = CliRunner().invoke(command, [], catch_exceptions=False).stdout
    assert "missing  plotly: pip install" in text
    assert "missing  torch.compile needs a C++ compiler: install g++" in text


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_compiler_that_is_there_and_broken_is_not_ok(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch._inductor.config

    monkeypatch.setenv("CXX", "/bin/false")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(report, "trial", trial)
    # Torch reads the variable when it is imported.
    with torch._inductor.config.patch({"cpp.cxx": (None, "/bin/false")}):
        text = CliRunner().invoke(command, [], catch_exceptions=False).stdout
    (line,) = (line for line in text.splitlines() if "torch.compile" in line)
    assert line.startswith("broken   torch.compile: ")
    assert "C++ compiler" in line
