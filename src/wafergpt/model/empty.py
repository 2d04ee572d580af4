"""Networks without values, for weights that come from elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

N = TypeVar("N", bound=nn.Module)


def empty(build: Callable[[], N], device: str = "meta") -> N:
    """Build a network whose parameters are not initialized; buffers are.

    Args:
        build: returns the network.
        device: ``meta`` takes no memory.

    Returns:
        The network, on the device.
    """
    with torch.device(device), _WithoutInitialization():
        return build()


class _WithoutInitialization(TorchFunctionMode):
    """Skips torch.nn.init: on ``meta`` it would import torch's compiler, for a second."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))
