"""The network of an answering as a graph for other programs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from wafergpt.data.answer_windows import N_FEATURES
from wafergpt.tasks.graph import READER, Graph, word_inputs

if TYPE_CHECKING:
    from torch import Tensor, nn

    from wafergpt.data.batches import Batch
    from wafergpt.tasks.answer import Answer

ANSWER = """
asked = [("Where does Anna live?", "Anna lives in Oslo, and Bob in Rome.")]
for question, context in asked:
    print(answer_in(question, context, encode, network, settings))"""

MODULES = ("answer_windows", "word_features", "word_splitting", "text_ngrams")
"""What ``answer_reading`` imports, and what those do."""

KEPT = ("stride", "max_answer_words", "no_answer", "no_answer_margin")


def graph_of_answers(task: Answer) -> Graph:
    """Describe the network of an answering.

    Args:
        task: of a resolved recipe.

    Returns:
        The graph, whose outputs are the scores of words as the first and the last one.
    """
    settings = task.settings

    def forward(network: nn.Module, batch: Batch) -> dict[str, Tensor]:
        return {"scores": task.mixed(task.word_scores(network, batch))}

    def evaluated(found: Mapping[str, Tensor], batch: Batch) -> Mapping[str, Tensor]:
        return task.found_by(found["scores"], batch)

    return Graph(
        word_inputs(N_FEATURES if task.table_rows else 0),
        {
            "scores": "`[batch, words, 2]`: of each word as the first and as the last one of the "
            'answer; word 0 stands for "no answer"'
        },
        forward,
        {
            "max_tokens": task.limit,
            "feature_rows": task.table_rows,
            **{key: getattr(settings, key) for key in KEPT},
        },
        READER + ANSWER,
        evaluated,
        {"answer_reading": "answer_in", **dict.fromkeys(MODULES, "")},
    )
