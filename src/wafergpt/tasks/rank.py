"""Ranking: the order of a query's candidates, each read together with the query."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from wafergpt.config import Recipe, TaskSettings
from wafergpt.data.cells import is_missing
from wafergpt.data.json_rows import json_object
from wafergpt.data.retrieval_rows import (
    Candidate,
    RankedColumns,
    RankedLists,
    group_of,
    read_ranked_lists,
    stream_candidates,
)
from wafergpt.data.tokenizer import Tokenizer
from wafergpt.errors import InputError
from wafergpt.evaluation.intervals import Bootstrap
from wafergpt.evaluation.ranking import list_scores, ranking_metrics
from wafergpt.progress import working
from wafergpt.shapes.counts import pooled_width, training_flops
from wafergpt.tasks.base import Direction, EvaluationSet, InputFormat, InputRow, Outputs, Splits
from wafergpt.tasks.chosen import with_choices_for_retrieval
from wafergpt.tasks.labelled_task import LabelledTask
from wafergpt.tasks.predicting import require_no_conll
from wafergpt.tasks.tables import SplitRows

if TYPE_CHECKING:
    from torch import Tensor, nn

    from wafergpt.data.batches import Batch

Ints = NDArray[np.int64]

Lists = list[tuple[NDArray[np.floating], NDArray[Any]]]
"""Scores and relevance of each query's candidates."""

WANTED = 'a query and a text are wanted: a pair, {"query": TEXT, "text": TEXT}, or --file FILE'


class RankSettings(TaskSettings):
    """The section ``task`` of a ranking."""

    name: Literal["rank"] = "rank"
    query: str = "query"
    """The column of queries."""
    text: str = "text"
    """The column of candidates."""
    label: str = "label"
    """The column of relevance, 0 or more."""
    group: str | None = None
    """The column whose value the candidates of a list share; that of queries if omitted."""
    objective: Literal["listwise", "pairwise"] = "listwise"
    """``listwise`` is a softmax over a query's candidates, ``pairwise`` a logistic loss of two."""
    candidates: int = Field(16, ge=2, le=1024)
    """Of a query in a training batch, at most; of more, others are drawn in each epoch."""
    pooling: Literal["last", "mean", "max", "mean_max_last"] = "last"
    """How hidden states are pooled for the score."""
    end_of_text: int | None = None
    """The token between a query and a candidate; set by the run."""

    def usage(self) -> tuple[str, ...]:
        """Return words of a command that uses a run of the task."""
        return ("predict", "--file", "CANDIDATES.csv")

    @property
    def sequences(self) -> int:
        """The candidates of a query."""
        return self.candidates

    @property
    def columns(self) -> RankedColumns:
        """Of a file of candidates."""
        return RankedColumns(self.query, self.text, self.label, self.group)


class Rank(LabelledTask[RankedLists]):
    """Scores candidates of a query, by the loss of whole lists or of pairs in them.

    A sequence is the query's tokens, the end-of-text token, and the candidate's.
    """

    Settings = RankSettings
    metrics: ClassVar[Mapping[str, Direction]] = {
        "loss": "min",
        "ndcg_at_10": "max",
        "mrr": "max",
        "map": "max",
    }
    chosen = frozenset({"pooling", "objective", "candidates"})

    @property
    def settings(self) -> RankSettings:
        """The recipe's section ``task``."""
        assert isinstance(self.recipe.task, RankSettings)
        return self.recipe.task

    # --- rows ------------------------------------------------------------------------------------

    def read_rows(self, path: Path) -> RankedLists:
        """Read queries with their candidates, those that something can be learned from."""
        return read_ranked_lists(path, self.settings.columns).usable()

    def with_choices(self, asked: Collection[str]) -> Recipe:
        """Choose the settings of a fine-tuning by the rows."""
        lists = self.read_ahead().train.candidates
        most = self.settings.candidates
        read = [one for candidates in lists for one in candidates[:most]]
        characters = sum(len(one.query) + len(one.text) for one in read)
        together = max(1, round(len(read) / len(lists)))
        return with_choices_for_retrieval(
            self.recipe, asked, len(lists), characters, together, "ndcg_at_10"
        )

    def texts_of(self, table: RankedLists) -> Iterator[str]:
        """Yield the queries and candidates of rows."""
        yield from table.texts
        yield from (one.text for candidates in table.candidates for one in candidates)

    def from_tokenizer(self, tokenizer: Tokenizer) -> dict[str, Any]:
        """Return the end-of-text token."""
        return {"end_of_text": tokenizer.end_of_text}

    def encoded(self, tables: SplitRows[RankedLists], tokenizer: Tokenizer) -> Splits:
        """Encode the rows."""
        from wafergpt.data.retrieval_batches import ListBatches

        table, train = tables.train, self.recipe.train
        self.require_batch(len(table.candidates))
        rows = [one for candidates in table.candidates for one in candidates]
        encoded = self._encode(rows, tokenizer, "train")
        ends = np.cumsum([len(candidates) for candidates in table.candidates])
        lists = [encoded[a:b] for a, b in zip([0, *ends[:-1]], ends, strict=True)]
        most = self.settings.candidates
        batches = ListBatches(lists, table.relevance, train.batch_size, self.recipe.seed, most)
        tokens = sum(len(one) for candidates in lists for one in candidates[:most])
        return Splits(batches, *self.all_evaluated(tables, tokenizer), tokens)

    def evaluated(
        self, table: RankedLists, tokenizer: Tokenizer, name: str = "validation"
    ) -> EvaluationSet:
        """Encode rows whose answers are known."""
        rows = [one for candidates in table.candidates for one in candidates]
        return self._samples(self._encode(rows, tokenizer, name), table)

    def _samples(self, tokens: list[Ints], known: RankedLists | None) -> EvaluationSet:
        from wafergpt.data.labelled_batches import unlabelled

        return EvaluationSet.of(unlabelled(tokens, self.evaluation_rows()), known)

    def _encode(self, rows: Sequence[Candidate], tokenizer: Tokenizer, name: str) -> list[Ints]:
        """Return the tokens of queries and candidates, cut at their ends.

        A query has half of the context at most, and the candidate what is left.
        """
        limit, end = self.limit, [tokenizer.end_of_text]
        queries = list(dict.fromkeys(one.query for one in rows))
        texts = list(dict.fromkeys(one.text for one in rows))
        asked = dict(zip(queries, tokenizer.encode_batch(queries), strict=True))
        read = dict(zip(texts, tokenizer.encode_batch(texts), strict=True))
        found, cut = [], 0
        for one in rows:
            query, text = asked[one.query], read[one.text]
            cut += len(query) + len(text) + 1 > limit
            kept = query if len(query) + len(text) < limit else query[: limit // 2]
            found.append(np.array([*kept, *end, *text][:limit], dtype=np.int64))
        self.warn_of_cut(cut, len(rows), f"{name} rows")
        return found

    # --- network ---------------------------------------------------------------------------------

    def network(self) -> nn.Module:
        """Build a GPT with one score for each sequence."""
        from wafergpt.model.gpt import GPT
        from wafergpt.model.heads import Classifier

        return Classifier(GPT(self.recipe.model), 1, self.settings.pooling, exact=True)

    def flops(self, batch: Batch) -> float:
        """Return the FLOPs of a forward and backward pass, padding included."""
        rows, length = batch["tokens"].shape
        recipe, weights = self.recipe, pooled_width(self.recipe.model, self.settings.pooling)
        return rows * training_flops(recipe.model, length, 0, weights, recipe.lora)

    def loss(self, network: nn.Module, batch: Batch) -> Tensor:
        """Return the summed loss of the lists."""
        from wafergpt.model.retrieval_loss import ranking_losses

        scores: Tensor = network(batch["tokens"], batch["lengths"])[:, 0]
        return ranking_losses(
            scores[batch["places"]], batch["relevance"], self.settings.objective
        ).sum()

    def outputs(self, network: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        """Return the ``score [batch]`` of each candidate."""
        return {"score": network(batch["tokens"], batch["lengths"])[:, 0].float()}

    # --- metrics and answers ---------------------------------------------------------------------

    def compute_metrics(self, outputs: Outputs, references: Any) -> dict[str, Any]:
        """Return the mean loss of whole lists, and ``ranking_metrics``."""
        lists = _lists(outputs, references)
        return {
            "loss": float(self._losses(lists).mean()),
            **ranking_metrics(lists),
            "queries": len(lists),
        }

    def resampled(self, outputs: Outputs, references: Any) -> Bootstrap:
        """Compute the metrics on resamples of the queries."""
        lists = _lists(outputs, references)
        return Bootstrap.of_means({"loss": self._losses(lists), **list_scores(lists)})

    def _losses(self, lists: Lists) -> NDArray[np.float64]:
        import torch

        from wafergpt.model.retrieval_loss import ranking_losses

        losses = [
            ranking_losses(
                torch.from_numpy(scores)[None],
                torch.from_numpy(known).float()[None],
                self.settings.objective,
            )
            for scores, known in lists
        ]
        return np.asarray(torch.cat(losses).double().numpy())

    def require_input(self, value: object) -> Candidate | None:
        """Return a candidate with its query, or None where either is blank.

        It is a pair, a mapping of the columns, or JSON of one.
        """
        if is_missing(value) or (isinstance(value, str) and not value.strip()):
            return None
        if isinstance(value, str):
            value = json_object(value) or value
        if isinstance(value, Mapping):
            columns = (self.settings.query, self.settings.text)
            if missing := [column for column in columns if column not in value]:
                raise InputError(f"has no {missing[0]}; {WANTED}")
            value = [value.get(column) for column in (*columns, self.settings.group)]
        if not isinstance(value, Sequence) or isinstance(value, str) or not 2 <= len(value) <= 3:
            raise InputError(f"is no pair; {WANTED}")
        query, text = (super(Rank, self).require_input(one) for one in value[:2])
        if query is None or text is None:
            return None
        return Candidate(query, text, group_of(value[2]) if len(value) == 3 else None)

    def inputs_of_rows(self, rows: RankedLists) -> list[Candidate]:
        """Return the candidates of all lists."""
        return [one for candidates in rows.candidates for one in candidates]

    def stream_inputs(
        self, path: Path, column: str | None, file_format: InputFormat | None
    ) -> Iterator[InputRow]:
        """Read queries and candidates; ``column`` is that of candidates."""
        columns = self.settings.columns
        columns = replace(columns, text=column or columns.text)
        key: str | None = None
        for line, row, one in stream_candidates(path, columns, require_no_conll(path, file_format)):
            # A blank row belongs to no list, and divides none.
            key = key if one.blank else one.list_key
            yield InputRow(line, row, one, f"{one.query} | {one.text}", key)

    def encode(self, inputs: Sequence[Any], tokenizer: Tokenizer) -> EvaluationSet:
        """Return candidates as samples, sorted by length."""
        with working("encoding the texts"):
            tokens = self._encode(inputs, tokenizer, "given")
        return self._samples(tokens, None)

    def decode(self, outputs: Outputs, inputs: Sequence[Any]) -> list[dict[str, Any]]:
        """Return the ``score`` of each candidate, and its ``rank`` from 1 in its list.

        Of equal scores, the first one given has the lower rank.
        """
        lists: dict[str, list[int]] = defaultdict(list)
        for place, one in enumerate(inputs):
            lists[one.list_key].append(place)
        scores, ranks = outputs["score"], np.zeros(len(inputs), dtype=np.int64)
        for places in lists.values():
            order = np.argsort(-scores[places], kind="stable")
            ranks[np.array(places)[order]] = np.arange(1, len(places) + 1)
        return [
            {"score": float(score), "rank": int(rank)}
            for score, rank in zip(scores, ranks, strict=True)
        ]


def _lists(outputs: Outputs, references: Any) -> Lists:
    assert isinstance(references, RankedLists)
    ends = np.cumsum([len(known) for known in references.relevance])
    scores = np.split(outputs["score"], ends[:-1])
    return [(s, np.array(known)) for s, known in zip(scores, references.relevance, strict=True)]
