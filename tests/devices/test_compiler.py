"""Compilers that are there and do not work."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.fx import GraphModule
from torch.nn import functional as F

from tests.train.test_resume import SETTINGS, corpus
from wafergpt import logs
from wafergpt.api import pretrain
from wafergpt.devices import compiler
from wafergpt.devices.compiler import CACHE, Compiler, is_of_compiler, reason, require_cache
from wafergpt.devices.detect import compiler_available
from wafergpt.engines import compilation
from wafergpt.errors import InputError
from wafergpt.runs.run import Run

# Torch's own code uses what torch has deprecated or warns of.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf"),
]


@pytest.fixture
def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    import torch._inductor.config

    monkeypatch.setenv(CACHE, str(tmp_path / "cache"))
    monkeypatch.setattr(logs, "_said", set())
    torch._dynamo.reset()
    # Torch reads CXX when it is imported.
    with torch._inductor.config.patch({"cpp.cxx": (None, "/bin/false")}):
        yield


@pytest.mark.slow
@pytest.mark.usefixtures("broken")
def test_what_cannot_be_compiled_runs_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    backend = Compiler()
    backend.loud = True
    work = torch.compile(lambda x: (x * 1.25).cos().sum(), backend=backend)
    x = torch.linspace(0, 1, 50, requires_grad=True)
    y = work(x)
    assert torch.equal(y, (x * 1.25).cos().sum())
    y.backward()
    assert x.grad is not None
    assert torch.allclose(x.grad, -1.25 * (x * 1.25).sin())
    assert backend.failure is not None
    assert "No working C++ compiler" in backend.failure
    work(torch.ones(3, 4))
    assert capsys.readouterr().err.count("torch.compile failed") == 1


@pytest.mark.slow
@pytest.mark.skipif(not compiler_available("cpu"), reason="there is no compiler")
def test_one_process_compiles_networks_of_several_shapes() -> None:
    """Torch compiles for a number until it changes, and then starts again: that is no failure."""
    torch._dynamo.reset()
    backend = Compiler()

    def work(x: torch.Tensor, scale: float) -> torch.Tensor:
        return F.scaled_dot_product_attention(x, x, x, scale=scale).sum() * scale

    compiled = torch.compile(work, dynamic=None, backend=backend)
    x = torch.linspace(0, 1, 64).view(2, 4, 8)
    for scale in (0.25, 0.5, 0.75):
        torch.testing.assert_close(compiled(x, scale), work(x, scale))
    assert backend.failure is None


@pytest.mark.slow
def test_each_training_of_a_process_is_compiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Torch stops compiling code that it has compiled so many times, and says so to nobody."""
    compiled: list[Compiler] = []

    def counted(self: Compiler, graph: GraphModule, inputs: list[torch.Tensor]) -> Any:
        compiled.append(self)
        return graph.forward

    monkeypatch.setattr(Compiler, "__call__", counted)
    path = corpus(tmp_path / "one", 1).path
    settings = [*SETTINGS, f"data.corpus={path}", "train.steps=2", "evaluate.prompts=[]"]
    with torch._dynamo.config.patch(recompile_limit=3):
        for width in (16, 24, 32):
            shape = [f"model.d_model={width}", f"name=run{width}", "system.compile=on"]
            pretrain(None, [*settings, *shape], root=tmp_path)
    assert len(set(map(id, compiled))) == 3


@pytest.mark.slow
@pytest.mark.usefixtures("broken")
def test_a_training_runs_without_it_or_is_refused_before_there_is_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = corpus(tmp_path / "one", 1).path
    settings = [*SETTINGS, f"data.corpus={path}", "train.steps=2", "evaluate.prompts=[]"]
    capsys.readouterr()
    with pytest.raises(InputError, match=r"system.compile=on: .* does not work here .*off trains"):
        pretrain(None, [*settings, "system.compile=on", "name=compiled"], root=tmp_path)
    assert not (tmp_path / "compiled").exists()
    assert not capsys.readouterr().err
    monkeypatch.setattr(compilation, "compile_pays", lambda *_: True)
    run = pretrain(None, [*settings, "system.compile=auto", "name=either"], root=tmp_path)
    assert "warning: torch.compile does not work here" in capsys.readouterr().err
    assert run.recipe.system.compile == "off"
    plain = pretrain(None, [*settings, "name=plain"], root=tmp_path)
    assert run.read("result")["weights_sha256"] == plain.read("result")["weights_sha256"]


@pytest.mark.slow
@pytest.mark.usefixtures("broken")
def test_a_run_is_resumed_where_there_is_no_compiler(tmp_path: Path) -> None:
    path = corpus(tmp_path / "one", 1).path
    settings = [*SETTINGS, f"data.corpus={path}", "train.steps=2", "evaluate.prompts=[]"]
    run = pretrain(None, [*settings, "name=run"], root=tmp_path)
    # As a run that was compiled on another machine has it.
    run.save_recipe(run.recipe.replace(system={"compile": "on"}))
    with pytest.raises(InputError, match=r"system.compile=on.*system.compile=off"):
        pretrain(None, ["train.steps=4"], resume=run.path, root=tmp_path)
    changes = ["train.steps=4", "system.compile=off"]
    pretrain(None, changes, resume=run.path, root=tmp_path)
    assert Run(run.path).read("result")["step"] == 4


def test_a_reason_is_the_most_informative_line() -> None:
    text = "C++ compile error\n\nCommand:\ng++ -O3\n\nOutput:\nx:1: fatal error: Python.h: no\n1 |"
    assert reason(RuntimeError(text)) == "x:1: fatal error: Python.h: no"
    assert reason(ValueError()) == "ValueError"
    assert not is_of_compiler(RuntimeError(text))
    assert is_of_compiler(torch._dynamo.exc.Unsupported("x", "y"))


def test_a_cache_folder_that_cannot_be_written_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(CACHE, str(tmp_path / "deep" / "cache"))
    require_cache()
    assert os.environ[CACHE] == str(tmp_path / "deep" / "cache")
    assert not capsys.readouterr().err
    (tmp_path / "file").touch()
    monkeypatch.setenv(CACHE, str(tmp_path / "file" / "cache"))
    require_cache()
    assert Path(os.environ[CACHE]).is_dir()
    assert f"{CACHE}={tmp_path}/file/cache cannot be written" in capsys.readouterr().err
    compiler._own_cache.pop().cleanup()
