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
        starts: of messages, in tokens; what is before the first one is always read.
    """

    tokens: Ints
    learned: NDArray[np.bool_]
    starts: Sequence[int] = ()

    def cut(self, most: int, keeps_end: bool) -> Prompt:
        """Return ``most`` tokens: the first ones and the very last one, or the last ones.

        Of messages the oldest are left out. If the last one alone is too long, its end is kept.
        """
        n = len(self.tokens)
        if n <= most:
            return self
        kept = np.arange(n)[-most:] if keeps_end else np.arange(most)
        if not keeps_end:
            # The answer follows it.
            kept[-1] = n - 1
        for start in self.starts if keeps_end else ():
            if self.starts[0] + n - start <= most:
                kept = np.r_[: self.starts[0], start:n]
                break
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
