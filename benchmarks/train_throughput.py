"""Training throughput against Hugging Face's GPT-2 on the same shapes, in the same run.

Each contender lives in a process of its own; they take turns, a few steps each, so that a machine
whose speed drifts is fair to all. Quoted are medians over the rounds, and ratios round by round.
MFU is the FLOPs of the passes over those of a large bf16 product on the same machine.

    python benchmarks/train_throughput.py --shapes S L --rounds 5
    python benchmarks/train_throughput.py --device cuda
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from wafergpt.config import Model, load_recipe
from wafergpt.devices.probe import probe
from wafergpt.shapes.counts import training_flops

SHAPES = {
    "S": (Model(n_layers=6, d_model=256, n_heads=4, seq_len=256, vocab_size=4096), 16),
    "L": (Model(n_layers=10, d_model=768, n_heads=12, seq_len=512, vocab_size=50257), 4),
    "111M": (Model(n_layers=10, d_model=768, n_heads=12, seq_len=2048, vocab_size=50257), 16),
    "590M": (Model(n_layers=18, d_model=1536, n_heads=12, seq_len=2048, vocab_size=50257), 8),
}
BY_DEVICE = {"cpu": ("S", "L"), "cuda": ("S", "L", "111M", "590M")}
"""Shapes and batches that are measured where none are named; two are the Cerebras-GPT family's."""

CONTENDERS = ("wafergpt", "hf-eager-fp32", "hf-compiled-bf16")


class RandomTokens:
    """A stream of random tokens."""

    def __init__(self, vocab_size: int) -> None:
        self._tokens = np.random.default_rng(0).integers(0, vocab_size, 1 << 20)

    def __len__(self) -> int:
        return len(self._tokens)

    def take(self, start: int, length: int) -> NDArray[np.integer]:
        """Return tokens from ``start`` on."""
        return self._tokens[start : start + length]


def ours(model: Model, batch_size: int, device: str) -> Callable[[], object]:
    """Return one update of wafergpt's own engine."""
    from wafergpt.data.language_batches import LanguageBatches
    from wafergpt.distributed.collectives import SINGLE
    from wafergpt.engines.base import Decision
    from wafergpt.engines.torch import TorchEngine
    from wafergpt.tasks.base import EvaluationSet, Splits, task_of

    settings = [f"train.batch_size={batch_size}", "train.steps=100000", "system.compile=on"]
    recipe = load_recipe(None, [*settings, f"system.device={device}"]).replace(model=model)
    recipe, machine = TorchEngine.settle(recipe, SINGLE)
    batches = LanguageBatches(RandomTokens(model.vocab_size), model.seq_len, "", seed=0)
    splits = Splits(batches, EvaluationSet(batches, None), None, 0)
    engine = TorchEngine(recipe, machine, task_of(recipe), splits, SINGLE, None)
    engine.choose_compilation(1000, 1.0, lambda: False)
    updates = engine.updates(0, 0, 100000, (), lambda _: Decision.APPLY, lambda: None)
    return lambda: next(updates)


def theirs(model: Model, batch_size: int, device: str, compiled: bool) -> Callable[[], object]:
    """Return one step of Hugging Face's GPT-2 with AdamW, clipping included."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=model.vocab_size, n_positions=model.seq_len, n_embd=model.d_model,
        n_layer=model.n_layers, n_head=model.n_heads, activation_function="gelu",
        bos_token_id=0, eos_token_id=0,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, use_cache=False,
    )  # fmt: skip
    gpt: torch.nn.Module = GPT2LMHeadModel(config)
    gpt.to(device).train()
    network = torch.compile(gpt) if compiled else gpt
    optimizer = torch.optim.AdamW(gpt.parameters(), 1e-3, (0.9, 0.95), weight_decay=0.1)
    stream = torch.from_numpy(RandomTokens(model.vocab_size).take(0, 1 << 20))
    windows = stream[: len(stream) // model.seq_len * model.seq_len].view(-1, model.seq_len)
    place = 0

    def step() -> float:
        nonlocal place
        tokens = windows[place : place + batch_size].to(device)
        place = (place + batch_size) % (len(windows) - batch_size)
        with torch.autocast(device, torch.bfloat16, enabled=compiled):
            loss = network(tokens, labels=tokens).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(gpt.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return float(loss.detach())

    return step


def work(contender: str, shape: str, device: str) -> None:
    """Warm up, then time ``n`` steps for each line ``n`` on stdin."""
    model, batch_size = SHAPES[shape]
    start = time.perf_counter()
    if contender == "wafergpt":
        step = ours(model, batch_size, device)
    else:
        step = theirs(model, batch_size, device, compiled="compiled" in contender)
    for _ in range(2):
        step()
    print(json.dumps({"warm_up": time.perf_counter() - start}), flush=True)
    for line in sys.stdin:
        steps = int(line)
        start = time.perf_counter()
        for _ in range(steps):
            step()
        if device == "cuda":
            torch.cuda.synchronize()
        rate = steps * batch_size * model.seq_len / (time.perf_counter() - start)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        if device == "cuda":
            peak = torch.cuda.max_memory_allocated() / 2**20
        print(json.dumps({"rate": rate, "peak_mb": peak}), flush=True)


def contend(
    shape: str, contenders: Sequence[str], rounds: int, steps: int, device: str, peak_flops: float
) -> Iterator[str]:
    """Yield the lines of one shape's table."""
    workers = {}
    for name in contenders:
        command = [sys.executable, __file__, "--work", name, "--shapes", shape, "--device", device]
        workers[name] = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        # One after another: a warm-up beside another's would slow both.
        warm = json.loads(_answer(workers[name]))["warm_up"]
        print(f"{shape} {name}: warm after {warm:.0f}s", file=sys.stderr, flush=True)
    model, _ = SHAPES[shape]
    flops = training_flops(model, model.seq_len, model.vocab_size) / model.seq_len
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    peaks: dict[str, float] = {}
    for _ in range(rounds):
        for name, worker in workers.items():
            assert worker.stdin is not None
            worker.stdin.write(f"{steps}\n")
            worker.stdin.flush()
            answer = json.loads(_answer(worker))
            rates[name].append(answer["rate"])
            peaks[name] = answer["peak_mb"]
    for worker in workers.values():
        worker.communicate()
    for name in contenders:
        ratios = [a / b for a, b in zip(rates["wafergpt"], rates[name], strict=True)]
        yield (
            f"| {shape} | {name} | {statistics.median(rates[name]):,.0f} | "
            f"{flops * statistics.median(rates[name]) / peak_flops:.0%} | "
            f"{statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f}) | "
            f"{peaks[name]:,.0f} |"
        )


def _answer(worker: subprocess.Popen[str]) -> str:
    assert worker.stdout is not None
    line = worker.stdout.readline()
    if not line:
        sys.exit(f"a contender died with exit code {worker.wait()}")
    return line


def main() -> None:
    """Print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES)
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=CONTENDERS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--work", choices=CONTENDERS, help=argparse.SUPPRESS)
    choice = parser.parse_args()
    if choice.work:
        work(choice.work, choice.shapes[0], choice.device)
        return
    machine = probe(choice.device)
    print(
        f"{machine.name}, {torch.get_num_threads()} threads, torch {torch.__version__}, bf16 "
        f"products at {machine.matmul_flops_bf16 / 1e9:,.0f} GFLOP/s, {choice.rounds} rounds of "
        f"{choice.steps} steps\n"
    )
    print("| shape | contender | tokens/s | MFU | wafergpt is × faster (min–max) | peak MB |")
    print("|---|---|---|---|---|---|")
    peak = machine.matmul_flops_bf16
    for shape in choice.shapes or BY_DEVICE[choice.device]:
        for line in contend(
            shape, choice.contenders, choice.rounds, choice.steps, choice.device, peak
        ):
            print(line, flush=True)


if __name__ == "__main__":
    main()
