"""Where the tasks and engines are defined: as strings, so that nothing is imported unused.

A task is one line in ``TASKS``, an engine one in ``ENGINES``; docs/extending.md shows both.
"""

from __future__ import annotations

import importlib
from typing import Any

LANGUAGE_MODEL = "wafergpt.tasks.language_model:LanguageModel"
"""The task of a recipe without a section ``task``."""

TASKS: dict[str, str] = {
    "answer": "wafergpt.tasks.answer:Answer",
    "classify": "wafergpt.tasks.classify:Classify",
    "dialogue": "wafergpt.tasks.dialogue:Dialogue",
    "embed": "wafergpt.tasks.embed:Embed",
    "rank": "wafergpt.tasks.rank:Rank",
    "regress": "wafergpt.tasks.regress:Regress",
    "tag": "wafergpt.tasks.tag:Tag",
    "translate": "wafergpt.tasks.translate:Translate",
}
"""Module and class of each task by its name."""

ENGINES: dict[str, str] = {
    "cpu": "wafergpt.engines.torch:TorchEngine",
    "cuda": "wafergpt.engines.torch:TorchEngine",
    "mps": "wafergpt.engines.torch:TorchEngine",
    "auto": "wafergpt.engines.torch:TorchEngine",
    "cerebras": "wafergpt.cerebras.engine:CerebrasEngine",
}
"""Module and class of the engine of each ``system.device``."""


def imported(where: str) -> Any:
    """Import ``module:name`` and return what it names."""
    module, _, name = where.partition(":")
    return getattr(importlib.import_module(module), name)
