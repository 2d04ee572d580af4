"""A model card: what a run is, how good it is and where it breaks, as Hugging Face reads it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from wafergpt import atomic_files
from wafergpt.logs import say
from wafergpt.reports import texts as words
from wafergpt.reports.classification_metrics import ranked
from wafergpt.reports.evaluation_tables import Part, evaluation_parts
from wafergpt.reports.retrieval import evaluated
from wafergpt.reports.sections import Chapter
from wafergpt.runs.run import Run
from wafergpt.suites.evaluation import OF_LANGUAGE, OF_TASKS, SUITES, kept_of

FILE = "README.md"

SEAL = re.compile(r"<!-- Written by wafergpt; sha256 of the rest: ([0-9a-f]{64}) -->\n\Z")
"""Ends a card: with another hash it was changed by hand."""

PIPELINES = {
    "classify": "text-classification", "regress": "text-classification",
    "tag": "token-classification", "rank": "text-ranking", "embed": "sentence-similarity",
    "translate": "translation", "dialogue": "text-generation", "answer": "question-answering",
}  # fmt: skip
"""Hugging Face's name of each task."""


def write_card(run: Run, path: Path | None = None) -> Path:
    """Write the card of a run, in Markdown with the fields of Hugging Face's model cards.

    A card that was changed by hand, such as its licence, stays as it is.

    Args:
        run: finished or not.
        path: of the file; if omitted, ``README.md`` in the run's folder.

    Returns:
        The file written.

    Raises:
        InputError: if a file of the run is damaged.
    """
    path = path or run.path / FILE
    if path.is_file() and not _is_ours(path.read_text(encoding="utf-8", errors="replace")):
        say(f"{path} was changed by hand, and stays: without it a new card is written")
        return path
    text = "\n".join(_lines(run))
    seal = f"<!-- Written by wafergpt; sha256 of the rest: {_digest(text)} -->\n"
    atomic_files.write_text(path, text + seal)
    return path


def _is_ours(text: str) -> bool:
    found = SEAL.search(text)
    return found is not None and found[1] == _digest(text[: found.start()])


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _lines(run: Run) -> Iterator[str]:
    chapter = Chapter.of(run)
    found = kept_of(run)
    compared = ranked(run.read("comparison"))
    yield from _front(chapter)
    yield f"# {run.name}\n"
    yield f"{words.verdict(chapter, compared)}\n"
    if refit := words.before_refit(chapter):
        yield f"{refit}\n"
    yield f"{words.settings(chapter)}.\n"
    yield "## Use\n"
    yield f"```bash\n{run.usage()}\n```\n"
    yield "## Data\n"
    yield f"{_data(chapter)}\n"
    if tiles := words.tiles(chapter):
        yield "## Scores\n"
        yield _markdown(("", "Value", ""), tiles)
    if compared:
        yield "## Beside baselines\n"
        scores = [(str(row["name"]), f"{float(row['accuracy']):.1%}") for row in compared]
        yield _markdown(("Model", "Accuracy"), scores)
    if rows := words.planned(chapter):
        yield "## Planned and measured\n"
        yield _markdown(("", "Planned", "Measured", "Difference"), rows)
    for part in evaluation_parts(found):
        yield f"## {part.title}\n"
        yield _part(part)
    yield "## Limits\n"
    yield from _limits(chapter, found)
    yield "\n## Licence\n"
    yield (
        "Not stated. Whoever passes this model on states the licence of its weights here and in "
        "the field `license` above, and minds those of the data that it was trained on.\n"
    )


def _front(chapter: Chapter) -> Iterator[str]:
    task = chapter.recipe.task
    yield "---"
    yield "license: unknown"
    yield f"pipeline_tag: {PIPELINES[task.name] if task else 'text-generation'}"
    yield "tags:\n- gpt2\n- cerebras-gpt\n- wafergpt"
    metrics = [name for name in ("accuracy", "f1") if name in evaluated(chapter.result)[1]]
    if metrics:
        yield "metrics:\n" + "\n".join(f"- {name}" for name in metrics)
    yield "---\n"


def _data(chapter: Chapter) -> str:
    recipe = chapter.recipe
    if recipe.task is None:
        corpus = recipe.data.corpus
        read = "" if corpus is None else f" of the corpus `{corpus.name}`"
        tokens = chapter.now("tokens")
        many = "an unknown number of" if tokens is None else f"{tokens:,.0f}"
        return f"Pretrained on {many} tokens{read}."
    task = recipe.task
    named = [f"`{path.name}` ({part})" for part, path in
             (("training", task.train), ("validation", task.validation), ("test", task.test))
             if path is not None]  # fmt: skip
    start = chapter.result.get("init")
    before = f" Fine-tuned from `{start}`." if isinstance(start, str) and start != "scratch" else ""
    return f"Labelled rows of {', '.join(named) or 'unknown files'}.{before}"


def _limits(chapter: Chapter, found: Mapping[str, Any]) -> Iterator[str]:
    """Say what was measured to be weak, and what was not measured."""
    recipe = chapter.recipe
    context = (recipe.task.max_tokens if recipe.task else 0) or recipe.model.seq_len
    in_parts = recipe.task is not None and recipe.task.name in ("tag", "answer")
    beyond = "longer texts are read in parts" if in_parts else "what is beyond is cut"
    yield f"- It reads {context:,} tokens at most; {beyond}."
    for line in _weak(found):
        yield f"- {line}"
    left = [name for name in (OF_TASKS if recipe.task else OF_LANGUAGE) if name not in found]
    if left:
        yield f"- Not measured: {'; '.join(f'{name} ({SUITES[name]})' for name in left)}."
    yield "- It repeats what is in its data, errors and prejudices too."


def _weak(found: Mapping[str, Any]) -> Iterator[str]:
    changed = found.get("robustness")
    rows = changed.get("kinds") if isinstance(changed, Mapping) else None
    known = [r for r in rows if isinstance(r, Mapping) and isinstance(r.get("drop"), float)] if (
        isinstance(rows, list)) else []  # fmt: skip
    if known:
        worst = max(known, key=lambda row: row["drop"])
    if known and worst["drop"] > 0:
        yield (
            f"Of the changes that were tried, {worst['kind']} at severity {worst['severity']} "
            f"harms it most: it loses {worst['drop']:.1%}."
        )
    sets = found.get("rows", {}).get("sets") if isinstance(found.get("rows"), Mapping) else None
    for name, one in sets.items() if isinstance(sets, Mapping) else ():
        drop = one.get("drop") if isinstance(one, Mapping) else None
        if isinstance(drop, float) and drop > 0:
            yield f"On the rows of {Path(str(name)).name} it loses {drop:.1%}."


def _part(part: Part) -> str:
    table = _markdown(part.heads, part.rows)
    return f"{table}\n{part.note}\n" if part.note else table


def _markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)], *rows]
    return "".join("| " + " | ".join(map(_cell, line)) + " |\n" for line in lines)


def _cell(text: str) -> str:
    return str(text).replace("|", "\\|").replace("\n", " ")
