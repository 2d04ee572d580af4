"""Whether a training compiles: as asked, or as timed."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from wafergpt.devices.detect import compiler_available
from wafergpt.engines.base import ROUNDS
from wafergpt.errors import InputError
from wafergpt.logs import say
from wafergpt.planning.speed import compile_pays
from wafergpt.progress import working

if TYPE_CHECKING:
    from torch import nn

    from wafergpt.config import System
    from wafergpt.devices.compiler import Compiler

LEAST_GAIN = 0.97
"""Of the time without a compiler: closer times are told apart by noise."""


def chosen(
    system: System,
    updates: float,
    eager_seconds: float,
    attempt: Callable[[int], tuple[float, str | None]],
    switch: Callable[[bool], None],
) -> tuple[bool, float]:
    """Compile, if it is wanted or pays; return whether updates are compiled now.

    Args:
        system: with device and precision settled.
        updates: that are to be made.
        eager_seconds: of one without a compiler; 0 if it was not timed, which ``auto`` needs.
        attempt: compiles, and returns the seconds of an update, or what failed; it is given the
            number of updates to time beside the first one.
        switch: compiles, or stops doing so.

    Returns:
        Whether the next updates are compiled, and the seconds of one; 0 if that was not timed.

    Raises:
        InputError: if it is wanted and does not work here.
    """
    wanted, device = system.compile, system.device

    def tried(rounds: int) -> tuple[float, str | None]:
        # A warning that is to be an error here says nothing of the compiler.
        with warnings.catch_warnings(action="ignore"):
            return attempt(rounds)

    if wanted == "on":
        # One update at least, while there is no run yet.
        seconds, failure = tried(ROUNDS if eager_seconds else 0)
        if failure:
            raise InputError(
                f"system.compile=on: torch.compile does not work here ({failure}); "
                "system.compile=off trains without it"
            )
        return True, seconds if eager_seconds else 0.0
    pays = compile_pays(updates * eager_seconds, device, system.precision)
    if wanted == "off" or not pays or not compiler_available(device):
        return False, eager_seconds
    with working("compiling, and timing updates"):
        compiled, failure = tried(ROUNDS)
    if failure:
        say(f"warning: torch.compile does not work here ({failure}): training without it")
    elif compiled < LEAST_GAIN * eager_seconds:
        say(f"compiled updates take {compiled:.3f}s instead of {eager_seconds:.3f}s")
        return True, compiled
    else:
        say(f"compiled updates take {compiled:.3f}s, eager {eager_seconds:.3f}s: not compiling")
    switch(False)
    return False, eager_seconds


def compile_blocks(blocks: Iterable[nn.Module], compiler: Compiler | None) -> None:
    """Have blocks compiled when they are next called; without a compiler, no longer.

    Args:
        blocks: of the network, and of its teacher.
        compiler: for each of them.
    """
    import torch

    if compiler is not None:
        # Other shapes that this process has trained would use up its limit.
        torch.compiler.reset()
    for block in blocks:
        if compiler is not None:
            block.compile(dynamic=None, backend=compiler)
        else:
            # nn.Module.compile() has no inverse.
            block._compiled_call_impl = None
