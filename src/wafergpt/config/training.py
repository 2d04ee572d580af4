"""How a training goes: the sections of a recipe that are not of its data, network and task."""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from wafergpt.config.files import HORIZONS
from wafergpt.config.paths import AnyPath
from wafergpt.config.quantities import time_in_seconds, token_count
from wafergpt.config.system import Section
from wafergpt.config.warmup import warmup_steps
from wafergpt.errors import InputError

MAX_COUNT = 1 << 60
"""Maximum steps and tokens: beyond any training, and in a float's range."""

MAX_SEQUENCES = 1 << 20
"""Maximum sequences of a batch."""


class Train(Section):
    """The horizon and the batches, which are counted in sequences."""

    steps: int | None = Field(None, ge=1, le=MAX_COUNT)
    """Updates."""
    tokens: int | None = Field(None, ge=1, le=MAX_COUNT)
    """Tokens to read, of a language model, such as ``50M``."""
    epochs: float | None = Field(None, gt=0, le=1e9)
    """Passes over the training data."""
    seconds: float | None = Field(None, gt=0, le=1e12)
    """A horizon in time, such as ``1h30m``: turned into steps by the measured speed of the
    first ones. Beside another horizon, what ends first."""
    batch_size: int = Field(16, ge=1, le=MAX_SEQUENCES)
    """Sequences of an update; of a task its rows, and of ``rank`` its queries."""
    micro_batch_size: int = Field(0, ge=0, le=MAX_SEQUENCES)
    """Sequences of one forward pass; if omitted, the whole batch where it fits."""
    sampled_softmax: int = Field(0, ge=0, le=1 << 24)
    """Tokens beside a batch's own in a language model's training softmax; 0: all."""
    teacher: AnyPath | None = None
    """A run with the same tokenizer, and the same task, whose distribution is learned too
    (arXiv:1503.02531)."""
    teacher_weight: float = Field(0.5, gt=0, le=1)
    """Share of the training loss that is the divergence from the teacher's distribution."""
    teacher_sha256: str | None = None
    """Of its weights; set by the run, and checked on a resume."""
    first_steps: int = Field(0, ge=0, le=MAX_COUNT)
    """Number of first steps that use ``first_batch_size`` instead. The schedule goes by the
    sequences read: it counts in steps of ``batch_size``."""
    first_batch_size: int = Field(0, ge=0, le=MAX_SEQUENCES)
    """Sequences of each of those steps."""

    @field_validator("tokens", "seconds", mode="before")
    @classmethod
    def _with_units(cls, value: Any, about: ValidationInfo) -> Any:
        if not isinstance(value, str):
            return value
        return token_count(value) if about.field_name == "tokens" else time_in_seconds(value)

    @model_validator(mode="after")
    def _one_horizon(self) -> Train:
        given = [key for key in HORIZONS if getattr(self, key) and key != "seconds"]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} both set how long to train: give one")
        if bool(self.first_steps) != bool(self.first_batch_size):
            raise ValueError("first_steps and first_batch_size go together")
        for size in (self.batch_size, self.first_batch_size):
            if self.micro_batch_size and size % self.micro_batch_size:
                raise ValueError(
                    f"micro_batch_size={self.micro_batch_size} does not divide a batch of {size}"
                )
        return self

    @property
    def common_batch(self) -> int:
        """The largest micro-batch that divides every batch."""
        return math.gcd(self.batch_size, self.first_batch_size)

    def require_enough_for(self, nproc: int) -> None:
        """Require that each of so many processes gets a sequence of every batch.

        Raises:
            InputError: if one does not.
        """
        smallest = min(self.batch_size, self.first_batch_size or self.batch_size)
        if smallest < nproc:
            raise InputError(
                f"a batch of {smallest} is less than a sequence for each of {nproc} processes: "
                "raise train.batch_size"
            )

    def batch_at(self, step: int) -> int:
        """Return the sequences of update ``step``, counted from 0."""
        return self.first_batch_size if step < self.first_steps else self.batch_size

    def samples(self, steps: int) -> int:
        """Return the sequences that the first ``steps`` updates read."""
        first = min(steps, self.first_steps)
        return first * self.first_batch_size + (steps - first) * self.batch_size

    def steps_for(self, samples: float) -> int:
        """Return the number of updates, at least one, that read so many sequences."""
        left = samples - self.samples(self.first_steps)
        if left >= 0:
            return max(1, self.first_steps + math.ceil(left / self.batch_size))
        return max(1, math.ceil(samples / self.first_batch_size))


class Optimizer(Section):
    """The optimizer."""

    name: Literal["adamw", "adam", "sgd", "muon"] = "adamw"
    lr: float = Field(1e-3, gt=0)
    """Peak learning rate, before the factors of roles."""
    ngram_lr_factor: float = Field(4.0, gt=0, le=1e6)
    """Learning rate of n-gram tables, in multiples of ``lr``: their optimizer shortens the steps of
    a row with each update that reads it."""
    task_ngram_lr: float = Field(4.0, gt=0, le=1e6)
    """Learning rate of ``task.ngrams``, and of a table of words' features, whatever ``lr``; the
    schedule is the same."""
    weight_decay: float = Field(0.1, ge=0)
    """Decoupled from the gradient; matrices only, never biases and norms."""
    l2: float = Field(0.0, ge=0)
    """True L2: added to the gradient of matrices."""
    momentum: float = Field(0.95, ge=0, lt=1)
    """Of SGD and Muon."""
    beta1: float = Field(0.9, ge=0, lt=1)
    """Of Adam: decay of the first moment."""
    beta2: float = Field(0.95, ge=0, lt=1)
    """Of Adam: decay of the second moment."""
    eps_hat: bool = False
    """Add eps before the bias correction of Adam, as Cerebras' SDK and TensorFlow do (the last
    lines of section 2 of Kingma & Ba, arXiv:1412.6980)."""
    eps: float = Field(1e-8, gt=0)
    """Of Adam: added to the denominator."""
    clip: float = Field(1.0, ge=0)
    """Largest norm of the whole gradient; 0 for no limit."""


class Schedule(Section):
    """The learning rate schedule."""

    name: Literal["linear", "cosine", "constant", "wsd"] = "cosine"
    warmup: int | str = 0
    """Steps of ``batch_size``, tokens as in "375M tokens", or a share of the run as in "5%"."""
    final: float = Field(0.1, ge=0, le=1)
    """The last learning rate as a fraction of the peak."""
    decay: float = Field(0.2, gt=0, le=1)
    """Of wsd: the share of all steps that the decay at the end takes."""

    @field_validator("warmup", mode="before")
    @classmethod
    def _warmup_is_no_fraction(cls, value: Any) -> Any:
        if isinstance(value, float) and not value.is_integer():
            share = f": write {100 * value:g}% for a share of the run" if 0 < value < 1 else ""
            raise ValueError(f"{value:g} is no number of steps{share}")
        return value

    @model_validator(mode="after")
    def _warmup_reads(self) -> Schedule:
        warmup_steps(self.warmup, steps=100, tokens_per_step=1)
        return self


class Checkpoint(Section):
    """When checkpoints are saved, and how many are kept beside the best one."""

    every: int = Field(0, ge=0)
    """Steps; a tenth of the run if omitted."""
    keep: int = Field(2, ge=1)
    """The newest checkpoints that stay, beside the best one."""
    keep_every: int = Field(0, ge=0)
    """Checkpoints at a multiple of this many steps are never deleted; 0: none."""
    background: bool = True
    """Write from a copy during training; it costs the state's size in memory."""
    time_limit: float = Field(0.0, ge=0)
    """Seconds that the process may run, as on a cluster's queue; it saves and stops before
    then, with exit code 130. 0 for no limit."""


class Guard(Section):
    """Which updates are skipped."""

    limit: int = Field(10, ge=0)
    """Maximum skipped updates before the run counts as diverged. An update with a non-finite
    loss or gradient is always skipped."""
    spike: float = Field(0.0, ge=0)
    """Skip an update whose loss is this many standard deviations above the last ones; 0: never."""
    action: Literal["skip", "rollback"] = "skip"
    """At a spike: skip the update, or load the last checkpoint and continue after the spike."""


class Evaluate(Section):
    """When the model is evaluated on validation data."""

    every: int = Field(0, ge=0)
    """Steps; a tenth of the run if omitted."""
    batches: int = Field(0, ge=0)
    """Validation batches of ``train.batch_size`` of an evaluation, drawn from all of the text; if
    omitted, few enough to cost little."""
    patience: int = Field(0, ge=0)
    """Stop after this many evaluations without a better score; 0 never stops early."""
    metric: str = "loss"
    """The metric that picks the best checkpoint: one of the task's ``metrics``."""
    prompts: tuple[str, ...] = ()
    """Texts that the model continues at each evaluation, into samples.md."""


class Tracking(Section):
    """Where metrics go, beside metrics.jsonl."""

    tensorboard: bool = False
    """Write event files into the run."""
    wandb: bool = False
    """Send metrics to Weights & Biases."""
