"""Which weights are zero in training."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from wafergpt.config.system import Section

SparseRole = Literal["qkv", "attention_out", "ffn_in", "ffn_out"]

BLOCKS: tuple[SparseRole, ...] = ("qkv", "attention_out", "ffn_in", "ffn_out")


class Sparsity(Section):
    """Which weights of the blocks' matrices are zero; all others stay dense.

    On Cerebras the algorithms are those of its SDK.
    """

    algorithm: Literal["none", "static", "gmp", "set", "rigl"] = "none"
    """static: a fixed mask: random from scratch, else the largest weights of the initial run are
    kept; gmp: gradual magnitude pruning (arXiv:1710.01878); set (arXiv:1707.04780) and rigl
    (arXiv:1911.11134) exchange small weights for random ones, and for those of large gradient."""
    sparsity: float = Field(0.5, gt=0, lt=1)
    """Share of zeros of all matrices together; gmp starts with none."""
    distribution: Literal["uniform", "erk"] = "uniform"
    """Over the matrices: the same share in each, or Erdős–Rényi (arXiv:1707.04780), by which large
    matrices have more zeros."""
    roles: tuple[SparseRole, ...] = Field(BLOCKS, min_length=1)
    """Of the matrices with zeros."""
    schedule: Literal["auto", "constant", "linear", "cubic", "cosine"] = "auto"
    """How gmp's share of zeros rises, and how the share that set and rigl exchange falls; cubic for
    gmp, cosine for the others."""
    until: float = Field(0.75, gt=0, le=1)
    """Share of all steps after which the mask stays as it is."""
    drop_fraction: float = Field(0.3, gt=0, lt=1)
    """Share of the remaining weights that set and rigl exchange at first."""
    every: int = Field(100, ge=1)
    """Steps between changes of the mask by gmp, set and rigl."""
    supar: bool = False
    """Larger initial weights and learning rates for sparse matrices, so that the best rate of the
    dense network holds (arXiv:2405.15743)."""

    @property
    def curve(self) -> Literal["constant", "linear", "cubic", "cosine"]:
        """The schedule, resolved."""
        if self.schedule != "auto":
            return self.schedule
        return "cubic" if self.algorithm == "gmp" else "cosine"

    @model_validator(mode="after")
    def _goes_together(self) -> Sparsity:
        if len(set(self.roles)) != len(self.roles):
            raise ValueError("sparsity.roles names a role twice")
        if self.supar and self.algorithm == "gmp":
            raise ValueError("sparsity.supar needs a density that stays: gmp starts dense")
        return self

    def require_of_sdk(self) -> None:
        """Refuse what Cerebras' SDK has no form of.

        Raises:
            ValueError: naming the key.
        """
        default = Sparsity()
        for key in ("distribution", "roles", "schedule", "until", "supar"):
            if getattr(self, key) != getattr(default, key):
                raise ValueError(f"sparsity.{key} is not for system.device=cerebras: leave it out")
