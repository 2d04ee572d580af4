"""A task's network as a graph for other programs: named tensors in, named tensors out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from wafergpt.tasks.ngram_scores import mixed

if TYPE_CHECKING:
    from torch import Tensor, nn

    from wafergpt.data.batches import Batch
    from wafergpt.tasks.text_task import TextTask

READER = """
def encode(text):
    return tokenizer.encode(text, add_special_tokens=False).ids


def network(inputs):
    return dict(zip(settings["outputs"], session.run(None, inputs)))

"""
"""Lines for what reads by tokens and a network: ``encode`` and ``network``."""


def _unchanged(found: Mapping[str, Tensor], batch: Batch) -> Mapping[str, Tensor]:
    return found


@dataclass(frozen=True)
class Graph:
    """What ``export --format onnx`` makes of a task's network.

    Attributes:
        inputs: the tensors of a batch that the network reads, and the names of their axes, of any
            size, or a size in digits. ``tokens`` become ``input_ids`` there, and ``lengths
            [batch]`` an ``attention_mask [batch, length]``.
        outputs: what it computes by name, each with a line that says what that is.
        forward: computes the outputs from the network and a batch with those inputs.
        settings: what a program must know to prepare inputs and to read outputs, as JSON.
        answer: lines of Python that print an answer from arrays with the names of the outputs,
            ``texts`` and ``settings``; or, where no text is ``cut``, from ``session``.
        evaluated: computes ``Task.outputs`` from those of the graph and the batch that they are
            for, so that an export's metrics can be measured.
        modules: of ``wafergpt.data`` that lie beside the graph for those lines, and what they
            import from each; "" for what another module imports.
    """

    inputs: Mapping[str, tuple[str, ...]]
    outputs: Mapping[str, str]
    forward: Callable[[nn.Module, Batch], Mapping[str, Tensor]]
    settings: Mapping[str, Any]
    answer: str
    evaluated: Callable[[Mapping[str, Tensor], Batch], Mapping[str, Tensor]] = field(
        default=_unchanged
    )
    modules: Mapping[str, str] = field(default_factory=dict)


def word_inputs(features: int) -> dict[str, tuple[str, ...]]:
    """Describe what a network reads that answers for words.

    Args:
        features: of each word; 0 if the network reads none.

    Returns:
        ``Graph.inputs``.
    """
    inputs: dict[str, tuple[str, ...]] = {
        "tokens": ("batch", "length"),
        "lengths": ("batch",),
        "words": ("batch", "words", "2"),
    }
    return {**inputs, "features": ("batch", "words", str(features))} if features else inputs


def graph_of_texts(task: TextTask) -> Graph:
    """Describe the network of a task with one answer per text.

    Args:
        task: of a resolved recipe.

    Returns:
        The graph, with ``logits`` as its output.
    """
    settings = task.settings
    inputs: dict[str, tuple[str, ...]] = {"tokens": ("batch", "length"), "lengths": ("batch",)}
    told: dict[str, Any] = {"max_tokens": task.limit}
    kept = ["cut", "pooling"]
    modules = {}
    if len(settings.columns) > 1:
        told["columns"] = settings.columns
    if settings.ngrams != "none":
        modules = {"text_ngrams": "text_ngrams"}
        inputs["ngrams"] = ("batch", "ngrams")
        kept += ["ngrams", "ngram_rows", "factors"]
    if settings.spelling:
        modules["spelling"] = "Spelling"
        kept.append("spelling")

    def forward(network: nn.Module, batch: Batch) -> dict[str, Tensor]:
        return {"logits": mixed(task.scores(network, batch), settings.factors)}

    return Graph(
        inputs,
        {"logits": "`[batch, outputs]`, the scores"},
        forward,
        {**told, **{key: getattr(settings, key) for key in kept}},
        "for text, row in zip(texts, logits):\n    print(row, text)",
        lambda found, batch: task.answers(found["logits"]),
        modules,
    )
