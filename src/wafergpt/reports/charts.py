"""A chart: a plotly figure as plain data, with the colours left to the page."""

from __future__ import annotations

import html
from dataclasses import dataclass, field
from typing import Any

ACCENT, SECOND, INK, MUTED, QUIET, HEAT, SURFACE, ON_ACCENT = (
    f"var(--{name})"
    for name in ("accent", "second", "ink", "muted", "quiet", "heat", "surface", "on-accent")
)
"""Colours by role; the page's script inserts those of the light or the dark style."""


@dataclass(frozen=True)
class Chart:
    """One figure.

    Attributes:
        key: its name within its chapter.
        caption: what it shows, in words.
        data: plotly traces; where ``axes`` is not empty, ``x`` maps each axis to its values.
        layout: what differs from the page's common layout.
        axes: the horizontal axes to choose from: key → title.
        height: in pixels; 0 for the default.
        wide: whether it takes the whole width.
    """

    key: str
    title: str
    caption: str
    data: list[dict[str, Any]]
    layout: dict[str, Any]
    axes: dict[str, str] = field(default_factory=dict)
    height: int = 0
    wide: bool = False


def literal(text: object) -> str:
    """Return text that plotly shows literally: it would read some tags as markup."""
    return html.escape(str(text), quote=False)


def short(value: float) -> float:
    """Round to six digits, more than a screen can show."""
    return float(f"{value:.6g}")
