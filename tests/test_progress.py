"""What people see while they wait, as a terminal emulator sees it."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, TextIO, cast

import pyte
import pytest
from hypothesis import given
from hypothesis import strategies as st
from wcwidth import wcswidth

from wafergpt import progress as progress_module
from wafergpt.logs import say
from wafergpt.progress import progress, working
from wafergpt.screen import ASCII, FINE, Line, Screen, fit

NAME = "my-first-language-model"
NUMBERS = ["57/400 steps", "loss 1.970", "9,369 tokens/s", "7.1 steps/s"]
CHINESE = "我的第一个语言模型的第二次试验"


class Terminal:
    """A pseudo-terminal and its emulator; stderr of this process is on it."""

    def __init__(self, columns: int, encoding: str = "utf-8") -> None:
        self.main, side = pty.openpty()
        os.set_blocking(self.main, False)
        self.stream: TextIO = open(side, "w", encoding=encoding)  # noqa: SIM115, PTH123
        self.screen = pyte.Screen(columns or 80, 12)
        self._feed = pyte.ByteStream(self.screen)
        self.written = b""
        self.resize(columns)

    def resize(self, columns: int) -> None:
        size = struct.pack("HHHH", 12, columns, 0, 0)
        fcntl.ioctl(self.stream.fileno(), termios.TIOCSWINSZ, size)
        self.screen.resize(12, columns or 80)

    def lines(self) -> list[str]:
        """Return what stands on the screen."""
        try:
            while part := os.read(self.main, 1 << 16):
                self.written += part
                self._feed.feed(part)
        except BlockingIOError:
            pass
        return [line.rstrip() for line in self.screen.display if line.strip()]

    def wait_for(self, pattern: str) -> str:
        """Return the last line once it has the pattern."""
        for _ in range(300):
            last = (self.lines() or [""])[-1]
            if re.search(pattern, last):
                return last
            time.sleep(0.01)
        raise AssertionError(f"no {pattern} in {self.lines()}")

    def close(self) -> None:
        self.stream.close()
        os.close(self.main)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Terminal]]:
    for name in ("CI", "NO_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setattr(progress_module, "REFRESH_SECONDS", 0.02)
    monkeypatch.setattr(progress_module, "NOTE_SECONDS", 0.05)
    opened: list[Terminal] = []

    def terminal(columns: int = 80, encoding: str = "utf-8") -> Terminal:
        opened.append(Terminal(columns, encoding))
        monkeypatch.setattr(sys, "stderr", opened[-1].stream)
        return opened[-1]

    yield terminal
    monkeypatch.undo()
    for one in opened:
        one.close()


def shown(line: Line, width: int, ascii_only: bool = False) -> str:
    glyphs = ASCII if ascii_only else FINE
    return "".join(piece for _, piece in fit(line, width, glyphs, glyphs.spinner[0]))


@pytest.mark.parametrize(
    ("width", "expected"),
    [
        (9, "48s left"),
        (20, "⠋ my-first… 48s left"),
        (40, "⠋ my-first-lang… 57/400 steps · 48s left"),
        (60, "⠋ my-first-la… ━─────── 57/400 steps · loss 1.970 · 48s left"),
        (79, "⠋ my-first-lang… ━─────── 57/400 steps · loss 1.970 · 9,369 tokens/s · 48s left"),
        (
            119,
            "⠋ my-first-language-model ━━━━───────────────────── "
            "57/400 steps · loss 1.970 · 9,369 tokens/s · 7.1 steps/s · 48s left",
        ),
    ],
)
def test_the_least_important_goes_first(width: int, expected: str) -> None:
    assert shown(Line(NAME, NUMBERS, "48s left", 57 / 400), width) == expected


@given(
    st.text(max_size=40),
    st.lists(st.text(max_size=15), max_size=5),
    st.sampled_from(["48s left", "3h20m left", "12s"]),
    st.none() | st.floats(-1, 2),
    st.integers(0, 140),
    st.booleans(),
)
def test_it_fits_and_the_time_is_seen(
    name: str,
    numbers: list[str],
    left: str,
    share: float | None,
    width: int,
    ascii_only: bool,
) -> None:
    from rich.cells import cell_len

    text = shown(Line(name, numbers, left, share), width, ascii_only)
    assert cell_len(text) <= width
    assert text.endswith(left) or width < len(left)
    assert text.isprintable()


@pytest.mark.parametrize("width", range(12, 100))
def test_wide_letters_are_two_cells(width: int) -> None:
    text = shown(Line(CHINESE, NUMBERS, "48s left", 0.5), width)
    assert wcswidth(text) <= width
    assert wcswidth(text) >= width - 1 or "…" not in text


@pytest.mark.parametrize("columns", [60, 80, 120])
@pytest.mark.parametrize("name", [NAME, CHINESE])
def test_a_bar_keeps_to_one_row(terminal: Callable[..., Terminal], columns: int, name: str) -> None:
    screen = terminal(columns)
    with progress(name, 400, "steps") as bar:
        bar.advance(57, "loss 1.970 · 9,369 tokens/s")
        line = screen.wait_for("57/400.* left$")
        assert len(screen.lines()) == 1
    assert name[:3] in line.replace(" ", "")
    assert "─" in line
    assert "loss 1.970" in line
    assert ("9,369 tokens/s" in line) == (columns >= 80)


def test_it_follows_the_width(terminal: Callable[..., Terminal]) -> None:
    screen = terminal(120)
    with progress(NAME, 400, "steps") as bar:
        bar.advance(57, "loss 1.970 · 9,369 tokens/s")
        screen.wait_for("steps/s.* left$")
        screen.resize(60)
        narrow = screen.wait_for("… .*loss 1.970.* left$")
        assert len(screen.lines()) == 1
        assert "tokens/s" not in narrow
        screen.resize(80)
        screen.wait_for("9,369 tokens/s.* left$")
        assert len(screen.lines()) == 1


def test_what_is_inside_is_a_note(terminal: Callable[..., Terminal]) -> None:
    before = threading.active_count()
    screen = terminal(80)
    with progress(NAME, 400, "steps") as bar:
        bar.advance(57, "loss 1.970")
        with working("evaluating"):
            screen.wait_for(r"57/400 steps · evaluating \ds · loss 1.970 · .* left$")
            with progress("predicting", 30, "texts") as inner:
                inner.advance(12)
                screen.wait_for("57/400 steps · predicting 12/30 texts")
        line = screen.wait_for("57/400 steps · loss 1.970")
        assert "evaluating" not in line
    with working("a baseline"), progress("its training", 10, "steps") as bar:
        bar.advance(4)
        line = screen.wait_for("its training .*4/10 steps")
        assert "baseline" not in line
        time.sleep(0.06)
        assert "baseline" not in screen.wait_for("its training")
    assert threading.active_count() == before


def test_other_lines_come_above(terminal: Callable[..., Terminal]) -> None:
    screen = terminal(80)
    with working("saving"):
        screen.wait_for("saving")
        say("said")
        print("warned", file=sys.stderr)
        print("half a line", end="", file=sys.stderr, flush=True)
        time.sleep(0.06)
        assert screen.lines()[-1] == "half a line"
        print(", and whole", file=sys.stderr, flush=True)
        screen.wait_for("saving")
    lines = screen.lines()
    assert lines == ["said", "warned", "half a line, and whole"]
    assert sys.stderr is screen.stream


def test_only_a_long_bar_stays(
    terminal: Callable[..., Terminal], monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = terminal(60)
    with progress("reading", 10, "MB") as bar:
        bar.advance(10)
    assert screen.lines() == []
    monkeypatch.setattr(progress_module, "LONG_SECONDS", 0.0)
    with progress("reading", 10, "MB") as bar:
        bar.advance(10)
    (line,) = screen.lines()
    assert re.fullmatch(r"reading ━+ 10/10 MB · .* MB/s · in 0\.0s", line)
    with pytest.raises(ZeroDivisionError), working("failing"):
        raise ZeroDivisionError
    assert len(screen.lines()) == 1


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_terminal_without_the_letters(terminal: Callable[..., Terminal], encoding: str) -> None:
    screen = terminal(80, encoding)
    with progress(CHINESE, 400, "steps") as bar:
        bar.advance(200, "loss 1.970")
        assert re.match(r"[-|/\\] \?+(\.\.)? #+-+ 200/400 steps, loss", screen.wait_for("left$"))
        say("→ é")
    screen.lines()
    assert screen.written.replace(b"\xe9", b"?").isascii()
    assert (b"? \xe9" in screen.written) == (encoding == "latin-1")


@pytest.mark.parametrize("columns", [0, 1, 5, 12])
def test_odd_widths(terminal: Callable[..., Terminal], columns: int) -> None:
    screen = terminal(columns)
    with progress(NAME, 400, "steps") as bar:
        bar.advance(57, "loss 1.970")
        # Without a width it is taken for 80; one column is left free.
        screen.wait_for({0: "loss 1.970.* left$", 1: "^$"}.get(columns, r"\d"))
        assert len(screen.lines()) <= 1


def test_colours_are_left_out_if_asked(
    terminal: Callable[..., Terminal], monkeypatch: pytest.MonkeyPatch
) -> None:
    for colour in (True, False):
        if not colour:
            monkeypatch.setenv("NO_COLOR", "1")
        screen = terminal(80)
        with working("saving"):
            screen.wait_for("saving")
        assert (b"m" in re.sub(rb"[^\x1b]*(\x1b\[[0-9;?]*.)[^\x1b]*", rb"\1", screen.written)) == (
            colour
        )


@pytest.mark.parametrize(("name", "value"), [("TERM", "dumb"), ("CI", "true")])
def test_where_lines_cannot_be_drawn_again_they_are_plain(
    terminal: Callable[..., Terminal], monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    monkeypatch.setattr(progress_module, "LONG_SECONDS", 0.05)
    screen = terminal(80)
    with working("saving"):
        screen.wait_for("^saving … 0s so far$")
    assert b"\x1b" not in screen.written


def test_piped_it_is_a_line_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress_module, "REFRESH_SECONDS", 0.01)
    with working("short"), progress("short too", 10, "steps"):
        time.sleep(0.05)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(progress_module, "LONG_SECONDS", 0.05)
    monkeypatch.setattr(progress_module, "PLAIN_LINE_SECONDS", 0.05)
    with working("long"):
        time.sleep(0.2)
    with progress("bar", 400, "steps") as bar:
        bar.advance(100, "loss 1.970 · 9,369 tokens/s")
        with working("evaluating"):
            time.sleep(0.08)
    sign, line, *_ = capsys.readouterr().err.splitlines()
    assert sign == "long … 0s so far"
    assert re.fullmatch(
        r"bar: 100/400 steps \(25%\) · loss 1\.970 · 9,369 tokens/s · [\d,.]+ steps/s · \S+ left",
        line,
    )


def test_worker_ranks_are_silent(
    monkeypatch: pytest.MonkeyPatch, terminal: Callable[..., Terminal]
) -> None:
    screen = terminal(80)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    with working("saving"):
        say("nothing")
    assert screen.lines() == []
    assert screen.written == b""


def test_a_stderr_that_is_gone_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = io.StringIO()
    closed.close()
    read, written = os.pipe()
    os.close(read)
    broken = open(written, "w")  # noqa: SIM115, PTH123
    for stream in (None, closed, broken):
        monkeypatch.setattr(sys, "stderr", stream)
        with progress("bar", 400, "steps") as bar, working("saving"):
            bar.advance(1, "loss 1.970")
            say("nobody reads this")
    # Nothing is left that its end would have to write, and fail.
    broken.close()


def test_a_hung_up_terminal_stops_nothing(terminal: Callable[..., Terminal]) -> None:
    screen = terminal(80)
    with working("saving"):
        screen.wait_for("saving")
        os.close(screen.main)
        time.sleep(0.06)
        say("nobody reads this")
    screen.main = os.open(os.devnull, os.O_RDONLY)


def test_rates_and_amounts_are_readable(terminal: Callable[..., Terminal]) -> None:
    screen = terminal(120)
    with progress("slow", 400, "steps", done=100) as bar:
        screen.wait_for(r"100/400 steps · 0s$")
        time.sleep(0.2)
        bar.advance(0.01)
        screen.wait_for(r"steps · \S+/step · ")
    with progress("reading", 6.9, "MB") as bar:
        bar.advance(0.25)
        screen.wait_for(r"0\.2/6\.9 MB")


def test_a_screen_needs_a_terminal() -> None:
    assert Screen.of(None) is None
    assert Screen.of(io.StringIO()) is None


def test_another_job_of_the_shell_has_the_terminal(
    terminal: Callable[..., Terminal], monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = terminal(80)
    monkeypatch.setattr(os, "tcgetpgrp", lambda fd: os.getpgrp() + 1)
    with working("saving"):
        time.sleep(0.06)
        assert screen.lines() == []
        monkeypatch.setattr(os, "tcgetpgrp", lambda fd: os.getpgrp())
        screen.wait_for("saving")


def test_while_it_evaluates_a_bar_says_so(terminal: Callable[..., Terminal]) -> None:
    from wafergpt import config
    from wafergpt.train.callbacks import Evaluation

    screen = terminal(80)

    def judge() -> dict[str, float]:
        screen.wait_for("57/400 steps · evaluating ")
        return {"val_loss": 1.0}

    state = SimpleNamespace(step=57, best=None, best_step=0, callbacks={})
    with progress(NAME, 400, "steps") as bar:
        bar.advance(57)
        Evaluation(judge, config.Evaluate(every=57), {"loss": "min"}, 400).after_step(
            cast(Any, state), {}
        )


def test_a_stderr_that_was_closed_before_keeps_stdout_clean() -> None:
    script = f"exec {sys.executable} -m wafergpt nonsense 2>&-"
    done = subprocess.run(["sh", "-c", script], stdout=subprocess.PIPE, check=False)
    assert (done.returncode, done.stdout) == (2, b"")
