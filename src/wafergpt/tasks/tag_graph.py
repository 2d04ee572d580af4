"""The network of a tagging as a graph for other programs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wafergpt.data.word_features import N_FEATURES
from wafergpt.tasks.graph import READER, Graph, word_inputs

if TYPE_CHECKING:
    from torch import Tensor, nn

    from wafergpt.data.batches import Batch
    from wafergpt.tasks.tag import Tag

ANSWER = """
texts = ["Anna Smith went to New York.", "Bob saw Rome."]
for text in texts:
    print(entities_in(text, encode, network, settings))"""

MODULES = ("tag_schemes", "word_features", "word_splitting", "text_ngrams")
"""What ``tag_reading`` imports, and what those do."""


def graph_of_tags(task: Tag) -> Graph:
    """Describe the network of a tagging.

    Args:
        task: of a resolved recipe.

    Returns:
        The graph, whose outputs are the scores that a conditional random field adds up.
    """
    settings = task.settings

    def forward(network: nn.Module, batch: Batch) -> dict[str, Tensor]:
        scores, steps = task.scores(network, batch)
        return {"scores": task.mixed(scores), "steps": steps.expand(scores.shape[1], -1, -1)}

    return Graph(
        word_inputs(N_FEATURES if task.table_rows else 0),
        {
            "scores": "`[batch, words, tags]`: of O, then of B, I, E and S of each label",
            "steps": "`[batch, tags + 1, tags + 1]`: of each tag before each; the last row is "
            "before the first word, the last column after the last one",
        },
        forward,
        {
            "max_tokens": task.limit,
            "labels": settings.labels,
            "units": settings.units,
            "feature_rows": task.table_rows,
        },
        READER + ANSWER,
        lambda found, batch: task.found_by(found["scores"], found["steps"][0], batch),
        {"tag_reading": "entities_in", **dict.fromkeys(MODULES, "")},
    )
