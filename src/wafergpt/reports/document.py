"""A page of text and charts in one HTML file; plotly is beside it or inside it."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

from wafergpt import atomic_files
from wafergpt.errors import InputError
from wafergpt.reports.charts import Chart
from wafergpt.reports.markup import escape


class Document:
    """The parts of a page, and the figures that its script draws.

    Raises:
        InputError: if plotly is not installed.
    """

    def __init__(self) -> None:
        self._plotly, self._script_name = _plotly(), f"plotly-{_plotly_version()}.min.js"
        self._body: list[str] = []
        self._figures: list[dict[str, Any]] = []

    @property
    def draws(self) -> bool:
        """Whether there is a chart."""
        return bool(self._figures)

    def add(self, html: str) -> None:
        """Append HTML to the body."""
        self._body.append(html)

    def chart(self, chart: Chart, chapter: str) -> str:
        """Return the card of a chart, into which the script draws."""
        name = escape(f"chart-{chapter}-{chart.key}" if chapter else f"chart-{chart.key}")
        self._figures.append(
            {
                "id": name,
                "chapter": chapter,
                "data": chart.data,
                "layout": chart.layout,
                "axes": chart.axes,
            }
        )
        style = (
            f' style="height:{chart.height}px;max-height:{2 * chart.height}px"'
            if chart.height
            else ""
        )
        return (
            f'<figure class="card{" wide" if chart.wide else ""}"><div class="head">'
            f"<h3>{escape(chart.title)}</h3>{_axes(chart, chapter)}</div>"
            f"<figcaption>{escape(chart.caption)}</figcaption>"
            f'<div class="chart" id="{name}" role="img"{style} '
            f'aria-label="{escape(chart.title)}: {escape(chart.caption)}"></div></figure>'
        )

    def write_script(self, folder: Path) -> str:
        """Write plotly into ``folder`` unless it exists there, and return the file's name."""
        path, script = folder / self._script_name, self._plotly.encode()
        if not path.is_file() or path.read_bytes() != script:
            atomic_files.write_bytes(path, script)
        return self._script_name

    def html(self, title: str, places: Sequence[str] = ()) -> str:
        """Return the page as HTML.

        Args:
            title: the title of the page.
            places: relative addresses at which the page searches for plotly, in order; without
                any, plotly is part of the page.
        """
        inlined = "" if places or not self._figures else self._plotly
        scripts = [_script(text) for text in (inlined, _asset("page.js")) if text]
        allowed = " ".join(f"'sha256-{_sha256(script)}'" for script in scripts)
        if places:
            # Allow what an allowed script adds, because file: addresses match no other rule.
            allowed += " 'strict-dynamic'"
        # Plotly sets inline styles; scripts are allowed only by their hash.
        csp = (
            f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; "
            "img-src data:; base-uri 'none'; form-action 'none'"
        )
        footer = (
            "<footer><noscript>The charts need JavaScript; nothing is fetched from a network."
            "</noscript>"
            "<p>Drag over a chart to zoom in; double-click to reset.</p></footer>"
            if self._figures
            else ""
        )
        figures = json.dumps(self._figures, separators=(",", ":"), allow_nan=False)
        return Template(_asset("page.html")).substitute(
            csp=csp,
            title=escape(title),
            css=_asset("page.css"),
            body="\n".join([*self._body, footer]),
            # No text in it can end the script element.
            figures=figures.replace("<", "\\u003c"),
            places=escape(" ".join(places)),
            missing=_missing(self._script_name) if places else "",
            scripts="".join(f"<script>{script}</script>\n" for script in scripts),
        )


def _plotly() -> str:
    try:
        from plotly.offline import get_plotlyjs
    except ImportError:
        raise InputError(
            "the report draws with plotly, which is not installed: pip install 'wafergpt[report]'"
        ) from None
    return str(get_plotlyjs())


def _plotly_version() -> str:
    from plotly.offline import get_plotlyjs_version

    return str(get_plotlyjs_version())


def _missing(script: str) -> str:
    return (
        f'<p class="aside missing" role="alert">The charts need <b>{escape(script)}</b>, which is '
        "neither in this folder nor in the one above: copy it here, write both again with "
        "<b>wafergpt report RUN</b>, or write one page with the script inside with "
        "<b>wafergpt report RUN --self-contained</b>.</p>"
    )


def _axes(chart: Chart, chapter: str) -> str:
    if len(chart.axes) < 2 or not chart.wide:
        return ""
    buttons = "".join(
        f'<button type="button" data-axis="{key}" aria-pressed="{str(not i).lower()}">'
        f"{escape(title.partition(' ')[0])}</button>"
        for i, (key, title) in enumerate(chart.axes.items())
    )
    return (
        f'<div class="axes" role="group" aria-label="Horizontal axis" '
        f'data-chapter="{chapter}">{buttons}</div>'
    )


def _asset(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _script(text: str) -> str:
    """Return a script as the browser hashes it: with LF line ends, and complete."""
    return text.replace("\r\n", "\n").replace("\r", "\n").replace("</script", "<\\/script")


def _sha256(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
