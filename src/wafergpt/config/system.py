"""Where a recipe runs: the section ``system``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from wafergpt.config.paths import AnyPath
from wafergpt.config.registry import ENGINES
from wafergpt.errors import InputError, nearest


class Section(BaseModel):
    """A part of a recipe: immutable, unknown keys refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


Precision = Literal["auto", "fp32", "bf16"]

TORCH_DEVICES = ("auto", "cpu", "cuda", "mps")


class Cerebras(Section):
    """How a Cerebras system is used; docs/cerebras.md lists what each mode requires."""

    mode: Literal["cpu", "validate", "compile", "run"] = "run"
    """Train on a cluster (run) or, by the same program, on this CPU; or only lower the step to
    Cerebras IR (validate), or have a cluster compile it."""
    systems: int = Field(1, ge=1, le=1 << 12)
    """Cerebras systems that share each batch."""
    management: str | None = Field(None, pattern=r"^.+:[0-9]+$")
    """Address of the cluster's management node, NAME:PORT; if omitted, from its configuration."""
    mounts: tuple[AnyPath, ...] = ()
    """Folders that the cluster's workers also see: those of the corpus and of the environment."""
    python_paths: tuple[AnyPath, ...] = ()
    """Folders that the workers import from."""
    priority: Literal["p1", "p2", "p3"] = "p2"
    micro_batch: Literal["auto", "explore"] | Annotated[int, Field(ge=1)] = "auto"
    """Sequences at once on one system; ``explore`` has the compiler look for the fastest."""
    micro_batch_min: int = Field(0, ge=0)
    """Lower bound for ``explore``; 0 leaves it open."""
    micro_batch_max: int = Field(0, ge=0)
    """Upper bound for ``explore``; 0 leaves it open."""
    precision_level: Literal[0, 1, 2] = 1
    """The SDK's precision optimization level: the higher, the faster and the less exact."""
    half: Literal["bfloat16", "float16", "cbfloat16"] = "bfloat16"
    """The half type of ``system.precision: bf16``."""

    @model_validator(mode="after")
    def _bounds(self) -> Cerebras:
        low, high = self.micro_batch_min, self.micro_batch_max
        if (low or high) and self.micro_batch != "explore":
            raise ValueError("micro_batch_min and micro_batch_max are for micro_batch=explore")
        if high and low > high:
            raise ValueError(f"micro_batch_min={low} is more than micro_batch_max={high}")
        return self


class System(Section):
    """Where it runs. What is ``auto`` is measured once and set in the recipe."""

    device: str = "auto"
    """One of auto, cpu, cuda, mps and cerebras, or an engine of your own (docs/extending.md)."""
    precision: Precision = "auto"
    """bf16: fp32 master weights, bf16 compute."""
    compile: Literal["auto", "on", "off"] = "auto"
    threads: int = Field(0, ge=0)
    """CPU threads of a process; if omitted, its share of the cores."""
    nproc: int = Field(1, ge=1, le=1 << 16)
    """Processes that share each batch."""
    shard: int = Field(1, ge=0)
    """Processes per group that weights, gradients and moments are sharded over; 0: all."""
    activation_checkpointing: bool = False
    """Keep only the input of each block, and recompute the rest in the backward pass."""
    timeout: float = Field(1800.0, ge=1)
    """Seconds after which a process that does not answer counts as lost."""
    cerebras: Cerebras = Cerebras()
    """Of ``device: cerebras`` only."""

    @property
    def host(self) -> str:
        """Torch's device in this process; the CPU if the engine is not torch's."""
        return self.device if self.device in TORCH_DEVICES else "cpu"

    @property
    def shards(self) -> int:
        """Number of parts that the weights are split into."""
        return self.shard or self.nproc

    def require_groups(self, nproc: int) -> None:
        """Require that so many processes make whole groups of ``shard``.

        Raises:
            InputError: if they do not.
        """
        if self.shard and nproc % self.shard:
            raise InputError(
                f"{nproc} processes do not make groups of system.shard={self.shard}; 0 is all"
            )

    @field_validator("device")
    @classmethod
    def _has_an_engine(cls, device: str) -> str:
        if device not in ENGINES:
            hint = nearest(device, ENGINES) or f"; there are {', '.join(ENGINES)}"
            raise ValueError(f"no engine runs there{hint}")
        return device

    @model_validator(mode="before")
    @classmethod
    def _yaml_booleans(cls, values: Any) -> Any:
        # YAML 1.1 reads a bare on/off as a boolean.
        if isinstance(values, dict) and isinstance(values.get("compile"), bool):
            values = {**values, "compile": "on" if values["compile"] else "off"}
        return values
