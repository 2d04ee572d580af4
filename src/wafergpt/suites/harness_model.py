"""A language model as lm-evaluation-harness asks one: log-likelihoods, and text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from lm_eval.api.model import TemplateLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from torch.nn import functional as F

from wafergpt.data.length_order import padded
from wafergpt.decoding.generator import Sampling, TextStream
from wafergpt.inference.writer import Writer
from wafergpt.progress import progress

BATCH_TOKENS = 1 << 13
"""Tokens that the network reads at once, padding included."""

WRITTEN = 256
"""Tokens that are written at most, if a task does not say it."""

Request = tuple[Any, list[int], list[int]]
"""Texts, tokens of a context, and of its continuation."""


class HarnessModel(TemplateLM):  # type: ignore[misc]
    """A run for lm-evaluation-harness.

    Args:
        writer: the network and its tokenizer.
    """

    def __init__(self, writer: Writer) -> None:
        super().__init__()
        self._writer, self._gpt = writer, writer.gpt.eval()
        self._device = next(writer.gpt.parameters()).device

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
        rows = [self._row(context, continuation) for _, context, continuation in requests]
        found: list[tuple[float, bool]] = [(0.0, True)] * len(rows)
        total = sum(len(tokens) for tokens, _ in rows)
        with progress("reading", total, "tokens") as bar:
            for chosen in _batches([len(tokens) - 1 for tokens, _ in rows]):
                some = [rows[place] for place in chosen]
                for place, answer in zip(chosen, self._scored(some), strict=True):
                    found[place] = answer
                bar.advance(sum(len(tokens) for tokens, _ in some))
        return found

    def _row(self, context: list[int], continuation: list[int]) -> tuple[list[int], int]:
        """Return the last tokens that fit, and how many of them are judged."""
        tokens = [*context, *continuation][-(self.max_length + 1) :]
        return tokens, min(len(continuation), len(tokens) - 1)

    @torch.inference_mode()
    def _scored(self, rows: Sequence[tuple[list[int], int]]) -> list[tuple[float, bool]]:
        """Return the log-likelihood of each continuation, and whether it is the likeliest."""
        import numpy as np

        inputs = [np.array(tokens[:-1]) for tokens, _ in rows]
        longest = max(map(len, inputs))
        # Causal attention: what a row is padded with does not reach its own tokens.
        states = self._gpt(padded(inputs, longest).to(self._device))
        hidden = torch.cat([
            states[place, len(tokens) - 1 - n : len(tokens) - 1]
            for place, (tokens, n) in enumerate(rows)
        ])  # fmt: skip
        logits = self._gpt.logits(hidden)[:, : self._writer.tokenizer.vocab_size].float()
        wanted = torch.tensor(
            [token for tokens, n in rows for token in tokens[len(tokens) - n :]],
            device=self._device,
        )
        losses = F.cross_entropy(logits, wanted, reduction="none").double().cpu()
        likeliest = (logits.argmax(1) == wanted).cpu()
        counts = [n for _, n in rows]
        return [
            (-float(own.sum()), bool(greedy.all()))
            for own, greedy in zip(losses.split(counts), likeliest.split(counts), strict=True)
        ]

    def loglikelihood_rolling(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[float]:
        """Return the log-likelihood of whole texts, in windows that do not overlap."""
        found = []
        for (text,) in (request.args for request in requests):
            windows = get_rolling_token_windows(
                token_list=self.tok_encode(text), prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length, context_len=1,
            )  # fmt: skip
            parts = [("", *make_disjoint_window(window)) for window in windows]
            found.append(sum(value for value, _ in self._loglikelihood_tokens(parts)))
        return found

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Return the likeliest continuations, each up to one of its stop texts."""
        found = []
        with progress("writing", len(requests), "texts") as bar:
            for context, asked in (request.args for request in requests):
                stop = asked.get("until") or ()
                stop = (stop,) if isinstance(stop, str) else tuple(stop)
                sampling = Sampling(
                    max_tokens=int(asked.get("max_gen_toks", WRITTEN)),
                    temperature=float(asked.get("temperature") or 0.0),
                    stop=tuple(text for text in stop if text),
                )
                writer = self._writer
                found.append("".join(TextStream(writer.gpt, writer.tokenizer, context, sampling)))
                bar.advance(1)
        return found


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Yield the places of rows of similar length together, the longest first."""
    order = sorted(range(len(lengths)), key=lambda place: -lengths[place])
    at = 0
    while at < len(order):
        rows = max(1, BATCH_TOKENS // max(1, lengths[order[at]]))
        yield order[at : at + rows]
        at += rows
