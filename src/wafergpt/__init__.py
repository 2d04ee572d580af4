"""Train GPT language models the Cerebras-GPT way, and put them to work.

Each name is imported when it is first used, so ``import wafergpt`` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from wafergpt.api import average as average
    from wafergpt.api import cross_validate as cross_validate
    from wafergpt.api import evaluate as evaluate
    from wafergpt.api import export as export
    from wafergpt.api import finetune as finetune
    from wafergpt.api import generate as generate
    from wafergpt.api import import_model as import_model
    from wafergpt.api import plan as plan
    from wafergpt.api import predict as predict
    from wafergpt.api import prepare as prepare
    from wafergpt.api import pretrain as pretrain
    from wafergpt.api import prune as prune
    from wafergpt.api import report as report
    from wafergpt.api import tune as tune
    from wafergpt.config import Recipe as Recipe
    from wafergpt.config import load_recipe as load_recipe
    from wafergpt.data.corpus import Corpus as Corpus
    from wafergpt.decoding.generator import Sampling as Sampling
    from wafergpt.errors import Failure as Failure
    from wafergpt.errors import InputError as InputError
    from wafergpt.errors import Interrupted as Interrupted
    from wafergpt.errors import RunFailed as RunFailed
    from wafergpt.inference.conversation import Conversation as Conversation
    from wafergpt.inference.predictor import Predictor as Predictor
    from wafergpt.inference.search import SearchIndex as SearchIndex
    from wafergpt.inference.writer import Writer as Writer
    from wafergpt.logs import show as show
    from wafergpt.planning.plan import Plan as Plan
    from wafergpt.runs.run import Run as Run

_HOMES = {
    "Conversation": "wafergpt.inference.conversation",
    "Corpus": "wafergpt.data.corpus",
    "Failure": "wafergpt.errors",
    "InputError": "wafergpt.errors",
    "Interrupted": "wafergpt.errors",
    "Plan": "wafergpt.planning.plan",
    "Predictor": "wafergpt.inference.predictor",
    "Recipe": "wafergpt.config",
    "Run": "wafergpt.runs.run",
    "RunFailed": "wafergpt.errors",
    "Sampling": "wafergpt.decoding.generator",
    "SearchIndex": "wafergpt.inference.search",
    "Writer": "wafergpt.inference.writer",
    "load_recipe": "wafergpt.config",
    "show": "wafergpt.logs",
    **dict.fromkeys(
        (
            "average", "cross_validate", "evaluate", "export", "finetune", "generate",
            "import_model", "plan", "predict", "prepare", "pretrain", "prune", "report", "tune",
        ),
        "wafergpt.api",
    ),
}  # fmt: skip
__all__ = ["__version__", *sorted(_HOMES)]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'wafergpt' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
