"""Generating text from a prompt, token by token."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from math import inf
from numbers import Integral, Real
from typing import Protocol

import torch

from wafergpt.decoding.sampling import sample
from wafergpt.errors import InputError
from wafergpt.files import short
from wafergpt.model.cache import Cache
from wafergpt.model.gpt import GPT

TOKENS_OF_CHARACTER = 8
"""A character has no more of them."""


class Codec(Protocol):
    """The part of a tokenizer that decoding needs."""

    @property
    def end_of_text(self) -> int:
        """The token that ends a document."""

    @property
    def vocab_size(self) -> int:
        """How many tokens there are; a network may have rows for more."""

    def encode(self, text: str) -> list[int]:
        """Turn text into token ids."""

    def decode(self, ids: Sequence[int]) -> str:
        """Turn token ids into text."""


@dataclass(frozen=True)
class Sampling:
    """How to choose tokens, and when to stop.

    Attributes:
        max_tokens: maximum number of tokens drawn.
        temperature: divides the logits; 0 takes the most likely token.
        top_k: choose among the k most likely tokens; 0 for all.
        top_p: choose among the most likely tokens that together reach this probability.
        seed: of the randomness, below 2^63.
        stop: texts that end the continuation, and are not part of it.

    Raises:
        InputError: if a value is of another type or out of range.
    """

    max_tokens: int = 128
    temperature: float = 0.8
    top_k: int = 0
    top_p: float = 0.95
    seed: int = 0
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, most in (("max_tokens", inf), ("top_k", inf), ("seed", 2**63 - 1)):
            _require(name, getattr(self, name), Integral, "a whole number", most)
        for name, most in (("temperature", inf), ("top_p", 1)):
            _require(name, getattr(self, name), Real, "a number", most)
        stop = self.stop
        if not isinstance(stop, list | tuple) or not all(isinstance(s, str) and s for s in stop):
            raise InputError(f"stop={short(stop)} is no tuple of texts that are not empty")


def _require(name: str, value: object, kind: type, what: str, most: float) -> None:
    # True is a number for Python, and hardly for whoever wrote it.
    sound = isinstance(value, kind) and not isinstance(value, bool)
    if not sound or not 0 <= value <= most or value == inf:  # type: ignore[operator]
        top = "up" if most == inf else f"to {most}"
        raise InputError(f"{name}={short(value)} is not {what} from 0 {top}")


@torch.inference_mode()
def stream_tokens(
    gpt: GPT,
    prompt: Sequence[int],
    settings: Sampling,
    end_of_text: int,
    vocab_size: int | None = None,
) -> Iterator[int]:
    """Yield tokens that follow the prompt, until the end of text or ``max_tokens``.

    Where the network has more rows than there are tokens, as in models padded to a round number,
    only tokens below ``vocab_size`` are drawn.

    Of a prompt longer than the context, the last ``seq_len`` tokens are read; when the context is
    full, its later half is read again and the rest dropped.
    """
    context = gpt.config.seq_len
    weight = gpt.embedding.weight
    cache = Cache(1, gpt.config, weight.dtype, weight.device)
    generator = torch.Generator(weight.device).manual_seed(settings.seed)
    text = list(prompt) or [end_of_text]
    unread = text[-context:]
    for _ in range(settings.max_tokens):
        if cache.length + len(unread) > context:
            cache.clear()
            unread = text[-(context // 2) or -1 :]
        hidden = gpt(torch.tensor([unread], device=weight.device), cache=cache)
        logits = gpt.logits(hidden[:, -1])[:, :vocab_size]
        token = int(sample(logits, generator, settings.temperature, settings.top_k, settings.top_p))
        if token == end_of_text:
            return
        yield token
        text.append(token)
        unread = [token]


class TextStream(Iterator[str]):
    """The continuation of a prompt, a text or its tokens, in pieces of whole characters.

    It ends at the first of ``settings.stop``, which is not part of it.

    Attributes:
        cut: whether it ended only because of ``settings.max_tokens``.
        drawn: every token drawn, without the end of text.
    """

    def __init__(
        self, gpt: GPT, codec: Codec, prompt: str | Sequence[int], settings: Sampling
    ) -> None:
        self.cut = False
        self.drawn: list[int] = []
        ids = codec.encode(prompt) if isinstance(prompt, str) else prompt
        self._pieces = self._stream(gpt, codec, ids, settings)

    def __next__(self) -> str:
        return next(self._pieces)

    def _stream(
        self, gpt: GPT, codec: Codec, ids: Sequence[int], settings: Sampling
    ) -> Iterator[str]:
        was_training = gpt.training
        gpt.eval()
        tokens = self._kept(stream_tokens(gpt, ids, settings, codec.end_of_text, codec.vocab_size))
        try:
            pieces = _whole_characters(tokens, codec, _whole_end(ids, codec))
            stopped = yield from _until_stop(pieces, tuple(settings.stop))
            self.cut = not stopped and len(self.drawn) == settings.max_tokens
        finally:
            gpt.train(was_training)

    def _kept(self, tokens: Iterator[int]) -> Iterator[int]:
        for token in tokens:
            self.drawn.append(token)
            yield token


def _whole_characters(
    tokens: Iterator[int], codec: Codec, before: Sequence[int] = ()
) -> Iterator[str]:
    held: list[int] = []
    for token in tokens:
        held.append(token)
        text = _text_after(before, held, codec)
        # A character may span tokens; after so many of them it is broken, not unfinished.
        if not text.endswith("\ufffd") or len(held) >= TOKENS_OF_CHARACTER:
            yield text
            before, held = held, []
    if held:
        yield _text_after(before, held, codec)


def _whole_end(ids: Sequence[int], codec: Codec) -> Sequence[int]:
    """Return the last tokens of a prompt that are whole characters, as few as there can be."""
    for count in range(1, TOKENS_OF_CHARACTER + 1):
        if "\ufffd" not in codec.decode(ids[-count:]):
            return ids[-count:]
    return ids[-1:]


def _text_after(before: Sequence[int], tokens: Sequence[int], codec: Codec) -> str:
    """Return the text of tokens that follow others: decoders may drop a space at the beginning."""
    known, both = codec.decode(before), codec.decode([*before, *tokens])
    # Bytes that are no character by themselves may be one together.
    return both[len(known) :] if both.startswith(known) else codec.decode(tokens)


def _until_stop(pieces: Iterator[str], stop: tuple[str, ...]) -> Generator[str, None, bool]:
    """Yield text up to the first stop string; return whether there was one."""
    # The longest tail that may still be the start of a stop string is held back.
    hold = max((len(s) for s in stop), default=1) - 1
    text, sent = "", 0
    for piece in pieces:
        text += piece
        # The stop string that is complete first, however many characters came at once.
        found = [(place + len(s), place) for s in stop if (place := text.find(s)) >= 0]
        end = min(found)[1] if found else max(len(text) - hold, sent)
        if end > sent:
            yield text[sent:end]
            sent = end
        if found:
            return True
    if len(text) > sent:
        yield text[sent:]
    return False
