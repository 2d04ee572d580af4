"""Torch's compiler, which may be installed and not work."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from wafergpt.logs import say, say_once

if TYPE_CHECKING:
    from torch import Tensor
    from torch.fx import GraphModule

LONGEST_REASON = 200
"""Characters of a compiler's error that are shown."""


CACHE = "TORCHINDUCTOR_CACHE_DIR"


class Compiler:
    """A backend of torch.compile: the default one, with eager code for what it cannot compile.

    Each process of a training does so by itself, so that none waits for another that has failed.

    Attributes:
        failure: the first failure, None if there was none.
        loud: whether a failure is logged at once.
    """

    def __init__(self) -> None:
        self.failure: str | None = None
        self.loud = False

    def __call__(self, graph: GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        """Return a function that computes a graph."""
        from torch._dynamo import lookup_backend
        from torch._dynamo.exc import RestartAnalysis

        try:
            compiled: Callable[..., Any] = lookup_backend("inductor")(graph, inputs)
            return compiled
        except RestartAnalysis:
            # No failure: the compiler wants the graph again, with more of it known.
            raise
        except Exception as error:
            self.failure = self.failure or reason(error)
            if self.loud:
                say_once(
                    "compiler",
                    f"warning: torch.compile failed ({reason(error)}); "
                    "the parts that it could not compile run without it",
                )
            return graph.forward


_own_cache: list[TemporaryDirectory[str]] = []


def require_cache() -> None:
    """Make sure that torch's compiler has a cache folder that it can write to.

    It creates that folder on import, which any optimizer triggers, compiled or not.
    """
    folder = os.environ.get(CACHE)
    if folder is None:
        return
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        usable = os.access(folder, os.W_OK | os.X_OK)
    except OSError:
        usable = False
    if not usable:
        say(f"warning: {CACHE}={folder} cannot be written: a temporary folder is used")
        _own_cache.append(TemporaryDirectory(prefix="torchinductor-"))
        os.environ[CACHE] = _own_cache[-1].name


def reason(error: BaseException) -> str:
    """Return the most informative line of an error: the compiler's own, or else the first."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if "error:" in line.lower()] or lines
    return next(iter(told), type(error).__name__)[:LONGEST_REASON]


def is_of_compiler(error: BaseException) -> bool:
    """Return whether an error comes from torch.compile."""
    kinds = type(error).__mro__
    return any(kind.__module__.startswith(("torch._dynamo", "torch._inductor")) for kind in kinds)


def cold_compiles() -> int:
    """Return how many graphs this process has compiled that no cache had."""
    from torch._dynamo.utils import counters

    return int(counters["inductor"]["fxgraph_cache_miss"])


def trial(device: str) -> str | None:
    """Compile something small and new; return why it fails, or None. It takes seconds."""
    import torch

    compiler = Compiler()
    # A new number, so that no cache has the code.
    factor = random.Random().random()
    try:
        work = torch.compile(lambda x: (x * factor).sin().sum(), backend=compiler)
        work(torch.ones(64, device=device))
    except Exception as error:
        return reason(error)
    return compiler.failure
