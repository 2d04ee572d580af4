"""Labels that are paths, such as ``card/lost``: the probability of a node is that of its leaves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wafergpt.evaluation.metrics import decision_metrics

CONFIDENT = 0.5
"""A node that is at least as probable is answered, unless another threshold is set."""


def level_metrics(
    probabilities: NDArray[np.floating],
    targets: NDArray[np.int64],
    labels: Sequence[str],
    separator: str,
) -> list[dict[str, Any]]:
    """Compute how often the most probable node of each level is right.

    Args:
        probabilities: ``[n, n_labels]`` of the leaves.
        targets: ``[n]`` right leaves.
        labels: their paths; one that ends above a level stands for itself there.
        separator: of the names in a path.

    Returns:
        For each level ``level``, from 1, its number of ``nodes``, ``accuracy`` and ``macro_f1``.
    """
    paths = [label.split(separator) for label in labels]
    found = []
    for level in range(1, max(map(len, paths)) + 1):
        names = [separator.join(path[:level]) for path in paths]
        nodes = sorted(set(names))
        node_of = np.array([nodes.index(name) for name in names])
        sums = probabilities @ np.eye(len(nodes))[node_of]
        pairs = node_of[targets] * len(nodes) + sums.argmax(1)
        counts = np.bincount(pairs, minlength=len(nodes) ** 2)
        metrics = decision_metrics(counts.reshape(len(nodes), -1))
        kept = {name: metrics[name] for name in ("accuracy", "macro_f1")}
        found.append({"level": level, "nodes": len(nodes), **kept})
    return found


def confident_node(
    row: NDArray[np.floating], labels: Sequence[str], separator: str, least: float
) -> tuple[str, float]:
    """Go down from the root to the most probable child, as long as it is probable enough.

    Args:
        row: ``[n_labels]`` probabilities of the leaves.
        labels: their paths.
        separator: of the names in a path.
        least: the probability of a node that is gone to.

    Returns:
        The path of the node and its probability; of the most probable one below the root, if not
        even that is probable enough.
    """
    paths, path, score = [label.split(separator) for label in labels], list[str](), 1.0
    while True:
        children: dict[str, float] = {}
        for names, value in zip(paths, row.tolist(), strict=True):
            if len(names) > len(path) and names[: len(path)] == path:
                name = names[len(path)]
                children[name] = children.get(name, 0.0) + value
        if not children:
            return separator.join(path), score
        best = max(children, key=lambda name: children[name])
        if path and children[best] < least:
            return separator.join(path), score
        path, score = [*path, best], children[best]
        if score < least:
            return separator.join(path), score
