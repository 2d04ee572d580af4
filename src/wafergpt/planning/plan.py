"""What a recipe costs, estimated before it runs."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from wafergpt import files
from wafergpt.config import Model, Recipe
from wafergpt.errors import InputError
from wafergpt.planning.hardware import Machine
from wafergpt.planning.laws import Prediction, predicted
from wafergpt.planning.memory import (
    HEADROOM,
    Memory,
    checkpoint_bytes,
    disk_bytes,
    micro_batch_that_fits,
    training_memory,
)
from wafergpt.planning.schedule_check import require_possible_warmup, schedule_warning
from wafergpt.planning.speed import (
    COMPILE_SECONDS,
    best_precision,
    compile_pays,
    softmax_rows,
    tokens_per_second,
)
from wafergpt.shapes.counts import parameters, training_flops

TOKENS_PER_PARAMETER = 20.0
"""Compute-optimal (Hoffmann et al., arXiv:2203.15556; used for all of Cerebras-GPT,
arXiv:2304.03208)."""

GPT2_VOCAB_SIZE = 50257
EVALUATIONS = 10
"""Evaluations of a run that names no interval."""
EVALUATION_BATCHES = 50
"""Validation batches of one evaluation, where the recipe names no number."""
MAX_PASSES = 4.0
"""Passes over a corpus that are nearly as good as new text (Muennighoff et al.,
arXiv:2305.16264)."""


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
class Plan:
    """The cost of a run.

    Attributes:
        asked: the recipe as asked for.
        resolved: with vocabulary, horizon, precision, compile and micro-batch filled in.
        tokens: read in training.
        seconds: of training, validation, and compiling if on.
        tokens_per_second: of training.
        memory: peak, by what fills it.
        machine: that the estimate is for.
        prediction: of the loss, or why there is none.
        notes: assumptions and warnings.
    """

    asked: Recipe
    resolved: Recipe
    tokens: int
    seconds: float
    tokens_per_second: float
    memory: Memory
    machine: Machine
    prediction: Prediction | str
    notes: tuple[str, ...] = field(default=())

    @property
    def steps(self) -> int:
        """Updates."""
        return self.resolved.train.steps or 0

    @property
    def fits(self) -> bool:
        """Whether the peak leaves a tenth of the free memory free."""
        return self.memory.total <= HEADROOM * self.machine.memory_available

    @property
    def flops(self) -> float:
        """Of all forward and backward passes."""
        recipe, shape = self.resolved, _running_shape(self.resolved)
        micro_batch_tokens = recipe.train.micro_batch_size * shape.seq_len
        rows = 0
        if recipe.task is None:
            rows = softmax_rows(shape, recipe.train.sampled_softmax, micro_batch_tokens)
        return recipe.train.samples(self.steps) * training_flops(shape, rows=rows)

    @property
    def disk_bytes(self) -> int:
        """Maximum bytes of all checkpoints that a run holds at once."""
        return disk_bytes(self.resolved)

    def recipe(self, corpus: HasPath | str | Path | None = None) -> Recipe:
        """Return the recipe to train with.

        Args:
            corpus: a prepared corpus or its folder; if omitted, the recipe's own.
        """
        horizon = {"steps": None, "epochs": None, "seconds": None, "tokens": self.tokens}
        recipe = self.asked.replace(train=horizon)
        if corpus is None:
            return recipe
        path = Path(corpus) if isinstance(corpus, str | Path) else corpus.path
        return recipe.replace(
            data={"corpus": path, "fingerprint": None},
            model={"vocab_size": read_corpus(path).vocab_size},
        )

    def to_dict(self) -> dict[str, Any]:
        """Return every number as JSON."""
        recipe, n = self.resolved, parameters(self.resolved.model)
        return {
            "name": recipe.name,
            "model": recipe.model.model_dump(),
            "parameters": n,
            "tokens": self.tokens,
            "tokens_per_parameter": self.tokens / n,
            "steps": self.steps,
            "batch_tokens": _batch_tokens(recipe),
            "first_steps": min(recipe.train.first_steps, self.steps),
            "first_batch_tokens": recipe.train.first_batch_size * _running_shape(recipe).seq_len,
            "flops": self.flops,
            **_predicted(self.prediction),
            "seconds": self.seconds,
            "tokens_per_second": self.tokens_per_second,
            "memory_bytes": self.memory.total,
            "memory": self.memory.to_dict(),
            "memory_available": self.machine.memory_available,
            "fits": self.fits,
            "micro_batch_size": recipe.train.micro_batch_size,
            "checkpoint_bytes": checkpoint_bytes(recipe.model, recipe.optimizer),
            "disk_bytes": self.disk_bytes,
            "device": self.machine.device,
            "machine": self.machine.name,
            "precision": recipe.system.precision,
            "compile": recipe.system.compile,
            "notes": list(self.notes),
        }


def plan(recipe: Recipe, machine: Machine, corpus_tokens: int | None = None) -> Plan:
    """Estimate what a recipe costs on a machine.

    Without a horizon the run is compute-optimal, at 20 tokens for each parameter. Time comes from
    the probe of the machine. A loss is predicted only where a law holds.

    Args:
        recipe: as asked for.
        machine: as measured.
        corpus_tokens: tokens of the training text; if omitted, read from the recipe's corpus.

    Raises:
        InputError: if the corpus is not one, its vocabulary is another than the recipe's, the
            horizon is in epochs and there is no corpus, or the warm-up fits into no run.
    """
    notes: list[str] = []
    require_possible_warmup(recipe.schedule)
    recipe.system.require_groups(recipe.system.nproc)
    if recipe.system.nproc > 1:
        notes.append(
            f"memory is that of one of {recipe.system.nproc} processes, alone on a machine"
        )
    facts = None
    if corpus_tokens is None and recipe.data.corpus is not None:
        facts = read_corpus(recipe.data.corpus)
        corpus_tokens = facts.tokens_train
    resolved = _with_vocabulary(recipe, facts, notes)
    resolved = _with_system(resolved, machine)
    resolved, rate = _with_horizon(resolved, machine, corpus_tokens, notes)
    if warning := schedule_warning(resolved, resolved.train.steps or 0):
        notes.append(warning)
    tokens = resolved.train.samples(resolved.train.steps or 0) * _running_shape(resolved).seq_len
    if corpus_tokens and tokens > MAX_PASSES * corpus_tokens:
        notes.append(
            f"the corpus has {corpus_tokens:,} tokens and is read {tokens / corpus_tokens:.1f} "
            "times: beyond 4 passes, new text helps more than more steps"
        )
    per_parameter = tokens / parameters(resolved.model)
    if resolved.task is None and per_parameter < TOKENS_PER_PARAMETER / 2:
        notes.append(
            f"{per_parameter:.2g} tokens per parameter, where 20 are compute-optimal: a smaller "
            "shape or vocabulary would learn more in this time"
        )
    val_tokens = (corpus_tokens or tokens) // 10 if facts is None else facts.tokens_val
    seconds = tokens / rate + _validation_seconds(resolved, rate, val_tokens)
    if resolved.system.compile == "on":
        seconds += COMPILE_SECONDS[machine.device]
    memory = _memory(resolved)
    if memory.total > HEADROOM * machine.memory_available:
        notes.append(_what_would_fit(resolved))
    prediction = predicted(recipe, resolved, corpus_tokens)
    return Plan(recipe, resolved, tokens, seconds, rate, memory, machine, prediction, tuple(notes))


def _predicted(prediction: Prediction | str) -> dict[str, Any]:
    if isinstance(prediction, str):
        return {"why": prediction}
    return {
        "predicted_loss": prediction.loss,
        "predicted_loss_low": prediction.low,
        "predicted_loss_high": prediction.high,
        "predicted_loss_of": prediction.of,
    }


def read_corpus(path: Path) -> CorpusFacts:
    """Read the counts of a prepared corpus.

    Raises:
        InputError: if the folder is not a corpus.
    """
    try:
        values = files.read_json(path / "corpus.json")
        counts = [values[key] for key in ("vocab_size", "tokens_train", "tokens_val")]
        if not all(type(count) is int and 0 <= count < 1 << 63 for count in counts):
            raise ValueError
        return CorpusFacts(*counts)
    except (ValueError, KeyError, TypeError):
        raise InputError(
            f"{path} is not a corpus: make one with 'wafergpt prepare SOURCE --out {path}'"
        ) from None


def _with_vocabulary(recipe: Recipe, facts: CorpusFacts | None, notes: list[str]) -> Recipe:
    given = recipe.model.vocab_size
    if facts is not None:
        if given not in (0, facts.vocab_size):
            raise InputError(
                f"model.vocab_size={given}, but {recipe.data.corpus} was written with a "
                f"vocabulary of {facts.vocab_size}: set model.vocab_size={facts.vocab_size}, or "
                "prepare the text with that tokenizer (wafergpt prepare --tokenizer PATH)"
            )
        return recipe.replace(model={"vocab_size": facts.vocab_size})
    if given:
        return recipe
    notes.append(f"no corpus and no model.vocab_size: GPT-2's {GPT2_VOCAB_SIZE:,} is assumed")
    return recipe.replace(model={"vocab_size": GPT2_VOCAB_SIZE})


def _with_system(recipe: Recipe, machine: Machine) -> Recipe:
    asked = recipe.system.precision
    precision = best_precision(machine, recipe.model.d_model) if asked == "auto" else asked
    # Zeros save time on Cerebras systems only.
    recipe = recipe.replace(
        system={"precision": precision, "device": machine.device}, sparsity={"algorithm": "none"}
    )
    micro = recipe.train.micro_batch_size or micro_batch_that_fits(
        _running_shape(recipe),
        recipe.train.common_batch,
        recipe.optimizer,
        recipe.system,
        machine.memory_available,
        recipe.checkpoint.background,
    )
    return recipe.replace(train={"micro_batch_size": micro})


def _with_horizon(
    recipe: Recipe, machine: Machine, corpus_tokens: int | None, notes: list[str]
) -> tuple[Recipe, float]:
    """Resolve steps and compile, which depend on each other; return also tokens/s."""
    train, seq_len = recipe.train, _running_shape(recipe).seq_len
    eager, quick = (_speed(recipe, machine, compiled) for compiled in (False, True))
    steps = None if train.seconds else _steps(recipe, corpus_tokens, notes)
    eager_seconds = train.seconds or train.samples(steps or 0) * seq_len / eager
    wanted = recipe.system.compile
    compiled = wanted == "on" or (
        wanted == "auto"
        and machine.compiler
        and compile_pays(eager_seconds, machine.device, recipe.system.precision)
    )
    rate = quick if compiled else eager
    if steps is None:
        steps = train.steps_for(eager_seconds * rate / seq_len)
    settled = recipe.replace(
        train={"steps": steps, "tokens": None, "epochs": None, "seconds": None},
        system={"compile": "on" if compiled else "off"},
    )
    return settled, rate


def _speed(recipe: Recipe, machine: Machine, compiled: bool) -> float:
    return tokens_per_second(
        _running_shape(recipe),
        machine,
        recipe.system.precision,
        compiled,
        _batch_tokens(recipe),
        head=recipe.task is None,
        sampled_softmax=recipe.train.sampled_softmax,
        micro_batch_tokens=recipe.train.micro_batch_size * _running_shape(recipe).seq_len,
        activation_checkpointing=recipe.system.activation_checkpointing,
    )


def _steps(recipe: Recipe, corpus_tokens: int | None, notes: list[str]) -> int:
    train = recipe.train
    if train.steps:
        return train.steps
    if train.tokens:
        tokens = float(train.tokens)
    elif train.epochs:
        if corpus_tokens is None:
            raise InputError("train.epochs counts passes over a corpus: add data.corpus=FOLDER")
        tokens = train.epochs * corpus_tokens
    else:
        tokens = TOKENS_PER_PARAMETER * parameters(recipe.model)
        notes.append("no horizon given: 20 tokens per parameter, as Chinchilla and Cerebras-GPT")
    return train.steps_for(tokens / _running_shape(recipe).seq_len)


def _running_shape(recipe: Recipe) -> Model:
    """Return the model at the length that it is trained at."""
    length = recipe.task.max_tokens if recipe.task else 0
    if not 0 < length < recipe.model.seq_len:
        return recipe.model
    return recipe.model.model_copy(update={"seq_len": length})


def _batch_tokens(recipe: Recipe) -> int:
    return recipe.train.batch_size * _running_shape(recipe).seq_len


def _validation_seconds(recipe: Recipe, rate: float, val_tokens: int) -> float:
    """Return the seconds of all evaluations; a forward pass takes a third of an update."""
    steps, evaluate = recipe.train.steps or 0, recipe.evaluate
    count = math.ceil(steps / evaluate.every) if evaluate.every else min(steps, EVALUATIONS)
    batch = recipe.train.micro_batch_size * _running_shape(recipe).seq_len
    tokens = min(val_tokens, (evaluate.batches or EVALUATION_BATCHES) * batch)
    return count * tokens / (3 * rate)


def _memory(recipe: Recipe) -> Memory:
    return training_memory(
        _running_shape(recipe),
        recipe.train.micro_batch_size,
        recipe.optimizer,
        recipe.system,
        head=recipe.task is None,
        background=recipe.checkpoint.background,
    )


def _what_would_fit(recipe: Recipe) -> str:
    if recipe.train.micro_batch_size > 1:
        return "this does not fit into the free memory: try a smaller train.micro_batch_size"
    return "this does not fit into the free memory: try a smaller model or model.seq_len"
