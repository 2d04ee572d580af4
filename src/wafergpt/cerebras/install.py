"""Makes the SDK's environment, and checks that it works."""

from __future__ import annotations

import time
from typing import Any

from wafergpt.cerebras import environment, lowering
from wafergpt.logs import say
from wafergpt.progress import duration, working


def install() -> dict[str, Any]:
    """Make the environment, or continue an interrupted attempt; check it by training steps.

    Raises:
        InputError: if there is no Python for the SDK, or too little disk space.
        RunFailed: if a step fails.
    """
    start = time.monotonic()
    environment.make()
    with working("making five steps of training"):
        found = environment.record(lowering.verify())
    say(f"done in {duration(time.monotonic() - start)}: system.device=cerebras works now")
    return found
