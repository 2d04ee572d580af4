"""The recipe: everything that defines a run, as typed sections."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import (
    Field,
    ModelWrapValidatorHandler,
    SerializeAsAny,
    ValidationError,
    field_validator,
    model_validator,
)

from wafergpt.config.files import current
from wafergpt.config.lora import Lora as Lora
from wafergpt.config.messages import one_line
from wafergpt.config.paths import AnyPath
from wafergpt.config.registry import TASKS, imported
from wafergpt.config.sparsity import Sparsity as Sparsity
from wafergpt.config.system import Cerebras as Cerebras
from wafergpt.config.system import Section as Section
from wafergpt.config.system import System as System
from wafergpt.config.training import Checkpoint as Checkpoint
from wafergpt.config.training import Evaluate as Evaluate
from wafergpt.config.training import Guard as Guard
from wafergpt.config.training import Optimizer as Optimizer
from wafergpt.config.training import Schedule as Schedule
from wafergpt.config.training import Tracking as Tracking
from wafergpt.config.training import Train as Train
from wafergpt.config.yaml_values import dumped
from wafergpt.errors import InputError, nearest
from wafergpt.files import SHOWN, short

MAX_ORDER = 8
"""Maximum tokens of an n-gram."""


class Data(Section):
    """The training data."""

    corpus: AnyPath | None = None
    """The folder that ``wafergpt prepare`` wrote."""
    fingerprint: str | None = None
    """Of the corpus; set by the run, and checked on a resume."""
    document_mask: bool = False
    """Keep attention and positions inside each document."""


class Model(Section):
    """The shape of the network."""

    n_layers: int = Field(4, ge=1, le=1024)
    """Transformer blocks."""
    d_model: int = Field(256, ge=1, le=1 << 17)
    """Width of the residual stream."""
    n_heads: int = Field(4, ge=1, le=1024)
    """Attention heads of a block."""
    d_head: int = Field(0, ge=0, le=1 << 17)
    """Width of a head; d_model / n_heads if omitted, as in GPT-2."""
    d_ffn: int = Field(0, ge=1, le=1 << 20)
    """Width between the two feed-forward layers; 4 · d_model if omitted."""
    seq_len: int = Field(256, ge=1, le=1 << 20)
    """Tokens of a training sequence, and of the context."""
    vocab_size: int = Field(0, ge=0, le=1 << 24)
    """The corpus' own if omitted."""
    dropout: float = Field(0.0, ge=0.0, lt=1.0)
    """Of the embeddings, of what each layer adds to them, and of what a task's head reads."""
    activation: Literal["gelu", "gelu_tanh"] = "gelu"
    ngrams: tuple[int, ...] = ()
    """Orders of the n-grams whose embeddings are added to each token's, as in [2, 3]."""
    ngram_rows: int = Field(1 << 16, ge=1, le=1 << 28)
    """Rows of each order's table, which n-grams share by a hash."""
    ngram_kept: tuple[int, ...] = ()
    """Rows that are left of each table; set by prune. All others add nothing."""
    ngram_ids: bool = False
    """Hash tokens by the ids that they had before prune took tokens out; set by prune."""
    tied: bool = True
    """Whether the head is the token embedding; an untied one has its own weights."""
    parametrization: Literal["sp", "mup"] = "sp"
    """How initial weights and learning rates follow the width: see docs/mup.md."""
    base_d_model: int = Field(256, ge=1, le=1 << 17)
    """Under mup, the width at which the recipe's numbers hold as they stand."""
    base_d_ffn: int = Field(0, ge=1, le=1 << 20)
    """4 · base_d_model if omitted."""
    init_std: float = Field(0.02, gt=0.0, le=10.0)
    """Standard deviation of initial weights, before the factors of their roles."""
    embedding_scale: float = Field(1.0, gt=0.0, le=1e4)
    """Multiplies the sum of all embeddings."""
    output_scale: float = Field(1.0, gt=0.0, le=1e4)
    """Multiplies the logits."""

    @model_validator(mode="wrap")
    @classmethod
    def _derive(cls, values: Any, check: ModelWrapValidatorHandler[Model]) -> Model:
        derived = set()
        for width, ffn in (("d_model", "d_ffn"), ("base_d_model", "base_d_ffn")):
            if isinstance(values, dict) and not values.get(ffn):
                d_model = values.get(width, cls.model_fields[width].default)
                # An impossible d_model is refused by its own check.
                with suppress(TypeError, ValueError, OverflowError):
                    values = {**values, ffn: 4 * int(d_model)}
                    derived.add(ffn)
        if isinstance(values, dict) and values.get("d_head"):
            with suppress(TypeError, ValueError, OverflowError):
                n_heads, d_model = (
                    int(values.get(key, cls.model_fields[key].default))
                    for key in ("n_heads", "d_model")
                )
                # One shape has one name.
                if n_heads * int(values["d_head"]) == d_model:
                    values = {**values, "d_head": 0}
        found = check(values)
        # Nobody asked for what is derived.
        found.model_fields_set.difference_update(derived)
        return found

    @field_validator("ngrams")
    @classmethod
    def _orders_exist(cls, orders: tuple[int, ...]) -> tuple[int, ...]:
        for order in orders:
            if not 2 <= order <= MAX_ORDER:
                raise ValueError(
                    f"{order} is no order of n-grams: give numbers from 2 to {MAX_ORDER}"
                )
        return tuple(sorted(set(orders)))

    @model_validator(mode="after")
    def _heads_divide(self) -> Model:
        if not self.d_head and self.d_model % self.n_heads:
            raise ValueError(
                f"n_heads={self.n_heads} does not divide d_model={self.d_model}: "
                "each head needs the same whole width"
            )
        return self

    @model_validator(mode="after")
    def _tables_have_rows(self) -> Model:
        kept = self.ngram_kept
        if kept and len(kept) != len(self.ngrams):
            raise ValueError(f"ngram_kept names {len(kept)} of {len(self.ngrams)} tables")
        if any(not 1 <= rows <= self.ngram_rows for rows in kept):
            raise ValueError(f"ngram_kept={list(kept)} is not 1 to {self.ngram_rows} of each table")
        return self

    @property
    def head_width(self) -> int:
        """The width of a head."""
        return self.d_head or self.d_model // self.n_heads

    @property
    def attention_width(self) -> int:
        """The width of all heads together."""
        return self.n_heads * self.head_width


class TaskSettings(Section):
    """The keys that every task has; the rest are its own (``Task.Settings``)."""

    vocabulary_head: ClassVar[bool] = False
    """Whether its loss is over the vocabulary, as a language model's."""

    name: str
    """What is learned: classify (if omitted), regress, tag, answer, translate, dialogue, embed or
    rank."""
    train: AnyPath | None = None
    """The training rows: a file, a glob, a folder whose files say in their names which part they
    are of, or ``hf:NAME`` of the Hugging Face hub."""
    validation: AnyPath | None = None
    """If omitted, a part of the training rows, chosen by a hash of their bytes."""
    held_out: float = Field(0.1, ge=0, lt=1)
    """The share of that part. 0 holds nothing out: the last checkpoint is used."""
    folds: int = Field(0, ge=0, le=1000)
    """Parts that the training rows are divided into, of which one is held out; 0: ``held_out``."""
    fold: int = Field(1, ge=1)
    """Which one."""
    test: AnyPath | None = None
    """Rows that are evaluated once, after the training."""
    max_tokens: int = Field(0, ge=0)
    """Of one row; longer ones are cut. The model's seq_len if omitted."""

    @property
    def table_key(self) -> str:
        """The key that gives the task a table beside the GPT; "" if there is none."""
        return ""

    def usage(self) -> tuple[str, ...]:
        """Return words of a command that uses a run of the task."""
        return ("predict", "--text", "a text of yours")

    @property
    def sequences(self) -> int:
        """The most sequences that the network reads for one training sample."""
        return 1

    @property
    def passes(self) -> float:
        """Forward and backward passes over a sample in an update, whose whole ones are held."""
        return 1

    @property
    def samples_per_row(self) -> int:
        """Training samples that a row becomes."""
        return 1

    @property
    def sources(self) -> dict[str, Path | None]:
        """The rows that are named, by part."""
        return {"train": self.train, "validation": self.validation, "test": self.test}

    @property
    def holds_out(self) -> bool:
        """Whether there are validation rows."""
        return bool(self.validation or self.folds or self.held_out)

    @model_validator(mode="after")
    def _one_division(self) -> TaskSettings:
        if self.folds == 1:
            raise ValueError("folds=1 holds everything out: give 2 or more")
        if self.fold > max(1, self.folds):
            raise ValueError(f"fold={self.fold} is none of folds={self.folds}")
        if self.validation and self.folds:
            raise ValueError("validation names the rows that folds would hold out: give one")
        return self


DEFAULT_TASK = "classify"
"""The task of a section ``task`` without a name."""


class Recipe(Section):
    """Everything that defines a run."""

    name: str = Field("run", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)
    """Name of the run and of its folder."""
    seed: int = Field(0, ge=0, lt=1 << 63)
    """Of initial weights, the order of the data, and whatever is drawn."""
    start: AnyPath | None = None
    """The run whose weights it is initialized from; set by the run."""
    data: Data = Data()
    model: Model = Model.model_validate({})
    train: Train = Train()
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    checkpoint: Checkpoint = Checkpoint()
    guard: Guard = Guard()
    evaluate: Evaluate = Evaluate()
    system: System = System()
    task: SerializeAsAny[TaskSettings] | None = None
    """A language model if omitted."""
    sparsity: Sparsity = Sparsity()
    lora: Lora = Lora()
    tracking: Tracking = Tracking()
    tune: dict[str, str] = Field(default_factory=dict, exclude=True)
    """Spaces by key, as in ``optimizer.lr: 1e-4..1e-2:log``; read by ``wafergpt tune`` alone, and
    no part of a run's recipe."""

    @field_validator("tune", mode="before")
    @classmethod
    def _spaces_are_texts(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        return {
            key: ",".join(map(_written, value)) if isinstance(value, list) else value
            for key, value in values.items()
        }

    @model_validator(mode="after")
    def _goes_together(self) -> Recipe:
        if self.task and not self.task.holds_out:
            for key in ("patience", "prompts"):
                if getattr(self.evaluate, key):
                    raise ValueError(f"evaluate.{key} needs rows that are held out, not none")
        if self.task and self.train.sampled_softmax:
            raise ValueError("train.sampled_softmax is for language models: leave it out of a task")
        if self.train.teacher and self.train.sampled_softmax:
            raise ValueError(
                "train.teacher is learned from over the whole vocabulary: train.sampled_softmax=0"
            )
        tables = "model.ngrams" if self.model.ngrams else ""
        if self.task and self.task.table_key:
            tables = tables or self.task.table_key
        if tables and self.optimizer.name == "sgd":
            raise ValueError(f"{tables} has no rule for sgd: use optimizer.name=adamw or muon")
        if tables and self.optimizer.l2:
            raise ValueError(f"optimizer.l2 has no rule for {tables}: use optimizer.weight_decay")
        if self.sparsity.algorithm != "none" and self.system.device == "cerebras":
            self.sparsity.require_of_sdk()
        if self.sparsity.supar and self.optimizer.name not in ("adam", "adamw"):
            raise ValueError("sparsity.supar has a rule for adam and adamw alone")
        if self.lora.rank and self.sparsity.algorithm != "none":
            raise ValueError(
                "lora.rank freezes the weights, and sparsity.algorithm changes them: one of the two"
            )
        if self.model.parametrization == "mup" and self.optimizer.l2:
            raise ValueError("optimizer.l2 has no rule under mup: use optimizer.weight_decay")
        return self

    def usage(self) -> tuple[str, ...]:
        """Return words of a command that uses a run of the task."""
        return ("predict", "--text", "a text of yours")

    @property
    def sequences(self) -> int:
        """The most sequences that the network reads for one training sample."""
        return 1 if self.task is None else self.task.sequences

    @property
    def passes(self) -> float:
        """Forward and backward passes over a sample in an update."""
        return 1 if self.task is None else self.task.passes

    @property
    def held_sequences(self) -> int:
        """The most sequences of a sample whose activations are in memory together."""
        return self.sequences * int(self.passes)

    @property
    def vocabulary_head(self) -> bool:
        """Whether the loss is over the vocabulary."""
        return self.task is None or self.task.vocabulary_head

    def replace(self, **sections: Mapping[str, Any] | Section | Path | str | int | None) -> Recipe:
        """Return a checked copy with keys of the named sections replaced."""
        values = self.model_dump()
        for section, change in sections.items():
            if isinstance(change, Mapping):
                values[section] = {**(values[section] or {}), **change}
            else:
                values[section] = change.model_dump() if isinstance(change, Section) else change
        return recipe_from(values)

    def to_yaml(self) -> str:
        """Write the recipe as YAML, every key present."""
        values = self.model_dump(mode="json", exclude={"task"} if self.task is None else None)
        return dumped(values)


def _written(value: Any) -> str:
    """Write a value of a space as on the command line; it may be a list."""
    if isinstance(value, list):
        return f"[{','.join(map(_written, value))}]"
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    return str(value)


def recipe_from(values: Mapping[str, Any], source: str | None = None) -> Recipe:
    """Build a recipe from plain values, also those of older versions.

    Raises:
        InputError: if a value is wrong; the first such key is named.
    """
    values, above = current(values), ""
    task = values.get("task")
    try:
        if isinstance(task, Mapping):
            above = "task."
            values["task"] = settings_of(task).model_validate(task)
        above = ""
        return Recipe.model_validate(values)
    except ValidationError as error:
        where = f"{source}: " if source else ""
        keys = _keys_by_section(settings_of(task if isinstance(task, Mapping) else {}))
        raise InputError(where + one_line(error, keys, above)) from None


def _keys_by_section(task: type[TaskSettings]) -> dict[str, list[str]]:
    keys: dict[str, list[str]] = {"": [*Recipe.model_fields, "extends"]}
    for name, field in Recipe.model_fields.items():
        section = field.annotation
        if isinstance(section, type) and issubclass(section, Section):
            keys[name] = list(section.model_fields)
    return {**keys, "system.cerebras": list(Cerebras.model_fields), "task": list(task.model_fields)}


def settings_of(task: Mapping[str, Any]) -> type[TaskSettings]:
    """Return the type of a section ``task``; only the module of that task is imported.

    Raises:
        InputError: if there is no such task.
    """
    name = task.get("name", DEFAULT_TASK)
    if not isinstance(name, str) or name not in TASKS:
        hint = nearest(str(name)[:SHOWN], TASKS) or f" (there are {', '.join(TASKS)})"
        raise InputError(f"task.name={short(name)} is no task{hint}")
    settings: type[TaskSettings] = imported(TASKS[name]).Settings
    return settings
