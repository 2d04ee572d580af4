"""The page of a run: one HTML file that fetches nothing from a network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wafergpt import atomic_files
from wafergpt.errors import InputError
from wafergpt.logs import say
from wafergpt.progress import duration, working
from wafergpt.reports import formatting as values
from wafergpt.reports import texts as words
from wafergpt.reports.answers import answers_card
from wafergpt.reports.classification_metrics import (
    Row,
    comparison_chart,
    confusion_chart,
    coverage_chart,
    ranked,
)
from wafergpt.reports.curves import curves
from wafergpt.reports.document import Document
from wafergpt.reports.entities import entity_examples
from wafergpt.reports.evaluation_charts import evaluation_charts
from wafergpt.reports.evaluation_tables import evaluation_parts
from wafergpt.reports.folds import folds_card
from wafergpt.reports.frontier import frontier_charts
from wafergpt.reports.markup import escape, folded, table
from wafergpt.reports.pruning import before_and_after, pruning_charts
from wafergpt.reports.retrieval import evaluated, retrieval_charts
from wafergpt.reports.samples import read_samples, samples_html
from wafergpt.reports.sections import Chapter, ClassifierMetrics, chapters
from wafergpt.reports.spans import span_examples
from wafergpt.reports.tuning import trials_card, tuning_charts
from wafergpt.runs.run import Run
from wafergpt.suites.evaluation import kept_of

MARK, HEAD_BYTES = b"wafergpt</title>", 4096
"""In the first bytes of every page; another file is not replaced by one."""

MAX_OPEN_CLASSES = 20
"""A table of more classes is folded."""


def write_report(run: Run, out: Path | None = None, self_contained: bool = False) -> Path:
    """Write the page of ``run``, finished or not; it is deterministic.

    The script that draws its charts is shared by all pages: it is in the folder of runs, or beside
    ``out``.

    Args:
        run: the run; if its result names a pretraining run of one's own, that one comes first.
        out: the file to write; if omitted, ``report.html`` in the run's folder.
        self_contained: include the script in the page.

    Returns:
        The file written.

    Raises:
        InputError: if plotly is not installed, a file of the run is damaged, or the run comes with
            the package and ``out`` is omitted.
    """
    if run.shipped and out is None:
        raise InputError(f"{run.name} comes with wafergpt, and is read only: add --out FILE")
    path = out or run.path / "report.html"
    if out is not None and out.is_file() and not _is_page(out):
        raise InputError(f"{out} exists, and is no report: choose another --out")
    with working("writing the report"):
        page = _drawn(run)
        places = () if self_contained else _script_places(page, out, run)
        atomic_files.write_text(path, page.html(f"{run.name} · wafergpt", places))
    return path


def _drawn(run: Run) -> _Page:
    page = _Page()
    shown, note = chapters(run)
    rows = ranked(run.read("comparison"))
    found = kept_of(run)
    titles = [chapter.title for chapter in shown]
    page.header(shown[-1], rows, [*titles, *(["Evaluation"] if found else [])])
    if rows:
        page.comparison(rows)
    for chapter in shown:
        page.chapter(chapter, note if chapter is shown[-1] else "")
    page.evaluation(found)
    return page


def _script_places(page: _Page, out: Path | None, run: Run) -> tuple[str, ...]:
    """Write the page's script to the first place it is searched for; return all those places."""
    if not page.draws:
        return ()
    folder = out.parent if out else run.path.absolute().parent
    try:
        name = page.write_script(folder)
    except OSError as error:
        say(f"{folder} cannot be written ({error.strerror}): the script is put into the page")
        return ()
    # The page may have been moved: the script may be beside it or above it.
    beside, above = name, f"../{name}"
    return (beside, above) if out else (above, beside)


class _Page(Document):
    """The page of a run, part by part."""

    def header(self, chapter: Chapter, rows: list[Row], titles: list[str]) -> None:
        state = chapter.origin or ("finished" if chapter.result else "not finished")
        mark = "state" if chapter.result else "state open"
        shown = "".join(
            f'<div><dt>{escape(name)}</dt><dd class="value">{escape(value)}</dd>'
            f'<dd class="note">{escape(note)}</dd></div>'
            for name, value, note in words.tiles(chapter)
        )
        places = ["Comparison"] if rows else []
        links = "".join(f'<a href="#{title.lower()}">{title}</a>' for title in [*places, *titles])
        self.add(
            f'<header><p class="eyebrow"><span>wafergpt</span>'
            f'<b dir="auto">{escape(chapter.run.name)}</b>'
            f'<span class="{mark}">{state}</span></p>'
            f'<h1 class="verdict">{escape(words.verdict(chapter, rows))}</h1>'
            + (f'<dl class="tiles">{shown}</dl>' if shown else "")
            + (f'<nav aria-label="Chapters">{links}</nav>' if len(titles) + len(places) > 1 else "")
            + "</header>"
        )

    def comparison(self, rows: list[Row]) -> None:
        chart = comparison_chart(rows)
        cells = []
        for row in rows:
            seconds = values.number(row, "seconds")
            cells.append(
                (
                    str(row.get("name")),
                    values.percent(values.number(row, "accuracy")),
                    values.loss(values.number(row, "loss")),
                    values.points(row) or values.MISSING,
                    values.MISSING if seconds is None else duration(seconds),
                )
            )
        heads = ("Model", "Accuracy", "Loss", "GPT − this, points (95%)", "Time")
        best = table(heads, cells, marked=(0,))
        self.add(
            '<section id="comparison"><h2>Comparison</h2>'
            '<p class="lead">All evaluated on the same held-out rows.</p><div class="charts">'
            + (self.chart(chart, "") if chart else "")
            + f'<div class="card wide"><h3>The same in numbers</h3>{best}</div></div></section>'
        )

    def chapter(self, chapter: Chapter, note: str) -> None:
        over_time = curves(chapter)
        charts = [
            *over_time[:1],
            *retrieval_charts(chapter.result),
            *over_time[1:],
            *frontier_charts(chapter),
            *pruning_charts(chapter.result),
            *tuning_charts(chapter.study),
        ]
        drawn = "".join(self.chart(chart, chapter.key) for chart in charts)
        # No line begins with a dot.
        settings = escape(words.settings(chapter)).replace(" · ", "&nbsp;· ")
        parts = [
            f'<section id="{chapter.title.lower()}"><h2>{chapter.title}</h2>'
            f'<p class="lead">{settings}</p>'
        ]
        notes = filter(None, (note, words.before_refit(chapter)))
        parts += [f'<p class="aside">{escape(line)}</p>' for line in notes]
        drawn += folds_card(chapter.result) + trials_card(chapter.study)
        if drawn:
            parts.append(f'<div class="charts">{drawn}</div>')
        pruned = _pruned(chapter)
        facts = [
            pruned,
            *self._class_metrics(chapter),
            span_examples(evaluated(chapter.result)[1]),
            answers_card(chapter.result),
            _planned(chapter),
            _samples(chapter),
        ]
        facts = [fact for fact in facts if fact]
        # Of many, the short one is not alone beside all others.
        first = 2 if pruned and len(facts) > 3 else 1
        parted = "".join(facts[:first]), "".join(facts[first:])
        columns = "".join(f"<div>{cards}</div>" for cards in parted if cards)
        if columns:
            parts.append(f'<div class="facts">{columns}</div>')
        parts.append(f"{_recipe(chapter)}</section>")
        self.add("".join(parts))

    def evaluation(self, found: Mapping[str, Any]) -> None:
        """Add what an evaluation has measured, if there was one."""
        tables = evaluation_parts(found)
        if not tables:
            return
        charts = "".join(self.chart(chart, "evaluation") for chart in evaluation_charts(found))
        cards = "".join(
            f'<div class="card wide"><h3>{escape(part.title)}</h3>{table(part.heads, part.rows)}'
            + (f'<p class="aside">{escape(part.note)}</p>' if part.note else "")
            + "</div>"
            for part in tables
        )
        self.add(
            '<section id="evaluation"><h2>Evaluation</h2>'
            f'<div class="charts">{charts}{cards}</div></section>'
        )

    def _class_metrics(self, chapter: Chapter) -> list[str]:
        """Return what is known of each class, on test rows or else on validation rows."""
        rows, part = evaluated(chapter.result)
        test = ClassifierMetrics.of(part)
        kind = "validation" if rows == "validation" and chapter.origin != "folds" else "held-out"
        charts = confusion_chart(test, kind), coverage_chart(part)
        shown = [self.chart(chart, chapter.key) for chart in charts if chart]
        if not test.per_class:
            return shown
        cells = []
        for row in test.per_class:
            shares = [values.number(row, key) for key in ("precision", "recall", "f1")]
            support = values.count(values.number(row, "support"))
            cells.append((str(row.get("label")), *map(values.percent, shares), support))
        many = "Rows" if test.f1 is None else "Entities"
        inner = table(("Label", "Precision", "Recall", "F1", many), cells)
        if len(cells) > MAX_OPEN_CLASSES:
            inner = folded(f"{len(cells)} labels", inner)
        inner += _levels(part)
        title = f"Label by label, {kind} rows"
        return [*shown, f'<div class="card"><h3>{title}</h3>{inner}</div>', entity_examples(part)]


def _is_page(path: Path) -> bool:
    with path.open("rb") as file:
        return MARK in file.read(HEAD_BYTES)


def _pruned(chapter: Chapter) -> str:
    rows = before_and_after(chapter.result)
    if not rows:
        return ""
    named = [(f"{name[0].upper()}{name[1:]}", *pair) for name, *pair in rows]
    when = ("Before", "After") if len(rows[0]) == 3 else ("Before", "Pruned", "Retrained")
    inner = table(("", *when), named)
    return f'<div class="card"><h3>Before and after</h3>{inner}</div>'


def _levels(test: object) -> str:
    """Return a table of the levels of a hierarchy of labels; "" if there is none."""
    rows = []
    for row in values.sequence(test, "levels"):
        shares = [values.percent(values.share(row, key)) for key in ("accuracy", "macro_f1")]
        numbers = [values.count(values.number(row, key)) for key in ("level", "nodes")]
        rows.append((*numbers, *shares))
    heads = ("Level", "Nodes", "Accuracy", "Macro-F1")
    return f"<h3>Level by level</h3>{table(heads, rows)}" if rows else ""


def _planned(chapter: Chapter) -> str:
    rows = words.planned(chapter)
    if not chapter.plan or not rows:
        return ""
    measured = "Measured" if chapter.result else "So far"
    inner = table(("", "Planned", measured, "Difference"), rows)
    law = values.number(chapter.plan, "predicted_loss")
    source = chapter.plan.get("predicted_loss_of")
    said = words.NO_LAW if law is None and chapter.recipe.task is None else ""
    if law is not None and source:
        said = f"The planned loss is that on {source}."
    aside = f'<p class="aside">{escape(said)}</p>' if said else ""
    return f'<div class="card"><h3>Planned and measured</h3>{inner}{aside}</div>'


def _samples(chapter: Chapter) -> str:
    evaluations = read_samples(chapter.run.path / "samples.md")
    if not evaluations:
        return ""
    return f'<div class="card"><h3>What it writes</h3>{samples_html(evaluations)}</div>'


def _recipe(chapter: Chapter) -> str:
    text = (chapter.run.path / "recipe.yaml").read_text(encoding="utf-8")
    return f'<div class="card recipe">{folded("Recipe", f"<pre>{escape(text)}</pre>")}</div>'
