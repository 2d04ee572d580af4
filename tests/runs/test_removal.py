"""Removing runs."""

from __future__ import annotations

import errno
import json
import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from wafergpt import atomic_files, files
from wafergpt.cli.runs import command
from wafergpt.config import recipe_from
from wafergpt.errors import InputError
from wafergpt.locks import Lock
from wafergpt.reports import list_runs
from wafergpt.runs import removal
from wafergpt.runs.holding import LOCK
from wafergpt.runs.run import Run


def made(root: Path, name: str, start: Path | None = None, **more: object) -> Run:
    run = Run.create(recipe_from({"name": name, "start": start, **more}), root)
    (run.checkpoints / "step-00000001").mkdir()
    (run.checkpoints / "step-00000001" / "model.safetensors").write_bytes(b"x" * 5000)
    return run


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    root = Path("runs")
    pre = made(root, "pre")
    made(root, "clf", pre.path.resolve())
    for n in range(3):
        made(root, f"try-{n}")
    return root


def rm(*words: str) -> Result:
    return CliRunner().invoke(command, ["rm", *words], catch_exceptions=False)


def names(root: Path) -> set[str]:
    return {row["name"] for row in list_runs(root)}


def test_runs_and_patterns_are_removed_and_counted(root: Path) -> None:
    sizes = [files.tree_bytes(root / f"try-{n}") for n in range(2)]
    assert all(size > 5000 for size in sizes)
    (root / "try-7").mkdir()
    shown = rm("try-[01]", "try-1", "runs/try-0", "--yes", "--json")
    result = json.loads(shown.stdout)
    assert result["bytes"] == sum(sizes)
    assert [row["bytes"] for row in result["removed"]] == sizes
    assert names(root) == {"pre", "clf", "try-2"}
    assert sorted(path.name for path in root.iterdir()) == ["clf", "pre", "try-2", "try-7"]


def test_a_dry_run_removes_nothing(root: Path) -> None:
    shown = rm("try-*", "--dry-run")
    assert shown.stdout.splitlines()[-1].startswith("would free 2")
    result = json.loads(rm("try-*", "--dry-run", "--json").stdout)
    assert (result["removed"], len(result["would_remove"])) == ([], 3)
    assert len(names(root)) == 5


def test_nobody_to_ask_is_one_line(root: Path) -> None:
    with pytest.raises(InputError, match=r"^3 runs would be removed: add --yes"):
        rm("try-*")
    assert len(names(root)) == 5


@pytest.mark.parametrize(("answer", "left"), [(b"n\n", 5), (b"y\n", 4)])
def test_a_terminal_is_asked(root: Path, answer: bytes, left: int) -> None:
    ours, theirs = pty.openpty()
    words = [sys.executable, "-m", "wafergpt", "runs", "rm", "try-1"]
    process = subprocess.Popen(words, stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    os.write(ours, answer)
    _, said = process.communicate(timeout=60)
    os.close(ours)
    os.close(theirs)
    assert process.returncode == 0
    assert b"Remove 1 run?" in said
    assert len(names(root)) == left


def test_what_others_started_from_stays(root: Path) -> None:
    made(root, "taught", train={"teacher": str((root / "pre" / "checkpoints").resolve())})
    with pytest.raises(InputError, match="the start or the teacher of clf, taught: "):
        rm("pre", "--yes")
    with pytest.raises(InputError, match="the teacher of taught: "):
        rm("pre", "clf", "--yes")
    rm("pre", "clf", "taught", "--yes")
    assert names(root) == {"try-0", "try-1", "try-2"}
    made(root, "pre")
    made(root, "clf", (root / "pre").resolve())
    rm("pre", "--force", "--yes")
    assert "clf" in names(root)


def test_what_a_killed_removal_left_needs_nothing(root: Path) -> None:
    (root / "clf").rename(root / ".trash-clf-12345678")
    assert rm("pre", "--yes").exit_code == 0
    assert "pre" not in names(root)


def test_a_full_disk_can_be_freed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, text: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(atomic_files, "write_text", full)
    assert rm("try-0", "--yes").exit_code == 0
    assert "try-0" not in names(root)


def test_a_run_in_training_stays_even_by_force(root: Path) -> None:
    lock = Lock(root / "try-1" / LOCK)
    assert lock.acquire()
    try:
        with pytest.raises(InputError, match="in use by another process"):
            rm("try-*", "--yes", "--force")
    finally:
        lock.release()
    assert len(names(root)) == 5
    rm("try-*", "--yes")
    assert len(names(root)) == 2


def test_folds_are_held_by_each_of_them(root: Path) -> None:
    made(root, "clf-folds")
    inner = made(root / "clf-folds", "fold-1")
    assert [run.path for run in removal.chosen(["clf-folds/*"], root)] == [inner.path]
    both = removal.chosen(["clf-folds/fold-1", "clf-folds"], root)
    assert [run.name for run in both] == ["clf-folds"]
    lock = Lock(inner.path / LOCK)
    assert lock.acquire()
    with pytest.raises(InputError, match="in use"):
        rm("clf-folds", "--yes")
    lock.release()
    rm("clf-folds", "--yes")
    assert not (root / "clf-folds").exists()


def test_a_killed_removal_leaves_no_run(root: Path) -> None:
    def killed(path: Path, ignore_errors: bool = False) -> None:
        if not ignore_errors:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(shutil, "rmtree", killed)
        removal.remove(Run(root / "try-0"))
    assert names(root) == {"pre", "clf", "try-1", "try-2"}
    assert list(root.glob(f"{removal.TRASH}*"))
    with pytest.raises(InputError, match="no run 'try-0'"):
        rm("try-0", "--yes")
    rm("try-1", "--yes")
    assert not list(root.glob(f"{removal.TRASH}*"))


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("base", "comes with wafergpt, and stays"),
        ("nothing", "no run 'nothing'"),
        ("x*", "no run in runs/ fits"),
        ("../*", "a pattern is of names in"),
        ("runs/clf/recipe.yaml", "a part of runs/clf"),
        ("link", "is a link"),
    ],
)
def test_what_is_no_run_of_ones_own(root: Path, word: str, said: str) -> None:
    (root / "link").symlink_to((root / "clf").resolve())
    with pytest.raises(InputError, match=said):
        rm("try-1", word, "--yes", "--force")
    assert "try-1" in names(root)


def test_a_pattern_leaves_links(root: Path) -> None:
    (root / "try-link").symlink_to((root / "clf").resolve())
    assert "try-link is a link, and stays" in rm("try-*", "--yes", "--force").stderr
    assert "try-1" not in names(root)
    assert (root / "try-link").is_symlink()


def test_options_of_rm_are_for_rm() -> None:
    shown = CliRunner().invoke(command, ["--yes"])
    assert shown.exit_code == 2
    assert CliRunner().invoke(command, ["rm"]).exit_code == 2


def test_sizes_are_listed(root: Path) -> None:
    shown = CliRunner().invoke(command, ["--json"])
    sizes = {row["name"]: row["bytes"] for row in json.loads(shown.stdout)["runs"]}
    assert sizes["clf"] == sum(p.stat().st_size for p in (root / "clf").rglob("*") if p.is_file())
