"""Streams that cannot show a letter, are closed, are full, or have no reader."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from contextlib import suppress
from typing import Any

import pytest

from wafergpt.cli import emit, json_line
from wafergpt.cli.streams import legible, shows, steady_streams
from wafergpt.errors import RunFailed
from wafergpt.progress import progress


class Out(io.TextIOWrapper):
    """A text stream of an encoding, in memory."""

    def __init__(self, encoding: str) -> None:
        super().__init__(io.BytesIO(), encoding=encoding, write_through=True)

    def written(self) -> str:
        raw = self.buffer
        assert isinstance(raw, io.BytesIO)
        return raw.getvalue().decode(self.encoding)


class Broken(io.StringIO):
    """A stream that takes nothing."""

    def __init__(self, error: OSError) -> None:
        super().__init__()
        self.error = error

    def write(self, text: str) -> int:
        raise self.error


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_what_cannot_be_shown_is_replaced(monkeypatch: pytest.MonkeyPatch, encoding: str) -> None:
    out, messages = Out(encoding), Out(encoding)
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", messages)
    text = "µP → 一 café … \ud800 ⠙ ━"
    with steady_streams():
        print(text)
        print(text, file=sys.stderr)
    assert out.written() == messages.written()
    expected = {
        "ascii": "uP -> ? cafe ... ? * -\n",
        "latin-1": "µP -> ? café ... ? * -\n",
        "cp1252": "µP -> ? café … ? * -\n",
        "utf-8": "µP → 一 café … ? ⠙ ━\n",
    }
    assert out.written() == expected[encoding]


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_json_loses_nothing(monkeypatch: pytest.MonkeyPatch, encoding: str) -> None:
    out = Out(encoding)
    monkeypatch.setattr(sys, "stdout", out)
    value = {"text": "一 “café” 🙂 \ud800", "loss": float("nan")}
    with steady_streams():
        emit(value, True, "")
        print(json_line({"label": "好"}))
    first, second = out.written().splitlines()
    assert json.loads(first) == {**value, "loss": None}
    assert json.loads(second) == {"label": "好"}
    assert ("好" in second) == (encoding == "utf-8")


def test_a_letter_that_is_shown_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", Out("latin-1"))
    assert shows("é")
    assert not shows("→")
    assert legible("é → ½") == "é -> ½"


def test_messages_that_nobody_takes_end_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for error in (BrokenPipeError(), OSError(28, "No space left on device"), OSError(5, "gone")):
        monkeypatch.setattr(sys, "stderr", Broken(error))
        with steady_streams():
            print("step 1: loss 3", file=sys.stderr, flush=True)


def test_a_result_that_cannot_be_written_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", Broken(OSError(28, "No space left on device")))
    with pytest.raises(RunFailed, match="to stdout: No space left on device"), steady_streams():
        print("result")
    monkeypatch.setattr(sys, "stdout", Broken(BrokenPipeError()))
    with pytest.raises(BrokenPipeError), steady_streams():
        print("result")


def test_streams_are_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    nothing: Any = None
    monkeypatch.setattr(sys, "stdin", nothing)
    before = sys.stdin, sys.stdout, sys.stderr
    with steady_streams():
        assert list(sys.stdin) == []
        assert sys.stdin.buffer.read() == b""
    assert (sys.stdin, sys.stdout, sys.stderr) == before


def test_ascii_stdin_is_read_as_utf8(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("好\n".encode()), "ascii"))
    with steady_streams():
        assert list(sys.stdin) == ["好\n"]


def shell(command: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Run a shell line in which ``$W`` is the command, with the buffers that users have."""
    values = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    values |= {"W": f"{sys.executable} -m wafergpt", **environment}
    return subprocess.run(["bash", "-c", command], capture_output=True, env=values, check=False)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")  # noqa: PTH110
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_a_full_stdout_is_one_line_and_exit_1(encoding: str) -> None:
    result = shell("$W mup >/dev/full", PYTHONIOENCODING=encoding)
    assert result.returncode == 1
    (line,) = result.stderr.decode().splitlines()
    assert line.startswith("error: the output cannot be written to stdout")


def test_closed_streams_end_nothing_and_lend_no_number() -> None:
    code = (
        "import sys; from wafergpt.cli.streams import steady_streams\n"
        "with steady_streams():\n"
        "    file = open('/dev/null')\n"
        "    print('a'); print('b', file=sys.stderr)\n"
        "    sys.exit(0 if file.fileno() > 2 else 3)\n"
    )
    result = shell(f'{sys.executable} -c "{code}" >&- 2>&- <&-')
    assert result.returncode == 0


def test_ascii_help_shows_replaced_letters() -> None:
    result = shell("$W --help", PYTHONIOENCODING="ascii")
    assert result.returncode == 0
    assert b"Check uP" in result.stdout


def test_a_closed_terminal_ends_no_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    """A real one: its other end is closed while the bar is shown."""
    main, terminal = os.openpty()
    file = os.fdopen(terminal, "w", encoding="utf-8")
    monkeypatch.setattr(sys, "stderr", file)
    with steady_streams(), progress("training", 10, "steps") as bar:
        bar.advance(1, "loss 2.0")
        os.close(main)
        for _ in range(3):
            bar.advance(1, "loss 1.0")
            bar.say("saved")
    with suppress(OSError):
        file.close()
