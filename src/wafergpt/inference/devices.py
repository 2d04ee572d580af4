"""The device that a trained network predicts on."""

from __future__ import annotations

from wafergpt.config import Recipe
from wafergpt.devices.detect import resolve_device
from wafergpt.errors import InputError


def inference_device(recipe: Recipe, asked: str = "auto") -> str:
    """Choose the device to predict on.

    Args:
        recipe: of the run; ``auto`` is its device, if that is available.
        asked: ``cpu``, ``cuda``, ``mps``, or ``auto``.

    Returns:
        Torch's name of the device.

    Raises:
        InputError: if the device asked for is not available.
    """
    if asked != "auto":
        return resolve_device(asked)
    try:
        return resolve_device(recipe.system.host)
    except InputError:
        # It was trained on another machine.
        return resolve_device("auto")
