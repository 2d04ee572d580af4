"""Task heads on a GPT."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from wafergpt.model.dropout import Dropout
from wafergpt.model.gpt import GPT
from wafergpt.model.ngrams import KeptRows
from wafergpt.shapes.counts import pooled_width
from wafergpt.shapes.parametrization import parametrization

Pooling = Literal["last", "mean", "max", "mean_max_last"]


class NgramScores(nn.EmbeddingBag):
    """Scores of n-grams, summed up over a text.

    With ``ratios``, each row has a fixed weight: naive Bayes' log-count ratio, as in NB-SVM (Wang
    and Manning, ACL 2012). It scales the row's gradient too, so what tells classes apart is learned
    first.

    Args:
        rows: of the hashed table.
        n_outputs: scores of a row.
        ratios: whether rows have weights.
        left: rows that were not taken out of it; 0: all.
    """

    ratios: Tensor | None

    def __init__(self, rows: int, n_outputs: int, ratios: bool, left: int = 0) -> None:
        rows = left + 1 if left else rows
        super().__init__(rows, n_outputs, mode="sum", padding_idx=0)
        self.register_buffer("ratios", torch.zeros(rows) if ratios else None)
        self.kept = KeptRows(left) if left else None


class Classifier(nn.Module):
    """A GPT with a head that maps each text to one row of scores.

    With ``pooling="last"`` it is Hugging Face's ``GPT2ForSequenceClassification``: the hidden state
    of the last token that is not padding, through a linear layer without bias.

    Args:
        gpt: the network below.
        n_outputs: scores of a text; 0: the pooled hidden state itself.
        pooling: of the hidden states.
        ngram_rows: rows of a table that scores a text by its n-grams beside the GPT, as fastText
            does (arXiv:1607.01759); 0: none.
        ratios: weigh each row of it by how unevenly classes read it.
        ngram_kept: rows that were not taken out of it; 0: all.
        exact: compute the head in float32 also where the rest is in bfloat16, whose eight bits give
            close texts equal scores.
    """

    def __init__(
        self,
        gpt: GPT,
        n_outputs: int,
        pooling: Pooling = "last",
        ngram_rows: int = 0,
        ratios: bool = False,
        ngram_kept: int = 0,
        exact: bool = False,
    ) -> None:
        super().__init__()
        self.gpt = gpt
        self._exact = exact
        self.pooling = pooling
        width = pooled_width(gpt.config, pooling)
        self.dropout = Dropout(gpt.config.dropout)
        self.head = nn.Linear(width, n_outputs or 1, bias=False)
        if not n_outputs:
            self.add_module("head", nn.Identity())
        self.head_ngrams = (
            NgramScores(ngram_rows, n_outputs, ratios, ngram_kept) if ngram_rows else None
        )
        self._multiplier = parametrization(gpt.config).task_multiplier

    def forward(
        self,
        tokens: Tensor,
        lengths: Tensor,
        ngrams: Tensor | None = None,
        shift: Tensor | None = None,
    ) -> Tensor:
        """Map texts to scores ``[batch, n_outputs]``; with a table ``[2, batch, n_outputs]``.

        The second ones are the n-grams'.

        Args:
            tokens: ``[batch, length]``, padded on the right; padding is never seen, because
                attention is causal.
            lengths: ``[batch]``, how many tokens of each row are text.
            ngrams: ``[batch, n]``, rows of the table, padded with 0; with ``ngram_rows`` only.
            shift: of the embedded tokens (see ``GPT.forward``).
        """
        pooled = self.dropout(self.pool(self.gpt(tokens, shift=shift), lengths))
        scores: Tensor = self._exact_scores(pooled) if self._exact else self.head(pooled)
        scores = scores * self._multiplier
        if self.head_ngrams is not None:
            assert ngrams is not None
            # Of long and short texts the sums are as large.
            shares = (ngrams != 0).sum(1, keepdim=True).clamp(min=1).rsqrt().expand(ngrams.shape)
            if self.head_ngrams.kept is not None:
                ngrams = self.head_ngrams.kept(ngrams)
            if self.head_ngrams.ratios is not None:
                shares = shares * self.head_ngrams.ratios[ngrams]
            by_ngrams = self.head_ngrams(ngrams, per_sample_weights=shares)
            scores = torch.stack((scores.to(by_ngrams.dtype), by_ngrams))
        return scores

    def _exact_scores(self, pooled: Tensor) -> Tensor:
        with torch.autocast(pooled.device.type, enabled=False):
            scores: Tensor = self.head(pooled.float())
        return scores

    def pool(self, hidden: Tensor, lengths: Tensor) -> Tensor:
        """Reduce hidden states ``[batch, length, d_model]`` to one row per text."""
        steps = torch.arange(hidden.shape[1], device=hidden.device)
        # An index of two tensors would not lower to Cerebras IR.
        last = hidden.masked_fill((steps != lengths[:, None] - 1)[..., None], 0.0).sum(1)
        if self.pooling == "last":
            return last
        text = (steps < lengths[:, None])[..., None]
        parts = []
        if self.pooling != "max":
            parts.append((hidden * text).sum(1) / lengths[:, None])
        if self.pooling != "mean":
            parts.append(hidden.masked_fill(~text, float("-inf")).amax(1))
        if self.pooling == "mean_max_last":
            parts.append(last)
        return torch.cat(parts, 1)
