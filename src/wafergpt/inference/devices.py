"""The device that a trained network predicts on, and how precisely."""

from __future__ import annotations

from wafergpt.config import Recipe
from wafergpt.devices.detect import multiplies_bf16, resolve_device
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


def on_device(recipe: Recipe, device: str) -> Recipe:
    """Return a recipe that computes in fp32 where products in bf16 are slow.

    Args:
        recipe: of the run, which may have been trained on another machine.
        device: torch's name of the device.

    Returns:
        The recipe, or one of fp32.
    """
    if recipe.system.precision == "bf16" and not multiplies_bf16(device):
        return recipe.replace(system={"precision": "fp32"})
    return recipe
