"""Measure once, in a few seconds, how fast this machine multiplies, trains and copies."""

from __future__ import annotations

import hashlib
import json
import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from tempfile import gettempdir
from typing import Any

from wafergpt import atomic_files, files
from wafergpt.devices import detect
from wafergpt.devices.allocator import keep_freed_memory
from wafergpt.logs import say
from wafergpt.planning.hardware import Machine as Machine
from wafergpt.progress import working

VERSION = 3
"""Version of the measurements; old records are measured again."""

WIDTHS = (128, 256, 512, 1024)
"""Values of d_model at which training is measured."""

SEQ_LEN = 256

BUSY_PERCENT = 25.0
"""Percent of all cores in use by others; above it a measurement is only used while they are."""

BUSY_SECONDS = 600
"""How long at most a measurement beside other programs is used."""

PATIENCE = 4
"""Widths are skipped if a slow machine has taken this many times the requested seconds."""


def probe(device: str = "auto", seconds: float = 2.5, fresh: bool = False) -> Machine:
    """Return the measurements of this machine, measuring it if there is no record.

    The record is in the user's cache folder, one for each device, CPU, number of cores and
    version of torch. Reading it does not import torch on a CPU. One that was made beside other
    programs counts while the machine is busy, and for ten minutes at most.

    Args:
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        seconds: the approximate time to measure.
        fresh: measure again.

    Raises:
        InputError: if the device is not available.
    """
    device = detect.resolve_device(device)
    path = _record(device)
    machine = None if fresh else _read(path)
    if machine is None:
        busy = 100.0 if device == "cuda" else BUSY_PERCENT
        with working(f"measuring this machine ({device}), once"):
            others = busy_percent()
            machine = measure(device, seconds, free_threads(others))
            # Another program may have started in between.
            others = max(others, busy_percent())
        record = {"version": VERSION, **asdict(machine)}
        if others > busy:
            is_worse = _read(path, beside_others=False) is not None
            kept = "not kept" if is_worse else "only kept while they do"
            say(f"other programs use {others:.0f}% of the cores: this is {kept}")
            if is_worse:
                return machine
            record["beside_others"] = time.time()
        try:
            atomic_files.write_json(path, record)
        except OSError as error:
            say(f"the measurement could not be saved: {error}")
    return replace(
        machine,
        memory_bytes=detect.memory_total(device),
        memory_available=detect.memory_available(device),
        compiler=detect.compiler_available(device),
    )


def busy_percent(seconds: float = 0.3) -> float:
    """Return the share of all cores in use in the next seconds, in percent."""
    import psutil

    return float(psutil.cpu_percent(interval=seconds))


def free_threads(others: float) -> int:
    """Return how many threads have a free core, if others use a given percentage of all cores.

    One thread too many waits for a core at each barrier, and all others wait for it.
    """
    cores = detect.cores()
    return cores if others <= BUSY_PERCENT else max(1, int(cores * (1 - others / 100) + 0.5))


def cache_folder() -> Path:
    """Return the folder of this user's cached measurements."""
    try:
        home = Path.home()
    except RuntimeError:
        # A container's user may have neither HOME nor a name.
        home = Path(gettempdir()) / f"wafergpt-{os.getuid()}"
    if os.environ.get("XDG_CACHE_HOME"):
        root = Path(os.environ["XDG_CACHE_HOME"])
    elif sys.platform == "darwin":
        root = home / "Library" / "Caches"
    elif sys.platform == "win32":
        root = Path(os.environ.get("LOCALAPPDATA") or home)
    else:
        root = home / ".cache"
    return root / "wafergpt"


def _record(device: str) -> Path:
    facts: list[object] = [device, detect.processor_name(), detect.cores(), detect.torch_version()]
    if device == "cuda":
        facts += [_device_name(device), os.environ.get("CUDA_VISIBLE_DEVICES")]
    key = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:12]
    return cache_folder() / f"machine-{device}-{key}.json"


def _read(path: Path, beside_others: bool = True) -> Machine | None:
    """Return a record; None if it is missing, of an older version, damaged, or out of date.

    One that was made beside other programs is out of date without them, or if not asked for.
    """
    try:
        values = files.read_json(path)
        if values.pop("version") != VERSION:
            return None
        measured = values.pop("beside_others", None)
        if measured is not None:
            is_recent = beside_others and 0 <= time.time() - measured < BUSY_SECONDS
            if not is_recent or busy_percent(0.1) <= BUSY_PERCENT:
                return None
        machine = Machine.from_json(values)
        training = machine.training_flops
        numbers = [n for by_width in training.values() for pair in by_width.items() for n in pair]
        numbers += [machine.bandwidth, machine.softmax_rate, machine.matmul_flops_fp32]
        usable = training["fp32"] and min(numbers) > 0 and machine.matmul_flops_bf16 >= 0
        usable = usable and all(map(math.isfinite, (*numbers, machine.matmul_flops_bf16)))
    except (OSError, ValueError, TypeError, KeyError, AttributeError, OverflowError):
        return None
    return machine if usable else None


def _device_name(device: str) -> str:
    if device != "cuda":
        return detect.processor_name()
    import torch

    return str(torch.cuda.get_device_name())


def measure(device: str, seconds: float = 2.5, threads: int = 0) -> Machine:
    """Measure the device in about ``seconds``, with ``threads`` threads, or all cores if 0."""
    import torch

    before = torch.get_num_threads()
    # The measurement must not change the caller's random numbers.
    random_state = torch.get_rng_state()
    keep_freed_memory()
    try:
        return _measure(device, seconds, threads or detect.cores())
    finally:
        torch.set_num_threads(before)
        torch.set_rng_state(random_state)


def _measure(device: str, seconds: float, threads: int) -> Machine:
    import torch

    slot = seconds / (2 * len(WIDTHS) + 4)
    deadline = time.perf_counter() + PATIENCE * seconds
    # One thread is enough to detect it, whatever else runs on the machine.
    torch.set_num_threads(1)
    precisions = ["fp32", "bf16"] if _has_bf16(device, slot) else ["fp32"]
    torch.set_num_threads(threads)
    matmul = {name: _matmul(device, name, slot) for name in precisions}
    training = _training(device, precisions, slot, deadline)
    return Machine(
        device=device,
        name=_device_name(device),
        cores=detect.cores(),
        memory_bytes=detect.memory_total(device),
        memory_available=detect.memory_available(device),
        torch=detect.torch_version() or "",
        compiler=detect.compiler_available(device),
        matmul_flops_fp32=matmul["fp32"],
        matmul_flops_bf16=matmul.get("bf16", 0.0),
        training_flops=training,
        bandwidth=_bandwidth(device, slot),
        softmax_rate=_softmax(device, slot),
    )


def _has_bf16(device: str, slot: float) -> bool:
    """Return whether the hardware multiplies in bf16; emulated, large products take minutes."""
    if device == "cuda" or not detect.multiplies_bf16(device):
        return detect.multiplies_bf16(device)
    small = {name: _matmul(device, name, slot / 4, size=512) for name in ("fp32", "bf16")}
    return small["bf16"] > small["fp32"] / 2


def _training(
    device: str, precisions: Sequence[str], slot: float, deadline: float
) -> dict[str, dict[int, float]]:
    rates: dict[str, dict[int, float]] = {name: {} for name in precisions}
    for width in WIDTHS:
        for precision, rate in _block(device, precisions, width, slot).items():
            rates[precision][width] = rate
        if time.perf_counter() > deadline:
            break
    return rates


def _block(device: str, precisions: Sequence[str], width: int, slot: float) -> dict[str, float]:
    """Return FLOP/s of one block's forward and backward pass in each precision.

    They take turns, so that other programs slow down both.
    """
    import torch

    from wafergpt.config import Model
    from wafergpt.model.gpt import Block

    # Wide blocks are measured on fewer tokens, to take about as long as narrow ones.
    tokens = 16384 if device == "cuda" else max(512, min(2048, 2048 * 256 // width))
    heads = max(1, width // 64)
    model = Model(n_layers=1, d_model=width, n_heads=heads, seq_len=SEQ_LEN, vocab_size=1)
    block = Block(model).to(device)
    x = torch.randn(tokens // SEQ_LEN, SEQ_LEN, width, device=device, requires_grad=True)
    upstream = torch.randn_like(x)

    def step(precision: str) -> None:
        for parameter in (x, *block.parameters()):
            parameter.grad = None
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
            y = block(x)
        y.backward(upstream)

    flops = tokens * (6 * 12 * width * width + 12 * SEQ_LEN * width)
    works = [partial(step, precision) for precision in precisions]
    times = _times_in_turn(works, device, slot * len(works))
    return {name: flops / min(t) for name, t in zip(precisions, times, strict=True)}


def _matmul(device: str, precision: str, slot: float, size: int = 0) -> float:
    """Return the best FLOP/s of one large product."""
    import torch

    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    size = size or (8192 if device == "cuda" else 2048)
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    return 2 * size**3 / min(_times(lambda: a @ b, device, slot))


def _bandwidth(device: str, slot: float) -> float:
    """Return bytes/s read and written by a copy too large for any cache."""
    import torch

    source = torch.zeros(32 << 20, device=device)
    target = torch.empty_like(source)
    moved = 2 * source.numel() * source.element_size()
    return moved / statistics.median(_times(lambda: target.copy_(source), device, slot))


def _softmax(device: str, slot: float) -> float:
    """Return logits/s of a cross-entropy, forward and backward."""
    import torch
    from torch.nn import functional as F

    rows, vocab_size = 1024, 8192
    logits = torch.randn(rows, vocab_size, device=device, requires_grad=True)
    targets = torch.randint(vocab_size, (rows,), device=device)

    def step() -> None:
        logits.grad = None
        # Logits are in bf16, the loss in fp32.
        loss = F.cross_entropy(logits.bfloat16().float(), targets)
        loss.backward()

    return rows * vocab_size / statistics.median(_times(step, device, slot))


def _times(work: Callable[[], Any], device: str, slot: float) -> list[float]:
    """Return the seconds of each call, at least three, for about ``slot`` seconds."""
    return _times_in_turn([work], device, slot)[0]


def _times_in_turn(
    works: Sequence[Callable[[], Any]], device: str, slot: float
) -> list[list[float]]:
    """Return the seconds of each call of each work, which take turns."""
    wait = _waiter(device)
    for work in works:
        work()
    wait()
    times: list[list[float]] = [[] for _ in works]
    while len(times[0]) < 3 or sum(map(sum, times)) < slot:
        for work, own in zip(works, times, strict=True):
            start = time.perf_counter()
            work()
            wait()
            own.append(time.perf_counter() - start)
    return times


def _waiter(device: str) -> Callable[[], None]:
    import torch

    if device == "cuda":
        return torch.cuda.synchronize
    if device == "mps":
        return torch.mps.synchronize
    return lambda: None
