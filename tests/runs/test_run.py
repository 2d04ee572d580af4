from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from wafergpt.config import load_recipe
from wafergpt.errors import InputError
from wafergpt.runs.run import Run


def make(root: Path, name: str = "first") -> Run:
    return Run.create(load_recipe(None, [f"name={name}"]), root)


def test_a_run_is_found_by_name_path_and_checkpoint(tmp_path: Path) -> None:
    run = make(tmp_path)
    assert Run.find("first", tmp_path) == run
    assert Run.find(run.path) == run
    checkpoint = run.checkpoints / "step-00000001"
    checkpoint.mkdir()
    (checkpoint / "manifest.json").write_text("{}")
    assert Run.find(checkpoint) == Run(run.path, checkpoint)
    with pytest.raises(InputError, match="did you mean 'first'"):
        Run.find("frist", tmp_path)


@pytest.mark.parametrize(
    "inside",
    ["", "/", "/recipe.yaml", "/report.html", "/checkpoints", "/checkpoints/", "/../first"],
)
def test_a_run_is_found_by_what_is_in_it(tmp_path: Path, inside: str) -> None:
    run = make(tmp_path)
    (run.path / "report.html").touch()
    found = Run.find(f"{run.path}{inside}")
    assert found.path.samefile(run.path)
    assert (found.name, found.checkpoint) == ("first", None)
    assert Run.find(f"first{inside}", tmp_path).path.samefile(run.path)


def test_a_run_is_found_by_a_file_of_a_checkpoint_and_from_inside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make(tmp_path)
    checkpoint = run.checkpoints / "step-00000001"
    checkpoint.mkdir()
    (checkpoint / "manifest.json").write_text("{}")
    assert Run.find(f"{checkpoint}/manifest.json") == Run(run.path, checkpoint)
    monkeypatch.chdir(run.path)
    assert Run.find(".").name == "first"
    monkeypatch.chdir(run.checkpoints)
    assert Run.find("..").name == "first"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Run.find("~/first") == run


def test_what_is_there_instead_of_a_run_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    root = Path("runs")
    run = make(root, "Reviews")
    (run.checkpoints / "step-00000001").mkdir()
    for name in ("empty/", "corpus/corpus.json", "gpt2/config.json", "file", "loose/checkpoints/"):
        path = root / name
        (path if name.endswith("/") else path.parent).mkdir(exist_ok=True, parents=True)
        if not name.endswith("/"):
            path.touch()
    for name, message in (
        ("REVIEWS", "did you mean 'Reviews'?"),
        ("reviews", "did you mean 'Reviews'?"),
        ("empty", "runs/empty has no recipe.yaml"),
        ("loose", "runs/loose has no recipe.yaml"),
        ("file", "runs/file is a file, and belongs to none"),
        ("corpus", "wafergpt pretrain data.corpus=runs/corpus"),
        ("gpt2", "wafergpt import runs/gpt2 --name NAME"),
        ("Reviews/checkpoints/step-00000001", "has lost its manifest.json"),
    ):
        with pytest.raises(InputError, match=message):
            Run.find(name, root)
    for name in ("empty", "file"):
        with pytest.raises(InputError, match=f"runs/{name} exists, and is no run"):
            make(root, name)


def test_a_name_of_two_runs_is_of_neither(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    here, there = make(Path(), "a"), make(Path("runs"), "a")
    with pytest.raises(InputError, match=r"there are two runs 'a': write \./a or runs/a"):
        Run.find("a")
    assert Run.find("./a").path.samefile(here.path)
    assert Run.find("runs/a") == there
    assert Run.find("a", Path()) == here
    Path("linked").symlink_to("runs")
    assert Run.find("linked/a").path.samefile(there.path)


def test_an_existing_run_is_not_touched(tmp_path: Path) -> None:
    run = make(tmp_path)
    run.log({"step": 1, "loss": 2.0})
    with pytest.raises(InputError, match="exists: resume it with --resume"):
        make(tmp_path)
    assert run.metrics() == [{"step": 1, "loss": 2.0}]


def test_metrics_survive_a_torn_line_and_rewind(tmp_path: Path) -> None:
    run = make(tmp_path)
    for step in range(1, 6):
        run.log({"step": step, "loss": 1 / step})
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "lo')
    (run.path / "samples.md").write_text(
        "## step 2 · validation\n\n> ## step 9\n\n## step 4 · validation\n\n> x\n"
    )
    assert [row["step"] for row in run.metrics()] == [1, 2, 3, 4, 5]
    run.rewind(3)
    run.log({"step": 4, "loss": 0.25})
    assert [row["step"] for row in run.metrics()] == [1, 2, 3, 4]
    assert (run.path / "samples.md").read_text().endswith("> ## step 9\n\n")


HOLD = """
import sys
from wafergpt.runs.run import Run
with Run.find(sys.argv[1]).held():
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_process_is_refused_until_the_first_is_gone(tmp_path: Path) -> None:
    run = make(tmp_path)
    command = [sys.executable, "-c", HOLD, str(run.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == b"held\n"
        with pytest.raises(InputError, match=f"in use by process {first.pid} on"), run.held():
            pass
        first.kill()
    with run.held():
        assert str(os.getpid()) in (run.path / "holder").read_text()
    assert not (run.path / "holder").exists()


def test_an_empty_recipe_is_that_of_no_run(tmp_path: Path) -> None:
    run = make(tmp_path)
    (run.path / "recipe.yaml").write_bytes(b"")
    with pytest.raises(InputError, match=r"recipe\.yaml is empty"):
        _ = run.recipe
