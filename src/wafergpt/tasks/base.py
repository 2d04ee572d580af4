"""The task interface: data, network, loss, metrics and answers.

A task is one file with one class, and one line in ``wafergpt.config.registry.TASKS``;
docs/extending.md shows a whole one. Torch is imported inside methods only, because reading a recipe
imports the module of the task that it names.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from wafergpt.config import Recipe, TaskSettings
from wafergpt.config.registry import LANGUAGE_MODEL, TASKS, imported
from wafergpt.data.tokenizer import Tokenizer
from wafergpt.errors import InputError
from wafergpt.planning.estimate import SCRATCH_VOCABULARY
from wafergpt.progress import say, working

if TYPE_CHECKING:
    from torch import Tensor, nn

    from wafergpt.checkpoint.format import Stored
    from wafergpt.data.batches import Batch, Batches
    from wafergpt.distributed.sharding import Rows
    from wafergpt.model.gpt import GPT
    from wafergpt.tasks.graph import Graph

Outputs = Mapping[str, NDArray[Any]]
"""The network's outputs for some samples: named arrays ``[samples, …]``."""

InputFormat = Literal["txt", "jsonl", "csv", "tsv", "conll"]
"""Kinds of files that inputs are read from."""

NOTHING_HELD_OUT = "the run has learned from all of its rows, and has no validation rows"


class InputRow(NamedTuple):
    """A row of a file that is predicted.

    Attributes:
        line: where it begins in the file.
        columns: all of its columns.
        value: the input, as ``require_input`` takes it.
        text: it, for people.
    """

    line: int
    columns: Mapping[str, Any]
    value: Any
    text: str


Direction = Literal["min", "max"]
"""Whether less or more of a metric is better."""


@dataclass(frozen=True)
class EvaluationSet:
    """Samples whose answers are known.

    Attributes:
        batches: the samples.
        references: the answers in the order of the rows, or what else ``compute_metrics`` needs.
        rows: ``[n]``, the row of each sample; None where samples are in the order of rows.
        texts: of the rows, where mistakes are listed with them.
    """

    batches: Batches
    references: Any
    rows: NDArray[np.int64] | None = None
    texts: Sequence[str] = ()


@dataclass(frozen=True)
class Splits:
    """The data of a training, encoded.

    Attributes:
        train: training samples.
        validation: samples that checkpoints are chosen by; None if all are trained on.
        test: samples that the best checkpoint is evaluated on at the end, if any.
        tokens: number of tokens in one pass over ``train``.
    """

    train: Batches
    validation: EvaluationSet | None
    test: EvaluationSet | None
    tokens: int

    @property
    def held_out(self) -> EvaluationSet:
        """The validation samples.

        Raises:
            InputError: if all rows are trained on.
        """
        if self.validation is None:
            raise InputError(NOTHING_HELD_OUT)
        return self.validation


@dataclass(frozen=True)
class Teacher:
    """A trained network whose answers a training also learns from, frozen.

    Attributes:
        task: the same as that of the training, of the teacher's own recipe.
        network: with its weights, on the training's device.
        share: of the loss that is the distance from its answers.
    """

    task: Task
    network: nn.Module
    share: float


class Task(ABC):
    """A training objective with its data, network and metrics.

    Args:
        recipe: of the training, resolved or not; ``prepare`` returns the resolved one.

    Attributes:
        Settings: the type of the recipe's section ``task``.
        metrics: the metrics that a checkpoint can be chosen by (``evaluate.metric``), and whether
            less or more of each is better.
        lowers: whether Cerebras' SDK can compile network and loss.
        distils: whether it can learn from a teacher: ``distilled_loss`` is there.
        teacher: set for a training that learns from one.
        before: the task of the run to start from; set for a training that starts from a task's.
    """

    Settings: ClassVar[type[TaskSettings]] = TaskSettings
    metrics: ClassVar[Mapping[str, Direction]] = {"loss": "min"}
    lowers: ClassVar[bool] = False
    input_column = "text"
    """The column that ``predict`` reads from a table."""
    distils: ClassVar[bool] = False
    teacher: Teacher | None = None
    before: Task | None = None

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe

    @abstractmethod
    def texts(self) -> Iterator[str]:
        """Read the texts that a tokenizer is trained on where there is none yet.

        Returns:
            An iterator over the texts.

        Raises:
            InputError: if the recipe names no data, or it cannot be read.
        """

    def tokenizer(self, source: Tokenizer | None) -> Tokenizer:
        """Return the tokenizer of the run to start from, or train one on the texts.

        Args:
            source: of the run to start from or to resume, if there is one.

        Returns:
            The tokenizer to encode the data with.

        Raises:
            InputError: if the data does not fit it.
        """
        if source is not None:
            return source
        asked = self.recipe.model.vocab_size
        vocab_size = asked or SCRATCH_VOCABULARY
        with working(f"training a tokenizer of {vocab_size:,} tokens"):
            # Short texts may not have so many.
            return Tokenizer.train(self.texts(), vocab_size, exactly=bool(asked))

    @abstractmethod
    def prepare(self, tokenizer: Tokenizer) -> tuple[Recipe, Splits]:
        """Read and encode the data, and resolve the recipe with it.

        Set in the recipe: vocabulary, the data's fingerprint, absolute paths, a horizon where it
        has none, and the task's own keys that depend on the data, such as the labels.

        Args:
            tokenizer: to encode the data with.

        Returns:
            The resolved recipe, and the encoded data.

        Raises:
            InputError: if the data is unusable, or not what the run started with.
        """

    @abstractmethod
    def network(self) -> nn.Module:
        """Build the network of a resolved recipe, its weights not initialized.

        Its GPT is the network itself or its attribute ``gpt``; the task's own parameters are named
        ``head.…`` and ``head_ngrams.weight``, by which the parametrization knows them.
        """

    def initial_weights(
        self, network: nn.Module, start: Stored | None, splits: Splits | None = None
    ) -> Iterator[tuple[str, Rows]]:
        """Yield the initial weights, one after the other.

        Args:
            network: that they are for.
            start: weights to initialize from; if None, they are drawn. Of those of a language
                model, or of another task's network, the GPT alone goes on. A head is then always
                drawn, a normal for each matrix; n-gram tables that ``start`` does not have are
                zero. Of those of the task's own network all go on (see ``carried``).
            splits: the encoded data, for weights that depend on it.

        Yields:
            Names in ``network``, and tensors or readers of their rows.

        Raises:
            DamagedCheckpointError: if ``start`` is of another shape.
        """

        from wafergpt.checkpoint.store import require_fit

        if start is not None and is_of_task(start):
            if self.before is None or type(self.before) is type(self):
                gpt = gpt_of(network)
                added = gpt.added(gpt.added_to(start.below("gpt.")), self.recipe.seed)
                yield from (("gpt." + name, values) for name, values in added)
                yield from self.carried(network, start, splits)
                return
            start = start.below("gpt.")
        gpt = gpt_of(network)
        prefix = "" if gpt is network else "gpt."
        drawn = gpt.fresh_weights(self.recipe.seed) if start is None else start.by_rows.items()
        if start is not None:
            new = gpt.added_to(start)
            require_fit(gpt, start, new)
            yield from (
                (prefix + name, values) for name, values in gpt.added(new, self.recipe.seed)
            )
        for name, values in drawn:
            yield prefix + name, values
        yield from self.drawn_head(network)

    def carried(
        self, network: nn.Module, start: Stored, splits: Splits | None
    ) -> Iterator[tuple[str, Rows]]:
        """Yield the weights of a run of this task, of the network ``before`` if that is known.

        Adapters that the run does not have are not among them (see ``initial_weights``).

        Args:
            network: that they are for.
            start: the weights.
            splits: the encoded data, for weights that depend on it.

        Yields:
            Names in ``network``, and tensors or readers of their rows.

        Raises:
            DamagedCheckpointError: if they are of another shape.
        """
        from wafergpt.checkpoint.store import require_fit

        new = gpt_of(network).added_to(start.below("gpt."))
        require_fit(network, start, ["gpt." + name for name in new])
        yield from start.by_rows.items()

    def drawn_head(self, network: nn.Module) -> Iterator[tuple[str, Tensor]]:
        """Yield the initial weights of a new head, a normal for each matrix.

        Args:
            network: that they are for.

        Yields:
            Names in ``network``, and tensors.
        """
        import torch

        from wafergpt.shapes.parametrization import parametrization
        from wafergpt.shapes.roles import role_of

        rows = parametrization(self.recipe.model).rows
        generator = torch.Generator().manual_seed(self.recipe.seed)
        for name, parameter in network.named_parameters():
            if name.startswith("head"):
                values = torch.full(parameter.shape, float(name.endswith("norm.weight")))
                if parameter.ndim > 1 and (std := rows[role_of(name)].init_std):
                    values.normal_(0.0, std, generator=generator)
                yield name, values

    @abstractmethod
    def flops(self, batch: Batch) -> float:
        """Return the FLOPs of a batch's forward and backward pass, as counted by torch."""

    @abstractmethod
    def loss(self, network: nn.Module, batch: Batch) -> Tensor:
        """Return the summed loss of a batch, a scalar; ``batch.weight`` is its divisor."""

    def training_loss(self, network: nn.Module, batch: Batch) -> Tensor:
        """Return what a training minimizes: the loss, or with a teacher the distilled one."""
        if self.teacher is None:
            return self.loss(network, batch)
        return self.distilled_loss(network, batch, self.teacher)

    def training_flops(self, batch: Batch) -> float:
        """Return the FLOPs of a batch in training, a teacher's forward pass included."""
        flops = self.flops(batch)
        # A third of a forward and backward pass.
        return flops if self.teacher is None else flops + self.teacher.task.flops(batch) / 3

    def distilled_loss(self, network: nn.Module, batch: Batch, teacher: Teacher) -> Tensor:
        """Return (1 - share) · loss + share · distance from the teacher's answers, summed.

        Args:
            network: in training.
            batch: on its device.
            teacher: read without gradients.

        Returns:
            A scalar.

        Raises:
            NotImplementedError: if the task has none.
        """
        raise NotImplementedError

    def require_teacher(self, teacher: Task) -> None:
        """Check that a teacher's answers can be compared with this task's.

        Args:
            teacher: of the same name, and with the same tokenizer.

        Raises:
            InputError: if they cannot; the message continues after the teacher's path.
        """
        if not self.distils:
            raise InputError("has no use here: this task has no rule to learn from a teacher")

    def traced_loss(self, network: nn.Module, batch: Batch) -> Tensor:
        """Return the same loss by operators that Cerebras' SDK can lower."""
        return self.loss(network, batch)

    @abstractmethod
    def outputs(self, network: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        """Return the tensors ``[batch, …]`` that metrics and answers are computed from."""

    @abstractmethod
    def compute_metrics(self, outputs: Outputs, references: Any) -> dict[str, Any]:
        """Return the metrics of outputs as JSON, those of ``metrics`` among them."""

    def mistakes(self, outputs: Outputs, evaluated: EvaluationSet) -> list[dict[str, Any]]:
        """List the test rows with a wrong answer, the worst first.

        Args:
            outputs: for the samples.
            evaluated: the samples, with their texts.

        Returns:
            Columns of a table, the same in each row; nothing by default.
        """
        return []

    def fit(self, outputs: Outputs, references: Any) -> tuple[dict[str, Any], Outputs]:
        """Settle keys of the section ``task`` by the outputs for validation samples.

        Args:
            outputs: for the samples.
            references: their answers.

        Returns:
            Values by key, none by default, and the outputs that they lead to.
        """
        return {}, outputs

    def decode(self, outputs: Outputs, inputs: Sequence[Any]) -> list[dict[str, Any]]:
        """Turn outputs into answers, as ``predict`` prints them.

        Args:
            outputs: of the network, ``[inputs, …]``.
            inputs: that they belong to.

        Returns:
            The answer to each input.

        Raises:
            NotImplementedError: if the task has no answers.
        """
        raise NotImplementedError

    def require_input(self, value: object) -> Any:
        """Check one input of ``predict``.

        Args:
            value: as the caller gave it.

        Returns:
            The input as ``encode`` takes it; None if there is nothing to answer.

        Raises:
            InputError: if it is not one, with a message that continues after its index.
        """
        return value

    def inputs_of(self, texts: Sequence[str]) -> list[Any]:
        """Return inputs that are made of texts, without those in which there is nothing."""
        return [given for text in texts if (given := self.require_input(text)) is not None]

    def stream_inputs(
        self, path: Path, column: str | None, file_format: InputFormat | None
    ) -> Iterator[InputRow]:
        """Read the inputs of ``predict`` from a file, one after the other.

        Args:
            path: the file.
            column: of the inputs; the recipe's if omitted.
            file_format: the kind of file; detected if omitted.

        Yields:
            A row for each input.

        Raises:
            InputError: if one is none, or there are none.
        """
        from wafergpt.data.file_formats import counted
        from wafergpt.data.labelled_rows import text_rows
        from wafergpt.data.text_columns import names_of, shown

        if file_format == "conll":
            raise InputError(f"{path}: conll is for task.name=tag")
        names, count = self.columns_named(column), 0
        for line, columns, text in text_rows(path, names, file_format):
            count += 1
            yield InputRow(line, columns, text, shown(text))
        if not count:
            raise InputError(f"{path} has no rows")
        say(counted(path, count, file_format=file_format, names=names_of(names)))

    def columns_named(self, column: str | None) -> str | tuple[str, ...]:
        """Return the column of inputs, or several, that ``column`` stands for."""
        return column or self.input_column

    def read_inputs(
        self, path: Path, column: str | None, file_format: InputFormat | None
    ) -> tuple[list[Any], list[str]]:
        """Read all inputs of ``predict`` from a file, as ``stream_inputs`` does.

        Args:
            path: the file.
            column: of the inputs; the recipe's if omitted.
            file_format: the kind of file; detected if omitted.

        Returns:
            The inputs, and the text of each for people.

        Raises:
            InputError: if there are none.
        """
        rows = [(row.value, row.text) for row in self.stream_inputs(path, column, file_format)]
        return [value for value, _ in rows], [text for _, text in rows]

    def encode(self, inputs: Sequence[Any], tokenizer: Tokenizer) -> EvaluationSet:
        """Encode inputs as samples without references, for ``outputs``.

        Args:
            inputs: as ``require_input`` returned them.
            tokenizer: of the run.

        Returns:
            The samples.

        Raises:
            NotImplementedError: if the task has no answers.
        """
        raise NotImplementedError

    def validation(self, tokenizer: Tokenizer) -> EvaluationSet:
        """Read and encode the validation data of a resolved recipe.

        Args:
            tokenizer: of the run.

        Returns:
            The samples with their answers.

        Raises:
            InputError: if the data is gone, or not what the run was trained with.
        """
        return self.prepare(tokenizer)[1].held_out

    def graph(self) -> Graph:
        """Describe the network of a resolved recipe as a graph for other programs.

        Returns:
            Its inputs, its outputs, and how they are computed.

        Raises:
            NotImplementedError: if the task has no such form.
        """
        raise NotImplementedError

    def sample(self, network: nn.Module, tokenizer: Tokenizer, prompt: str) -> str:
        """Generate a sample text during training.

        Args:
            network: in training.
            tokenizer: of the run.
            prompt: the text to continue.

        Returns:
            The continuation, without the prompt.

        Raises:
            NotImplementedError: if the task generates no text.
        """
        raise NotImplementedError

    def evaluation_samples(self, batches: Batches) -> int:
        """Return how many samples an evaluation reads; by default all."""
        return batches.samples_per_epoch

    def evaluation_rows(self) -> int:
        """Return the samples of one forward pass in an evaluation."""
        return 64


def task_of(recipe: Recipe) -> Task:
    """Return the task that a recipe names; without a section ``task``, a language model."""
    where = LANGUAGE_MODEL if recipe.task is None else TASKS[recipe.task.name]
    task: Task = imported(where)(recipe)
    return task


def gpt_of(network: nn.Module) -> GPT:
    """Return the GPT of a task's network."""
    found: Any = getattr(network, "gpt", network)
    gpt: GPT = found
    return gpt


def is_of_task(weights: Container[str]) -> bool:
    """Return whether weights are of a task's whole network, its head included."""
    return "gpt.embedding.weight" in weights


def joined(parts: Sequence[Outputs], rows: NDArray[np.int64] | None) -> Outputs:
    """Concatenate the outputs of batches, in the order of ``rows``."""
    found = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    if rows is None:
        return found
    order = np.argsort(rows, kind="stable")
    return {name: values[order] for name, values in found.items()}
