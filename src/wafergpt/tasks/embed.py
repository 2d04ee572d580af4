"""Embedding: a vector for each text, by which queries find texts."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from wafergpt.config import Recipe, TaskSettings
from wafergpt.data.retrieval_rows import OPTIONAL, QueryPairs, read_query_pairs
from wafergpt.data.tokenizer import Tokenizer
from wafergpt.errors import InputError
from wafergpt.evaluation.intervals import Bootstrap
from wafergpt.evaluation.ranking import query_scores, ranks_by_cosine, search_metrics
from wafergpt.logs import place
from wafergpt.progress import working
from wafergpt.shapes.counts import pooled_width, training_flops
from wafergpt.tasks.base import Direction, EvaluationSet, Outputs, Splits
from wafergpt.tasks.chosen import with_choices_for_retrieval
from wafergpt.tasks.graph import Graph
from wafergpt.tasks.labelled_task import LabelledTask
from wafergpt.tasks.tables import SplitRows

if TYPE_CHECKING:
    from torch import Tensor, nn

    from wafergpt.data.batches import Batch
    from wafergpt.data.retrieval_batches import PairBatches
    from wafergpt.tasks.graph import Graph

Ints = NDArray[np.int64]


class EmbedSettings(TaskSettings):
    """The section ``task`` of an embedding."""

    name: Literal["embed"] = "embed"
    query: str = "query"
    """The column of queries."""
    positive: str = "positive"
    """The column of texts that are right for the queries."""
    negative: tuple[str, ...] = OPTIONAL
    """Columns of texts that are wrong for the queries, if the file has them."""
    cut: Literal["end", "start", "middle"] = "end"
    """Where a text that is too long is cut."""
    pooling: Literal["last", "mean", "max", "mean_max_last"] = "mean"
    """How hidden states are pooled into a vector."""
    projection: int = Field(0, ge=0, le=1 << 16)
    """Width of a linear layer above the pooled states; 0: none."""
    temperature: float = Field(0.05, gt=0, le=100)
    """Divides the cosines in the loss."""
    sizes: tuple[int, ...] = ()
    """Numbers at the start of a vector that are to be a vector by themselves, as in [64, 128]:
    matryoshka embeddings (arXiv:2205.13147)."""

    def usage(self) -> tuple[str, ...]:
        """Return words of a command that uses a run of the task."""
        return ("search", "TEXTS.csv", "a question of yours")

    @field_validator("sizes")
    @classmethod
    def _ascend(cls, sizes: tuple[int, ...]) -> tuple[int, ...]:
        if any(size < 1 for size in sizes):
            raise ValueError("a vector has 1 number or more")
        return tuple(sorted(set(sizes)))

    @property
    def sequences(self) -> int:
        """A query, its text, and the negatives."""
        return 2 + (0 if self.negative == OPTIONAL else len(self.negative))


@dataclass(frozen=True)
class Known:
    """What is known of evaluated texts.

    Attributes:
        queries: ``[q]``, places of the queries' vectors.
        candidates: ``[c]``, places of the vectors to be found.
        right: for each query the right ones, as indices of ``candidates``.
        pairs: the same as batches, for the loss.
    """

    queries: Ints
    candidates: Ints
    right: list[Ints]
    pairs: PairBatches


class Embed(LabelledTask[QueryPairs]):
    """Maps each text to a vector of length 1, so that a query is near the texts that answer it.

    The wrong texts of a query are the other rows' of its micro-batch, and those that are named.
    """

    Settings = EmbedSettings
    metrics: ClassVar[Mapping[str, Direction]] = {
        "loss": "min",
        "mrr": "max",
        "recall_at_1": "max",
        "recall_at_5": "max",
        "recall_at_10": "max",
    }
    chosen = frozenset({"pooling", "projection", "temperature", "sizes"})
    pooled = False
    independent = False

    @property
    def settings(self) -> EmbedSettings:
        """The recipe's section ``task``."""
        assert isinstance(self.recipe.task, EmbedSettings)
        return self.recipe.task

    # --- rows ------------------------------------------------------------------------------------

    def read_rows(self, path: Path) -> QueryPairs:
        """Read pairs of a query and a text."""
        settings = self.settings
        return read_query_pairs(path, settings.query, settings.positive, settings.negative)

    def settle(self, tables: dict[str, QueryPairs]) -> tuple[dict[str, QueryPairs], list[str]]:
        """Check that there is something to tell apart."""
        train, settings = tables["train"], self.settings
        for name, texts in ((settings.query, train.texts), (settings.positive, train.positives)):
            if len({*texts}) < 2 and not any(train.negatives):
                raise InputError(f"{train.path} has one {name}: nothing to tell apart")
        return tables, []

    def with_choices(self, asked: Collection[str]) -> Recipe:
        """Choose the settings of a fine-tuning by the rows."""
        positives = self.read_ahead().train.positives
        return with_choices_for_retrieval(
            self.recipe, asked, len(positives), sum(map(len, positives)), 1, "mrr"
        )

    def texts_of(self, table: QueryPairs) -> Iterator[str]:
        """Yield the queries and texts of rows."""
        yield from table.texts
        yield from table.positives
        yield from (text for wrong in table.negatives for text in wrong)

    def _resolved(self, tables: SplitRows[QueryPairs], tokenizer: Tokenizer) -> Recipe:
        recipe = super()._resolved(tables, tokenizer)
        train, sizes = recipe.train, self.settings.sizes
        if sizes and sizes[-1] >= self.width:
            raise InputError(
                f"task.sizes={list(sizes)} are parts of a vector, which has {self.width} numbers"
            )
        # The wrong texts are those of a micro-batch, so its size is not left to the machine.
        micro = train.micro_batch_size or train.common_batch
        together = min(micro, train.common_batch // place()[1])
        if together < 2 and not all(tables.train.negatives):
            raise InputError(
                "a query of a process' micro-batch of one row has no wrong texts: raise "
                "train.micro_batch_size or train.batch_size, or name texts with task.negative"
            )
        return recipe.replace(train={"micro_batch_size": micro})

    @property
    def width(self) -> int:
        """The numbers of a vector."""
        pooled = pooled_width(self.recipe.model, self.settings.pooling)
        return self.settings.projection or pooled

    def encoded(self, tables: SplitRows[QueryPairs], tokenizer: Tokenizer) -> Splits:
        """Encode the rows."""
        train, texts = self._pairs(tables.train, tokenizer, "train")
        self.require_batch(len(tables.train.texts))
        tokens = sum(len(texts[text]) for text in tables.train.positives)
        return Splits(train, *self.all_evaluated(tables, tokenizer), tokens)

    def _pairs(
        self, table: QueryPairs, tokenizer: Tokenizer, name: str
    ) -> tuple[PairBatches, dict[str, Ints]]:
        """Return a table as batches, and the tokens of its distinct texts, queries first."""
        from wafergpt.data.retrieval_batches import PairBatches

        wrong = (text for negatives in table.negatives for text in negatives)
        distinct = list(dict.fromkeys([*table.texts, *table.positives, *wrong]))
        tokens, cut = self._encode_texts(distinct, tokenizer)
        self.warn_of_cut(cut, len(distinct), f"{name} texts", self.settings.cut)
        places = {text: at for at, text in enumerate(distinct)}
        pairs = PairBatches(
            tokens,
            np.array([places[text] for text in table.texts]),
            np.array([places[text] for text in table.positives]),
            [np.array([places[t] for t in some], dtype=np.int64) for some in table.negatives],
            self.recipe.train.micro_batch_size,
            self.recipe.seed,
        )
        return pairs, dict(zip(distinct, tokens, strict=True))

    def _encode_texts(self, texts: Sequence[str], tokenizer: Tokenizer) -> tuple[list[Ints], int]:
        from wafergpt.data.labelled_batches import encode_texts

        return encode_texts(texts, tokenizer, self.limit, self.settings.cut)

    def evaluated(
        self, table: QueryPairs, tokenizer: Tokenizer, name: str = "validation"
    ) -> EvaluationSet:
        """Return the distinct texts of a table as samples, the same text once."""
        pairs, tokens = self._pairs(table, tokenizer, name)
        places = {text: at for at, text in enumerate(tokens)}
        wrong = (text for negatives in table.negatives for text in negatives)
        candidates = {t: at for at, t in enumerate(dict.fromkeys([*table.positives, *wrong]))}
        if len(candidates) < 2:
            raise InputError(
                f"the {name} rows have one text to find: name more with task.validation=FILE"
            )
        right: dict[str, list[int]] = {}
        for query, positive in zip(table.texts, table.positives, strict=True):
            right.setdefault(query, []).append(candidates[positive])
        known = Known(
            np.array([places[query] for query in right]),
            np.array([places[text] for text in candidates]),
            [np.unique(some) for some in right.values()],
            pairs,
        )
        return self._samples(list(tokens.values()), known)

    def _samples(self, tokens: list[Ints], known: Known | None) -> EvaluationSet:
        from wafergpt.data.labelled_batches import unlabelled

        return EvaluationSet.of(unlabelled(tokens, self.evaluation_rows()), known)

    def encode(self, inputs: Sequence[Any], tokenizer: Tokenizer) -> EvaluationSet:
        """Return texts as samples, sorted by length."""
        with working("encoding the texts"):
            tokens, cut = self._encode_texts(inputs, tokenizer)
        self.warn_of_cut(cut, len(tokens), "texts", self.settings.cut)
        return self._samples(tokens, None)

    @property
    def input_column(self) -> str:  # type: ignore[override]
        """The recipe's column of texts to be found."""
        return self.settings.positive

    # --- network ---------------------------------------------------------------------------------

    def network(self) -> nn.Module:
        """Build a GPT with a pooled state, and with a projection a head above it."""
        from wafergpt.model.gpt import GPT
        from wafergpt.model.heads import Classifier

        settings = self.settings
        return Classifier(GPT(self.recipe.model), settings.projection, settings.pooling)

    def flops(self, batch: Batch) -> float:
        """Return the FLOPs of a forward and backward pass, padding included.

        The products of vectors with each other are counted too.
        """
        recipe = self.recipe
        head = self.settings.projection * pooled_width(recipe.model, self.settings.pooling)
        compared = batch["ignored"].numel() * sum((*self.settings.sizes, self.width))
        encoded = (
            len(texts) * training_flops(recipe.model, texts.shape[1], 0, head, recipe.lora)
            for texts in (batch["tokens"], batch["queries"])
        )
        return sum(encoded) + 6 * compared

    def loss(self, network: nn.Module, batch: Batch) -> Tensor:
        """Return the summed contrastive loss; with sizes, the mean of that of each size."""
        queries: Tensor = network(batch["queries"], batch["query_lengths"])
        candidates: Tensor = network(batch["tokens"], batch["lengths"])
        return self._loss_of(queries, candidates, batch["ignored"])

    def _loss_of(self, queries: Tensor, candidates: Tensor, ignored: Tensor) -> Tensor:
        from wafergpt.model.retrieval_loss import contrastive_loss

        losses = [
            contrastive_loss(
                queries[:, :size], candidates[:, :size], ignored, self.settings.temperature
            )
            for size in (*self.settings.sizes, self.width)
        ]
        return sum(losses[1:], losses[0]) / len(losses)

    def outputs(self, network: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        """Return the ``embedding [batch, size]``, of length 1."""
        from torch.nn import functional as F

        vectors: Tensor = network(batch["tokens"], batch["lengths"])
        return {"embedding": F.normalize(vectors.float(), dim=1)}

    def graph(self) -> Graph:
        """Describe the network; its vectors have length 1."""
        return Graph(
            {"tokens": ("batch", "length"), "lengths": ("batch",)},
            {"vectors": "`[batch, size]`, of length 1: products are cosines"},
            lambda network, batch: {"vectors": self.outputs(network, batch)["embedding"]},
            {
                "max_tokens": self.limit,
                "cut": self.settings.cut,
                "pooling": self.settings.pooling,
                "size": self.width,
                "sizes": self.settings.sizes,
            },
            "print(vectors @ vectors.T)",
            lambda found, batch: {"embedding": found["vectors"]},
        )

    # --- metrics and answers ---------------------------------------------------------------------

    def compute_metrics(self, outputs: Outputs, references: Any) -> dict[str, Any]:
        """Return the loss in batches as in training, and ``search_metrics`` over all candidates.

        With sizes, ``by_size`` has the metrics of each.
        """
        assert isinstance(references, Known)
        vectors = outputs["embedding"]
        found = self._search(vectors, references, self.width)
        if self.settings.sizes:
            sizes = {n: self._search(vectors, references, n) for n in self.settings.sizes}
            found["by_size"] = {
                str(n): {key: metrics[key] for key in self.metrics if key in metrics}
                for n, metrics in sizes.items()
            }
        return {"loss": self._mean_loss(vectors, references.pairs), **found}

    def resampled(self, outputs: Outputs, references: Any) -> Bootstrap:
        """Compute the metrics of the search on resamples of the queries."""
        assert isinstance(references, Known)
        scores = query_scores(_ranks(outputs["embedding"], references, self.width))
        return Bootstrap.of_means(scores, shares=[name for name in scores if name != "mrr"])

    def _search(self, vectors: NDArray[Any], known: Known, size: int) -> dict[str, Any]:
        found = search_metrics(_ranks(vectors, known, size))
        return {**found, "candidates": len(known.candidates)}

    def _mean_loss(self, vectors: NDArray[Any], pairs: PairBatches) -> float:
        import torch

        from wafergpt.data.batches import parts

        total, rows = 0.0, pairs.samples_per_epoch
        for first, n in parts(0, rows, self.recipe.train.micro_batch_size):
            found = pairs.pairing(first, n)
            queries, candidates = (
                torch.from_numpy(vectors[texts]) for texts in (found.queries, found.candidates)
            )
            total += float(self._loss_of(queries, candidates, torch.from_numpy(found.ignored)))
        return total / rows

    def decode(self, outputs: Outputs, inputs: Sequence[Any]) -> list[dict[str, Any]]:
        """Return the ``embedding``, a list of numbers."""
        # Seven decimals are all that the 24 bits of a float32 below 1 have.
        rounded = outputs["embedding"].astype(np.float64).round(7)
        return [{"embedding": row} for row in rounded.tolist()]


def shortened(vectors: NDArray[Any], size: int) -> NDArray[Any]:
    """Return the first ``size`` numbers of vectors ``[n, width]``, of length 1 again."""
    parts = vectors[:, :size]
    if size >= vectors.shape[1]:
        return parts
    lengths = np.linalg.norm(parts, axis=1, keepdims=True)
    return np.asarray(parts / np.maximum(lengths, 1e-12))


def _ranks(vectors: NDArray[Any], known: Known, size: int) -> Ints:
    """Return the rank of each query's first right candidate, by the first ``size`` numbers."""
    parts = shortened(vectors, size)
    return ranks_by_cosine(parts[known.queries], parts[known.candidates], known.right)
