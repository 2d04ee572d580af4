"""``wafergpt runs``."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from wafergpt.checkpoint import store
from wafergpt.cli.runs import command
from wafergpt.config import recipe_from
from wafergpt.errors import InputError
from wafergpt.runs.run import Run


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path / "runs"


def invoke(*arguments: str) -> str:
    done = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert done.exit_code == 0
    return done.stdout


@pytest.mark.parametrize("there", [True, False])
def test_no_runs_shows_what_to_type(folder: Path, there: bool) -> None:
    if there:
        folder.mkdir()
    *_, last = invoke().splitlines()
    assert last == "no runs in runs/ yet; to make the first: wafergpt demo"
    found = json.loads(invoke("--json"))
    assert (found["folder"], found["runs"]) == ("runs", [])


def test_no_runs_elsewhere_shows_where_to_make_them(folder: Path) -> None:
    (folder.parent / "my runs").mkdir()
    assert invoke("my runs").endswith("wafergpt demo --runs 'my runs'\n")


def test_a_folder_that_is_not_there(folder: Path) -> None:
    with pytest.raises(InputError, match="no folder elsewhere"):
        CliRunner().invoke(command, ["elsewhere"], catch_exceptions=False)


def test_plain_text_is_aligned(folder: Path) -> None:
    run = Run.create(recipe_from({"name": "tiny"}), folder)
    run.log({"step": 1200, "tokens": 5_000_000, "seconds": 61.0, "loss": 2.5, "val_loss": 2.75})
    Run.create(recipe_from({"name": "a-much-longer-name"}), folder)
    head, *lines = invoke().splitlines()
    assert " ".join(head.split()) == (
        "run kind parameters step tokens train loss val loss at step accuracy time planned size "
        "state"
    )
    tiny = next(line for line in lines if line.startswith("tiny"))
    assert re.fullmatch(
        r"tiny pretrain – 1,200 5\.00M 2\.500 2\.750 1,200 – 1m01s – \d kB unfinished",
        " ".join(tiny.split()),
    )
    states = {line.index("unfinished") for line in lines if "shipped" not in line}
    assert states == {head.index("state")}
    assert tiny.index("2.750") + 5 == head.index("val loss") + 8


def test_a_name_cannot_steer_the_terminal(folder: Path) -> None:
    run = Run.create(recipe_from({"name": "tiny"}), folder)
    run.path.rename(folder / "\x1b[31mred")
    assert "\x1b" not in invoke()


def test_json_is_one_object(folder: Path) -> None:
    Run.create(recipe_from({"name": "tiny"}), folder)
    (row,) = json.loads(invoke(str(folder), "--json"))["runs"]
    assert (row["name"], row["state"]) == ("tiny", "unfinished")


def test_a_terminal_gets_a_table(folder: Path) -> None:
    Run.create(recipe_from({"name": "tiny"}), folder)
    main, side = pty.openpty()
    code = "from wafergpt.cli import main; main()"
    environment = os.environ | {"COLUMNS": "120", "TERM": "xterm"}
    process = subprocess.Popen(
        [sys.executable, "-c", code, "runs"], stdout=side, stderr=side, env=environment
    )
    os.close(side)
    shown = b""
    while select.select([main], [], [], 20)[0]:
        try:
            part = os.read(main, 4096)
        except OSError:  # the other side is closed
            break
        if not part:
            break
        shown += part
    os.close(main)
    assert process.wait(20) == 0
    assert b"\x1b[33munfinished" in shown
    assert "───".encode() in shown


def test_verify_names_the_file_that_was_changed(folder: Path) -> None:
    run = Run.create(recipe_from({"name": "r"}), folder)
    with pytest.raises(InputError, match="no checkpoint yet"):
        CliRunner().invoke(command, ["verify", "r"], catch_exceptions=False)
    for step in (3, 5):
        store.save_weights({"w": torch.ones(3)}, run, step)
    assert invoke("verify", "r").count("as it was written") == 2
    weights = run.checkpoints / "step-00000005" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    done = CliRunner().invoke(command, ["verify", "r", "--json"], standalone_mode=False)
    assert done.return_value == 1
    result = json.loads(done.stdout)
    assert result["damaged"] == 1
    assert [row["error"] is None for row in result["checkpoints"]] == [True, False]
    assert str(weights.relative_to(folder)) in result["checkpoints"][1]["error"]


def test_verify_requires_one_run(folder: Path) -> None:
    for words, message in ((["verify"], "which run"), (["a", "b"], "one argument too many")):
        done = CliRunner().invoke(command, words)
        assert done.exit_code == 2
        assert message in done.output
