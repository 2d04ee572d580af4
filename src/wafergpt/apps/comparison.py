"""A classifier beside the baselines that it must beat, on the same rows."""

from __future__ import annotations

from typing import Any

from wafergpt.baselines.bilstm import train_bilstm
from wafergpt.baselines.tfidf import train_tfidf
from wafergpt.errors import InputError
from wafergpt.progress import say, working
from wafergpt.run import Run
from wafergpt.tasks.classify import TextClassifier
from wafergpt.tasks.finetune import Tables


def compare(
    classifier: TextClassifier, bilstm_seconds: float | None = None
) -> list[dict[str, Any]]:
    """Train both baselines on the classifier's rows and return one row of results each.

    All are judged on the test rows, or on the validation rows where there are none. The rows are
    written to the run's ``comparison.json``.

    Args:
        classifier: a fine-tuned run that tells classes apart.
        bilstm_seconds: the BiLSTM's budget; without one it trains its ten epochs.

    Raises:
        InputError: if the task is a regression.
    """
    recipe, run = classifier.recipe, classifier.run
    assert recipe.task is not None
    if recipe.task.loss == "squared_error":
        raise InputError("the baselines tell classes apart; this task predicts numbers")
    tables = Tables.read(recipe)
    test = tables.test or tables.validation
    labels = recipe.task.labels
    result = run.read("result")
    judged = result["test"] or result["metrics"]
    seconds = result["seconds"]
    if recipe.start is not None:
        seconds += _seconds(Run(recipe.start))
    ours = {"name": "GPT", "kind": "gpt", "seconds": seconds, "test": judged}
    ours |= {key: judged[key] for key in ("accuracy", "macro_f1", "loss")}
    with working("baseline: bidirectional LSTM"):
        bilstm = train_bilstm(
            tables.train,
            tables.validation,
            test,
            labels=labels,
            seconds=bilstm_seconds,
            seed=recipe.seed,
        )
    with working("baseline: TF-IDF and logistic regression"):
        tfidf = train_tfidf(tables.train, test, labels=labels, seed=recipe.seed)
    rows = [ours, bilstm.to_row(), tfidf.to_row()]
    run.write("comparison", rows)
    return rows


def _seconds(begun: Run) -> float:
    """Return the time of the run that the classifier began with; imported weights have none."""
    try:
        result = begun.read("result")
    except InputError:
        result = None
    if not isinstance(result, dict):
        say(f"warning: how long {begun.path} took is not known, and is left out of the GPT's time")
        return 0.0
    seconds = result.get("seconds")
    return float(seconds) if isinstance(seconds, int | float) else 0.0
