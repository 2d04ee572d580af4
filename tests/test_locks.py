from __future__ import annotations

import errno
import fcntl
import os
import socket
import subprocess
from pathlib import Path

import pytest

from wafergpt import atomic_files, files, locks, logs
from wafergpt.config import load_recipe
from wafergpt.errors import InputError
from wafergpt.locks import Lock
from wafergpt.runs.run import Run

WITHOUT = [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP]


@pytest.fixture(autouse=True)
def nothing_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "_said", set())


def without_locks(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def flock(descriptor: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)


def test_a_lock_keeps_a_second_one_out_until_it_is_released(tmp_path: Path) -> None:
    first, second = Lock(tmp_path / "lock"), Lock(tmp_path / "lock")
    assert first.acquire()
    assert not second.acquire()
    first.release()
    first.release()
    assert second.acquire()
    second.release()
    with locks.locked(tmp_path / "lock"):
        assert not first.acquire()
    assert first.acquire()
    first.release()


def test_a_lock_file_that_is_a_link_or_is_not_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="link"):
        Lock(tmp_path / "link").acquire()
    assert not (tmp_path / "elsewhere").exists()
    (tmp_path / "lock").touch()
    original = os.open

    def refusing(path: Path, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_RDWR:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return original(path, flags, mode)

    monkeypatch.setattr(os, "open", refusing)
    lock = Lock(tmp_path / "lock")
    assert lock.acquire()
    lock.release()
    with pytest.raises(PermissionError):
        Lock(tmp_path / "missing").acquire()


@pytest.mark.parametrize("number", WITHOUT)
def test_without_locks_a_run_trains_and_says_so_once(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    number: int,
) -> None:
    without_locks(monkeypatch, number)
    recipe = load_recipe(None, ["name=first"])
    run = Run.create(recipe, tmp_path, asked={})
    for _ in range(2):
        with run.held():
            assert f"process {os.getpid()} on" in (run.path / "holder").read_text()
        assert not (run.path / "holder").exists()
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"the file system at {files.mount_of(tmp_path)} has no locks" in said


def test_without_locks_a_living_process_of_this_machine_is_still_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    without_locks(monkeypatch, errno.ENOLCK)
    run = Run.create(load_recipe(None, ["name=first"]), tmp_path)
    holder = run.path / "holder"
    parent, host = os.getppid(), socket.gethostname()
    holder.write_text(f"process {parent} on {host}\n")
    with pytest.raises(InputError, match=f"in use by process {parent} on {host}"), run.held():
        pass
    # Written before that process began: another one had its number then.
    os.utime(holder, (1, 1))
    with run.held():
        pass
    gone = subprocess.Popen(["true"])
    gone.wait()
    for left in (f"process {gone.pid} on {host}", f"process {os.getpid()} on {host}", "", "\xff"):
        holder.write_text(left, encoding="latin-1")
        with run.held():
            pass
    assert "was in use" not in capsys.readouterr().err
    holder.write_text("process 1 on another-node\n")
    with run.held():
        pass
    assert "was in use by process 1 on another-node" in capsys.readouterr().err


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EACCES, errno.ENOTSUP])
def test_where_nothing_can_be_flushed_it_is_said_once(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    number: int,
) -> None:
    def fsync(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fsync)
    for name in ("a", "b"):
        atomic_files.write_text(tmp_path / name, name)
        with atomic_files.appearing(tmp_path / "folder", replaces=True) as temporary:
            (temporary / name).write_text(name)
    assert (tmp_path / "folder" / "b").read_text() == "b"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "folder"]
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"the file system at {files.mount_of(tmp_path)} cannot flush" in said


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_a_disk_that_fails_or_is_full_is_no_such_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def fsync(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match=os.strerror(number)):
        atomic_files.write_text(tmp_path / "a", "x")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_renamed_is_replaced_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "old").touch()
    original = Path.rename

    def rename(self: Path, target: Path) -> Path:
        if self == folder:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        return original(self, target)

    monkeypatch.setattr(Path, "rename", rename)
    with atomic_files.appearing(folder, replaces=True) as temporary:
        (temporary / "new").touch()
    assert [path.name for path in folder.iterdir()] == ["new"]
    assert list(tmp_path.iterdir()) == [folder]


def test_where_nothing_can_be_written_is_known_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file is a file: choose another folder with --runs"):
        Run.require_new("x", tmp_path / "file")
    Run.require_new("x", tmp_path / "not" / "yet")
    assert not (tmp_path / "not").exists()
    # For the superuser everything is writable.
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(InputError, match=r"cannot be written .* with --runs"):
        Run.require_new("x", tmp_path / "not" / "yet")
