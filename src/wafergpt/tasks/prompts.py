"""Prompts, and what is wanted after them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wafergpt.data.tokenizer import Tokenizer

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Prompt:
    """What an answer follows.

    Attributes:
        tokens: ``[n]``, at least one.
        learned: ``[n]``, which of them are learned too.
    """

    tokens: Ints
    learned: NDArray[np.bool_]

    def cut(self, most: int, keeps_end: bool) -> Prompt:
        """Return the first tokens and the very last one, or the last ones."""
        if len(self.tokens) <= most:
            return self
        kept = np.arange(len(self.tokens))[-most:] if keeps_end else np.arange(most)
        if not keeps_end:
            # The answer follows it.
            kept[-1] = len(self.tokens) - 1
        return Prompt(self.tokens[kept], self.learned[kept])


@dataclass(frozen=True)
class Answers:
    """The rows of an evaluation.

    Attributes:
        prompts: their texts.
        references: the texts that are wanted.
        written: ``[n]``, those whose answers are written.
        tokenizer: of the run.
    """

    prompts: Sequence[str]
    references: Sequence[str]
    written: Ints
    tokenizer: Tokenizer
