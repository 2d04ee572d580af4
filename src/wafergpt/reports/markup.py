"""HTML from text that is not trusted."""

from __future__ import annotations

import html
import re
from collections.abc import Collection, Iterable, Sequence


def escape(text: object) -> str:
    """Return ``text`` escaped for HTML; characters that HTML or UTF-8 cannot hold are replaced."""
    odd = r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]"
    return html.escape(re.sub(odd, "\ufffd", str(text)))


def table(head: Sequence[str], rows: Iterable[Sequence[str]], marked: Collection[int] = ()) -> str:
    """Return a table whose first column names the row.

    Args:
        head: the names of the columns, as text.
        rows: the cells, as text.
        marked: the indices of rows to highlight.
    """
    lines = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    body = []
    for index, (name, *cells) in enumerate(rows):
        mark = ' class="marked"' if index in marked else ""
        inner = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
        body.append(f'<tr{mark}><th scope="row" dir="auto">{escape(name)}</th>{inner}</tr>')
    return (
        f'<div class="table"><table><thead><tr>{lines}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def folded(summary: str, inner: str) -> str:
    """Return ``inner`` (HTML) folded under a line of text."""
    return f"<details><summary>{escape(summary)}</summary>{inner}</details>"
