from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from wafergpt import atomic_files, files
from wafergpt.errors import InputError


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    atomic_files.write_json(path, {"old": 1})
    with pytest.raises(ValueError, match="Out of range"):
        atomic_files.write_json(path, {"new": float("nan")})
    with pytest.raises(OSError, match="disk"), atomic_files.replacing(path) as temporary:
        temporary.write_text("half")
        raise OSError("disk")
    assert path.read_text() == '{\n  "old": 1\n}\n'
    assert list(tmp_path.iterdir()) == [path]


def test_what_libraries_say_of_a_full_disk(tmp_path: Path) -> None:
    for said, number in (
        ("I/O error: File too large (os error 27)", errno.EFBIG),
        ("3072 requested and 1720 written", errno.ENOSPC),
    ):
        with pytest.raises(OSError, match=os.strerror(number)) as found, files.system_errors():
            raise OSError(said)
        assert found.value.errno == number
    with pytest.raises(OSError, match="3 requested") as found, files.system_errors():
        raise OSError(errno.EIO, "3 requested and 1 written")
    assert found.value.errno == errno.EIO


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "folder"
    with pytest.raises(RuntimeError), atomic_files.appearing(folder) as temporary:
        (temporary / "x").write_text("1")
        raise RuntimeError
    assert list(folder.parent.iterdir()) == []
    for content in ("1", "2"):
        with atomic_files.appearing(folder, replaces=True) as temporary:
            (temporary / "x").write_text(content)
            assert not folder.exists() or (folder / "x").read_text() == "1"
    assert [p.name for p in folder.parent.iterdir()] == ["folder"]
    assert (folder / "x").read_text() == "2"


@pytest.mark.parametrize("links", [True, False])
def test_what_another_program_makes_meanwhile_stays(
    tmp_path: Path, links: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*names: Path) -> None:
        raise OSError(errno.EPERM, "no links here")

    if not links:
        monkeypatch.setattr(os, "link", refuse)
    folder, file = tmp_path / "folder", tmp_path / "file"
    with (
        pytest.raises(InputError, match="folder exists now"),
        atomic_files.appearing(folder) as temporary,
    ):
        (temporary / "x").write_text("new")
        folder.mkdir()
        (folder / "x").write_text("theirs")
    with (
        pytest.raises(InputError, match="file exists now"),
        atomic_files.replacing(file, new=True) as temporary,
    ):
        temporary.write_text("new")
        file.write_text("theirs")
    assert (folder / "x").read_text() == file.read_text() == "theirs"
    assert sorted(tmp_path.iterdir()) == [file, folder]
    file.unlink()
    with atomic_files.replacing(file, new=True) as temporary:
        temporary.write_text("new")
    assert file.read_text() == "new"
    assert sorted(tmp_path.iterdir()) == [file, folder]


def test_a_folder_that_cannot_be_replaced_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "kept"
    folder.mkdir()
    (folder / "file").write_text("old")
    rename = Path.rename

    def broken(path: Path, to: Path) -> Path:
        if path.suffix == ".new":
            raise OSError(errno.EIO, "Input/output error")
        return rename(path, to)

    monkeypatch.setattr(Path, "rename", broken)
    temporary = tmp_path / ".kept.new"
    with (
        pytest.raises(OSError, match="Input/output"),
        atomic_files.appearing(folder, temporary, replaces=True),
    ):
        (temporary / "file").write_text("new")
    assert (folder / "file").read_text() == "old"
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no umask")
@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o002, 0o664)])
def test_the_umask_says_who_may_read_what_a_library_writes_for_the_owner(
    tmp_path: Path, umask: int, mode: int
) -> None:
    before = os.umask(umask)
    try:
        with atomic_files.replacing(tmp_path / "file") as temporary:
            save_file({"a": np.zeros(1)}, temporary)
        with atomic_files.appearing(tmp_path / "folder") as temporary:
            save_file({"a": np.zeros(1)}, temporary / "file")
            (temporary / "script").touch(0o755)
    finally:
        os.umask(before)
    written = (tmp_path / "file", tmp_path / "folder" / "file")
    assert [stat.S_IMODE(path.stat().st_mode) for path in written] == [mode, mode]
    assert stat.S_IMODE((tmp_path / "folder" / "script").stat().st_mode) == 0o755 & ~umask | mode


def test_sha256_is_the_well_known_one(tmp_path: Path) -> None:
    path = tmp_path / "abc"
    path.write_bytes(b"abc")
    assert files.sha256(path).startswith("ba7816bf8f01cfea414140de5dae2223")
