"""A language model as lm-evaluation-harness asks one: log-likelihoods, and text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import torch
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from torch import Tensor
from torch.nn import functional as F

from wafergpt.data.length_order import padded
from wafergpt.decoding.generator import Sampling, TextStream
from wafergpt.errors import InputError
from wafergpt.inference.writer import Writer
from wafergpt.logs import say
from wafergpt.model.cache import Cache
from wafergpt.progress import progress

BATCH_TOKENS = 1 << 13
"""Tokens that the network reads at once, padding included."""

CACHED_TOKENS = 1 << 12
"""The same where a cache holds all layers' keys and values of them."""

JUDGED_TOKENS = 1 << 10
"""Tokens whose logits are in memory at once."""

WRITTEN = 256
"""Tokens that are written at most, if a task does not say it."""

Request = tuple[Any, list[int], list[int]]
"""Texts, tokens of a context, and of its continuation."""

Row = tuple[tuple[int, ...], list[int]]
"""Tokens of a context that fit, and those that are judged."""


class HarnessModel(TemplateLM):  # type: ignore[misc]
    """A run for lm-evaluation-harness.

    Args:
        writer: the network and its tokenizer.

    Attributes:
        cut: how many of the texts read so far lost their beginnings, as they do not fit.
    """

    def __init__(self, writer: Writer) -> None:
        super().__init__()
        self._writer, self._gpt = writer, writer.gpt.eval()
        self._device = next(writer.gpt.parameters()).device
        self.cut = 0

    @property
    def eot_token_id(self) -> int:
        """The token that an empty context stands for."""
        return self._writer.tokenizer.end_of_text

    @property
    def max_length(self) -> int:
        """Tokens that are read at most."""
        return self._gpt.config.seq_len

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **named: Any
    ) -> list[int]:
        """Return the tokens of a text."""
        return self._writer.tokenizer.encode(string)

    def _loglikelihood_tokens(
        self, requests: Sequence[Request], **named: Any
    ) -> list[tuple[float, bool]]:
        rows = [self._row(request) for request in requests]
        self._say_cut(sum(
            len(context) + len(judged) < len(request[1]) + len(request[2])
            for (context, judged), request in zip(rows, requests, strict=True)
        ), len(rows))  # fmt: skip
        found: list[tuple[float, bool]] = [(0.0, True)] * len(rows)
        lengths = [len(context) + len(judged) for context, judged in rows]
        with progress("reading", sum(lengths), "tokens") as bar:
            for chosen, shared in _batches(rows):
                some = [rows[place] for place in chosen]
                for place, answer in zip(chosen, self._scored(some, shared), strict=True):
                    found[place] = answer
                bar.advance(sum(lengths[place] for place in chosen))
        return found

    def _row(self, request: Request) -> Row:
        texts, context, continuation = request
        if not continuation:
            raise InputError(f"a task has nothing to judge after the text {texts[0][-60:]!r}")
        tokens = [*context, *continuation][-(self.max_length + 1) :]
        split = max(1, len(tokens) - len(continuation))
        return tuple(tokens[:split]), tokens[split:]

    def _say_cut(self, cut: int, total: int) -> None:
        if cut:
            self.cut += cut
            say(f"warning: {cut:,} of {total:,} texts are longer than the context of "
                f"{self.max_length} tokens, and lose their beginnings")  # fmt: skip

    @torch.inference_mode()
    def _scored(self, rows: Sequence[Row], shared: bool) -> list[tuple[float, bool]]:
        """Return the log-likelihood of each continuation, and whether it is the likeliest."""
        hidden = self._states_after_shared(rows) if shared else self._states(rows)
        wanted = torch.tensor([t for _, judged in rows for t in judged], device=self._device)
        losses, likeliest = [], []
        pairs = zip(hidden.split(JUDGED_TOKENS), wanted.split(JUDGED_TOKENS), strict=True)
        for states, tokens in pairs:
            logits = self._gpt.logits(states)[:, : self._writer.tokenizer.vocab_size].float()
            losses.append(F.cross_entropy(logits, tokens, reduction="none").double().cpu())
            likeliest.append((logits.argmax(1) == tokens).cpu())
        counts = [len(judged) for _, judged in rows]
        parts = zip(torch.cat(losses).split(counts), torch.cat(likeliest).split(counts),
                    strict=True)  # fmt: skip
        return [(-float(own.sum()), bool(greedy.all())) for own, greedy in parts]

    def _states(self, rows: Sequence[Row]) -> Tensor:
        """Return the states ``[tokens, d_model]`` that all rows' judged tokens follow."""
        inputs = [np.array([*context, *judged[:-1]]) for context, judged in rows]
        # Causal attention: what a row is padded with does not reach its own tokens.
        states = self._gpt(padded(inputs, max(map(len, inputs))).to(self._device))
        return torch.cat([
            states[place, len(context) - 1 : len(context) - 1 + len(judged)]
            for place, (context, judged) in enumerate(rows)
        ])  # fmt: skip

    def _states_after_shared(self, rows: Sequence[Row]) -> Tensor:
        """Return the same for contexts of one length, each of which is read once."""
        contexts = list(dict.fromkeys(context for context, _ in rows))
        numbers = {context: number for number, context in enumerate(contexts)}
        owners = torch.tensor([numbers[context] for context, _ in rows], device=self._device)
        longest = max(len(judged) for _, judged in rows) - 1
        weight = self._gpt.embedding.weight
        cache = Cache(len(contexts), self._gpt.config, weight.dtype, self._device,
                      len(contexts[0]) + longest)  # fmt: skip
        read = self._gpt(torch.tensor(contexts, device=self._device), cache=cache)
        states = read[:, -1:][owners]
        if longest:
            cache.take(owners)
            inputs = padded([np.array(judged[:-1]) for _, judged in rows], longest)
            rest = self._gpt(inputs.to(self._device), cache=cache)
            states = torch.cat((states, rest), 1)
        return torch.cat([states[place, : len(judged)] for place, (_, judged) in enumerate(rows)])

    def loglikelihood_rolling(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[float]:
        """Return the log-likelihood of whole texts, in windows that do not overlap."""
        parts: list[Request] = []
        ends = []
        for (text,) in (request.args for request in requests):
            windows = get_rolling_token_windows(
                token_list=self.tok_encode(text), prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length, context_len=1,
            )  # fmt: skip
            parts += [((text,), *make_disjoint_window(window)) for window in windows]
            ends.append(len(parts))
        values = [value for value, _ in self._loglikelihood_tokens(parts)]
        return [sum(values[start:end]) for start, end in zip([0, *ends], ends, strict=False)]

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Return the likeliest continuations, each up to one of its stop texts."""
        writer, found, cut = self._writer, [], 0
        asked = [(text, normalize_gen_kwargs(named, WRITTEN))
                 for text, named in (request.args for request in requests)]  # fmt: skip
        if any(named["do_sample"] for _, named in asked):
            say("warning: a task asks for drawn texts, and gets the likeliest ones")
        with progress("writing", len(requests), "texts") as bar:
            for text, named in asked:
                stop = tuple(end for end in named["until"] if end)
                sampling = Sampling(named["max_gen_toks"], temperature=0.0, stop=stop)
                tokens = self.tok_encode(text)
                # Room for what is written, but never less than half of the context to read.
                room = max(self.max_length - sampling.max_tokens, -(-self.max_length // 2))
                cut += len(tokens) > room
                stream = TextStream(writer.gpt, writer.tokenizer, tokens[-room:], sampling)
                found.append("".join(stream))
                bar.advance(1)
        self._say_cut(cut, len(requests))
        return found


def _batches(rows: Sequence[Row]) -> Iterator[tuple[list[int], bool]]:
    """Yield the places of rows that are read together, and whether they share contexts."""
    uses = Counter(context for context, _ in rows)
    longest = dict.fromkeys(uses, 0)
    for context, judged in rows:
        longest[context] = max(longest[context], len(judged))
    shared: list[int] = []
    alone: list[int] = []
    for place, (context, _) in enumerate(rows):
        # What follows a short context is padded more than that saves.
        pays = uses[context] > 1 and len(context) >= longest[context]
        (shared if pays else alone).append(place)
    alone.sort(key=lambda place: -sum(map(len, rows[place])))
    for chosen in _cut(alone, [sum(map(len, row)) - 1 for row in rows], BATCH_TOKENS):
        yield chosen, False
    shared.sort(key=lambda place: (
        -len(rows[place][0]), -longest[rows[place][0]], rows[place][0], -len(rows[place][1])
    ))  # fmt: skip
    sizes = [len(context) + longest[context] for context, _ in rows]
    for _, same in groupby(shared, key=lambda place: len(rows[place][0])):
        for chosen in _cut(list(same), sizes, CACHED_TOKENS):
            yield chosen, True


def _cut(places: Sequence[int], sizes: Sequence[int], most: int) -> Iterator[list[int]]:
    """Yield parts of places in the order of their sizes, the largest first."""
    at = 0
    while at < len(places):
        count = max(1, most // max(1, sizes[places[at]]))
        yield list(places[at : at + count])
        at += count
