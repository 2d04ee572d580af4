"""The texts a model generated during training, from samples.md."""

from __future__ import annotations

import re
from pathlib import Path

from wafergpt.reports.markup import escape, folded

MAX_BYTES = 64 << 20
"""The part of samples.md that is read; its size is not limited otherwise."""

MAX_EVALUATIONS = 12
MAX_CHARACTERS = 8000
"""Characters shown of one evaluation, so that the page stays small."""


def read_samples(path: Path) -> dict[str, str]:
    """Split samples.md at its ``## `` headings.

    A resumed run writes some evaluations again; the later one is used.

    Returns:
        The text below each heading, in the order of the file.
    """
    if not path.is_file():
        return {}
    evaluations: dict[str, list[str]] = {}
    steps: dict[str, str] = {}
    lines: list[str] = []
    fenced = False
    with path.open("rb") as file:
        text = file.read(MAX_BYTES).decode(errors="replace")
    for line in text.split("\n"):
        if not fenced and line.startswith("## "):
            heading = line[3:].strip()
            step = heading.partition(" · ")[0]
            evaluations.pop(steps.pop(step, ""), None)
            steps[step] = heading
            lines = evaluations[heading] = []
            continue
        fenced ^= line.startswith("```")
        lines.append(line)
    return {heading: "\n".join(body).strip("\n") for heading, body in evaluations.items()}


def samples_html(evaluations: dict[str, str]) -> str:
    """Return the last evaluation in full and the earlier ones folded, latest first."""
    headings = list(evaluations)
    if len(headings) > MAX_EVALUATIONS:
        last = len(headings) - 1
        headings = [
            headings[round(i * last / (MAX_EVALUATIONS - 1))] for i in range(MAX_EVALUATIONS)
        ]
    *earlier, latest = headings
    parts = [f"<h4>{escape(_capital(latest))}</h4>{_body(evaluations[latest])}"]
    if earlier:
        older = "".join(
            f"<h4>{escape(_capital(h))}</h4>{_body(evaluations[h])}" for h in reversed(earlier)
        )
        parts.append(folded("Earlier in the run", older))
    return "".join(parts)


def _capital(heading: str) -> str:
    return heading[:1].upper() + heading[1:]


def _body(text: str) -> str:
    """Render quotes, fences and paragraphs; their content is shown literally."""
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
    # The prompt is in bold at the start; the model's text stays literal.
    return inner if kind == "pre" else re.sub(r"\A\*\*(.+?)\*\*", r"<b>\1</b>", inner, flags=re.S)
