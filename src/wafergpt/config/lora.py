"""Low-rank adapters: what a fine-tuning trains beside frozen weights."""

from __future__ import annotations

from typing import Any

from pydantic import Field, field_validator, model_validator

from wafergpt.config.sparsity import BLOCKS
from wafergpt.config.sparsity import SparseRole as BlockRole
from wafergpt.config.system import Section
from wafergpt.errors import InputError, nearest
from wafergpt.files import SHOWN


class Lora(Section):
    """LoRA (arXiv:2106.09685): W + (alpha / rank) · B · A, of which W stays as it is.

    All weights of the run to start from are frozen, and so is what they do without the adapters. A
    checkpoint holds what is trained: adapters, and the task's own head and tables.
    """

    rank: int = Field(0, ge=0, le=1 << 17)
    """Rows of A ``[rank, fan_in]`` and columns of B ``[fan_out, rank]``; 0: no adapters, and every
    weight is trained."""
    alpha: float = Field(16.0, gt=0, le=1e6)
    """Their product is multiplied by alpha / rank, so that one learning rate serves all ranks."""
    roles: tuple[BlockRole, ...] = Field(BLOCKS, min_length=1)
    """Of the blocks' matrices with adapters."""
    base_sha256: str | None = None
    """Of the frozen weights; set by the run, and checked whenever they are read."""

    @field_validator("roles", mode="before")
    @classmethod
    def _roles_exist(cls, roles: Any) -> Any:
        for role in roles if isinstance(roles, list | tuple) else ():
            if role not in BLOCKS:
                hint = nearest(str(role)[:SHOWN], BLOCKS)
                raise ValueError(
                    f"'{str(role)[:SHOWN]}' is no matrix of a block{hint} (there are "
                    f"{', '.join(BLOCKS)})"
                )
        return roles

    @field_validator("roles")
    @classmethod
    def _once(cls, roles: tuple[BlockRole, ...]) -> tuple[BlockRole, ...]:
        # In the order of the network: one choice has one name.
        return tuple(role for role in BLOCKS if role in roles)

    @model_validator(mode="after")
    def _with_a_rank(self) -> Lora:
        for key in () if self.rank else ("alpha", "roles"):
            if getattr(self, key) != type(self).model_fields[key].default:
                raise ValueError(f"lora.{key} is of no use without adapters: add lora.rank=8")
        return self

    def require_start(self, start: object) -> None:
        """Require a run to start from, if there are adapters.

        Args:
            start: the run or its path; None for fresh weights.

        Raises:
            InputError: if there is none.
        """
        if self.rank and start is None:
            raise InputError(
                "lora.rank adapts a trained network, and this one starts from fresh weights: name "
                "a run to start from, or leave lora.rank out"
            )

    @property
    def scale(self) -> float:
        """The factor of B · A."""
        return self.alpha / self.rank
