"""Train GPT language models the Cerebras-GPT way, and put them to work.

The Python face. Each name is imported when it is first used, so ``import wafergpt`` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from wafergpt.cerebras.driver import finetune as finetune
    from wafergpt.cerebras.driver import pretrain as pretrain
    from wafergpt.config import load_recipe as load_recipe
    from wafergpt.data.prepare import prepare as prepare
    from wafergpt.devices.planning import plan as plan
    from wafergpt.interop.export import export as export
    from wafergpt.interop.huggingface import import_folder as import_model  # noqa: F401
    from wafergpt.run import Run as Run
    from wafergpt.tasks.classify import TextClassifier as TextClassifier
    from wafergpt.tasks.writing import Writer as Writer
    from wafergpt.train.averaging import average as average

_HOMES = {
    "Run": "wafergpt.run",
    "TextClassifier": "wafergpt.tasks.classify",
    "Writer": "wafergpt.tasks.writing",
    "average": "wafergpt.train.averaging",
    "export": "wafergpt.interop.export",
    "finetune": "wafergpt.cerebras.driver",
    "import_model": "wafergpt.interop.huggingface:import_folder",
    "load_recipe": "wafergpt.config",
    "plan": "wafergpt.devices.planning",
    "prepare": "wafergpt.data.prepare",
    "pretrain": "wafergpt.cerebras.driver",
}
__all__ = [*_HOMES, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'wafergpt' has no attribute '{name}'")
    module, _, inner = _HOMES[name].partition(":")
    return getattr(importlib.import_module(module), inner or name)
