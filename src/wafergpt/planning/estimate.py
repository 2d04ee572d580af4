"""What a recipe costs, estimated from the probe of a machine alone: nothing is run."""

from __future__ import annotations

import math
from dataclasses import dataclass

from wafergpt.config import Lora, Model, Recipe
from wafergpt.errors import InputError
from wafergpt.planning.duration import Duration
from wafergpt.planning.hardware import Machine
from wafergpt.planning.intervals import DEFAULT_EPOCHS, MAX_BATCHES, counted_horizon, with_intervals
from wafergpt.planning.laws import predicted
from wafergpt.planning.memory import estimated_memory, micro_batch_that_fits, running_shape
from wafergpt.planning.plan import (
    TOKENS_PER_PARAMETER,
    CorpusFacts,
    Plan,
    fits,
    read_corpus,
    warnings,
)
from wafergpt.planning.schedule_check import require_possible_warmup
from wafergpt.planning.speed import (
    COMPILE_SECONDS,
    best_precision,
    compile_pays,
    softmax_rows,
    tokens_per_second,
)
from wafergpt.runs.teacher import teacher_shape
from wafergpt.shapes.counts import dense_parameters, training_flops

GPT2_VOCAB_SIZE = 50257

SCRATCH_VOCABULARY = 8192
"""Of the tokenizer that a task trains on its own texts."""


@dataclass(frozen=True)
class RowFacts:
    """The counts of a task's rows that an estimate uses.

    Attributes:
        rows: for training.
        tokens_per_row: about, padding included.
        evaluated: rows of one evaluation.
        final: rows that are evaluated at the end.
    """

    rows: int
    tokens_per_row: float
    evaluated: int
    final: int


def estimate(recipe: Recipe, machine: Machine, rows: RowFacts | None = None) -> Plan:
    """Estimate what a recipe costs on a machine.

    Without a horizon a language model is compute-optimal, at 20 tokens for each parameter, and a
    task is trained for three passes. Time comes from the probe of the machine. A loss is predicted
    only where a law holds.

    Args:
        recipe: as asked for.
        machine: as measured.
        rows: of a task; a corpus is read from the recipe.

    Raises:
        InputError: if the corpus is not one, its vocabulary is another than the recipe's, the
            horizon is in epochs and there is no data, or the warm-up fits into no run.
    """
    notes: list[str] = []
    require_possible_warmup(recipe.schedule)
    recipe.system.require_groups(recipe.system.nproc)
    facts = None if recipe.data.corpus is None else read_corpus(recipe.data.corpus)
    if facts is not None and facts.tokens_train <= recipe.model.seq_len:
        raise InputError(
            f"{recipe.data.corpus} is too small: {facts.tokens_train:,} tokens are less than one "
            f"sequence of {recipe.model.seq_len:,} and its next token: lower model.seq_len"
        )
    resolved = _with_vocabulary(recipe, facts, notes)
    resolved = _with_system(resolved, machine)
    data = _data(resolved, facts, rows)
    resolved, rate = _with_horizon(resolved, machine, data, notes)
    steps, train = resolved.train.steps or 0, resolved.train
    resolved = with_intervals(resolved, steps)
    tokens = round(train.samples(steps) * data.length)
    time = _time(resolved, machine, data, tokens, rate)
    memory = estimated_memory(resolved, machine.device)
    notes += warnings(resolved, tokens, data.tokens, fits(memory.total, machine, resolved))
    return Plan(
        asked=recipe,
        resolved=resolved,
        tokens=tokens,
        flops=train.samples(steps) * sample_flops(resolved, data.length),
        time=time,
        tokens_per_second=rate,
        memory_bytes=memory.total,
        machine=machine,
        prediction=predicted(recipe, resolved, data.tokens),
        measured=False,
        memory=memory,
        notes=tuple(notes),
    )


@dataclass(frozen=True)
class _Data:
    """Samples of a pass (0: unknown), tokens of each, samples of an evaluation and of the end."""

    samples: int
    length: float
    evaluated: int
    final: int

    @property
    def tokens(self) -> int | None:
        return round(self.samples * self.length) or None


def _data(recipe: Recipe, facts: CorpusFacts | None, rows: RowFacts | None) -> _Data:
    if rows is not None:
        return _Data(rows.rows, rows.tokens_per_row, rows.evaluated, rows.final)
    length = running_shape(recipe).seq_len
    if facts is None:
        return _Data(0, length, recipe.train.batch_size * MAX_BATCHES, 0)
    # Of each sequence the next token is a target too.
    train, val = ((tokens - 1) // length for tokens in (facts.tokens_train, facts.tokens_val))
    return _Data(max(1, train), length, max(0, val), 0)


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
    if recipe.task is not None:
        notes.append(
            f"a vocabulary of {SCRATCH_VOCABULARY:,} is assumed: few rows give their tokenizer less"
        )
        return recipe.replace(model={"vocab_size": SCRATCH_VOCABULARY})
    notes.append(f"no corpus and no model.vocab_size: GPT-2's {GPT2_VOCAB_SIZE:,} is assumed")
    return recipe.replace(model={"vocab_size": GPT2_VOCAB_SIZE})


def _with_system(recipe: Recipe, machine: Machine) -> Recipe:
    asked = recipe.system.precision
    precision = best_precision(machine, recipe.model.d_model) if asked == "auto" else asked
    recipe = recipe.replace(system={"precision": precision, "device": machine.device})
    sharing = 1 if machine.device == "cuda" else recipe.system.nproc
    micro = micro_batch_that_fits(recipe, machine.memory_available // sharing)
    return recipe.replace(train={"micro_batch_size": micro})


def _with_horizon(
    recipe: Recipe, machine: Machine, data: _Data, notes: list[str]
) -> tuple[Recipe, float]:
    """Resolve steps and compile, which depend on each other; return also tokens/s."""
    train = recipe.train
    eager, quick = (speed(recipe, machine, data.length, compiled) for compiled in (False, True))
    steps = _steps(recipe, data, notes)
    eager_seconds = math.inf if steps is None else train.samples(steps) * data.length / eager
    eager_seconds = min(eager_seconds, train.seconds or math.inf)
    wanted = recipe.system.compile
    compiled = wanted == "on" or (
        wanted == "auto"
        and machine.compiler
        and compile_pays(eager_seconds, machine.device, recipe.system.precision)
    )
    rate = quick if compiled else eager
    if train.seconds:
        timed = train.steps_for(train.seconds * rate / data.length)
        steps = min(steps or timed, timed)
    settled = recipe.replace(
        train={"steps": steps, "tokens": None, "epochs": None, "seconds": None},
        system={"compile": "on" if compiled else "off"},
    )
    return settled, rate


def speed(recipe: Recipe, machine: Machine, tokens_per_sample: float, compiled: bool) -> float:
    """Return the tokens/s that a recipe is estimated to train at.

    A GPU was measured, of which each process has one; processes on CPUs share what was measured.
    """
    length = math.ceil(tokens_per_sample / recipe.sequences)
    train, processes = recipe.train, recipe.system.nproc if machine.device == "cuda" else 1

    def rate(model: Model, lora: Lora | None = None) -> float:
        return tokens_per_second(
            model.model_copy(update={"seq_len": length}),
            machine,
            recipe.system.precision,
            compiled,
            math.ceil(train.batch_size * tokens_per_sample),
            head=recipe.vocabulary_head,
            sampled_softmax=train.sampled_softmax,
            micro_batch_tokens=train.micro_batch_size * length,
            processes=processes,
            activation_checkpointing=recipe.system.activation_checkpointing,
            lora=lora,
        )

    own, teacher = rate(recipe.model, recipe.lora), teacher_shape(recipe)
    if teacher is not None:
        # A forward pass takes a third of an update.
        own = 1 / (1 / own + 1 / (3 * rate(teacher)))
    return own / recipe.passes


def _steps(recipe: Recipe, data: _Data, notes: list[str]) -> int | None:
    train, task = recipe.train, recipe.task
    if not (train.steps or train.tokens or train.epochs or train.seconds):
        if task is None:
            tokens = round(TOKENS_PER_PARAMETER * dense_parameters(recipe.model))
            recipe = recipe.replace(train={"tokens": tokens})
            notes.append("no horizon: 20 tokens per parameter, as Chinchilla and Cerebras-GPT")
        else:
            recipe = recipe.replace(train={"epochs": DEFAULT_EPOCHS})
    if recipe.train.epochs and not data.samples:
        what = "a corpus: add data.corpus=FOLDER" if task is None else "rows: add task.train=FILE"
        raise InputError(f"train.epochs counts passes over {what}")
    return counted_horizon(recipe, data.samples)


def sample_flops(recipe: Recipe, tokens_per_sample: float) -> float:
    """Return the FLOPs of a sample in training."""
    rows = 0
    length = math.ceil(tokens_per_sample / recipe.sequences)
    if recipe.vocabulary_head:
        micro_batch_tokens = recipe.train.micro_batch_size * length
        rows = softmax_rows(recipe.model, recipe.train.sampled_softmax, micro_batch_tokens)
    own = training_flops(recipe.model, length, rows, lora=recipe.lora)
    return recipe.sequences * (recipe.passes * own + teacher_flops(recipe, length))


def teacher_flops(recipe: Recipe, length: int) -> float:
    """Return the FLOPs of a teacher's forward pass of one sequence; 0 without a teacher."""
    teacher = teacher_shape(recipe)
    if teacher is None:
        return 0.0
    return training_flops(teacher, length, None if recipe.vocabulary_head else 0) / 3


def _time(recipe: Recipe, machine: Machine, data: _Data, tokens: int, rate: float) -> Duration:
    """Return the time of everything; a forward pass takes a third of a pass of an update."""
    steps, every = recipe.train.steps or 0, recipe.evaluate.every
    evaluated = data.evaluated
    if recipe.task is None:
        evaluated = min(evaluated, recipe.train.batch_size * recipe.evaluate.batches)
    sample = data.length / (3 * rate * recipe.passes)
    return Duration(
        compiling=COMPILE_SECONDS[machine.device] if recipe.system.compile == "on" else 0.0,
        updates=tokens / rate,
        evaluation=math.ceil(steps / every) * evaluated * sample,
        final=data.final * sample,
    )
