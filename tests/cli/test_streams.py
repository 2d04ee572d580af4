"""Standard streams that are closed, or close."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from wafergpt.cli.streams import Lasting
from wafergpt.progress import progress


def test_a_reader_of_stderr_who_leaves_ends_nothing() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    stream = Lasting(os.fdopen(writer, "w", encoding="utf-8"))
    for _ in range(3):
        print("x" * 10, file=stream, flush=True)
    assert stream.encoding == "utf-8"
    assert not stream.isatty()
    with suppress(BrokenPipeError):
        stream.close()


COMMAND = """
import os, sys
sys.argv[1:] = ["runs", "--json", sys.argv[1]]
from wafergpt.cli import main
try:
    main()
finally:
    assert os.fstat(2).st_rdev == os.stat(os.devnull).st_rdev
    assert sys.stdin.read() == ""
    os.write(2, b"nobody")
"""


def test_closed_streams_take_no_file_and_end_nothing(tmp_path: Path) -> None:
    shell = 'exec "$@" <&- 2>&-'
    done = subprocess.run(
        ["sh", "-c", shell, "sh", sys.executable, "-c", COMMAND, str(tmp_path)],
        stdout=subprocess.PIPE,
        check=False,
    )
    assert done.returncode == 0
    assert done.stdout.startswith(b"{")


def test_a_closed_terminal_ends_no_progress() -> None:
    """A real one: its other end is closed while the bar is shown."""
    main, terminal = os.openpty()
    before, file = sys.stderr, os.fdopen(terminal, "w", encoding="utf-8")
    sys.stderr = Lasting(file)
    try:
        with progress("training", 10, "steps") as bar:
            bar.advance(1, "loss 2.0")
            os.close(main)
            for _ in range(3):
                bar.advance(1, "loss 1.0")
                bar.say("saved")
    finally:
        sys.stderr = before
        with suppress(OSError):
            file.close()
