"""Tables fit the terminal; the least important columns go first."""

from __future__ import annotations

import io
import sys
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from wafergpt.cli import doctor, emit, plan, runs
from wafergpt.cli.answers import answers_table
from wafergpt.cli.tables import Cell, Column, bar, fitted, plain, show, table

WIDTHS = [40, 60, 80, 120]

RUN = {
    "name": "my-first-language-model-of-reviews", "path": "runs/my-first-language-model-of-reviews",
    "kind": "finetune", "parameters": 123_456_789, "step": 12_345, "tokens": 1_234_567_890,
    "loss": 2.1234, "val_loss": 2.5, "best_val_loss": 2.25, "best_step": 9_999,
    "accuracy": 0.8765, "accuracy_of": "test", "seconds": 12_345.0, "elapsed": None,
    "bytes": 12_345_678,
    "planned_seconds": None, "state": "finished",
}  # fmt: skip


def whole_command(row: str) -> bool:
    """Return whether a row is a command, which is copied in one piece."""
    return row.startswith("next: wafergpt ")


def shown(screen: Any, width: int) -> list[str]:
    out = io.StringIO()
    console = Console(
        file=out, width=width, force_terminal=True, color_system="standard", highlight=False
    )
    show(screen, console)
    text = out.getvalue()
    assert "\x1b" in text
    lines = io.StringIO()
    show(screen, Console(file=lines, width=width, highlight=False))
    rows = lines.getvalue().splitlines()
    assert all(cell_len(row) <= width or whole_command(row) for row in rows)
    return rows


def test_commands_can_be_copied_and_sentences_are_wrapped() -> None:
    commands = (
        f"next: wafergpt predict {'a' * 50} --text 'a text of yours'\n      wafergpt {'b' * 50}"
    )
    out = io.StringIO()
    said = "a sentence of several words that is longer than a narrow terminal"
    show(lambda width: [said, commands], Console(file=out, width=30, highlight=False))
    *wrapped, first, second = out.getvalue().splitlines()
    assert [first, second] == commands.splitlines()
    assert len(wrapped) == 3
    assert max(map(len, wrapped)) <= 30


@pytest.mark.parametrize("width", WIDTHS)
def test_runs(width: int) -> None:
    rows = shown(lambda cells: runs._screen([RUN, {**RUN, "name": "b"}], cells), width)
    head = rows[0].split("  ")
    kept = {
        40: {"run", "state"},
        60: {"run", "val loss", "accuracy", "state"},
        80: {"run", "val loss", "at step", "accuracy", "time", "state"},
        120: {"run", "kind", "parameters", "val loss", "at step", "accuracy", "time", "state"},
    }
    assert kept[width] <= {name.strip() for name in head}
    # A name is never cut: it is to be typed.
    names = "".join(row[: rows[1].index(" ") if " " in rows[1].strip() else 34] for row in rows)
    assert "my-first-language-model" in names
    assert "".join(rows).count("finished") == 2
    assert rows[-1].strip() or rows[-2].strip()


def test_a_column_without_values_is_omitted() -> None:
    rows = shown(
        lambda cells: runs._screen([{**RUN, "accuracy": None, "accuracy_of": None}], cells), 120
    )
    assert "accuracy" not in rows[0]
    assert "train loss" in rows[0]


@pytest.mark.parametrize("width", WIDTHS)
def test_predictions(width: int) -> None:
    texts = ["What a film! " * 30, "短" * 90, "two\nlines \x1b[31mred", ""]
    outputs: list[Any] = [
        {"label": "positive", "score": 0.931, "scores": {}},
        {"label": "negative", "score": 0.5, "scores": {}},
        {"label": "a-label-that-is-much-longer-than-others", "score": 0.4, "scores": {}},
        None,
    ]
    rows = shown(lambda cells: [answers_table(texts, outputs, cells)], width)
    assert len(rows) >= 6
    assert "What a film" in rows[2]
    assert "…" in rows[2]
    assert "positive" in rows[2]
    if width >= 60:
        assert "93.1%" in rows[2]
    if width >= 80:
        assert "█████████░" in rows[2]
    assert "\x1b" not in "".join(rows)


def test_labels_differ_on_any_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    outputs: list[Any] = [{"label": label, "score": 0.9} for label in ("好", "坏")]
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="latin-1"))
    rows = shown(lambda cells: [answers_table(["a", "b"], outputs, cells)], 60)
    assert [row.split()[1] for row in rows[2:]] == [r"\u597d", r"\u574f"]


def test_a_regression_shows_its_value() -> None:
    rows = shown(lambda cells: [answers_table(["a", "b"], [{"value": -0.25}, None], cells)], 60)
    assert rows[2].split() == ["a", "-0.25"]
    assert rows[3].split() == ["b"]


@pytest.mark.parametrize("width", WIDTHS)
def test_plan_and_doctor_fold(width: int) -> None:
    lines = [("memory", "3.10 GiB: DOES NOT FIT"), ("note", "a long note " * 20)]
    one = {
        "n_layers": 2, "d_model": 128, "parameters": 1_478_144, "batch_size": 16,
        "tokens": 5_206_016, "tokens_per_second": 49_595.0, "expected_loss": 10.0,
        "tokens_per_parameter": 3.5, "chosen": True,
    }  # fmt: skip
    other = {**one, "d_model": 96, "expected_loss": 10.1, "chosen": False}
    facts = {"candidates": [other, one]}
    rows = shown(lambda cells: plan._screen(facts, lines, cells), width)
    assert "".join(rows).count("note") == 21
    assert rows[-2].split()[:3] == ["2", "×", "128"]
    assert rows[-2].split()[-1] == "chosen"
    assert rows[-1].split()[-1] == "+1.0%"
    text = "ok       torch 2.11\nmissing  plotly: pip install 'wafergpt[report]'"
    rows = shown(lambda cells: [doctor._screen(text)], width)
    assert rows[0].split() == ["ok", "torch", "2.11"]
    assert rows[1].split()[0] == "missing"


def test_the_highest_rank_goes_first_and_the_rest_folds() -> None:
    columns = [Column("a", min_width=4), Column("b", rank=1), Column("c", rank=2), Column("d")]
    wanted = {0: 10, 1: 5, 2: 5, 3: 5}
    assert fitted(columns, wanted, 31) == wanted
    assert fitted(columns, wanted, 30) == {0: 9, 1: 5, 2: 5, 3: 5}
    assert fitted(columns, wanted, 20) == {0: 6, 1: 5, 3: 5}
    assert fitted(columns, wanted, 17) == {0: 10, 3: 5}
    tiny = fitted(columns, wanted, 6)
    assert sum(tiny.values()) + 2 == 6


def test_plain_text_is_aligned_whatever_the_letters() -> None:
    text = plain(
        [Column("name"), Column("n", right=True)], [("一二", "1"), ("abc", Cell("20", "red"))]
    )
    assert text == "name   n\n一二   1\nabc   20"


@pytest.mark.parametrize(("share", "drawn"), [(0.0, 0), (0.55, 6), (1.0, 10), (1.5, 10)])
def test_a_bar(share: float, drawn: int) -> None:
    assert bar(share).text == "█" * drawn + "░" * (10 - drawn)


def test_an_ascii_terminal_gets_ascii_of_the_same_width(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", out)
    columns = [Column("text", min_width=8), Column("label"), Column("")]
    row = ("ab 一 é" * 9, "好", bar(0.7))
    show(lambda width: [table(columns, [row], width)], Console(width=40))
    out.flush()
    assert isinstance(out.buffer, io.BytesIO)
    rows = out.buffer.getvalue().decode("ascii").splitlines()
    assert rows[2].endswith("...  ?      #######...")
    assert set(rows[1]) <= {"-", " "}
    assert len({len(row) for row in rows}) == 1


def test_only_a_terminal_gets_a_screen(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    emit({"a": 1}, False, "plain", lambda width: ["screen"])
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    emit({"a": 1}, False, "plain", lambda width: ["screen"])
    emit({"a": 1}, True, "plain", lambda width: ["screen"])
    assert capsys.readouterr().out.splitlines() == ["plain", "screen", '{"a": 1}']
