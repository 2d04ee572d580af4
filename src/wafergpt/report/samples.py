"""The texts a model wrote while it learned, from samples.md."""

from __future__ import annotations

import re
from pathlib import Path

from wafergpt.report.markup import escape, folded

MOST_BYTES = 64 << 20
"""Of samples.md, which nothing else limits."""

MAX_LOOKS = 12
MAX_CHARACTERS = 8000
"""Of one look; the page stays small whatever the run wrote."""


def read_samples(path: Path) -> dict[str, str]:
    """Split samples.md at its ``## `` headings.

    A run that went on after a stop writes some looks again; the later one counts.

    Returns:
        The text below each heading, in the order of the file.
    """
    if not path.is_file():
        return {}
    looks: dict[str, list[str]] = {}
    steps: dict[str, str] = {}
    lines: list[str] = []
    fenced = False
    with path.open("rb") as file:
        text = file.read(MOST_BYTES).decode(errors="replace")
    for line in text.split("\n"):
        if not fenced and line.startswith("## "):
            heading = line[3:].strip()
            step = heading.partition(" · ")[0]
            looks.pop(steps.pop(step, ""), None)
            steps[step] = heading
            lines = looks[heading] = []
            continue
        fenced ^= line.startswith("```")
        lines.append(line)
    return {heading: "\n".join(body).strip("\n") for heading, body in looks.items()}


def samples_html(looks: dict[str, str]) -> str:
    """Return the last look in full and the earlier ones folded, latest first."""
    headings = list(looks)
    if len(headings) > MAX_LOOKS:
        last = len(headings) - 1
        headings = [headings[round(i * last / (MAX_LOOKS - 1))] for i in range(MAX_LOOKS)]
    *earlier, latest = headings
    parts = [f"<h4>{escape(_capital(latest))}</h4>{_body(looks[latest])}"]
    if earlier:
        older = "".join(
            f"<h4>{escape(_capital(h))}</h4>{_body(looks[h])}" for h in reversed(earlier)
        )
        parts.append(folded("Earlier in the run", older))
    return "".join(parts)


def _capital(heading: str) -> str:
    return heading[:1].upper() + heading[1:]


def _body(text: str) -> str:
    """Render quotes, fences and paragraphs; everything in them is shown as it is."""
    if len(text) > MAX_CHARACTERS:
        text = text[:MAX_CHARACTERS] + " …"
    blocks: list[tuple[str, list[str]]] = []
    fenced = False
    for line in text.split("\n"):
        if line.startswith("```"):
            fenced = not fenced
            blocks.append(("pre" if fenced else "", []))
            continue
        kind = "pre" if fenced else "blockquote" if line.startswith(">") else "p" if line else ""
        if not blocks or blocks[-1][0] != kind:
            blocks.append((kind, []))
        blocks[-1][1].append(re.sub("^> ?", "", line) if kind == "blockquote" else line)
    return "".join(
        f'<{kind} class="sample" dir="auto">{_prompt(kind, lines)}</{kind}>'
        for kind, lines in blocks
        if kind and lines
    )


def _prompt(kind: str, lines: list[str]) -> str:
    inner = escape("\n".join(lines))
    # The writer sets the prompt in bold, at the start; what the model wrote stays literal.
    return inner if kind == "pre" else re.sub(r"\A\*\*(.+?)\*\*", r"<b>\1</b>", inner, flags=re.S)
