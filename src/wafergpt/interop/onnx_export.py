"""A folder with a run's network in ONNX, and all that is needed to run it."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wafergpt import atomic_files
from wafergpt.checkpoint import store
from wafergpt.checkpoint.restored import restored
from wafergpt.data.batches import Batch, parts
from wafergpt.data.tokenizer import Tokenizer
from wafergpt.data.tokenizer_files import DEFINITION, save_spelling
from wafergpt.errors import InputError, RunFailed
from wafergpt.interop import onnx_graph, onnx_readme
from wafergpt.interop.logit_check import CHECK_TOKENS, TOLERANCE
from wafergpt.interop.onnx_graph import OnnxWeights, Session
from wafergpt.progress import progress, working
from wafergpt.runs.run import Run
from wafergpt.tasks.base import EvaluationSet, Task, joined, task_of
from wafergpt.tasks.graph import Graph

MODEL, SETTINGS = "model.onnx", "settings.json"

ROWS = 4
"""Rows of a batch that an export is compared on."""

PLACES = 4
"""Such batches, spread over the validation data, whose rows may be sorted by length."""

LOGITS = 1 << 26
"""Numbers of the outputs of such a batch at most."""

MEASURED = 16
"""Rows of a batch that int8 is measured on."""

TEXTS = (
    "A warm and funny film.",
    "",
    "It's 7 o'clock: naïve «façades», <|endoftext|> 你好!\n\n\tIndented  text.  ",
    "e\u0301 👩‍👩‍👧 \u202eright to left\u202c ÅNGSTRÖM ﬁ",
    "word " * 5000,
)
"""Texts that an export is compared on where the run's data is not there."""

Outputs = Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]
"""Maps a batch to a graph's outputs."""


@dataclass(frozen=True)
class Written:
    """A folder that was written.

    Attributes:
        difference: max |difference| / max |output| of the fp32 graph.
        by: the program that read it.
        compared_on: the texts that outputs were compared on.
        measured: of int8 weights: sizes, seconds and metrics before and after.
    """

    difference: float
    by: str
    compared_on: str
    measured: dict[str, Any]


@dataclass(frozen=True)
class _Opened:
    """A run's network with its graph and, if it is still there, its validation data."""

    run: Run
    task: Task
    graph: Graph
    tokenizer: Tokenizer
    network: torch.nn.Module
    validation: EvaluationSet | None

    @classmethod
    def of(cls, run: Run) -> _Opened:
        task = task_of(run.recipe)
        try:
            graph = task.graph()
        except NotImplementedError:
            name = "" if run.recipe.task is None else run.recipe.task.name
            raise InputError(f"{run.path}: task.name={name} has no form in ONNX") from None
        if not run.tokenizer.is_file():
            raise InputError(f"{run.path} has no tokenizer, which the folder would contain")
        tokenizer = Tokenizer.load(run.tokenizer)
        network = restored(task.network, store.weights(run)).eval()
        try:
            with working("reading the validation data"):
                validation = task.validation(tokenizer)
        except InputError:
            validation = None
        return cls(run, task, graph, tokenizer, network, validation)

    @torch.no_grad()
    def outputs(self, batch: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return the outputs of the run's own network in fp32."""
        return self.graph.forward(self.network, Batch(batch, 1.0))

    def batches(self) -> Iterator[Batch]:
        """Yield batches to compare an export on."""
        if self.validation is not None:
            batches, count = self.validation.batches, self.validation.batches.samples_per_epoch
            rows = min(ROWS, count)
            for place in range(PLACES):
                yield batches.batch(place * (count - rows) // (PLACES - 1), rows)
        elif self.run.recipe.task is None:
            model, generator = self.run.recipe.model, torch.Generator().manual_seed(0)
            shape = (ROWS, model.seq_len)
            yield Batch({"tokens": torch.randint(model.vocab_size, shape, generator=generator)}, 1)
        else:
            several = len(self.graph.settings.get("columns", ()))
            texts: list[Any] = [[text] * several if several else text for text in TEXTS]
            given = self.task.inputs_of(texts)
            yield self.task.encode(given, self.tokenizer).batches.batch(0, len(given))


def write_folder(run: Run, out: Path, weights: OnnxWeights = "fp32") -> Written:
    """Write a run as a folder for onnxruntime, which appears after its outputs were compared.

    Args:
        run: a language model or a task's.
        out: the folder.
        weights: ``int8`` multiplies in int8, and is measured on the validation data.

    Raises:
        InputError: if the task has no such form, or a package is missing.
        RunFailed: if the outputs of the export in fp32, or the tokens, differ.
    """
    onnx_graph.require_packages()
    import onnxruntime

    opened = _Opened.of(run)
    graph = opened.graph
    with atomic_files.appearing(out) as folder:
        whole = folder / "fp32" if weights == "int8" else folder
        whole.mkdir(exist_ok=True)
        with working("writing the graph"):
            onnx_graph.write(opened.network, graph, whole / MODEL)
        exact = Session(whole / MODEL, graph)
        with working("comparing the outputs"):
            difference = max(_difference(opened.outputs, exact, b) for b in opened.batches())
        # A NaN is reported as infinity.
        if difference > TOLERANCE:
            raise RunFailed(
                f"{out} was not written: onnxruntime computes other outputs than the run "
                f"(relative difference {difference:.2g}, allowed {TOLERANCE:g})"
            )
        _write_tokenizer(opened.tokenizer, folder / DEFINITION, out)
        told = onnx_readme.settings(run, graph, weights, opened.tokenizer.end_of_text)
        atomic_files.write_json(folder / SETTINGS, told)
        onnx_readme.write_beside(folder, run, graph, weights)
        measured = {}
        if weights == "int8":
            with working("writing the graph in int8"):
                onnx_graph.write(opened.network, graph, folder / MODEL, weights)
            measured = _measured(opened, exact, Session(folder / MODEL, graph))
            measured |= {"bytes_before": _bytes(whole), "bytes_after": _bytes(folder)}
            del exact
            shutil.rmtree(whole)
    on = "random tokens" if run.recipe.task is None else "made-up texts"
    on = "validation data" if opened.validation is not None else on
    return Written(difference, f"onnxruntime {onnxruntime.__version__}", on, measured)


def _difference(network: Outputs, other: Outputs, batch: Batch) -> float:
    """Return max |other − network| / max |network| of a batch and of each of its rows alone.

    A row alone has no padding. Of a language model, whose rows have none, it is cut: what follows a
    token changes nothing.
    """
    tokens = batch["tokens"][:, :CHECK_TOKENS] if "lengths" not in batch else batch["tokens"]
    batch = Batch({**batch, "tokens": tokens}, batch.weight)
    rows, length = tokens.shape
    lengths = batch["lengths"] if "lengths" in batch else length - torch.arange(rows) * length // 5
    expected = network(batch)
    largest = _relative(expected, expected, other(batch))
    for row in range(rows):
        alone = {name: tensor[row : row + 1] for name, tensor in batch.items()}
        alone["tokens"] = alone["tokens"][:, : int(lengths[row])]
        found = other(alone)
        own = {
            name: tensor[row : row + 1, : found[name].shape[1]]
            if found[name].ndim > 1
            else tensor[row : row + 1]
            for name, tensor in expected.items()
        }
        largest = max(largest, _relative(expected, own, found))
    return largest


def _relative(
    whole: Mapping[str, Tensor], expected: Mapping[str, Tensor], found: Mapping[str, Tensor]
) -> float:
    largest = 0.0
    for name, values in expected.items():
        if values.shape != found[name].shape:
            return float("inf")
        scale = whole[name].abs().max().clamp(min=1e-30)
        value = float((found[name] - values).abs().max() / scale)
        largest = max(largest, value if value == value else float("inf"))
    return largest


def _write_tokenizer(tokenizer: Tokenizer, path: Path, out: Path) -> None:
    """Write the tokenizer, and require the same tokens when it is read without this package."""
    from tokenizers import Tokenizer as Backend

    atomic_files.write_text(path, tokenizer.encoder_definition())
    if tokenizer.spelling is not None:
        save_spelling(path, tokenizer.spelling)
    alone = Backend.from_file(str(path))
    alone.encode_special_tokens = True
    for text in TEXTS:
        if alone.encode(text, add_special_tokens=False).ids != tokenizer.encode(text):
            raise RunFailed(f"{out} was not written: its tokenizer reads {text!r} as other tokens")


def _measured(opened: _Opened, exact: Session, fast: Session) -> dict[str, Any]:
    """Return the metrics and the time of both graphs on the validation data, side by side."""
    of_batches = max(_difference(exact, fast, batch) for batch in opened.batches())
    found: dict[str, Any] = {"max_relative_difference_int8": of_batches}
    data, task = opened.validation, opened.task
    if data is None:
        return found
    count = task.evaluation_samples(data.batches)
    sessions = {"before": exact, "after": fast}
    outputs: dict[str, list[Any]] = {name: [] for name in sessions}
    seconds = dict.fromkeys(sessions, 0.0)
    with progress("measuring int8", count, "rows") as bar:
        for first, n in parts(0, count, _rows_at_once(opened)):
            batch = data.batches.batch(first, n)
            for name, session in sessions.items():
                if not first:
                    # The first call of a session is slow.
                    session(batch)
                start = time.perf_counter()
                given = session(batch)
                seconds[name] += time.perf_counter() - start
                answers = opened.graph.evaluated(given, batch)
                outputs[name].append({key: value.numpy() for key, value in answers.items()})
            bar.advance(n)
    rows = None if data.rows is None else data.rows[:count]
    for name, parts_ in outputs.items():
        metrics = task.compute_metrics(joined(parts_, rows), data.references)
        found[f"metrics_{name}"] = {key: metrics[key] for key in task.metrics if key in metrics}
        found[f"seconds_{name}"] = seconds[name]
    return {**found, "rows": count}


def _rows_at_once(opened: _Opened) -> int:
    """Return the rows of a measured batch: a language model's logits are large."""
    model = opened.run.recipe.model
    width = model.vocab_size * model.seq_len if opened.run.recipe.vocabulary_head else 1
    return max(1, min(MEASURED, LOGITS // width))


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob(f"{MODEL}*"))
