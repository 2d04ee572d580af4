"""The weights of a run that holds adapters: those of its base, with the adapters merged in."""

from __future__ import annotations

from dataclasses import dataclass
from types import EllipsisType

from torch import Tensor

from wafergpt import files
from wafergpt.checkpoint.format import Stored, UnreadableTensorsError
from wafergpt.config import Lora
from wafergpt.distributed.sharding import Rows
from wafergpt.model.lora import A, B


@dataclass(frozen=True)
class _Merged:
    """W + scale · B · A, computed for the rows that are read."""

    weight: Rows
    a: Rows
    b: Rows
    scale: float

    @property
    def shape(self) -> tuple[int, ...]:
        return self.weight.shape

    def __getitem__(self, rows: slice | EllipsisType) -> Tensor:
        return self.weight[rows].addmm(self.b[rows], self.a[...], alpha=self.scale)


class Merged(Stored):
    """The tensors of a run as if all its weights had been trained, each read on access.

    Args:
        own: of the run: adapters, and the task's own weights.
        base: that the adapters were trained on.
        lora: of the run's recipe.

    Raises:
        UnreadableTensorsError: if the adapters do not fit the base.
    """

    def __init__(self, own: Stored, base: Stored, lora: Lora) -> None:
        self.folder = own.folder
        adapters = {n: rows for n, rows in own.by_rows.items() if n.endswith((A, B))}
        if not adapters:
            raise UnreadableTensorsError(f"{own.folder} holds no adapters")
        # A task's network has its GPT inside.
        prefix = "gpt." if all(name.startswith("gpt.") for name in adapters) else ""
        # So may the base's be; what else it has, such as its head, is among one's own.
        frozen = base.below("gpt.").by_rows or base.by_rows
        self.by_rows = {prefix + name: rows for name, rows in frozen.items()}
        self.by_rows |= {n: rows for n, rows in own.by_rows.items() if n not in adapters}
        for name, a in adapters.items():
            if name.endswith(A):
                layer = name.removesuffix(A)
                weight, b = self.by_rows.get(f"{layer}weight"), adapters.get(layer + B)
                if weight is None or b is None or not _fit(weight, a, b, lora.rank):
                    raise UnreadableTensorsError(
                        f"{own.folder}: {files.short(name)} fits no matrix of rank {lora.rank}"
                    )
                self.by_rows[f"{layer}weight"] = _Merged(weight, a, b, lora.scale)


def _fit(weight: Rows, a: Rows, b: Rows, rank: int) -> bool:
    rows, columns = weight.shape
    return (tuple(a.shape), tuple(b.shape)) == ((rank, columns), (rows, rank))
