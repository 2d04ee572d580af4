"""An export compared with its run, by the logits of both on random tokens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from wafergpt.progress import working

CHECK_ROWS, CHECK_TOKENS = 3, 256
"""Shape of the random tokens on which an export is compared with the run."""

Network = Callable[[Tensor, Tensor], Tensor]
"""Maps tokens ``[batch, length]`` and lengths ``[batch]`` to logits."""


TOLERANCE = 1e-5
"""The largest accepted max |difference| / max |logit| in fp32."""


@dataclass(frozen=True)
class Checked:
    """The result of comparing an export with its run.

    Attributes:
        difference: max |difference| / max |logit|.
        by: the program that read the export.
        warnings: the known differences.
    """

    difference: float
    by: str
    warnings: tuple[str, ...] = ()


def logit_difference(
    network: Network, other: Network, vocab_size: int, seq_len: int, end_of_text: int | None
) -> float:
    """Return max |other − network| / max |network| of the logits on random tokens.

    The rows have several lengths and are padded with ``end_of_text``. NaN and logits of another
    shape count as infinite.
    """
    generator = torch.Generator().manual_seed(0)
    length = min(seq_len, CHECK_TOKENS)
    tokens = torch.randint(0, vocab_size, (CHECK_ROWS, length), generator=generator)
    lengths = torch.tensor([length, max(1, length // 2), max(1, length - 1)])
    if end_of_text is not None:
        # The end of text may occur only as padding.
        tokens[tokens == end_of_text] = (end_of_text + 1) % vocab_size
        tokens[torch.arange(length) >= lengths[:, None]] = end_of_text
    with working("comparing the logits"), torch.no_grad():
        expected, given = network(tokens, lengths), other(tokens, lengths)
    if given.shape != expected.shape:
        return float("inf")
    value = float((given - expected).abs().max() / expected.abs().max().clamp(min=1e-30))
    return value if value == value else float("inf")
