"""The results of an evaluation as tables: for the terminal, the page and the card."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from wafergpt.reports import formatting as values
from wafergpt.suites.evaluation import SUITES

Result = Mapping[str, Any]

MARKED = 3
"""The severity of changes whose drop is shown: visible, and easy to read past."""

BESIDE = ("Cerebras-GPT 111M", "Cerebras-GPT 1.3B")
"""Published models that a table has room for."""


@dataclass(frozen=True)
class Part:
    """A table.

    Attributes:
        title: what it is of.
        heads: names of the columns; the first one names the rows.
        rows: the cells, as text.
        note: a sentence on it, or "".
    """

    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


def evaluation_parts(found: Mapping[str, Any]) -> list[Part]:
    """Return the tables of an evaluation, in the order of the suites.

    Args:
        found: results by suite; what is damaged is left out.
    """
    known = [name for name in SUITES if isinstance(found.get(name), Mapping)]
    shown = [_TABLES[name](found[name]) for name in known]
    return [part for part in shown if part.rows]


def figure(value: float | None, metric: str = "") -> str:
    """Format a metric: a share as percent, else three decimals."""
    if value is None:
        return values.MISSING
    is_share = metric in ("accuracy", "f1", "macro_f1", "micro_f1", "balanced_accuracy")
    return f"{value:.1%}" if is_share else f"{value:.3f}"


def span(ends: object, metric: str = "") -> str:
    """Format an interval; "" if there is none."""
    if not isinstance(ends, list) or len(ends) != 2:
        return values.MISSING
    return " to ".join(figure(end, metric) for end in ends)


def entries(result: object, key: str) -> list[tuple[str, Result]]:
    """Return the mappings by name of a part of a result."""
    found = result.get(key) if isinstance(result, Mapping) else None
    pairs = found.items() if isinstance(found, Mapping) else ()
    return [(str(name), one) for name, one in pairs if isinstance(one, Mapping)]


def rows_of(result: object, key: str) -> list[Result]:
    """Return the mappings of a list of a result."""
    return [one for one in values.sequence(result, key) if isinstance(one, Mapping)]


def _rows(result: Result) -> Part:
    rows = []
    for name, one in entries(result, "sets"):
        metric = str(one.get("metric"))
        metrics, intervals = one.get("metrics"), one.get("intervals")
        ends = intervals.get(metric) if isinstance(intervals, Mapping) else None
        value = figure(values.number(metrics, metric), metric)
        drop = values.percent(values.number(one, "drop"))
        count = values.count(values.number(one, "rows"))
        rows.append((_file(name), value, span(ends, metric), drop, count, metric))
        for other, theirs in entries(one, "against"):
            value = figure(values.number(theirs, "value"), metric)
            rows.append(
                (f"– {other}", value, _ahead(theirs, metric), values.MISSING, count, metric)
            )
    note = "Drop: the share of the metric that is lost from the run's own rows."
    heads = ("Set", "Value", "95%", "Drop", "Rows", "Metric")
    return Part("Labelled rows", heads, rows, note if len(rows) > 1 else "")


def _ahead(theirs: Result, metric: str) -> str:
    """Say how far the run is above another one."""
    difference = theirs.get("difference")
    value = values.number(difference, "value")
    if value is None:
        return values.MISSING
    low, high, p = (values.number(difference, key) for key in ("low", "high", "p"))
    scale, digits = (100, 1) if figure(0.5, metric).endswith("%") else (1, 3)
    ends = " to ".join(f"{scale * (end or 0):+.{digits}f}" for end in (low, high))
    return f"{scale * value:+.{digits}f} ({ends}), p {p:.2g}"


def _robustness(result: Result) -> Part:
    metric = str(result.get("metric"))
    found = rows_of(result, "kinds")
    kinds = list(dict.fromkeys(str(one.get("kind")) for one in found))
    severities = sorted({int(values.number(one, "severity") or 0) for one in found})
    rows = [("unchanged", *[figure(values.number(result, "clean"), metric)] * len(severities),
             values.MISSING, values.MISSING)]  # fmt: skip
    for kind in kinds:
        mine = {one.get("severity"): one for one in found if one.get("kind") == kind}
        marked = mine.get(MARKED) or next(iter(mine.values()))
        rows.append((
            kind,
            *(figure(values.number(mine.get(s), "value"), metric) for s in severities),
            values.percent(values.number(marked, "drop")),
            values.percent(values.number(marked, "flipped")),
        ))  # fmt: skip
    heads = (metric, *(f"severity {s}" for s in severities), f"drop at {MARKED}", "answers changed")
    many, of = values.count(values.number(result, "rows")), result.get("of")
    note = f"{many} of the {of} rows; the 95% interval of the unchanged ones is "
    note += f"{span(result.get('clean_interval'), metric)}."
    return Part("Changed texts", heads, rows if found else [], note)


def _calibration(result: Result) -> Part:
    names = (("Expected calibration error", "ece"), ("of bins with as many rows", "adaptive_ece"),
             ("Loss (nats)", "nll"), ("Brier score", "brier"),
             ("Mean probability of an answer", "mean_confidence"), ("Accuracy", "accuracy"),
             ("Mean error over all coverages", "aurc"))  # fmt: skip
    rows = []
    for name, key in names:
        sides = [result.get(side) for side in ("before", "after")]
        numbers = [values.number(side, key) for side in sides]
        ends = [side.get("intervals", {}).get(key) if isinstance(side, Mapping) else None
                for side in sides]  # fmt: skip
        shown = ("" if value is None else f"{value:.4f}" for value in numbers)
        before, after = shown
        rows.append((name, before, span(ends[0]), after, span(ends[1])))
    many = values.count(values.number(result, "rows"))
    note = f"{many} rows of {result.get('judged_on')}; the temperature, "
    note += f"{figure(values.number(result, 'temperature'))}, is fitted to "
    note += f"{result.get('fitted_on')} rows. task.calibrate=true puts it into a training."
    heads = ("", "As it is", "95%", "With a temperature", "95%")
    known = any(any(row[1:]) for row in rows)
    return Part("Are its probabilities right?", heads, rows if known else [], note)


def _outside(result: Result) -> Part:
    heads = ("Score", "AUROC", "AUPR", "FPR95", "Found", "Kept")
    rows = []
    for name, one in entries(result, "scores"):
        shares = (values.share(one, key) for key in ("aupr_out", "fpr95", "found", "kept"))
        rows.append((name, figure(values.share(one, "auroc")), *map(values.percent, shares)))
    many, texts = (values.count(values.number(result, key)) for key in ("rows", "texts"))
    note = f"{texts} texts of no class beside {many} {result.get('of')} rows. Found: of these "
    note += "texts, at a threshold that keeps 95% of the validation rows; kept: of the rows."
    return Part("Texts of no class", heads, rows, note)


def _behaviour(result: Result) -> Part:
    rows = []
    for one in rows_of(result, "tests"):
        cases = values.number(one, "cases")
        failed = values.count(values.number(one, "failed"))
        rate = values.percent(values.share(one, "failure_rate"))
        ends = span(one.get("interval"), "accuracy")
        name, kind = str(one.get("name")), str(one.get("type"))
        failures = f"{failed} of {values.count(cases)}" if cases else values.MISSING
        rows.append((name, rate, ends, failures, kind, str(one.get("capability"))))
    note = "MFT: the right answer is known. INV: a change must not change the answer. "
    note += "DIR: it must not move the probability the wrong way."
    heads = ("Test", "Failures", "95%", "Cases", "Kind", "Ability")
    return Part("Single abilities", heads, rows, note)


def _language(result: Result) -> Part:
    heads = ("Source", "Loss", "95%", "Perplexity", "Bits per byte", "Tokens", "Documents")
    sources = entries(result, "sources")
    whole = result.get("all")
    if len(sources) > 1 and isinstance(whole, Mapping):
        sources = [*sources, ("all", whole)]
    rows = []
    for name, one in sources:
        perplexity = values.number(one, "perplexity")
        rows.append((
            name, figure(values.number(one, "loss")), span(one.get("loss_interval")),
            values.MISSING if perplexity is None else f"{perplexity:,.1f}",
            figure(values.number(one, "bits_per_byte")),
            *(values.count(values.number(one, key)) for key in ("tokens", "documents")),
        ))  # fmt: skip
    length, stride = (values.count(values.number(result, key)) for key in ("seq_len", "stride"))
    note = f"Whole documents, in windows of {length} tokens that move by {stride}."
    return Part("Language", heads, rows, note)


def _harness(result: Result) -> Part:
    published = rows_of(result, "published")
    beside = [one for one in published if one.get("name") in BESIDE]
    rows = []
    for name, one in entries(result, "tasks"):
        score, error = values.share(one, "score"), values.number(one, "stderr")
        spread = values.MISSING if error is None else f"± {1.96 * error:.1%}"
        theirs = (values.percent(values.share(model.get("scores"), name)) for model in beside)
        count = values.count(values.number(one, "rows"))
        rows.append((name, values.percent(score), spread, *theirs, count))
    heads = ("Task", "Right", "95%", *(str(model.get("name")) for model in beside), "Rows")
    average = values.percent(values.share(result, "average"))
    note = f"Zero-shot; the average of these tasks is {average}. Published: arXiv:2304.03208."
    return Part("lm-evaluation-harness", heads, rows, note)


def _contamination(result: Result) -> Part:
    rows = [
        ("rows with an n-gram of it", values.percent(values.share(result, "share")),
         span(result.get("interval"), "accuracy")),
        *((name, values.count(values.number(result, key)), "") for name, key in (
            ("contaminated rows", "contaminated"), ("of these short ones", "short_contaminated"),
            ("rows that are whole documents of it", "duplicates"), ("rows", "rows"),
            ("documents searched", "documents"))),
    ]  # fmt: skip
    n = values.count(values.number(result, "n"))
    note = f"N-grams of {n} words; a shorter row is compared whole, and found more often by chance."
    if missing := [str(name) for name in values.sequence(result, "not_searched")]:
        note += f" Not searched, for it is not here: what {', '.join(missing)} was trained on."
    return Part("In the training texts", ("", "", "95%"), rows, note)


def _cost(result: Result) -> Part:
    heads = ("Model", "Value", "One text", "Texts/s", "Weights", "Memory", "Energy")
    models = entries(result, "models") or [("", result)]
    rows = []
    for name, one in models:
        metric = str(one.get("metric"))
        single, rate = values.number(one, "seconds_one"), values.number(one, "texts_per_second")
        joules = values.number(one, "joules_per_text")
        if "seconds_per_token" in one:
            single, rate = (
                values.number(one, k) for k in ("seconds_per_token", "tokens_per_second")
            )
            joules = values.number(one, "joules_per_token")
        rows.append((
            name or "a token", figure(values.number(one, "value"), metric),
            values.MISSING if single is None else f"{1e3 * single:.3g} ms",
            values.count(rate), values.size(values.number(one, "weights_bytes")),
            values.size(values.number(one, "memory_bytes")),
            values.MISSING if joules is None else f"{joules:.2g} J",
        ))  # fmt: skip
    source = str((models[0][1]).get("energy_source") or "")
    note = f"{result.get('device')}, {result.get('threads')} threads; energy {source}."
    return Part("What an answer costs", heads, rows, note)


def _file(name: str) -> str:
    return name.rsplit("/", 1)[-1]


_TABLES: Mapping[str, Callable[[Result], Part]] = {
    "rows": _rows,
    "calibration": _calibration,
    "robustness": _robustness,
    "outside": _outside,
    "behaviour": _behaviour,
    "language": _language,
    "harness": _harness,
    "contamination": _contamination,
    "cost": _cost,
}
