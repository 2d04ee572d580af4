"""Whether a classifier knows texts that are of none of its classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from wafergpt.data.labelled_rows import Table
from wafergpt.engines.outputs import evaluate
from wafergpt.errors import InputError
from wafergpt.evaluation.novelty import mahalanobis, nearest, novelty_metrics
from wafergpt.inference.predictor import Predictor
from wafergpt.logs import say
from wafergpt.progress import working
from wafergpt.suites import rows as own
from wafergpt.tasks.base import task_of
from wafergpt.tasks.classify import Classify

MAX_KNOWN_ROWS = 5_000
"""Training rows that hidden states are compared with."""

MAX_JUDGED_ROWS = 2_000
"""Rows of either kind that are judged."""

NONE = "none of the classes"
"""Label of rows that are of none, where the run has no name for it."""

KEPT = 0.95
"""Share of the validation rows that a threshold keeps."""

Scores = dict[str, NDArray[np.float64]]


def outside(predictor: Predictor, texts: Sequence[str], seed: int = 0) -> dict[str, Any]:
    """Judge scores by which texts of no class can be told from the run's own rows.

    ``probability`` is the highest one, ``energy`` the log of the summed exponentials of the scores
    (Liu et al., arXiv:2010.03759); ``mahalanobis`` and ``nearest`` compare what the head reads with
    that of training rows, without the n-grams' table. Where these are gone only the first two are
    judged, on the file of test rows.

    Args:
        predictor: of a classifier with one label to a text.
        texts: that are of no class.
        seed: of what is drawn.

    Returns:
        ``of``, ``rows`` and ``texts``, how many were judged; and ``scores`` by name: ``auroc``,
        ``fpr95``, ``aupr_out``, ``aupr_in``, and with validation rows the share ``found`` of the
        texts that are below a threshold which keeps 95% of those, and ``kept`` of the judged rows.

    Raises:
        InputError: if the run is another one, its training rows are gone and it has no file of
            test rows, or no row or text is left to judge.
    """
    task = predictor.task
    if not isinstance(task, Classify) or not task.one_label:
        raise InputError("outside is for task.name=classify with one label to a text")
    found_rows = _rows(predictor, task)
    given = task.inputs_of(texts)
    if not given:
        raise InputError("there is no text that is of no class")
    chosen = np.sort(np.random.default_rng(seed).permutation(len(given))[:MAX_JUDGED_ROWS])
    parts = {
        "inside": _in_scope(task, own.some(found_rows.judged, MAX_JUDGED_ROWS, seed)).texts,
        "outside": [given[place] for place in chosen],
    }
    if not parts["inside"]:
        raise InputError(f"no {found_rows.of} row of {predictor.run.path} is of a class")
    if found_rows.validation is not None:
        validation = _in_scope(task, own.some(found_rows.validation, MAX_JUDGED_ROWS, seed))
        parts["validation"] = validation.texts
    train = found_rows.train
    if train is not None:
        train = _in_scope(task, own.some(train, MAX_KNOWN_ROWS, seed))
    found = _scored(predictor, task, parts, train)
    thresholded = "validation" in found
    if not thresholded:
        say("no threshold is judged: it is of validation rows, beside test rows")
    judged = {
        score: {
            **novelty_metrics(found["inside"][score], found["outside"][score]),
            **(_at_threshold(found, score) if thresholded else {}),
        }
        for score in found["inside"]
    }
    return {
        "of": found_rows.of,
        "rows": len(parts["inside"]),
        "texts": len(chosen),
        "scores": judged,
    }


@dataclass(frozen=True)
class _Rows:
    """Rows of a run: those that are judged, the name of their part, and others if they exist."""

    of: str
    judged: Table
    validation: Table | None
    train: Table | None


def _rows(predictor: Predictor, task: Classify) -> _Rows:
    try:
        of, judged = own.own_rows(predictor)
        train = task.rows("train")
    except InputError as error:
        test = task.settings.test
        if test is None:
            raise
        say(f"warning: mahalanobis and nearest are left out: {error}")
        named = {"test": test, "validation": task.settings.validation}
        read = {
            name: own.rows_of_file(predictor, path, {}, {})
            for name, path in named.items()
            if path is not None
        }
        return _Rows("test", read["test"], read.get("validation"), None)
    validation = task.tables.validation if of == "test" else None
    return _Rows(of, judged, validation, train)


def _scored(
    predictor: Predictor, task: Classify, parts: Mapping[str, Sequence[str]], train: Table | None
) -> dict[str, Scores]:
    """Return the scores of each part that has texts; without training rows two of them."""
    found: dict[str, Scores] = {}
    with working("reading hidden states"):
        if train is not None:
            known, _ = _read(predictor, train.texts)
            targets = np.array([task.settings.labels.index(label) for label in train.labels])
        for part, texts in parts.items():
            if not texts:
                continue
            features, scores = _read(predictor, texts)
            if train is not None:
                scores["mahalanobis"] = mahalanobis(known, targets, features)
                scores["nearest"] = nearest(known, features)
            found[part] = scores
    return found


def _in_scope(task: Classify, rows: Table) -> Table:
    known = set(task.settings.labels)
    return rows.take([row for row, label in enumerate(rows.labels) if label in known])


def _read(predictor: Predictor, texts: Sequence[str]) -> tuple[NDArray[np.float64], Scores]:
    """Return what the head reads of each text, ``[n, width]``, and the scores of the answers."""
    recipe = predictor.recipe
    # A classifier that knows of such rows gives the energy too.
    outside = getattr(recipe.task, "out_of_scope", "") or NONE
    task = task_of(recipe.replace(task={"out_of_scope": outside}))
    network: Any = predictor.network
    seen: list[torch.Tensor] = []
    hook = network.head.register_forward_pre_hook(
        lambda module, given: seen.append(given[0].detach().float().cpu())
    )
    try:
        evaluated = task.encode(texts, predictor.tokenizer)
        outputs = evaluate(task, network, evaluated, predictor.recipe, predictor.device)
    finally:
        hook.remove()
    # The network reads texts by length.
    assert evaluated.rows is not None
    order = np.argsort(evaluated.rows, kind="stable")
    features = torch.cat(seen).numpy()[order].astype(np.float64)
    scores = {"probability": outputs["probabilities"].max(1), "energy": outputs["energy"]}
    return features, {name: values.astype(np.float64) for name, values in scores.items()}


def _at_threshold(found: dict[str, Scores], score: str) -> dict[str, float]:
    threshold = np.quantile(found["validation"][score], 1 - KEPT)
    return {
        "found": float((found["outside"][score] < threshold).mean()),
        "kept": float((found["inside"][score] >= threshold).mean()),
    }
