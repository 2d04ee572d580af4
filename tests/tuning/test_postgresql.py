"""Studies in a real PostgreSQL server, which the test starts for itself."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tuning.test_study import made, study
from wafergpt.errors import InputError

USER = "postgres"
"""The server refuses to be run by root."""

WORK = """
import sys
from pathlib import Path
from tests.tuning.test_study import study
of = study(Path(sys.argv[1]), storage=sys.argv[2])
while True:
    with of.taken(12) as trial:
        if trial is None:
            break
        print(trial.run, flush=True)
        of.settle(trial, [1.0], 1.0)
"""


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    """Start a server, and return the address of its database."""
    pytest.importorskip("psycopg", reason="the driver is not installed")
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not folders:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    root = Path(tempfile.mkdtemp(prefix="wafergpt-pg-"))
    as_user = ["runuser", "-u", USER, "--"] if os.geteuid() == 0 else []
    if as_user:
        shutil.chown(root, USER)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    data, options = root / "data", f"-p {port} -k {root} -c listen_addresses=127.0.0.1"
    control = [*as_user, str(folders[-1] / "pg_ctl"), "-D", str(data), "-w", "-s"]
    making = [*as_user, str(folders[-1] / "initdb"), "-D", str(data), "-A", "trust", "-U", "tester"]
    subprocess.run(making, check=True, stdout=subprocess.DEVNULL, cwd="/")
    log = str(root / "log")
    subprocess.run([*control, "-l", log, "-o", f"{options} -F", "start"], check=True, cwd="/")
    yield f"postgresql+psycopg://tester@127.0.0.1:{port}/postgres"
    subprocess.run([*control, "-m", "immediate", "stop"], check=True, cwd="/")
    shutil.rmtree(root)


@pytest.mark.slow
def test_two_processes_take_every_trial_once(database: str, tmp_path: Path) -> None:
    study(tmp_path, storage=database)
    command = [sys.executable, "-c", WORK, str(tmp_path), database]
    workers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    runs = [worker.communicate(timeout=120)[0].split() for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0]
    assert sorted([*runs[0], *runs[1]]) == [f"trial-{number:03}" for number in range(12)]
    assert len(study(tmp_path, storage=database).outcomes()) == 12


@pytest.mark.slow
def test_what_a_process_left_is_taken_up_by_the_next(database: str, tmp_path: Path) -> None:
    folder = tmp_path / "killed"
    folder.mkdir()
    of = study(folder, storage=database)
    made(of, 1)
    with of.taken() as left:
        assert left is not None
    other = study(folder, storage=database)
    with other.taken() as again:
        assert again is not None
        assert (again.run, again.texts) == (left.run, left.texts)
        other.settle(again, [1.0], 1.0)
    assert other.outcomes() == of.outcomes()


@pytest.mark.slow
def test_a_database_that_does_not_exist_is_one_line(database: str, tmp_path: Path) -> None:
    address = f"{database.rpartition('/')[0]}/nowhere"
    with pytest.raises(InputError, match=r"the database cannot be used: .*nowhere") as error:
        study(tmp_path, storage=address)
    assert "\n" not in str(error.value)
