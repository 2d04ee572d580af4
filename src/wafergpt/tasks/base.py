"""The task interface: data, network, loss, metrics and answers.

A task is one file with one class, and one line in ``wafergpt.config.registry.TASKS``;
docs/extending.md shows a whole one. Torch is imported inside methods only, because reading a recipe
imports the module of the task that it names.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from wafergpt.config import Recipe, TaskSettings
from wafergpt.config.registry import LANGUAGE_MODEL, TASKS, imported
from wafergpt.data.tokenizer import Tokenizer
from wafergpt.errors import InputError
from wafergpt.planning.estimate import SCRATCH_VOCABULARY
from wafergpt.progress import working
from wafergpt.shapes.parametrization import parametrization
from wafergpt.shapes.roles import role_of
from wafergpt.tasks.predicting import Predicting
from wafergpt.tasks.samples import (
    NOTHING_HELD_OUT,
    EvaluationSet,
    InputFormat,
    InputRow,
    Outputs,
    Splits,
    joined,
)

if TYPE_CHECKING:
    from torch import Tensor, nn

    from wafergpt.checkpoint.format import Stored
    from wafergpt.data.batches import Batch, Batches
    from wafergpt.distributed.sharding import Rows
    from wafergpt.model.gpt import GPT
    from wafergpt.tasks.graph import Graph

__all__ = [
    "NOTHING_HELD_OUT", "Direction", "EvaluationSet", "InputFormat", "InputRow", "Outputs",
    "Splits", "Task", "Teacher", "gpt_of", "is_of_task", "joined", "task_of",
]  # fmt: skip

Direction = Literal["min", "max"]
"""Whether less or more of a metric is better."""


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


class Task(Predicting, ABC):
    """A training objective with its data, network and metrics.

    Args:
        recipe: of the training, resolved or not; ``prepare`` returns the resolved one.

    Attributes:
        Settings: the type of the recipe's section ``task``.
        metrics: the metrics that a checkpoint can be chosen by (``evaluate.metric``), and whether
            less or more of each is better.
        lowers: whether Cerebras' SDK can compile network and loss.
        distils: whether it can learn from a teacher: ``distilled_loss`` is there.
        independent: whether the loss of a sample is the same beside any others of its pass.
        teacher: set for a training that learns from one.
        before: the task of the run to start from; set for a training that starts from a task's.
    """

    Settings: ClassVar[type[TaskSettings]] = TaskSettings
    metrics: ClassVar[Mapping[str, Direction]] = {"loss": "min"}
    lowers: ClassVar[bool] = False
    distils: ClassVar[bool] = False
    independent: ClassVar[bool] = True
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
            # How a task reads words is its own matter.
            return source.with_spelling(None)
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

    def sized(self, splits: Splits, start: Stored | None) -> Recipe:
        """Return the recipe of a new training with what of the network its rows decide.

        Args:
            splits: the encoded data.
            start: weights to initialize from.

        Returns:
            The resolved recipe; by default as it is.
        """
        return self.recipe

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

        from wafergpt.checkpoint.restored import require_fit

        gpt = gpt_of(network)
        prefix = "" if gpt is network else "gpt."
        whole = start if start is not None and is_of_task(start) else None
        start = start if whole is None else whole.below("gpt.")
        drawn = gpt.fresh_weights(self.recipe.seed) if start is None else start.by_rows.items()
        if start is not None:
            new = gpt.added_to(start)
            require_fit(gpt, start, new)
            yield from (
                (prefix + name, values) for name, values in gpt.added(new, self.recipe.seed)
            )
        if whole is not None and (self.before is None or type(self.before) is type(self)):
            yield from self.carried(network, whole, splits)
            return
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
            start: the weights, whose GPT fits that of the network.
            splits: the encoded data, for weights that depend on it.

        Yields:
            Names in ``network``, and tensors or readers of their rows.

        Raises:
            DamagedCheckpointError: if they are of another shape.
        """
        from wafergpt.checkpoint.restored import require_fit

        new = gpt_of(network).added_to(start.below("gpt."))
        require_fit(network, start, [f"gpt.{name}" for name in new])
        yield from start.by_rows.items()

    def drawn_head(self, network: nn.Module) -> Iterator[tuple[str, Tensor]]:
        """Yield the initial weights of a new head, a normal for each matrix.

        Args:
            network: that they are for.

        Yields:
            Names in ``network``, and tensors.
        """
        import torch

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
