"""What a plan says: the cost of a run before it runs, measured or estimated."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from wafergpt import files
from wafergpt.config import Recipe
from wafergpt.errors import InputError
from wafergpt.planning.duration import Duration
from wafergpt.planning.hardware import Machine
from wafergpt.planning.laws import Prediction
from wafergpt.planning.memory import HEADROOM, Memory, checkpoint_bytes, disk_bytes, running_shape
from wafergpt.planning.schedule_check import schedule_warning
from wafergpt.shapes.counts import (
    adapter_parameters,
    dense_parameters,
    ngram_parameters,
    parameters,
    trained_parameters,
)
from wafergpt.shapes.sparse import mean_spared_flops

TOKENS_PER_PARAMETER = 20.0
"""Compute-optimal (Hoffmann et al., arXiv:2203.15556; used for all of Cerebras-GPT,
arXiv:2304.03208)."""

MAX_PASSES = 4.0
"""Passes over a corpus that are nearly as good as new text (Muennighoff et al.,
arXiv:2305.16264)."""

MAX_LABELLED_PASSES = 20
"""Passes over labelled rows, beyond which nothing was gained on any set (benchmarks/finetuning.py
makes 15 over a few hundred rows)."""

UNDERTRAINED = "where 20 are compute-optimal"


class HasPath(Protocol):
    """Anything with a folder, such as a prepared corpus."""

    @property
    def path(self) -> Path:
        """The folder."""


@dataclass(frozen=True)
class CorpusFacts:
    """The counts of a corpus that a plan uses."""

    vocab_size: int
    tokens_train: int
    tokens_val: int


@dataclass(frozen=True)
class Candidate:
    """A shape that a budget could buy.

    Attributes:
        recipe: with shape, batch, horizon and learning rate.
        tokens: that the budget buys.
        tokens_per_second: as measured, or as estimated.
        loss: expected by a generic law: good for comparing candidates, not as a prediction.
        measured: whether the speed was measured.
    """

    recipe: Recipe
    tokens: int
    tokens_per_second: float
    loss: float
    measured: bool

    @property
    def tokens_per_parameter(self) -> float:
        """Tokens that it reads for each weight that every update moves."""
        return self.tokens / dense_parameters(self.recipe.model)

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON."""
        model = self.recipe.model
        return {
            "n_layers": model.n_layers,
            "d_model": model.d_model,
            "n_heads": model.n_heads,
            "parameters": parameters(model),
            "batch_size": self.recipe.train.batch_size,
            "tokens": self.tokens,
            "tokens_per_parameter": self.tokens_per_parameter,
            "tokens_per_second": self.tokens_per_second,
            "expected_loss": self.loss,
            "measured": self.measured,
        }


@dataclass(frozen=True)
class Plan:
    """The cost of a run.

    Attributes:
        asked: the recipe as asked for.
        resolved: with vocabulary, horizon, intervals, precision, compile and micro-batch filled in.
        tokens: read in training, padding included.
        flops: of all forward and backward passes.
        time: seconds from the start of the command, by what takes them.
        tokens_per_second: of training.
        memory_bytes: peak of one process.
        machine: that the plan is for.
        prediction: of the loss, or why there is none.
        measured: whether real updates were timed; else it is an estimate.
        memory: the estimate of what fills the memory.
        task_parameters: weights of the task's own, if the network was built.
        cold_compile_seconds: of compiling with an empty cache, if that was measured.
        notes: assumptions and warnings.
        candidates: the shapes that a budget could buy, if one was given; the chosen one first.
    """

    asked: Recipe
    resolved: Recipe
    tokens: int
    flops: float
    time: Duration
    tokens_per_second: float
    memory_bytes: int
    machine: Machine
    prediction: Prediction | str
    measured: bool
    memory: Memory
    task_parameters: int = 0
    cold_compile_seconds: float | None = None
    notes: tuple[str, ...] = field(default=())
    candidates: tuple[Candidate, ...] = field(default=())

    @property
    def seconds(self) -> float:
        """From the start of the command to the result."""
        return self.time.total

    @property
    def steps(self) -> int:
        """Updates."""
        return self.resolved.train.steps or 0

    @property
    def fits(self) -> bool:
        """Whether the peak of all processes leaves a tenth of the free memory free."""
        return fits(self.memory_bytes, self.machine, self.resolved)

    @property
    def trained_parameters(self) -> int:
        """Weights that the training moves, those of tables and of the task's own included."""
        model, lora = self.resolved.model, self.resolved.lora
        tables = 0 if lora.rank else ngram_parameters(model)
        return trained_parameters(model, lora) + tables + self.task_parameters

    @property
    def disk_bytes(self) -> int:
        """Maximum bytes of all checkpoints that a run holds at once."""
        return disk_bytes(self.resolved, self.task_parameters)

    def recipe(self, corpus: HasPath | str | Path | None = None) -> Recipe:
        """Return the recipe to train with.

        Args:
            corpus: a prepared corpus or its folder; if omitted, the recipe's own.
        """
        horizon: dict[str, Any] = {"steps": None, "epochs": None, "seconds": None}
        own = {"tokens": self.tokens} if self.asked.task is None else {"steps": self.steps}
        recipe = self.asked.replace(train={"tokens": None, **horizon, **own})
        if corpus is None:
            return recipe
        path = Path(corpus) if isinstance(corpus, str | Path) else corpus.path
        return recipe.replace(
            data={"corpus": path, "fingerprint": None},
            model={"vocab_size": read_corpus(path).vocab_size},
        )

    def cost(self, kind: Literal["seconds", "tokens", "flops"]) -> float:
        """Return what the training takes of a kind of budget."""
        return {"seconds": self.seconds, "tokens": self.tokens, "flops": self.flops}[kind]

    def to_dict(self) -> dict[str, Any]:
        """Return every number as JSON."""
        recipe, task_parameters = self.resolved, self.task_parameters
        length = running_shape(recipe).seq_len
        return {
            "name": recipe.name,
            "model": recipe.model.model_dump(),
            "parameters": parameters(recipe.model)
            + adapter_parameters(recipe.model, recipe.lora)
            + task_parameters,
            "trained_parameters": self.trained_parameters,
            "ngram_parameters": ngram_parameters(recipe.model),
            "tokens": self.tokens,
            "tokens_per_parameter": self.tokens / dense_parameters(recipe.model),
            "steps": self.steps,
            "batch_size": recipe.train.batch_size,
            "batch_tokens": recipe.train.batch_size * length,
            "task": recipe.task and recipe.task.name,
            "first_steps": min(recipe.train.first_steps, self.steps),
            "first_batch_tokens": recipe.train.first_batch_size * length,
            "flops": self.flops,
            "sparse_flops": self.flops - mean_spared_flops(recipe, self.steps) * self.tokens,
            **_predicted(self.prediction),
            "measured": self.measured,
            "seconds": self.seconds,
            "time": self.time.to_dict(),
            "cold_compile_seconds": self.cold_compile_seconds,
            "tokens_per_second": self.tokens_per_second,
            "processes": recipe.system.nproc,
            "memory_bytes": self.memory_bytes,
            "memory": self.memory.to_dict(),
            "memory_available": self.machine.memory_available,
            "fits": self.fits,
            "micro_batch_size": recipe.train.micro_batch_size,
            "checkpoint_bytes": checkpoint_bytes(
                recipe.model, recipe.optimizer, task_parameters, recipe.lora
            ),
            "disk_bytes": self.disk_bytes,
            "device": self.machine.device,
            "machine": self.machine.name,
            "precision": recipe.system.precision,
            "compile": recipe.system.compile,
            "notes": list(self.notes),
            "candidates": [
                {**candidate.to_dict(), "chosen": place == 0}
                for place, candidate in enumerate(self.candidates)
            ],
        }


def fits(memory_bytes: int, machine: Machine, recipe: Recipe) -> bool:
    """Return whether processes of so many bytes leave a tenth of the free memory free."""
    # GPUs have a memory each.
    together = 1 if machine.device == "cuda" else recipe.system.nproc
    return together * memory_bytes <= HEADROOM * machine.memory_available


def warnings(recipe: Recipe, tokens: int, epoch_tokens: int | None, memory_fits: bool) -> list[str]:
    """Return what speaks against a run, one line each.

    Args:
        recipe: resolved, with its horizon in steps.
        tokens: that it reads.
        epoch_tokens: of one pass over the training data, if known.
        memory_fits: whether it fits into the free memory.
    """
    found = []
    if warning := schedule_warning(recipe, recipe.train.steps or 0):
        found.append(warning)
    if warning := passes_warning(recipe, tokens, epoch_tokens):
        found.append(warning)
    per_parameter = tokens / dense_parameters(recipe.model)
    if recipe.task is None and per_parameter < TOKENS_PER_PARAMETER / 2:
        found.append(
            f"{per_parameter:.2g} tokens per parameter, {UNDERTRAINED}: a smaller "
            "shape or vocabulary would learn more in this time"
        )
    if not memory_fits:
        smaller = "train.micro_batch_size" if recipe.train.micro_batch_size > 1 else "model.seq_len"
        found.append(f"this does not fit into the free memory: try a smaller {smaller} or model")
    return found


def passes_warning(recipe: Recipe, tokens: int, epoch_tokens: int | None) -> str:
    """Return that a training reads its data too often; "" if it does not.

    Args:
        recipe: resolved.
        tokens: that it reads.
        epoch_tokens: of one pass over the training data, if known.
    """
    passes = tokens / epoch_tokens if epoch_tokens else 0.0
    if recipe.task is None and passes > MAX_PASSES:
        return (
            f"the corpus has {epoch_tokens:,} tokens and is read {passes:.1f} times: beyond 4 "
            "passes it is learned by heart (the validation loss may rise), and new text helps "
            "more than more steps"
        )
    if recipe.task is not None and passes > MAX_LABELLED_PASSES and not recipe.evaluate.patience:
        return (
            f"the training rows are read {passes:,.0f} times: beyond {MAX_LABELLED_PASSES} passes "
            "they are learned by heart; train.epochs=10, or evaluate.patience=3 to stop in time"
        )
    return ""


def read_corpus(path: Path) -> CorpusFacts:
    """Read the counts of a prepared corpus.

    Raises:
        InputError: if the folder is not a corpus.
    """
    if not path.is_dir():
        raise InputError(f"there is no folder {path}: data.corpus is the folder of a corpus")
    try:
        values = files.read_json(path / files.CORPUS)
        counts = [values[key] for key in ("vocab_size", "tokens_train", "tokens_val")]
        if not all(type(count) is int and 0 <= count < 1 << 63 for count in counts):
            raise ValueError
        sizes = {name: entry["bytes"] for name, entry in values.get("files", {}).items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InputError(
            f"{path} is not a corpus: make one with 'wafergpt prepare SOURCE --out {path}'"
        ) from None
    for name, size in sizes.items():
        if files.is_file(path / name) and (path / name).stat().st_size != size:
            raise InputError(f"{path / name} has changed since it was prepared")
    return CorpusFacts(*counts)


def _predicted(prediction: Prediction | str) -> dict[str, Any]:
    if isinstance(prediction, str):
        return {"why": prediction}
    return {
        "predicted_loss": prediction.loss,
        "predicted_loss_low": prediction.low,
        "predicted_loss_high": prediction.high,
        "predicted_loss_of": prediction.of,
    }
