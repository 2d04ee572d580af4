from __future__ import annotations

from pathlib import Path

import pytest

from wafergpt import atomic_files, files


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


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "folder"
    with pytest.raises(RuntimeError), atomic_files.appearing(folder) as temporary:
        (temporary / "x").write_text("1")
        raise RuntimeError
    assert list(folder.parent.iterdir()) == []
    for content in ("1", "2"):
        with atomic_files.appearing(folder) as temporary:
            (temporary / "x").write_text(content)
            assert not folder.exists() or (folder / "x").read_text() == "1"
    assert [p.name for p in folder.parent.iterdir()] == ["folder"]
    assert (folder / "x").read_text() == "2"


def test_sha256_is_the_well_known_one(tmp_path: Path) -> None:
    path = tmp_path / "abc"
    path.write_bytes(b"abc")
    assert files.sha256(path).startswith("ba7816bf8f01cfea414140de5dae2223")
