"""How fast a shape trains on a measured machine, and what makes it faster."""

from __future__ import annotations

from wafergpt.config import Lora, Model
from wafergpt.planning.hardware import Machine
from wafergpt.shapes.counts import trained_parameters, training_flops

PRECISION_MARGIN = 1.1
"""bf16 must be this much faster than fp32 to be chosen: less is within the noise of a probe."""

BLOCK_SHARE = 0.95
"""Speed of all matrix products of a step over those of the probe's block: the rest is the last
norm, the embedding, and reading the batch (measured on 2 cores for widths 128 to 768)."""

LOSS_PASSES = 1.2
"""Time of the chunked loss for each logit over the probe's cross-entropy (measured likewise)."""

COMPILE_GAIN = 1.25
"""Speed of compiled blocks over eager ones in bf16 (measured: 1.1 at width 256, 1.7 at 128; whole
steps gain 1.25 to 1.6)."""

COMPILED_LOSS = 0.15
"""Time of the compiled loss for each logit over the eager one (measured at vocabulary 8192)."""

COMPILE_SECONDS = {"cpu": 60.0, "cuda": 45.0, "mps": 45.0}
"""Warm-up of torch.compile, cold cache (measured on 2 cores: 15 to 90 s)."""

BATCH_WORDS = 4.5, 0.7
"""A batch of n tokens has about a·n^b different ones (Heaps' law; measured on reviews: 940 of
2,048, 2,500 of 8,192, 4,000 of 16,384, almost the same with vocabularies of 8k to 32k)."""

APPLY_BYTES = 28
"""Read and written for each weight by AdamW's update."""

OPTIMIZER_BYTES = APPLY_BYTES + 20
"""The same of a whole step, which also forms and clips the gradient."""


def best_precision(machine: Machine, d_model: int) -> str:
    """Return ``bf16`` where training at this width was measured clearly faster, else ``fp32``."""
    if "bf16" not in machine.training_flops:
        return "fp32"
    bf16, fp32 = (machine.training_rate(name, d_model) for name in ("bf16", "fp32"))
    return "bf16" if bf16 > PRECISION_MARGIN * fp32 else "fp32"


def softmax_rows(model: Model, sampled_softmax: int, micro_batch_tokens: int) -> int:
    """Return how many tokens of the vocabulary the softmax of a pass is expected to use."""
    if not sampled_softmax:
        return model.vocab_size
    own: float = BATCH_WORDS[0] * micro_batch_tokens ** BATCH_WORDS[1]
    return min(model.vocab_size, round(own) + sampled_softmax)


def tokens_per_second(
    model: Model,
    machine: Machine,
    precision: str,
    compiled: bool,
    batch_tokens: int,
    *,
    head: bool = True,
    sampled_softmax: int = 0,
    micro_batch_tokens: int = 0,
    processes: int = 1,
    activation_checkpointing: bool = False,
    lora: Lora | None = None,
) -> float:
    """Estimate training speed from the probe.

    Args:
        model: the shape, vocabulary known.
        machine: what was measured.
        precision: ``fp32`` or ``bf16``.
        compiled: whether torch.compile is on.
        batch_tokens: tokens between two updates.
        head: whether next tokens are predicted; else only the blocks are computed.
        sampled_softmax: as in the recipe.
        micro_batch_tokens: of one forward pass, which sets a sampled softmax's size.
        processes: that compute a batch together, each on such a machine.
        activation_checkpointing: whether blocks run forward twice.
        lora: adapters, beside which no weight is trained.
    """
    name = precision if precision in machine.training_flops else "fp32"
    softmax = softmax_rows(model, sampled_softmax, micro_batch_tokens) if head else 0
    flops = training_flops(model, rows=softmax, lora=lora)
    if activation_checkpointing:
        flops += training_flops(model, rows=0) / 3
    flops /= model.seq_len
    loss = LOSS_PASSES * softmax / machine.softmax_rate
    compute = flops / (BLOCK_SHARE * machine.training_rate(name, model.d_model))
    if compiled:
        compute /= COMPILE_GAIN
        loss *= COMPILED_LOSS
    moved = OPTIMIZER_BYTES * trained_parameters(model, lora or Lora())
    update = moved / (machine.bandwidth * batch_tokens)
    return 1.0 / ((compute + loss) / processes + update)


def compile_pays(expected_seconds_eager: float, device: str, precision: str) -> bool:
    """Return whether torch.compile saves more time than its warm-up takes, from a cold cache.

    A speed-up of 1.25 saves a fifth of the eager time, so on a CPU a run must be longer than five
    minutes. In fp32 on a CPU nothing is saved (measured).
    """
    if device == "mps" or (device == "cpu" and precision == "fp32"):
        return False
    saved = expected_seconds_eager * (1 - 1 / COMPILE_GAIN)
    return saved > COMPILE_SECONDS[device]
