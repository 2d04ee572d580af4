"""A GPT with a head that scores the tags of words."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from wafergpt.model.dropout import Dropout
from wafergpt.model.gpt import GPT
from wafergpt.shapes.parametrization import parametrization

WordPooling = Literal["first", "mean", "last"]


class TagHead(nn.Module):
    """Scores of a word's tags, and of each tag after another.

    ``transitions`` is ``[tags + 1, tags + 1]``: its last row is before the first word, its last
    column after the last one. It is None where tags do not follow each other.
    """

    def __init__(self, width: int, n_tags: int, follow: bool = True) -> None:
        super().__init__()
        self.tags = nn.Linear(width, n_tags, bias=False)
        self.transitions = nn.Embedding(n_tags + 1, n_tags + 1) if follow else None


class Tagger(nn.Module):
    """A GPT with a head for words, and a table that scores words by their features beside it.

    Args:
        gpt: the network below.
        n_tags: scores of a word.
        pooling: of the hidden states of a word's tokens.
        two_way: let each token see those after it too, which a GPT learns while it is fine-tuned.
        feature_rows: rows of the table; 0: none.
        follow: score each tag after another.
    """

    def __init__(
        self,
        gpt: GPT,
        n_tags: int,
        pooling: WordPooling,
        two_way: bool,
        feature_rows: int = 0,
        follow: bool = True,
    ) -> None:
        super().__init__()
        self.gpt = gpt
        self.pooling, self.two_way = pooling, two_way
        self.dropout = Dropout(gpt.config.dropout)
        self.head = TagHead(gpt.config.d_model, n_tags, follow)
        self.head_ngrams = (
            nn.EmbeddingBag(feature_rows, n_tags, mode="sum", padding_idx=0)
            if feature_rows
            else None
        )
        self._multiplier = parametrization(gpt.config).task_multiplier

    def forward(
        self, tokens: Tensor, lengths: Tensor, words: Tensor, features: Tensor | None = None
    ) -> Tensor:
        """Map sentences to scores ``[1, batch, words, tags]``; with a table ``[2, …]``.

        The second ones are the features'.

        Args:
            tokens: ``[batch, length]``, padded on the right.
            lengths: ``[batch]``, how many tokens of each row are text.
            words: ``[batch, words, 2]``, the first token of each word and the one after its last;
                both 0 for padding.
            features: ``[batch, words, n]``, rows of the table; with ``feature_rows`` only.
        """
        seen = None
        if self.two_way:
            seen = torch.arange(tokens.shape[1], device=tokens.device) < lengths[:, None]
        hidden = self.gpt(tokens, seen=seen)
        scores: Tensor = self.head.tags(self.dropout(self.pool(hidden, words))) * self._multiplier
        if self.head_ngrams is None:
            return scores[None]
        assert features is not None
        by_features = self._by_features(features)
        return torch.stack((scores.to(by_features.dtype), by_features))

    def _by_features(self, features: Tensor) -> Tensor:
        batch, words, n = features.shape
        assert self.head_ngrams is not None
        found: Tensor = self.head_ngrams(features.flatten(0, 1)) * n**-0.5
        return found.view(batch, words, -1)

    def pool(self, hidden: Tensor, words: Tensor) -> Tensor:
        """Reduce hidden states ``[batch, length, d_model]`` to one for each word."""
        first, end = words.unbind(2)
        if self.pooling == "mean":
            # What is up to a word's end, less what is before it.
            sums = nn.functional.pad(hidden.float().cumsum(1), (0, 0, 1, 0))
            total = _taken(sums, end) - _taken(sums, first)
            return (total / (end - first).clamp(min=1)[..., None]).to(hidden.dtype)
        return _taken(hidden, first if self.pooling == "first" else (end - 1).clamp(min=0))


def _taken(hidden: Tensor, places: Tensor) -> Tensor:
    return hidden.gather(1, places[..., None].expand(-1, -1, hidden.shape[2]))
