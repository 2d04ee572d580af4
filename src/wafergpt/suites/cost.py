"""What an answer costs: time, memory, energy and size, beside how good it is."""

from __future__ import annotations

import math
import os
import statistics
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch

from wafergpt.checkpoint import store
from wafergpt.checkpoint.format import WEIGHTS
from wafergpt.decoding.generator import Sampling
from wafergpt.devices.peak_memory import peak_memory, reset_peak_memory
from wafergpt.inference.predictor import Predictor
from wafergpt.inference.writer import Writer
from wafergpt.progress import working
from wafergpt.runs.run import Run
from wafergpt.suites import rows as own

SINGLE, TOGETHER = 25, 256
"""Texts that are answered one by one, and at once."""

TOKENS = 64
"""That a language model writes, three times."""

WATTS_PER_CORE = 7.0
"""Of a busy core, memory included, where no counter can be read: an assumption (a server of 36
cores at 250 W)."""

COUNTERS = Path("/sys/class/powercap")
"""Linux' counters of the energy that processors have used, in microjoules."""


def cost(predictor: Predictor, against: Sequence[Run] = ()) -> dict[str, Any]:
    """Measure what answers to the run's own rows cost, beside other runs.

    Args:
        predictor: of the run.
        against: other runs of the same task: smaller, pruned, or larger ones.

    Returns:
        ``models``, by name: ``value`` of the ``metric`` on the same rows, ``seconds_one``, the
        median of a single text, ``texts_per_second`` of many, ``memory_bytes``, the peak of the
        process or of the GPU (the run itself is always in it), ``weights_bytes`` in memory,
        ``parameters``, and ``joules_per_text`` with its ``energy_source``.

    Raises:
        InputError: if the run's rows are gone, or a run has another task.
    """
    where, rows = own.own_rows(predictor)
    for run in against:
        own.require_same_answers(predictor.run, run)
    found = {}
    some = own.some(rows, TOGETHER, 0)
    for place, (name, run) in enumerate(own.told_apart([predictor.run, *against])):
        # One at a time beside the run itself, for the memory that each takes.
        one = Predictor.load(run, predictor.device.type) if place else predictor
        judged = (
            own.judge_own(one, where, rows) if one is predictor
            else own.judge(one, rows, f"evaluating {name}")
        )  # fmt: skip
        metric, _ = own.metric_of(predictor, judged)
        with working(f"timing {name}"):
            found[name] = {
                "metric": metric,
                "value": judged.metrics.get(metric),
                "interval": judged.intervals.get(metric),
                **_of_inputs(one, one.task.inputs_of_rows(some)[:TOGETHER]),
                **_size(one.network, one.run),
            }
    return {"of": where, "rows": len(rows.texts), **_machine(predictor.device), "models": found}


def cost_of_text(run: Run, device: str = "auto") -> dict[str, Any]:
    """Measure what the text that a language model writes costs.

    Args:
        run: a language model.
        device: to compute on.

    Returns:
        ``seconds_per_token``, ``tokens_per_second``, ``memory_bytes``, ``weights_bytes``,
        ``parameters``, ``joules_per_token`` and ``energy_source``.
    """
    writer = Writer.load(run, device)
    place = next(writer.gpt.parameters()).device
    sampling = Sampling(max_tokens=TOKENS, temperature=0.0)
    reset_peak_memory()
    with working(f"timing {run.name}"):
        writer.write("The", sampling)
        written, energy = list[int](), _Energy(place)
        started = time.perf_counter()
        for _ in range(3):
            stream = writer.stream("The", sampling)
            deque(stream, maxlen=0)
            written.append(len(stream.drawn))
        seconds = time.perf_counter() - started
    tokens = max(1, sum(written))
    return {
        "seconds_per_token": seconds / tokens,
        "tokens_per_second": tokens / seconds,
        "joules_per_token": energy.joules(seconds) / tokens,
        "energy_source": energy.source,
        "memory_bytes": peak_memory(place),
        **_size(writer.gpt, run),
        **_machine(place),
    }


def _of_inputs(predictor: Predictor, inputs: Sequence[Any]) -> dict[str, Any]:
    reset_peak_memory()
    predictor.answers(inputs[:1])
    places = [n % len(inputs) for n in range(SINGLE)]
    single = [_seconds(partial(predictor.answers, [inputs[place]])) for place in places]
    energy = _Energy(predictor.device)
    seconds = _seconds(lambda: predictor.answers(inputs))
    return {
        "seconds_one": statistics.median(single),
        "texts_per_second": len(inputs) / seconds,
        "joules_per_text": energy.joules(seconds) / len(inputs),
        "energy_source": energy.source,
        "memory_bytes": peak_memory(predictor.device),
    }


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _size(network: torch.nn.Module, run: Run) -> dict[str, Any]:
    """Return the number of parameters, and what they take in memory and as a file."""
    parameters = list(network.parameters())
    files = store.folder_of(run).glob(f"{WEIGHTS}*.safetensors")
    return {
        "parameters": sum(values.numel() for values in parameters),
        "weights_bytes": sum(values.numel() * values.element_size() for values in parameters),
        "file_bytes": sum(file.stat().st_size for file in files),
    }


def _machine(device: torch.device) -> dict[str, Any]:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return {"device": name, "threads": torch.get_num_threads()}


class _Energy:
    """The energy that is used from now on.

    Attributes:
        source: how it is known.
    """

    def __init__(self, device: torch.device) -> None:
        self._device, self._before = device, _counted()
        self._watts = WATTS_PER_CORE * min(torch.get_num_threads(), os.cpu_count() or 1)
        self.source = f"assumed: {WATTS_PER_CORE:g} W for each busy core"
        if device.type == "cuda":
            self.source = "the GPU's power as its driver reports it"
            if math.isnan(_gpu_watts(device)):
                self.source = "unknown: the GPU's driver does not report its power"
        elif self._before is not None:
            self.source = "the processor's counter (RAPL), all that runs on it included"

    def joules(self, seconds: float) -> float:
        """Return the energy of the last seconds; NaN if nothing is known of the device."""
        if self._device.type == "cuda":
            return _gpu_watts(self._device) * seconds
        after = _counted()
        if self._before is not None and after is not None:
            return max(0.0, after - self._before)
        return self._watts * seconds


def _gpu_watts(device: torch.device) -> float:
    """Return the mean power of a GPU just before; NaN without NVIDIA's library of its driver."""
    with suppress(ModuleNotFoundError, RuntimeError):
        return torch.cuda.power_draw(device) / 1000
    return math.nan


def _counted() -> float | None:
    """Return the joules that all processors have counted; None where that cannot be read."""
    try:
        found = [int((one / "energy_uj").read_text()) for one in COUNTERS.glob("intel-rapl:?")]
    except (OSError, ValueError):
        return None
    return sum(found) / 1e6 if found else None
