"""A run summarized in a sentence and a few numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from wafergpt.evaluation.intervals import wilson
from wafergpt.planning.duration import PARTS
from wafergpt.progress import duration
from wafergpt.reports import formatting as values
from wafergpt.reports.folds import folds_of
from wafergpt.reports.formatting import number, read_object
from wafergpt.reports.pruning import left_of_tables
from wafergpt.reports.retrieval import finding, scores
from wafergpt.reports.sections import Chapter, ClassifierMetrics

Row = Mapping[str, Any]
Tile = tuple[str, str, str]
"""Name, value, and a note below it."""

OPTIMIZERS = {"adamw": "AdamW", "adam": "Adam", "sgd": "SGD", "muon": "Muon"}
SIGNIFICANT = 0.05
"""A difference with a larger p may be chance."""

NO_LAW = (
    "No law was fitted for this corpus, so no loss was predicted: a law holds for one corpus, "
    "tokenizer and parametrization, and a published one would mislead here."
)


def verdict(chapter: Chapter, ranked: Sequence[Row]) -> str:
    """Summarize the run in a sentence, compared with the best baselines."""
    if not chapter.rows and not chapter.result and not chapter.study:
        return "Nothing has been measured yet: the run has a recipe and has made no step."
    if not chapter.result:
        return _unfinished(chapter)
    folds = folds_of(chapter.result)
    if folds and (chapter.origin or chapter.test.accuracy is None):
        return _in_folds(folds)
    if chapter.origin:
        return _given(chapter)
    ours = next((row for row in ranked if row.get("kind") == "gpt"), None)
    if ours is not None and len(ranked) > 1:
        return _against(ours, ranked)
    test = chapter.test
    for part, rows in (("test", "held-out"), ("metrics", "validation")):
        found = ClassifierMetrics.of(chapter.result.get(part))
        if found.micro_f1 is not None:
            return (
                f"The GPT finds the labels of the {rows} rows with a micro-F1 of "
                f"{values.percent(found.micro_f1)}, and exactly the right ones of "
                f"{values.percent(found.accuracy)} of the rows."
            )
    if test.accuracy is not None:
        words = f"The GPT labels {values.percent(test.accuracy)} of {_rows(test)} correctly"
        if test.majority is not None:
            words += f"; always predicting the most frequent label gets {test.majority:.1%}"
        return f"{words}."
    for part in ("test", "metrics"):
        f1 = values.share(chapter.result.get(part), "f1")
        if f1 is not None:
            kind = "held-out" if part == "test" else "validation"
            if values.share(chapter.result.get(part), "exact_match") is not None:
                return f"The GPT answers the {kind} questions with an F1 of {values.percent(f1)}."
            rows = f"{kind} sentences"
            return f"The GPT finds the entities of the {rows} with an F1 of {values.percent(f1)}."
    for part, rows in (("test", "held-out"), ("metrics", "validation")):
        error, r2 = (number(chapter.result.get(part), key) for key in ("mean_absolute_error", "r2"))
        if error is not None and r2 is not None:
            return (
                f"The GPT's numbers for the {rows} rows are off by {error:.3g} on average, and "
                f"explain {max(0.0, r2):.0%} of the variance."
            )
    accuracy = number(chapter.result.get("metrics"), "accuracy")
    if accuracy is not None:
        right = values.percent(accuracy)
        return f"The GPT labels {right} of the validation rows correctly; no test was held out."
    return finding(chapter.result) or _language(chapter)


def before_refit(chapter: Chapter) -> str:
    """Say whose validation metrics they are, if the network has learned those rows; else ""."""
    found = read_object(chapter.run, "held_out")
    if not found:
        return ""
    rows, first = values.count(number(found, "rows")), Path(str(found.get("run"))).name
    return (
        f"Validation metrics are those of {first}, which has not learned the {rows} validation "
        "rows; this network has learned them too."
    )


def _in_folds(folds: Mapping[str, Any]) -> str:
    """Summarize folds by the first metric that is a share, else by the first one."""
    mean, deviation = folds.get("mean"), folds.get("deviation")
    names = [str(name) for name in mean] if isinstance(mean, Mapping) else []
    name = next((n for n in names if n in ("accuracy", "f1")), names[0] if names else "")
    done, count = len(values.sequence(folds, "done")), number(folds, "count")
    value, spread = number(mean, name), number(deviation, name)
    if value is None:
        return "No fold is done yet."
    words = f"{name} {value:.4f}" + (f" ± {spread:.4f}" if spread is not None else "")
    where = f"{done} of {count:.0f} folds" if count and done < count else f"{done} folds"
    rows = f"{values.count(number(folds, 'rows'))} rows"
    return f"Mean over {where} of {rows}: {words.replace('_', ' ')}."


def _of_study(result: Mapping[str, Any]) -> str:
    """Summarize a study: what its best trial gained, and whether the test agrees."""
    metric = str(result.get("metric"))
    best, default = number(result, "value"), number(result, "default_value")
    words = f"The best of {values.count(number(result, 'trials'))} trials has a validation "
    words += f"{metric.replace('_', ' ')} of {'?' if best is None else f'{best:.4f}'}"
    if default is not None:
        words += " and is the default" if default == best else f"; the default has {default:.4f}"
    if result.get("chosen_trial") != result.get("best_trial"):
        words += ", which is kept, for the difference may be chance"
    test, other = (number(result.get(key), metric) for key in ("test", "default_test"))
    if test is not None and other is not None:
        words += f". On test rows: {test:.4f}"
        words += "" if test == other else f" and {other:.4f}"
        ends = [number(result.get("difference"), end) for end in ("low", "high")]
        if ends[0] is not None and ends[1] is not None:
            words += f", a difference of {test - other:+.4f} ({ends[0]:+.4f} to {ends[1]:+.4f})"
    if (count := number(result, "judged") or 0) > 1:
        words += f", which have judged {count:.0f} choices of this study"
    return f"{words}."


def _given(chapter: Chapter) -> str:
    if chapter.origin == "study":
        return _of_study(chapter.result)
    source = Path(str(chapter.result[chapter.origin])).name
    if chapter.origin == "imported":
        return f"Imported from {source}; nothing was trained here."
    if chapter.origin == "pruned":
        share, before, after = (
            number(chapter.result, key) for key in ("sparsity", "val_loss_before", "val_loss_after")
        )
        zeros = f"{share or 0:.0%} zeros in the blocks of {source}"
        if "shape_after" in chapter.result:
            model = chapter.recipe.model
            words = {"layer": model.n_layers, "head": model.n_heads, "channel": model.d_ffn}
            parts = [_counted(n, word) for word, n in words.items()]
            shape_before = chapter.result.get("shape_before")
            if number(shape_before, "d_model") not in (None, model.d_model):
                parts[0] += f" × {model.d_model} wide"
            zeros = f"{source} with {_joined(parts)}"
        if left_of_tables(chapter.result):
            if chapter.result.get("method") == "tables":
                zeros = source
            sizes = (number(chapter.result, f"bytes_{when}") for when in ("after", "before"))
            zeros = f"{zeros} in {' instead of '.join(map(values.size, sizes))}"
        if before is None or after is None:
            return f"{zeros}."
        return f"{zeros}: the validation loss goes from {before:.4g} to {after:.4g}."
    steps = values.sequence(chapter.result, "steps")
    shown = _joined([f"{step:,}" for step in steps if type(step) is int])
    return f"The mean of {source}'s checkpoints at the steps {shown}."


def _counted(n: int, word: str) -> str:
    return f"{n:,} {word}{'s' if n > 1 else ''}"


def _rows(test: ClassifierMetrics) -> str:
    return f"{test.rows:,} held-out rows" if test.rows else "the held-out rows"


def _against(ours: Row, ranked: Sequence[Row]) -> str:
    share = float(ours["accuracy"])
    rows = _rows(ClassifierMetrics.of(ours.get("test")))
    others = [row for row in ranked if row is not ours][:3]
    gaps = _joined([_gap(share, row, str(row["name"])) for row in others])
    return f"The GPT labels {values.percent(share)} of {rows} correctly, {gaps}."


def _gap(share: float, row: Row, name: str) -> str:
    points = 100 * (share - float(row["accuracy"]))
    if abs(points) < 0.05:
        return f"level with {name}"
    gap = values.gap(row)
    chance = " (not significant)" if gap and gap["p"] > SIGNIFICANT else ""
    return f"{abs(points):.1f} points {'above' if points > 0 else 'below'} {name}{chance}"


def _joined(parts: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(parts[:-1]), *parts[-1:])))


def _unfinished(chapter: Chapter) -> str:
    if chapter.study:
        best, default = number(chapter.study, "value"), number(chapter.study, "default_value")
        words = f"Not finished: {values.count(number(chapter.study, 'trials'))} trials so far"
        if best is None:
            return f"{words}, none with a value."
        metric = str(chapter.study.get("metric")).replace("_", " ")
        words += f"; the best has a validation {metric} of {best:.4f}"
        return words + ("." if default is None else f", the default {default:.4f}.")
    steps = chapter.recipe.train.steps
    where = f"Not finished: at step {chapter.now('step'):,.0f}" + (
        f" of {steps:,}" if steps else ""
    )
    for key, name, shown in (
        ("val_accuracy", "last validation accuracy", values.percent),
        ("val_loss", "last validation loss", values.loss),
        ("loss", "training loss", values.loss),
    ):
        value = chapter.now(key)
        if value is not None:
            return f"{where}, the {name} was {shown(value)}."
    return f"{where}."


def _language(chapter: Chapter) -> str:
    loss, best = chapter.now("val_loss"), number(chapter.result, "best_val_loss")
    seconds = chapter.now("seconds")
    after = f"After {values.count(chapter.now('tokens'))} tokens"
    if seconds is not None:
        after += f" in {duration(seconds)}"
    if loss is None:
        return f"{after} the training loss is {values.loss(chapter.now('loss'))}."
    words = f"{after} the validation loss is {values.loss(loss)}"
    bits = values.column(chapter.rows, "val_bits_per_byte")
    if bits:
        words += f", {bits[-1]:.3f} bits per byte"
    if best is not None and best < loss - 0.0005:
        return f"{words}; its lowest was {values.loss(best)}."
    return f"{words}, the lowest of the run."


def tiles(chapter: Chapter) -> list[Tile]:
    """Return the four to six most important numbers, those that are known."""
    test, now = chapter.test, chapter.now
    bits = values.column(chapter.rows, "val_bits_per_byte")
    loss, accuracy = now("val_loss"), number(chapter.result.get("metrics"), "accuracy")
    seconds, speed = now("seconds"), now("tokens_per_second")
    parameters = values.first("parameters", chapter.result, chapter.plan)
    quality: list[Tile]
    if test.accuracy is not None:
        note = ""
        if test.rows:
            low, high = wilson(test.accuracy, test.rows)
            note = f"95% CI {100 * low:.1f}–{100 * high:.1f}"
        of = "Held-out" if chapter.origin == "folds" else "Test"
        right = f"{of} accuracy" if test.micro_f1 is None else "Exact match"
        quality = [
            ("Micro-F1", values.percent(test.micro_f1), ""),
            (right, values.percent(test.accuracy), note),
            ("Macro-F1", values.percent(test.macro_f1), ""),
            (f"{of} loss", values.loss(test.loss), ""),
        ]
    elif test.f1 is not None:
        interval = [f"{100 * end:.1f}" for end in test.f1_interval]
        of_all = chapter.result.get("test")
        quality = [
            (
                "Test F1",
                values.percent(test.f1),
                f"95% CI {'–'.join(interval)}" if interval else "",
            ),
            ("Exact match", values.percent(values.share(of_all, "exact_match")), ""),
            ("Precision", values.percent(values.share(of_all, "precision")), ""),
            ("Recall", values.percent(values.share(of_all, "recall")), ""),
        ]
    elif chapter.recipe.task is not None and chapter.recipe.task.name == "regress":
        quality = _regression(chapter)
    elif found := scores(chapter.result):
        quality = found[:3]
    else:
        accuracy = now("val_accuracy") if accuracy is None else accuracy
        micro_f1 = values.share(chapter.result.get("metrics"), "micro_f1")
        right = "Validation accuracy" if micro_f1 is None else "Validation exact match"
        quality = [
            ("Validation micro-F1", values.percent(micro_f1), ""),
            (right, values.percent(accuracy), ""),
            ("Validation F1", values.percent(now("val_f1")), ""),
            ("Exact match", values.percent(now("val_exact_match")), ""),
            ("Validation loss", values.loss(loss), _perplexity(loss) if bits else ""),
            ("Bits per byte", values.loss(bits[-1] if bits else None), ""),
            ("Tokens", values.count(now("tokens")), ""),
        ]
    cost = [
        ("Training time", values.MISSING if seconds is None else duration(seconds), ""),
        ("Parameters", values.count(parameters), _parameter_note(chapter)),
        ("Throughput", values.count(speed), "tokens per second"),
    ]
    return [tile for tile in quality + cost if tile[1] != values.MISSING][:6]


def _regression(chapter: Chapter) -> list[Tile]:
    """Return the numbers of a regression, of the test rows if there are any."""
    part = "test" if chapter.result.get("test") else "metrics"
    named = {"R²": "r2", "RMSE": "rmse", "MAE": "mean_absolute_error", "Spearman": "spearman"}
    found = {name: number(chapter.result.get(part), key) for name, key in named.items()}
    note = "test rows" if part == "test" else "validation rows"
    return [(name, values.loss(value), note) for name, value in found.items()]


def _parameter_note(chapter: Chapter) -> str:
    tables = values.first("ngram_parameters", chapter.plan)
    trained = number(chapter.result, "trained_parameters")
    notes = [f"{values.count(tables)} in n-gram tables"] if tables else []
    if chapter.recipe.lora.rank and trained is not None:
        notes.append(f"{values.count(trained)} trained")
    return ", ".join(notes)


def _perplexity(loss: float | None) -> str:
    return f"perplexity {math.exp(loss):,.1f}" if loss is not None and loss < 50 else ""


def planned(chapter: Chapter) -> list[tuple[str, str, str, str]]:
    """Return planned and measured values: name, planned, measured, difference."""
    rows: list[tuple[str, str, str, str]] = []
    # Older runs recorded the time of their updates alone.
    time_key = "seconds" if chapter.now("elapsed") is None else "elapsed"
    for name, plan_key, key, shown in (
        ("Time", "seconds", time_key, duration),
        ("Tokens", "tokens", "tokens", values.count),
        ("Memory", "memory_bytes", "peak_memory_bytes", values.size),
        ("Validation loss", "predicted_loss", "val_loss", values.loss),
    ):
        before, after = number(chapter.plan, plan_key), chapter.now(key)
        if before is None and after is None:
            continue
        compared = before, after if chapter.result else None
        first, last = (values.MISSING if n is None else shown(n) for n in (before, after))
        rows.append((name, first, last, _off(*compared)))
        if name == "Time":
            rows += _parts(chapter)
    return rows


def _off(before: float | None, after: float | None) -> str:
    """Return by how much a measured value differs from a planned one."""
    if not before or after is None:
        return values.MISSING
    off = after / before - 1
    return "as planned" if abs(off) < 0.0005 else f"{off:+.1%}".replace("-", "−")


def _parts(chapter: Chapter) -> list[tuple[str, str, str, str]]:
    """Return the rows of the parts of the time that matter, where both sides know them."""
    before, after = chapter.plan.get("time"), chapter.result.get("time")
    if not isinstance(before, dict) or not isinstance(after, dict):
        return []
    rows = []
    for part, name in PARTS.items():
        planned, took = number(before, part), number(after, part)
        if planned is None or took is None or max(planned, took) < 1:
            continue
        rows.append((f"– {name}", duration(planned), duration(took), _off(planned, took)))
    return rows


def settings(chapter: Chapter) -> str:
    """Return the settings of a training in one line."""
    recipe, parts = chapter.recipe, []
    model, task = recipe.model, recipe.task
    width = f" of {model.d_head}" if model.d_head else ""
    layers, heads = _counted(model.n_layers, "layer"), _counted(model.n_heads, "head")
    parts.append(f"{layers} × {model.d_model} wide, {heads}{width}")
    parts.append(f"context {model.seq_len:,}")
    if model.parametrization == "mup":
        parts.append(f"µP from width {model.base_d_model}")
    if chapter.origin:
        return " · ".join(parts)
    parts.append(f"{OPTIMIZERS[recipe.optimizer.name]}, peak learning rate {recipe.optimizer.lr:g}")
    if recipe.lora.rank:
        parts.append(f"LoRA of rank {recipe.lora.rank}")
    first = f"{recipe.train.first_batch_size:,}, then " if recipe.train.first_steps else ""
    # A row of some tasks is several sequences.
    unit = "rows" if recipe.sequences > 1 else "sequences"
    parts.append(f"batches of {first}{recipe.train.batch_size:,} {unit}")
    if task:
        start = chapter.result.get("init")
        if isinstance(start, str):
            parts.append("from scratch" if start == "scratch" else f"from {start}")
        if isinstance(pooling := getattr(task, "pooling", None), str):
            parts.append(f"{pooling.replace('_', '+')} pooling")
    if recipe.system.device != "auto":
        parts.append(f"{recipe.system.device}, {recipe.system.precision}")
    if chapter.result.get("stopped_early") is True:
        parts.append(
            f"stopped early after {recipe.evaluate.patience} evaluations without a better "
            f"{recipe.evaluate.metric.replace('_', '-')}"
        )
    return " · ".join(parts)
