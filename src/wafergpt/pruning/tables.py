"""Trimming a trained task's run: smaller tables, without rows that its texts need little."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from wafergpt.config import Recipe
from wafergpt.data.batches import Batch
from wafergpt.data.labelled_batches import LabelledBatches
from wafergpt.data.smaller_vocabulary import without_unused
from wafergpt.errors import InputError
from wafergpt.model.gpt import GPT
from wafergpt.model.heads import Classifier
from wafergpt.model.ngrams import KeptRows
from wafergpt.progress import working
from wafergpt.pruning.calibration_network import Calibrated, Evaluated
from wafergpt.pruning.removal import Removal
from wafergpt.tasks.base import task_of
from wafergpt.tasks.text_task import TextTask

ROWS_AT_ONCE = 64
"""Training rows that are read at once."""


@dataclass(frozen=True)
class Trimming(Removal):
    """What to take out of tables.

    Of an n-gram table those rows stay whose squared norm times the number of times that training
    texts read them is largest: what Wanda (arXiv:2306.11695) gives for whole rows. All other rows
    add nothing. Tokens go as ``without_unused`` says.

    Attributes:
        rows: the share to keep of the rows that training texts read, in each n-gram table; 1 keeps
            all of these, and None leaves the tables as they are.
        vocabulary: whether tokens go that training texts do not need.
    """

    rows: float | None = None
    vocabulary: bool = False

    def __post_init__(self) -> None:
        if self.rows is not None and not 0 < self.rows <= 1:
            raise InputError(f"a share of {self.rows:.4g} is not above 0 and at most 1 (100%)")

    @property
    def asked(self) -> bool:
        """Whether anything is to be taken out."""
        return self.rows is not None or self.vocabulary

    def require(self, name: str, recipe: Recipe) -> None:
        """Require a task's run that has tables; see ``Removal``."""
        if not isinstance(task_of(recipe), TextTask):
            raise InputError(
                f"{name} is no classifier or regression, which alone lose rows of tables and tokens"
            )
        if self.rows is not None and not recipe.model.ngrams and not _scores_ngrams(recipe):
            raise InputError(f"{name} has no tables of n-grams to take rows out of")

    def take_out(self, network: Calibrated, name: str, before: Evaluated) -> dict[str, Any]:
        """Make tables smaller; see ``Removal``."""
        tables = _sizes(network)
        work = _TrimmedNetwork(network)
        if self.rows is not None:
            work.keep_rows(self.rows)
        if self.vocabulary:
            work.drop_tokens()
        if (left := _sizes(network)) == tables:
            raise InputError(f"training texts need every row and token of {name}")
        return {
            "method": "tables", "pattern": None, "tables_before": tables, "tables_after": left,
        }  # fmt: skip

    def sizes(self, recipe: Recipe, name: str) -> list[tuple[str, Removal]]:
        """Refuse a search; see ``Removal``."""
        raise InputError("tables have one size, and no smallest one is searched for")


def _scores_ngrams(recipe: Recipe) -> bool:
    return getattr(recipe.task, "ngrams", "none") != "none"


def _sizes(network: Calibrated) -> dict[str, int]:
    """Return the rows of each table, without a row of zeros for those that were taken out."""
    model, task = network.recipe.model, network.task.recipe.task
    kept = model.ngram_kept or (model.ngram_rows,) * len(model.ngrams)
    rows = {f"{n}-grams": rows for n, rows in zip(model.ngrams, kept, strict=True)}
    if _scores_ngrams(network.recipe):
        rows["n-gram scores"] = getattr(task, "ngram_kept", 0) or getattr(task, "ngram_rows", 0)
    return {"tokens": model.vocab_size, **rows}


class _TrimmedNetwork:
    """A network whose tables get smaller."""

    def __init__(self, network: Calibrated) -> None:
        assert isinstance(network.network, Classifier)
        assert isinstance(network.splits.train, LabelledBatches)
        self._network, self._classifier = network, network.network
        self._gpt: GPT = network.network.gpt
        self._train = network.splits.train

    @torch.no_grad()
    def keep_rows(self, share: float) -> None:
        """Keep a share of the rows that are read, in each table of n-grams."""
        ngrams, scores = self._gpt.ngrams, self._classifier.head_ngrams
        tables: list[nn.Embedding | nn.EmbeddingBag] = []
        if ngrams is not None:
            tables += [table for table in ngrams.tables if isinstance(table, nn.Embedding)]
        tables += [] if scores is None else [scores]
        reads = [torch.zeros(table.num_embeddings, dtype=torch.long) for table in tables]
        with working("counting n-grams"):
            for batch in self._batches():
                for count, rows in zip(reads, self._read(batch), strict=True):
                    count += torch.bincount(rows.cpu(), minlength=len(count))
        if ngrams is not None:
            kept = []
            olds: list[nn.Module | None] = [*ngrams.kept] or [None] * len(ngrams.tables)
            for table, old, count in zip(ngrams.tables, olds, reads, strict=False):
                assert isinstance(table, nn.Embedding)
                rows = _most_important(table.weight, count, share)
                kept.append(_numbers(rows, old))
                _cut(table, rows)
            ngrams.kept = nn.ModuleList(kept)
            self._network.settle(model={"ngram_kept": tuple(len(each.rows) for each in kept)})
        if scores is not None:
            weights = scores.weight
            if scores.ratios is not None:
                weights = weights * scores.ratios[:, None]
            rows = _most_important(weights, reads[-1], share)
            scores.kept = _numbers(rows, scores.kept)
            _cut(scores, rows)
            if scores.ratios is not None:
                scores.ratios = torch.cat((scores.ratios.new_zeros(1), scores.ratios[rows]))
            self._network.settle(task={"ngram_kept": len(rows)})

    def _batches(self) -> Iterator[Batch]:
        count = self._train.samples_per_epoch
        for first in range(0, count, ROWS_AT_ONCE):
            batch = self._train.batch(first, min(ROWS_AT_ONCE, count - first))
            yield batch.to(self._network.device)

    def _read(self, batch: Batch) -> Iterator[Tensor]:
        """Yield the rows of each table that texts read."""
        tokens, lengths = batch["tokens"], batch["lengths"]
        place = torch.arange(tokens.shape[1], device=tokens.device)
        if self._gpt.ngrams is not None:
            for rows in self._gpt.ngrams.rows_of(tokens, place):
                yield rows[place < lengths[:, None]]
        if (scores := self._classifier.head_ngrams) is not None:
            rows = batch["ngrams"]
            yield (rows if scores.kept is None else scores.kept(rows)).flatten()

    @torch.no_grad()
    def drop_tokens(self) -> None:
        """Take tokens out that training texts do not need, and the head for tokens if untied."""
        network = self._network
        used = {int(token) for token in np.unique(np.concatenate(self._train.texts))}
        tokenizer, left = without_unused(network.tokenizer, used)
        if len(left) == self._gpt.embedding.num_embeddings:
            return
        old = torch.tensor(left, device=network.device)
        weight = self._gpt.embedding.weight
        self._gpt.embedding = nn.Embedding.from_pretrained(weight[old].clone(), freeze=False)
        # A task has no use for it.
        self._gpt.lm_head = None
        hashes = self._gpt.ngrams is not None
        if self._gpt.ngrams is not None:
            ids = self._gpt.ngrams.ids
            self._gpt.ngrams.ids = (old if ids is None else ids[old]).int()
        network.tokenizer = tokenizer
        network.settle(
            model={"vocab_size": len(left), "tied": True, "ngram_ids": hashes},
            task={"end_of_text": tokenizer.end_of_text},
        )
        network.splits = network.encoded(tokenizer)


def _most_important(weights: Tensor, reads: Tensor, share: float) -> Tensor:
    """Return the rows to keep, ascending: at least one."""
    importance = weights.square().sum(1) * reads.to(weights.device)
    # What is never read, and the row of those taken out before, are the least.
    count = max(1, round(share * int((importance > 0).sum())))
    return importance.argsort(descending=True, stable=True)[:count].sort().values


def _numbers(rows: Tensor, before: nn.Module | None) -> KeptRows:
    """Return the numbers in the whole table of the rows that stay of a table."""
    kept = KeptRows(len(rows)).to(rows.device)
    if before is None:
        kept.rows.copy_(rows)
    else:
        assert isinstance(before, KeptRows)
        kept.rows.copy_(before.rows[rows - 1])
    return kept


def _cut(table: nn.Embedding | nn.EmbeddingBag, rows: Tensor) -> None:
    """Leave these rows of a table, behind one of zeros."""
    zero = table.weight.new_zeros(1, table.embedding_dim)
    table.weight = nn.Parameter(torch.cat((zero, table.weight[rows])))
    table.num_embeddings, table.padding_idx = len(rows) + 1, 0
