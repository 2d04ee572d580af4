"""Prediction of a classifier by onnxruntime, in fp32 and int8, beside its own run in torch.

The rows are the run's validation rows, in batches of 16 and one at a time. Contenders take turns,
and ratios are of one round. Tokens are there already; the time is of the network alone.

    python -m benchmarks.exports RUN
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from wafergpt.data.batches import Batch
from wafergpt.data.tokenizer import Tokenizer
from wafergpt.devices.detect import processor_name
from wafergpt.inference.predictor import Predictor
from wafergpt.interop import onnx_graph
from wafergpt.interop.onnx_export import MODEL, write_folder
from wafergpt.runs.run import Run


def contenders(run: Run, folder: Path) -> dict[str, Callable[[Batch], Any]]:
    """Return how each computes the scores of a batch."""
    predictor = Predictor.load(run, "cpu")
    graph, network = predictor.task.graph(), predictor.network.eval()

    def in_bf16(batch: Batch) -> Any:
        with torch.autocast("cpu", torch.bfloat16):
            return graph.forward(network, batch)

    found: dict[str, Callable[[Batch], Any]] = {
        "torch, fp32": lambda batch: graph.forward(network, batch),
        "torch, bf16": in_bf16,
    }
    kinds: tuple[onnx_graph.OnnxWeights, ...] = ("fp32", "int8")
    for weights in kinds:
        write_folder(run, folder / weights, weights)
        found[f"onnxruntime, {weights}"] = onnx_graph.Session(folder / weights / MODEL, graph)
    return found


def main() -> None:
    """Print the tables in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run")
    parser.add_argument("--rounds", type=int, default=7)
    asked = parser.parse_args()
    torch.set_grad_enabled(False)
    run = Run.find(asked.run)
    predictor = Predictor.load(run, "cpu")
    data = predictor.task.validation(Tokenizer.load(run.tokenizer)).batches
    # Rows are sorted by length: a spread of them, each with its neighbours.
    starts = [n * (data.samples_per_epoch - 16) // 9 for n in range(10)]
    print(f"{processor_name()}, {torch.get_num_threads()} threads, torch {torch.__version__}\n")
    print("| rows at a time | contender | rows/s | × torch, fp32 (min–max) |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        works = contenders(run, Path(folder))
    for size in (16, 1):
        batches = [data.batch(first, size) for first in starts]
        rates: dict[str, list[float]] = {key: [] for key in works}
        for round_ in range(asked.rounds + 1):
            for key, work in works.items():
                start = time.perf_counter()
                for batch in batches:
                    work(batch)
                rate = size * len(batches) / (time.perf_counter() - start)
                rates[key] += [rate] if round_ else []
        for key, own in rates.items():
            ratios = [a / b for a, b in zip(own, rates["torch, fp32"], strict=True)]
            print(f"| {size} | {key} | {statistics.median(own):.0f} | "
                  f"{statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f}) |",
                  flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
