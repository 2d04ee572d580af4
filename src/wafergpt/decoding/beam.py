"""Beam search: the likeliest continuation, among several that are kept at each token."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from wafergpt import config
from wafergpt.model.cache import Cache
from wafergpt.model.gpt import GPT

SEARCH_BYTES = 1 << 28
"""Memory of all continuations that are searched at once: keys, values and logits."""

MOST_PADDED = 2
"""The longest of the prompts that are searched at once, over the shortest. A token of an answer
costs far more than one of a prompt."""

LEFT = 0.75
"""Of the prompts that are continued, so many are left when those that have ended are dropped."""


@dataclass(frozen=True)
class Beam:
    """How to search.

    Attributes:
        width: continuations that are kept; 1 takes the likeliest token each time.
        max_tokens: of a continuation, its end included.
        length_penalty: a continuation's log-probability is divided by its number of tokens to this
            power; 0 prefers short ones.
        end_of_text: the token that ends a continuation.
        vocab_size: tokens there are; a network may have rows for more.
    """

    width: int
    max_tokens: int
    length_penalty: float
    end_of_text: int
    vocab_size: int


def searched_together(
    lengths: Sequence[int], model: config.Model, beam_of: Callable[[int], Beam]
) -> Iterator[tuple[list[int], Beam]]:
    """Yield the places of prompts to search at once: of similar lengths, as the memory allows.

    Those whose continuations the context cuts are together only if they are as long.

    Args:
        lengths: of the prompts; those of 0 are left out.
        model: the network's shape.
        beam_of: how to search after a prompt of a length.
    """
    group: list[int] = []
    for place in sorted((n for n, length in enumerate(lengths) if length), key=lengths.__getitem__):
        beam = beam_of(lengths[place])
        states = 2 * model.n_layers * model.attention_width * (lengths[place] + beam.max_tokens)
        room = SEARCH_BYTES // (4 * beam.width * (states + 2 * model.vocab_size))
        shortest = lengths[group[0]] if group else lengths[place]
        alike = lengths[place] <= MOST_PADDED * shortest and beam == beam_of(shortest)
        if group and (len(group) >= room or not alike):
            yield group, beam_of(shortest)
            group = []
        group.append(place)
    if group:
        yield group, beam_of(lengths[group[0]])


@torch.inference_mode()
def beam_search(gpt: GPT, prompts: Sequence[Tensor], beam: Beam) -> list[list[int]]:
    """Continue prompts.

    A search ends when ``width`` continuations have ended. This is transformers' ``generate`` with
    ``num_beams``, ``length_penalty`` and ``early_stopping=True``.

    Args:
        gpt: in evaluation mode.
        prompts: tokens, of any lengths; the longest and ``max_tokens`` at most the context.
        beam: how to search.

    Returns:
        The best continuation of each prompt, without its end.
    """
    n, width, device = len(prompts), beam.width, prompts[0].device
    tokens, padding = _ending_together(prompts)
    # The last token is drawn, and not read.
    most = tokens.shape[1] + beam.max_tokens - 1
    cache = Cache(n, gpt.config, gpt.embedding.weight.dtype, device, most, padding)
    search = _Search(n, beam, device)
    log_probs = _log_probs(gpt, tokens, cache, beam.vocab_size)
    cache.take(torch.arange(n, device=device).repeat_interleave(width))
    log_probs = log_probs.repeat_interleave(width, 0)
    rows = search.advance(log_probs)
    for _ in range(beam.max_tokens - 1):
        if search.over:
            break
        # If none was dropped, each row's prompt is still its own: the continuations share it.
        cache.take(rows, tokens.shape[1] if len(rows) == len(log_probs) else 0)
        log_probs = _log_probs(gpt, search.last, cache, beam.vocab_size)
        rows = search.advance(log_probs)
    return search.best()


def _ending_together(prompts: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
    """Return prompts ``[n, longest]`` padded at their starts, and by how much if any is."""
    longest = max(map(len, prompts))
    padding = [longest - len(prompt) for prompt in prompts]
    tokens = torch.stack([F.pad(p, (n, 0)) for p, n in zip(prompts, padding, strict=True)])
    return tokens, torch.tensor(padding, device=tokens.device) if any(padding) else None


def _log_probs(gpt: GPT, tokens: Tensor, cache: Cache, vocab_size: int) -> Tensor:
    """Return ``[batch, vocab_size]`` of the token after these."""
    hidden = gpt(tokens, cache=cache)
    return gpt.logits(hidden[:, -1])[:, :vocab_size].float().log_softmax(1)


class _Search:
    """The continuations of ``n`` prompts; of each, ``width`` go on until enough have ended."""

    def __init__(self, n: int, beam: Beam, device: torch.device) -> None:
        self._beam = beam
        # All go on from the same prompt: at first one counts.
        self._scores = torch.full((n, beam.width), -math.inf, device=device)
        self._scores[:, 0] = 0.0
        self._tokens = torch.empty(n, beam.width, 0, dtype=torch.long, device=device)
        self._ended: list[list[tuple[float, list[int]]]] = [[] for _ in range(n)]
        # Of those that go on, the places among all.
        self._going = list(range(n))

    @property
    def last(self) -> Tensor:
        """The last token of each that goes on, ``[going · width, 1]``."""
        return self._tokens[:, :, -1].reshape(-1, 1)

    @property
    def over(self) -> bool:
        """Whether enough have ended for each prompt."""
        return all(len(self._ended[place]) >= self._beam.width for place in self._going)

    def advance(self, log_probs: Tensor) -> Tensor:
        """Extend each by its best tokens.

        Args:
            log_probs: ``[going · width, vocab_size]`` of the next token.

        Returns:
            The row that each one now continues; of those alone that still go on.
        """
        n, width = self._scores.shape
        vocab_size, end = log_probs.shape[1], self._beam.end_of_text
        total = self._scores[..., None] + log_probs.view(n, width, vocab_size)
        # Of twice as many, one in each row may end.
        scores, places = total.flatten(1).topk(min(2 * width, width * vocab_size))
        parents, tokens = places // vocab_size, places % vocab_size
        ends = tokens == end
        self._end(scores, parents, ends)
        goes_on = ends.long().argsort(dim=1, stable=True)[:, :width]
        self._scores = scores.gather(1, goes_on).masked_fill(ends.gather(1, goes_on), -math.inf)
        parents, tokens = parents.gather(1, goes_on), tokens.gather(1, goes_on)
        read = self._tokens.gather(1, parents[..., None].expand(-1, -1, self._tokens.shape[2]))
        self._tokens = torch.cat((read, tokens[..., None]), 2)
        rows = torch.arange(n, device=parents.device)[:, None] * width + parents
        return self._kept(rows).flatten()

    def _kept(self, rows: Tensor) -> Tensor:
        """Drop the prompts of which enough have ended, if they are many: the rest is copied."""
        width = self._beam.width
        kept = [n for n, place in enumerate(self._going) if len(self._ended[place]) < width]
        if len(kept) <= LEFT * len(self._going):
            self._going = [self._going[n] for n in kept]
            self._scores, self._tokens, rows = self._scores[kept], self._tokens[kept], rows[kept]
        return rows

    def _end(self, scores: Tensor, parents: Tensor, ends: Tensor) -> None:
        # One that is not among the best would not have gone on either.
        width = self._beam.width
        rows, places = ends[:, :width].nonzero(as_tuple=True)
        texts = self._tokens[rows, parents[rows, places]].tolist()
        for row, score, text in zip(
            rows.tolist(), scores[rows, places].tolist(), texts, strict=True
        ):
            ended = self._ended[self._going[row]]
            if len(ended) < width and math.isfinite(score):
                ended.append((self._normed(score, len(text) + 1), text))

    def _normed(self, score: float, tokens: int) -> float:
        return score / float(max(1, tokens) ** self._beam.length_penalty)

    def best(self) -> list[list[int]]:
        """Return the best of each prompt; of those that have not ended, if too few have."""
        for row, place in enumerate(self._going):
            if len(self._ended[place]) >= self._beam.width:
                continue
            tokens: list[list[int]] = self._tokens[row].tolist()
            scores = self._scores[row].tolist()
            self._ended[place] += [
                (self._normed(s, len(t)), t) for s, t in zip(scores, tokens, strict=True)
            ]
        return [max(ended, key=lambda one: one[0])[1] for ended in self._ended]
