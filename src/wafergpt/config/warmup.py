"""What a warm-up of the learning rate is written as, and how many steps that is."""

from __future__ import annotations

import re

from wafergpt.config.quantities import token_count


def warmup_share(warmup: int | str) -> float | None:
    """Return a warm-up such as ``5%`` as a share of the run; None if it is a count."""
    share = re.fullmatch(r"\s*(\d{1,3}(?:\.\d{1,20})?)\s*%\s*", str(warmup))
    return None if share is None else float(share[1]) / 100


def warmup_steps(warmup: int | str, steps: int, tokens_per_step: int) -> int:
    """Return a warm-up in steps.

    Args:
        warmup: steps, tokens as in "375M tokens", or a share of the run as in "5%".
        steps: of the whole run.
        tokens_per_step: of one batch.

    Raises:
        ValueError: if it is none of these, or negative.
    """
    share = warmup_share(warmup)
    if isinstance(warmup, int):
        found = warmup
    elif share is not None:
        found = round(share * steps)
    else:
        found = round(token_count(warmup) / tokens_per_step)
    if found < 0:
        raise ValueError("warmup cannot be negative")
    return found
