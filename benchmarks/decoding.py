"""Text generation with weights of several types beside Hugging Face's ``generate``, in one run.

The shipped ``base``, and a GPT-2 of 110M random weights; batch 1, greedy. Contenders take turns,
and ratios are of one round. Then the loss of ``base`` on film reviews with each type of weights.

    python -m benchmarks.decoding
    python -m benchmarks.decoding --device cuda
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
from torch.nn import functional as F

from benchmarks.labelled_sets import DATA, some_of_imdb
from benchmarks.train_throughput import SHAPES
from wafergpt.config import Model
from wafergpt.decoding.generator import Sampling, stream_tokens
from wafergpt.devices.detect import processor_name
from wafergpt.inference.writer import Writer
from wafergpt.interop.hf_import import read_network
from wafergpt.model.gpt import GPT
from wafergpt.model.quantized import Weights, with_weights
from wafergpt.runs.run import SHIPPED, Run

PROMPT, NEW = 128, 100
TYPES: dict[str, tuple[Weights, ...]] = {"cpu": ("fp32", "bf16", "int8"), "cuda": ("fp32", "bf16")}


def ours(gpt: GPT, prompt: list[int]) -> int:
    """Generate; return the number of tokens."""
    settings = Sampling(max_tokens=NEW, temperature=0)
    return sum(1 for _ in stream_tokens(gpt, prompt, settings, end_of_text=-1))


def contenders(model: Model, folder: Path, device: str) -> dict[str, Callable[[], int]]:
    """Return how each generates, all from the same weights."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=model.vocab_size, n_positions=model.seq_len, n_embd=model.d_model,
        n_layer=model.n_layers, n_head=model.n_heads, activation_function="gelu",
        bos_token_id=0, eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    theirs: Any = GPT2LMHeadModel(config)
    theirs.eval()
    theirs.save_pretrained(folder)
    prompt = torch.randint(1, model.vocab_size, (PROMPT,)).tolist()

    def generate(network: Any) -> int:
        tokens = torch.tensor([prompt], device=device)
        made = network.generate(tokens, max_new_tokens=NEW, min_new_tokens=NEW, do_sample=False)
        # As a list, for which a GPU has to be done.
        return len(made[0].tolist()) - PROMPT

    found: dict[str, Callable[[], int]] = {}
    for weights in TYPES[device]:
        network = GPT(model)
        network.load_state_dict(read_network(folder).weights)
        gpt = with_weights(network.eval(), weights).to(device)
        found[f"wafergpt, {weights}"] = lambda gpt=gpt: ours(gpt, prompt)  # type: ignore[misc]
    half: Any = GPT2LMHeadModel.from_pretrained(folder)
    half.bfloat16().to(device)
    theirs.to(device)
    found["Hugging Face, fp32"] = lambda: generate(theirs)
    found["Hugging Face, bf16"] = lambda: generate(half)
    return found


@torch.inference_mode()
def loss(weights: Weights, device: str) -> float:
    """Return the loss of ``base`` on the tokens of some reviews, in nats."""
    writer = Writer.load(Run(SHIPPED / "base"), device, weights)
    total, count = 0.0, 0
    for text, _ in some_of_imdb()[1][:40]:
        ids = writer.tokenizer.encode(text)[: writer.gpt.config.seq_len]
        tokens = torch.tensor([ids], device=device)
        logits = writer.gpt.logits(writer.gpt(tokens[:, :-1])).float()
        total += float(F.cross_entropy(logits[0], tokens[0, 1:], reduction="sum"))
        count += tokens.shape[1] - 1
    return total / count


def main() -> None:
    """Print the tables in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", choices=TYPES, default="cpu")
    asked = parser.parse_args()
    rounds, device = asked.rounds, asked.device
    torch.set_grad_enabled(False)
    machine = processor_name() if device == "cpu" else torch.cuda.get_device_name()
    print(f"{machine}, {torch.get_num_threads()} threads, torch {torch.__version__}\n")
    print("| shape | contender | tokens/s | × Hugging Face, fp32 (min–max) |\n|---|---|---|---|")
    for name, model in (("base", Run(SHIPPED / "base").recipe.model), ("L", SHAPES["L"][0])):
        with tempfile.TemporaryDirectory() as folder:
            works = contenders(model, Path(folder), device)
        rates: dict[str, list[float]] = {key: [] for key in works}
        for round_ in range(rounds + 1):
            for key, work in works.items():
                start = time.perf_counter()
                rate = work() / (time.perf_counter() - start)
                rates[key] += [rate] if round_ else []
        peer = rates["Hugging Face, fp32"]
        for key, own in rates.items():
            ratios = [a / b for a, b in zip(own, peer, strict=True)]
            print(f"| {name} | {key} | {statistics.median(own):.0f} | "
                  f"{statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f}) |",
                  flush=True)  # fmt: skip
    if not (DATA / "imdb").is_dir():
        print(f"\nno reviews in {DATA / 'imdb'}: the loss is not measured (WAFERGPT_DATA)")
        return
    print("\n| weights of base | loss on film reviews |\n|---|---|")
    for weights in TYPES[device]:
        print(f"| {weights} | {loss(weights, device):.4f} |", flush=True)


if __name__ == "__main__":
    main()
