"""A classifier as a graph, and how its answers are read from the graph's outputs."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from wafergpt.evaluation.metrics import LEAST

if TYPE_CHECKING:
    from torch import Tensor, nn

    from wafergpt.data.batches import Batch
    from wafergpt.tasks.classify import Classify
    from wafergpt.tasks.graph import Graph


def graph_of_classes(task: Classify, graph: Graph) -> Graph:
    """Add the probabilities of classes to a graph.

    Args:
        task: of a resolved recipe.
        graph: whose one output is the scores.

    Returns:
        The graph that a run is exported as.
    """

    def forward(network: nn.Module, batch: Batch) -> dict[str, Tensor]:
        (logits,) = graph.forward(network, batch).values()
        return {"logits": logits, "probabilities": task.probabilities(logits)}

    offsets, least = task.settings.offsets, task.settings.abstain_below
    hierarchy = task.settings.hierarchy
    label = "settings['labels'][place]"
    if least:
        label += " if row[place] >= settings['abstain_below'] else None"
    decided = f"(np.log(np.maximum(row, {LEAST})) + settings['offsets']).argmax()"
    return replace(
        graph,
        outputs={
            "logits": "`[batch, 1]`, the log-odds of the second label"
            if task.n_outputs == 1
            else "`[batch, labels]`, the scores",
            "probabilities": "`[batch, labels]`, in the order of `labels`"
            + ("; that of an inner node is the sum of its leaves" if hierarchy else ""),
        },
        forward=forward,
        settings={
            **graph.settings,
            "labels": task.settings.labels,
            **({"offsets": offsets} if offsets else {}),
            **({"abstain_below": least} if least else {}),
            **({"hierarchy": hierarchy} if hierarchy else {}),
        },
        answer="for text, row in zip(texts, probabilities):\n"
        f"    place = {decided if offsets else 'row.argmax()'}\n"
        f"    print({label}, row[place], text)",
    )
