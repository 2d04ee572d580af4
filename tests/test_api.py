"""The Python face: its names, what importing it costs, and who hears what it says."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import wafergpt as wg

NAMES = [
    "Conversation", "Corpus", "Failure", "InputError", "Interrupted", "Plan", "Predictor", "Recipe",
    "Run", "RunFailed", "Sampling", "SearchIndex", "Writer", "__version__", "average",
    "cross_validate", "evaluate", "export", "finetune", "generate", "import_model", "load_recipe",
    "plan", "predict", "prepare", "pretrain", "prune", "report", "show", "tune",
]  # fmt: skip


def test_the_names_are_these() -> None:
    assert sorted(wg.__all__) == sorted(NAMES) == sorted(dir(wg))
    for name in NAMES:
        value = getattr(wg, name)
        assert name == "__version__" or value.__doc__, name
    assert not hasattr(wg, "pretrian")


def test_every_verb_says_what_it_takes_and_raises() -> None:
    for name in NAMES:
        value = getattr(wg, name)
        if inspect.isfunction(value) and inspect.signature(value).parameters:
            assert "Args:" in (value.__doc__ or ""), name
            assert "Raises:" in (value.__doc__ or ""), name


def test_types_are_shipped() -> None:
    assert (Path(wg.__file__).parent / "py.typed").is_file()


verbs: Any = wg
"""For calls that a type checker would refuse."""


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda run: verbs.generate(run, weights="int4"), "weights='int4' is none of 'fp32', "),
        (lambda run: verbs.export(run, "out", "GGUF"), "to='GGUF' is none of 'hf', 'gguf', "),
        (lambda run: verbs.prune(run, "x", method="most"), "method='most' is none of 'magnitude'"),
        (lambda run: verbs.prepare("a", "b", errors="ignore"), "errors='ignore' is none of "),
        (lambda run: verbs.prepare("a", "b", file_format="pdf"), "file_format='pdf' is none of "),
        (lambda run: verbs.SearchIndex(["a"], how="word"), "how='word' is none of 'vectors'"),
    ],
)
def test_a_word_that_is_none_of_those_of_an_argument(call: Any, said: str) -> None:
    with pytest.raises(wg.InputError, match=said):
        call(wg.Run.find("base"))


@pytest.mark.parametrize(
    ("call", "left_out"),
    [
        (lambda: verbs.finetune("scratch", resume="base"), "start"),
        (lambda: verbs.finetune(data="new.csv", resume="base"), "data"),
        (lambda: verbs.pretrain("demo", resume="base"), "recipe"),
        (lambda: verbs.pretrain(resume="base", auto_resume=True), "auto_resume"),
    ],
)
def test_a_resume_refuses_what_it_would_leave_out(call: Any, left_out: str) -> None:
    with pytest.raises(wg.InputError, match=f"stays what it is: omit {left_out}"):
        call()


def test_the_home_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert wg.report("base", "~/pages/base.html") == tmp_path / "pages" / "base.html"
    assert not Path("~").exists()
    with pytest.raises(wg.InputError, match=f"{tmp_path}/none"):
        wg.import_model("~/none", "none")


def test_a_shipped_recipe_is_meant_where_a_folder_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("demo").mkdir()
    found = wg.plan("demo", ["model.vocab_size=1000"], quick=True)
    assert found.asked.model.d_model == 128
    assert found.asked.data.corpus is None


QUIET = """
import logging, sys
import wafergpt
from wafergpt.logs import say
from wafergpt.progress import progress, working
assert not {"torch", "numpy", "yaml", "pydantic", "click", "rich"} & set(sys.modules), sys.modules
say("nobody hears this")
with working("quiet work"), progress("quiet", 2, "steps") as bar:
    bar.advance()
say("WARNING: a host program hears this")
logging.basicConfig(level=logging.INFO, format="%(name)s %(levelname)s %(message)s")
say("and now this")
logging.getLogger("wafergpt").setLevel(logging.ERROR)
say("WARNING: but not this")
"""


def test_a_program_that_calls_it_decides_what_is_heard() -> None:
    done = subprocess.run([sys.executable, "-c", QUIET], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        "WARNING: a host program hears this",
        "wafergpt INFO and now this",
    ]
