"""Results for people: tables that fit the terminal, or plain text in a pipe."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from wafergpt.cli.streams import legible, shows

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table
    from rich.text import Text

    Screen = Callable[[int], Iterable[RenderableType]]
    """Returns what to show on a terminal of the given width in cells."""

ASCII_RULE = "    \n    \n -- \n" + "    \n" * 5
"""A rule below the head for terminals without box-drawing characters."""

GAP = 2
BAR = 10
"""Cells of a probability's bar."""


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        right: align to the right, for numbers.
        rank: if there is no room, the column of the highest rank is dropped first; 0 stays.
        min_width: cells that it can be narrowed to; None keeps its width.
        folds: wrap a narrowed text to the next line; otherwise cut it with an ellipsis.
    """

    name: str
    right: bool = False
    rank: int = 0
    min_width: int | None = None
    folds: bool = False


@dataclass(frozen=True)
class Cell:
    """A value with a colour (a style of rich's)."""

    text: str
    style: str = ""


Row = Sequence["str | Cell"]


def plain(columns: Sequence[Column], rows: Iterable[Row]) -> str:
    """Return a table as aligned text of its natural width."""
    from rich.cells import cell_len

    texts = [[column.name for column in columns], *([_text(c) for c in row] for row in rows)]
    widths = [max(map(cell_len, column)) for column in zip(*texts, strict=True)]
    lines = []
    for row in texts:
        padded = []
        for column, cell, width in zip(columns, row, widths, strict=True):
            space = " " * (width - cell_len(cell))
            padded.append(space + cell if column.right else cell + space)
        lines.append((" " * GAP).join(padded).rstrip())
    return "\n".join(lines)


def table(columns: Sequence[Column], rows: Iterable[Row], width: int) -> Table:
    """Return a table for a terminal of ``width`` cells.

    Columns without a value are omitted; if there is no room, the least important are dropped first.
    """
    from rich import box
    from rich.cells import cell_len, set_cell_size
    from rich.table import Table

    cells = [[c if isinstance(c, Cell) else Cell(c) for c in row] for row in rows]
    texts = [[_text(cell) for cell in row] for row in cells]
    natural = [max((cell_len(row[i]) for row in texts), default=0) for i in range(len(columns))]
    empty = {
        i for i in range(len(columns)) if columns[i].rank and not any(_said(r[i]) for r in texts)
    }
    wanted = {
        i: max(natural[i], cell_len(column.name))
        for i, column in enumerate(columns)
        if i not in empty
    }
    widths = fitted(columns, wanted, width)
    lines = box.SIMPLE_HEAD if shows("─") else box.Box(ASCII_RULE, ascii=True)
    grid = Table(
        box=lines,
        show_edge=False,
        pad_edge=False,
        padding=(0, GAP - 1, 0, 0),
        header_style="bold",
    )
    for i, cells_wide in widths.items():
        grid.add_column(
            legible(columns[i].name),
            justify="right" if columns[i].right else "left",
            width=cells_wide,
            overflow="fold",
        )
    sign = legible("…")
    for row, styled in zip(texts, cells, strict=True):
        shown = []
        for i, cells_wide in widths.items():
            text = row[i]
            if not columns[i].folds and cell_len(text) > cells_wide:
                text = set_cell_size(text, max(cells_wide - len(sign), 0)).rstrip() + sign
            shown.append(_styled(Cell(text, styled[i].style)))
        grid.add_row(*shown)
    return grid


def fitted(columns: Sequence[Column], wanted: dict[int, int], room: int) -> dict[int, int]:
    """Return the columns that fit into ``room`` cells, by their index, and the width of each.

    Args:
        columns: all.
        wanted: the natural width of those that have a value.
        room: the width of the terminal in cells.
    """
    kept = dict(wanted)

    def min_width(i: int) -> int:
        narrowest = columns[i].min_width
        return kept[i] if narrowest is None else min(kept[i], narrowest)

    while sum(map(min_width, kept)) + GAP * (len(kept) - 1) > room:
        droppable = [i for i in kept if columns[i].rank]
        if not droppable:
            break
        del kept[max(droppable, key=lambda i: columns[i].rank)]
    over = sum(kept.values()) + GAP * (len(kept) - 1) - room
    while over > 0:
        # On a terminal too narrow for the remaining columns, they wrap.
        flexible = [i for i in kept if kept[i] > min_width(i)] or [i for i in kept if kept[i] > 1]
        if not flexible:
            break
        widest = max(flexible, key=kept.__getitem__)
        others = [kept[i] for i in flexible if i != widest and kept[i] < kept[widest]]
        cut = min(over, max(1, kept[widest] - max([min_width(widest), *others, 1])))
        kept[widest] -= cut
        over -= cut
    return kept


def details(rows: Iterable[tuple[Cell, str | Cell]]) -> Table:
    """Return a table of names and values, wrapped between words."""
    from rich.table import Table

    grid = Table.grid(padding=(0, GAP, 0, 0))
    grid.add_column(justify="right", no_wrap=True)
    grid.add_column(overflow="fold")
    for row in rows:
        grid.add_row(*map(_styled, row))
    return grid


def bar(share: float) -> Cell:
    """Draw a probability as a bar, coloured by confidence."""
    filled = round(BAR * min(max(share, 0.0), 1.0))
    style = "green" if share >= 0.8 else "yellow" if share >= 0.5 else "red"
    return Cell("█" * filled + "░" * (BAR - filled), style)


def show(screen: Screen, console: Console | None = None) -> None:
    """Print a screen on the terminal."""
    from rich.console import Console

    if console is None:
        # rich takes COLUMNS=0 for a width.
        width = shutil.get_terminal_size().columns
        console = Console(width=width, highlight=False, markup=False, emoji=False)
    for part in screen(console.width):
        if not isinstance(part, str):
            console.print(part)
            continue
        for line in legible(part).split("\n"):
            # The terminal itself breaks a command, so that it is still one when copied.
            console.print(line, soft_wrap=_is_command(line))


def _is_command(line: str) -> bool:
    return line.removeprefix("next:").lstrip().startswith("wafergpt ")


def _said(text: str) -> bool:
    return text not in {"", "–", "-"}


def _styled(cell: str | Cell) -> Text:
    from rich.text import Text

    return Text(_text(cell), style=cell.style if isinstance(cell, Cell) else "")


def _text(cell: str | Cell) -> str:
    """Return a cell in one line, without terminal control characters."""
    text = " ".join((cell.text if isinstance(cell, Cell) else cell).split())
    return legible("".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text))
