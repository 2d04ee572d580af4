"""A machine as plain numbers, measured elsewhere."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from wafergpt import files
from wafergpt.errors import InputError


@dataclass(frozen=True)
class Machine:
    """A device, and how fast it was measured to be.

    Attributes:
        device: ``cpu``, ``cuda`` or ``mps``.
        name: of the processor.
        cores: CPU cores that this process may use.
        memory_bytes: memory of the device.
        memory_available: how much of it is free now.
        torch: version it was measured with.
        compiler: whether torch.compile has what it needs.
        matmul_flops_fp32: best FLOP/s of one large matrix product.
        matmul_flops_bf16: the same in bf16.
        training_flops: by precision and d_model, FLOP/s of a block's forward and backward pass,
            not compiled: what training gets out of the matmul peak.
        bandwidth: bytes/s read and written by a large copy.
        softmax_rate: logits/s of a cross-entropy's forward and backward pass, not compiled.
    """

    device: str
    name: str
    cores: int
    memory_bytes: int
    memory_available: int
    torch: str
    compiler: bool
    matmul_flops_fp32: float
    matmul_flops_bf16: float
    training_flops: Mapping[str, Mapping[int, float]]
    bandwidth: float
    softmax_rate: float

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Machine:
        """Read the JSON of ``dataclasses.asdict``, whose keys are strings."""
        training = {
            precision: {int(width): float(rate) for width, rate in rates.items()}
            for precision, rates in values["training_flops"].items()
        }
        return cls(**{**values, "training_flops": training})

    @classmethod
    def read(cls, path: Path) -> Machine:
        """Read what ``wafergpt doctor --json`` printed on a machine.

        Raises:
            InputError: if the file is not that.
        """
        try:
            return cls.from_json(files.read_json(path)["machine"])
        except (AttributeError, KeyError, TypeError, ValueError):
            raise InputError(
                f"{path} is no machine: on that machine, run wafergpt doctor --json > FILE"
            ) from None

    @property
    def peak_flops(self) -> float:
        """FLOP/s of the faster precision: the peak that ``mfu`` is a share of."""
        return max(self.matmul_flops_fp32, self.matmul_flops_bf16)

    def training_rate(self, precision: str, d_model: int) -> float:
        """Return FLOP/s of a block of width ``d_model``, between measured widths in log scale.

        Below the narrowest width, speed falls with it (element-wise work dominates); above the
        widest, it stays.
        """
        rates = self.training_flops[precision]
        widths = sorted(rates)
        if d_model <= widths[0]:
            return rates[widths[0]] * d_model / widths[0]
        for low, high in pairwise(widths):
            if d_model <= high:
                share = math.log(d_model / low) / math.log(high / low)
                return math.exp((1 - share) * math.log(rates[low]) + share * math.log(rates[high]))
        return rates[widths[-1]]
