"""A task's network written as an ONNX graph, and read back with onnxruntime."""

from __future__ import annotations

import copy
import importlib
import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from wafergpt.data.batches import Batch
from wafergpt.errors import InputError
from wafergpt.model.heads import NgramScores
from wafergpt.model.ngrams import KeptRows
from wafergpt.model.rounding import rounded_rows
from wafergpt.progress import working
from wafergpt.tasks.base import gpt_of
from wafergpt.tasks.graph import Graph

OnnxWeights = Literal["fp32", "int8"]

NAMES = {"tokens": "input_ids", "lengths": "attention_mask"}
"""Of inputs that other programs know by another name, or in another form."""

OPSET = 20
"""The first with GELU."""

PROTOBUF_BYTES = 2_000_000_000
"""What a file may hold: a protobuf's limit is 2 GiB. Larger weights lie in a file beside it."""

WIDE = 16
"""Columns from which on a table's rows have a scale each in int8; narrower ones are in fp16."""


class Int8Table(nn.Module):
    """An embedding in int8, each row with a scale."""

    values: Tensor
    scales: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        values, scales = rounded_rows(weight)
        self.register_buffer("values", values)
        self.register_buffer("scales", scales)

    def forward(self, rows: Tensor) -> Tensor:
        """Return ``[…, width]`` of row numbers ``[…]``."""
        return F.embedding(rows, self.values).float() * F.embedding(rows, self.scales)


class Fp16Table(nn.Module):
    """An embedding in fp16."""

    weight: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight.half())

    def forward(self, rows: Tensor) -> Tensor:
        """Return ``[…, width]`` of row numbers ``[…]``."""
        return F.embedding(rows, self.weight).float()


class SearchedRows(nn.Module):
    """``KeptRows`` by a binary search that is written out; ONNX has no operator for one."""

    rows: Tensor

    def __init__(self, kept: KeptRows) -> None:
        super().__init__()
        self.register_buffer("rows", kept.rows.clone())

    def forward(self, numbers: Tensor) -> Tensor:
        """Map rows of the whole table to rows of what is left of it, of any shape."""
        numbers, count = numbers.to(self.rows.dtype), len(self.rows)
        # How many rows are at most the number, from the highest bit on.
        places = torch.zeros_like(numbers, dtype=torch.int64)
        for bit in reversed(range(count.bit_length())):
            further = places + (1 << bit)
            reached = self.rows[further.clamp(max=count) - 1] <= numbers
            places = torch.where(reached & (further <= count), further, places)
        found = (self.rows[(places - 1).clamp(min=0)] == numbers) & (places > 0)
        return torch.where(found, places, 0)


class SummedRows(nn.Module):
    """A table whose rows are summed up, such as ``NgramScores``; ONNX has no bag of embeddings.

    The ratios are multiplied into the rows, and row 0, of no n-gram, is zeros.
    """

    def __init__(self, scores: nn.EmbeddingBag, weights: OnnxWeights) -> None:
        super().__init__()
        self.ratios = self.kept = None
        rows = scores.weight.detach().clone()
        if isinstance(scores, NgramScores):
            self.kept = None if scores.kept is None else SearchedRows(scores.kept)
            if scores.ratios is not None:
                rows *= scores.ratios[:, None]
        rows[0] = 0
        self.table = _table(rows, weights)

    def forward(self, numbers: Tensor, per_sample_weights: Tensor | None = None) -> Tensor:
        """Return the sums ``[batch, n_outputs]`` of rows ``[batch, n]``, weighted if so."""
        rows: Tensor = self.table(numbers)
        return (rows if per_sample_weights is None else rows * per_sample_weights[..., None]).sum(1)


class _Outputs(nn.Module):
    """The network with the inputs and outputs of its graph, in their order."""

    def __init__(self, network: nn.Module, graph: Graph) -> None:
        super().__init__()
        self.network, self.graph = network, graph

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        named = dict(zip(self.graph.inputs, inputs, strict=True))
        if "lengths" in named:
            named["lengths"] = named["lengths"].sum(1)
        found = self.graph.forward(self.network, Batch(named, 1.0))
        return tuple(found[name].float() for name in self.graph.outputs)


def require_packages() -> None:
    """Require what writes a graph and reads it back.

    Raises:
        InputError: if a package is missing.
    """
    try:
        with working("loading onnxruntime"):
            for name in ("onnx", "onnxruntime", "onnxscript"):
                importlib.import_module(name)
    except ImportError as error:
        raise InputError(
            f"ONNX needs the package {error.name}: pip install 'wafergpt[onnx]'"
        ) from None


def input_axes(graph: Graph) -> dict[str, tuple[str, ...]]:
    """Return the graph's inputs by their names there, and their axes."""
    return {
        NAMES.get(name, name): ("batch", "length") if name == "lengths" else axes
        for name, axes in graph.inputs.items()
    }


def input_arrays(graph: Graph, batch: Mapping[str, Tensor]) -> dict[str, NDArray[Any]]:
    """Return a batch as the inputs of a session."""
    arrays = {}
    for name in graph.inputs:
        tensor = batch[name]
        if name == "lengths":
            places = torch.arange(batch["tokens"].shape[1])
            tensor = (places < tensor[:, None]).long()
        arrays[NAMES.get(name, name)] = tensor.numpy()
    return arrays


def write(network: nn.Module, graph: Graph, path: Path, weights: OnnxWeights = "fp32") -> None:
    """Write a network as a graph; weights of more than 2 GB lie in ``PATH.data``.

    Args:
        network: of the task, in fp32 on a CPU; it is left as it is.
        graph: of the task.
        path: of the file.
        weights: ``int8`` writes tables in int8 or fp16, and the matrices too.

    Raises:
        InputError: if the context is a single token.
    """
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass

    prepared = _Outputs(_prepared(network, weights), graph).eval()
    size = sum(t.numel() * t.element_size() for t in [*prepared.parameters(), *prepared.buffers()])
    large = size > PROTOBUF_BYTES
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            prepared,
            dynamo=True,
            verbose=False,
            input_names=list(input_axes(graph)),
            output_names=list(graph.outputs),
            opset_version=OPSET,
            **_examples(graph, gpt_of(network).config.seq_len),
        )
    assert program is not None
    # They are of this machine: paths, and lines of source for each node.
    ClearMetadataAndDocStringPass()(program.model)
    if weights == "fp32":
        program.save(path, external_data=large)
        return
    # Weights in a file beside the graph have the same name before and after.
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        program.save(Path(folder) / path.name, external_data=large)
        _quantize(Path(folder) / path.name, path, large)


class Session:
    """A graph in onnxruntime on the CPU, with as many threads as torch has."""

    def __init__(self, path: Path, graph: Graph) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        # Errors only.
        options.log_severity_level = 3
        self.graph = graph
        self._session = onnxruntime.InferenceSession(
            path, options, providers=["CPUExecutionProvider"]
        )

    def __call__(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the outputs of a batch by name."""
        found = self._session.run(list(self.graph.outputs), input_arrays(self.graph, batch))
        return {
            name: torch.from_numpy(np.asarray(array))
            for name, array in zip(self.graph.outputs, found, strict=True)
        }


def _examples(graph: Graph, seq_len: int) -> dict[str, Any]:
    """Return inputs to trace with, and which of their axes may have any size."""
    axes = list(input_axes(graph).values())
    # Each its own size; a size of 1 would be taken for a constant.
    named = sorted({name for of in axes for name in of if not name.isdigit()})
    sizes = {name: 2 + n for n, name in enumerate(named)}
    sizes["length"] = min(sizes["length"], seq_len)
    if sizes["length"] < 2:
        raise InputError("a model with a context of one token has no axis of tokens")
    dims = {name: torch.export.Dim(name) for name in sizes if name != "length"}
    dims["length"] = torch.export.Dim("length", max=seq_len)
    return {
        "args": tuple(
            torch.ones([sizes.get(name) or int(name) for name in of], dtype=torch.long)
            for of in axes
        ),
        "dynamic_shapes": (
            tuple({n: dims[name] for n, name in enumerate(of) if name in dims} for of in axes),
        ),
    }


def _prepared(network: nn.Module, weights: OnnxWeights) -> nn.Module:
    """Return the network with modules that ONNX has, sharing the weights that stay."""
    shared = {id(tensor): tensor for tensor in [*network.parameters(), *network.buffers()]}
    network = copy.deepcopy(network, shared)
    for parent in list(network.modules()):
        for name, module in list(parent.named_children()):
            if isinstance(module, nn.EmbeddingBag):
                setattr(parent, name, SummedRows(module, weights))
            elif isinstance(module, KeptRows):
                parent.add_module(name, SearchedRows(module))
    gpt = gpt_of(network)
    if weights == "int8":
        if gpt is network and gpt.lm_head is None:
            vocab_size, d_model = gpt.head.shape
            gpt.lm_head = nn.Linear(d_model, vocab_size, bias=False, device="meta")
            gpt.lm_head.weight = gpt.embedding.weight
        for name, module in list(gpt.named_modules()):
            if isinstance(module, nn.Embedding) and name != "position":
                gpt.set_submodule(name, _table(module.weight.detach(), weights))
    return network


def _table(rows: Tensor, weights: OnnxWeights) -> nn.Module:
    if weights == "fp32":
        table: nn.Module = nn.Embedding.from_pretrained(rows)
        return table
    return Int8Table(rows) if rows.shape[1] >= WIDE else Fp16Table(rows)


def _quantize(whole: Path, path: Path, large: bool) -> None:
    """Have matrices multiplied in int8, each output channel with a scale."""
    from onnxruntime import quantization

    with _quiet():
        quantization.quantize_dynamic(
            whole,
            path,
            op_types_to_quantize=["MatMul"],
            per_channel=True,
            # Processors without 8-bit dot products add pairs in 16 bits, which 8 bits overflow.
            reduce_range=True,
            weight_type=quantization.QuantType.QInt8,
            use_external_data_format=large,
            extra_options={"MatMulConstBOnly": True},
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress what the exporter says of itself to its own developers."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            for category in (FutureWarning, DeprecationWarning, UserWarning):
                warnings.simplefilter("ignore", category)
            yield
    finally:
        logging.disable(before)
