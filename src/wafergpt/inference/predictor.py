"""A fine-tuned run, ready to predict."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, overload

import torch
from torch import nn

from wafergpt.checkpoint import store
from wafergpt.checkpoint.restored import restored
from wafergpt.config import Recipe
from wafergpt.data.cells import described
from wafergpt.data.given_rows import is_table, rows_of_table
from wafergpt.data.text_columns import names_of
from wafergpt.data.tokenizer import Tokenizer
from wafergpt.engines.outputs import evaluate
from wafergpt.errors import InputError, require_numbers
from wafergpt.files import from_home
from wafergpt.inference.devices import inference_device, on_device
from wafergpt.progress import progress
from wafergpt.runs.run import RUNS, AnyRun, Run
from wafergpt.tasks.base import InputFormat, Task, task_of
from wafergpt.tasks.classify import Classify
from wafergpt.tasks.classify_fit import threshold_of
from wafergpt.tasks.text_task import TextTask


@dataclass(frozen=True)
class Predictor:
    """A task's network with the best checkpoint's weights.

    Attributes:
        run: that it was loaded from.
        task: that it was fine-tuned for.
        network: on ``device``.
        tokenizer: of the run.
        device: of the network.
    """

    run: Run
    task: Task
    network: nn.Module
    tokenizer: Tokenizer
    device: torch.device

    @classmethod
    def load(cls, run: AnyRun, device: str = "auto", root: str | Path = RUNS) -> Predictor:
        """Open a fine-tuned run.

        Args:
            run: fine-tuned for a task.
            device: ``auto`` is the recipe's, if available, else the best one.
            root: the folder that holds runs.

        Returns:
            The predictor.

        Raises:
            InputError: if the run is a language model, or the device is not available.
        """
        run = Run.find(run, from_home(root))
        recipe = run.recipe
        if recipe.task is None:
            raise InputError(f"{run.path} is a language model: wafergpt finetune gives it a task")
        place = torch.device(inference_device(recipe, device))
        task = task_of(on_device(recipe, place.type))
        network = restored(task.network, store.weights(run)).to(place)
        tokenizer = Tokenizer.load(run.tokenizer)
        tokenizer = tokenizer.require_at_most(recipe.model.vocab_size, run.path)
        return cls(run, task, network, tokenizer, place)

    @property
    def recipe(self) -> Recipe:
        """The run's resolved recipe, in fp32 where the device is slow in bf16."""
        return self.task.recipe

    def with_coverage(self, coverage: float) -> Predictor:
        """Give no answer to what is less certain than all but a share of the validation rows.

        Args:
            coverage: the share of them that is answered, above 0; 1 answers all.

        Returns:
            A predictor with that threshold.

        Raises:
            InputError: if it is no share, the task does not abstain, or the run kept no outputs.
        """
        require_numbers(coverage=coverage)
        if not 0 < coverage <= 1:
            raise InputError(f"a coverage of {coverage:.4g} is not above 0 and at most 1")
        if not isinstance(self.task, Classify) or not self.task.one_label:
            raise InputError("a coverage is for task.name=classify with one label to a text")
        found = self.run.outputs_of("validation")
        if "probabilities" not in found:
            raise InputError(
                f"{self.run.path} kept no outputs for validation rows to choose a threshold by"
            )
        below = threshold_of(found, coverage)
        recipe = self.recipe.replace(task={"abstain_below": below})
        return replace(self, task=task_of(recipe))

    @overload
    def predict(self, inputs: str) -> dict[str, Any] | None: ...

    @overload
    def predict(self, inputs: Iterable[Any]) -> list[dict[str, Any] | None]: ...

    def predict(
        self, inputs: str | Iterable[Any]
    ) -> dict[str, Any] | list[dict[str, Any] | None] | None:
        """Predict one text or several.

        Args:
            inputs: a string, or a list, array, column or iterator of inputs; or a data frame with
                the columns that the task reads.

        Returns:
            The task's answer (see ``Task.decode``) for a string, else a list of one per input;
            None where there is no text (blank, None, NaN).

        Raises:
            InputError: if an input is not one of the task; its index is named.
        """
        if isinstance(inputs, str):
            return self.predict([inputs])[0]
        given = self._given(inputs)
        there = len(given) - given.count(None)
        if not there:
            return [None] * len(given)
        with progress("predicting", there, "texts") as bar:
            return self.answers(given, lambda n: bar.advance(n * there / len(given)))

    def _given(self, inputs: Iterable[Any]) -> list[Any]:
        if is_table(inputs):
            inputs = rows_of_table(inputs)
            names = names_of(self.task.columns_named(None))
            if inputs and len(names) == 1 and names[0] in inputs[0]:
                inputs = [row[names[0]] for row in inputs]
            elif inputs and isinstance(self.task, TextTask) and names[0] not in inputs[0]:
                there = ", ".join(map(str, inputs[0]))
                raise InputError(f"the table has no column '{names[0]}' (it has {there})")
        # These iterate over keys or bytes, not over texts.
        if isinstance(inputs, Mapping | bytes):
            raise InputError(
                f"predict() takes texts, not {type(inputs).__name__}: give it a string, or a list "
                "or a column of strings"
            )
        try:
            values = list(inputs)
        except TypeError:
            raise InputError(
                f"predict() takes a string or several, not {described(inputs)}"
            ) from None
        given = []
        for place, value in enumerate(values):
            try:
                given.append(self.task.require_input(value))
            except InputError as error:
                raise InputError(f"texts[{place}] {error}") from None
        return given

    def answers(
        self, given: Sequence[Any], advance: Callable[[float], None] = lambda n: None
    ) -> list[dict[str, Any] | None]:
        """Answer inputs that are checked, without showing progress.

        Args:
            given: as ``Task.require_input`` returned them.
            advance: called with the number of inputs done since the last call.

        Returns:
            The task's answer to each, None to None.
        """
        places = [place for place, value in enumerate(given) if value is not None]
        answers: list[dict[str, Any] | None] = [None] * len(given)
        if not places:
            advance(len(given))
            return answers
        inputs = [given[place] for place in places]
        encoded = self.task.encode(inputs, self.tokenizer)
        # A sample may be a part of an input.
        share = len(given) / encoded.batches.samples_per_epoch
        outputs = evaluate(
            self.task, self.network, encoded, self.recipe, self.device,
            lambda n: advance(n * share),
        )  # fmt: skip
        for place, answer in zip(places, self.task.decode(outputs, inputs), strict=True):
            answers[place] = answer
        return answers

    def predict_file(
        self,
        source: str | Path,
        out: str | Path,
        column: str | None = None,
        file_format: InputFormat | None = None,
        prefix: str = "predicted",
    ) -> dict[str, Any]:
        """Predict the rows of a file of any size, and write them with all of their columns.

        It takes the same memory for any number of rows; a list to rank is read at once. Called
        again after an interruption, it goes on, and the file has the same bytes.

        Args:
            source: the file of inputs.
            out: the file to write: .csv, .tsv or .jsonl.
            column: of the inputs; the recipe's if omitted.
            file_format: of ``source``; detected if omitted.
            prefix: of the names of the new columns, as in ``predicted_label``.

        Returns:
            ``out``, its ``rows``, how many are ``blank`` and have no answer, how many were there
            ``before`` this call, and its ``seconds``.

        Raises:
            InputError: if the input cannot be read, has a new column's name, or ``out`` exists or
                was begun with something else.
            Interrupted: on Ctrl-C; what is written by then is kept.
        """
        from wafergpt.inference.prediction_file import PredictionFile

        places = (from_home(source), from_home(out))
        return PredictionFile(self, *places, column, file_format, prefix).write()
