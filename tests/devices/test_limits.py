from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from wafergpt.devices import limits, probe

GIB = 1 << 30


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(limits, "CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(limits, "OWN_CGROUPS", tmp_path / "own")
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(64)))
    return tmp_path


def write(groups: Path, own: str, **values: str) -> None:
    (groups / "own").write_text(own)
    for name, text in values.items():
        path = groups / "cgroup" / name.replace("__", "/").replace("_DOT_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_without_control_groups_it_is_the_machine(groups: Path) -> None:
    assert limits.cores() == 64
    assert limits.memory(3 * GIB, 8 * GIB) == (3 * GIB, 8 * GIB)


@pytest.mark.parametrize(
    ("quota", "cores"),
    [("max 100000", 64), ("100000 100000", 1), ("250000 100000", 2), ("50000 100000", 1), ("", 64)],
)
def test_a_quota_of_version_2_is_that_of_a_group_or_of_one_above(
    groups: Path, quota: str, cores: int
) -> None:
    write(groups, "0::/job/step\n", job__cpu_DOT_max=quota, job__step__cpu_DOT_max="max 100000")
    assert limits.cores() == cores


def test_a_quota_of_version_1(groups: Path) -> None:
    own = "4:memory:/docker/abc\n3:cpu,cpuacct:/docker/abc\n0::/\n"
    # The host's path is not to be seen in the container; its group is the root there.
    write(groups, own, cpu__cpu_DOT_cfs_quota_us="400000\n", cpu__cpu_DOT_cfs_period_us="100000\n")
    assert limits.cores() == 4
    write(groups, own, cpu__cpu_DOT_cfs_quota_us="-1\n")
    assert limits.cores() == 64


def test_files_in_the_cache_do_not_take_memory(groups: Path) -> None:
    write(
        groups,
        "0::/\n",
        memory_DOT_max=f"{4 * GIB}",
        memory_DOT_current=f"{3 * GIB}",
        memory_DOT_stat=f"anon 5\ninactive_file {2 * GIB}\nactive_file 7\n",
    )
    assert limits.memory(20 * GIB, 64 * GIB) == (3 * GIB, 4 * GIB)
    assert limits.memory(1 * GIB, 2 * GIB) == (1 * GIB, 2 * GIB)


def test_memory_of_version_1(groups: Path) -> None:
    write(
        groups,
        "4:memory:/job\n",
        memory__memory_DOT_limit_in_bytes="9223372036854771712\n",
        memory__memory_DOT_usage_in_bytes=f"{9 * GIB}\n",
        memory__job__memory_DOT_limit_in_bytes=f"{2 * GIB}\n",
        memory__job__memory_DOT_usage_in_bytes=f"{3 * GIB}\n",
    )
    assert limits.memory(20 * GIB, 64 * GIB) == (0, 2 * GIB)


def test_libraries_start_as_many_threads_as_the_quota_has_cores(
    groups: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(limits.THREADS, "7")
    monkeypatch.delenv(limits.THREADS)
    limits.limit_threads()
    assert limits.THREADS not in os.environ
    write(groups, "0::/\n", cpu_DOT_max="200000 100000")
    limits.limit_threads()
    assert os.environ[limits.THREADS] == "2"
    monkeypatch.setenv(limits.THREADS, "3")
    limits.limit_threads()
    assert os.environ[limits.THREADS] == "3"


def test_a_user_without_a_name_or_a_home_has_a_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(number: int) -> None:
        raise KeyError(number)

    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    assert str(os.getuid()) in str(probe.cache_folder())
