"""Answers that a model wrote, beside those that were wanted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wafergpt.reports.formatting import number, sequence
from wafergpt.reports.markup import escape, table

SCORES = {"bleu": "BLEU", "chrf": "chrF", "perplexity": "perplexity"}


def answers_card(result: Mapping[str, Any]) -> str:
    """Return the answers to test rows, or else to validation rows, as HTML; "" if there are none.

    Args:
        result: of a run, in which anything may be missing.
    """
    for key, name in (("test", "test"), ("metrics", "validation")):
        metrics = result.get(key)
        samples = [one for one in sequence(metrics, "samples") if isinstance(one, Mapping)]
        if not isinstance(metrics, Mapping) or not samples:
            continue
        rows = [tuple(str(one.get(k, "")) for k in ("prompt", "reference", "answer"))
                for one in samples]  # fmt: skip
        found = {label: number(metrics, score) for score, label in SCORES.items()}
        said = ", ".join(f"{label} {value:.2f}" for label, value in found.items() if value)
        inner = table(("Text", "Reference", "Answer"), rows)
        lead = f'<p class="aside">{escape(f"On the {name} rows: {said}.")}</p>' if said else ""
        return f'<div class="card answers"><h3>What it answers</h3>{lead}{inner}</div>'
    return ""
