"""How much memory a training takes, and how much disk its checkpoints."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from wafergpt.config import Lora, Model, Optimizer, Recipe, System
from wafergpt.runs.teacher import teacher_shape
from wafergpt.shapes.counts import (
    adapter_parameters,
    ngram_parameters,
    non_embedding_parameters,
    parameters,
    table_rows,
    trained_parameters,
)
from wafergpt.shapes.sparse import matrices

FP32 = 4

WHOLE = Lora()
"""A training of all weights."""

HEADROOM = 0.9
"""Share of the free memory that a plan may fill; the rest is for fragmentation and others."""

SORTED = 56
"""Bytes for each weight of a matrix while its mask changes, as measured: copies, and an order."""

RUNTIME_BYTES = {"cpu": 350 << 20, "cuda": 600 << 20, "mps": 600 << 20}
"""Python, torch and its kernels, before any model (measured on CPU; a CUDA context's size)."""


@dataclass(frozen=True)
class Memory:
    """Peak bytes of a process that trains, by what fills them.

    Attributes:
        weights: those that this process holds.
        copies: of weights in less precision, until the backward pass has used them.
        gradients: of the weights.
        optimizer: its state.
        gathered: with sharded weights, those of one block and of the ends, and their gradients.
        activations: what the backward pass needs.
        logits: of a chunk, with the gradient of the head.
        saving: the copy that a checkpoint is written from, if it is in the same memory.
        runtime: of Python and torch.
        teacher: weights, states and logits of a network that is learned from.
        masks: of weights that are zero in training, and what a change of them needs beyond
            activations and logits, which are free then.
    """

    weights: int
    copies: int
    gradients: int
    optimizer: int
    gathered: int
    activations: int
    logits: int
    saving: int
    runtime: int
    teacher: int = 0
    masks: int = 0

    @property
    def total(self) -> int:
        """All of it."""
        return sum(self.__dict__.values())

    def to_dict(self) -> dict[str, int]:
        """Return the parts and their total."""
        return {**self.__dict__, "total": self.total}


def training_memory(
    model: Model,
    micro_batch_size: int,
    optimizer: Optimizer,
    system: System,
    *,
    head: bool = True,
    background: bool = True,
    teacher: Model | None = None,
    lora: Lora = WHOLE,
) -> Memory:
    """Estimate the peak bytes of training with sequences of ``seq_len`` tokens, in one process.

    Weights and gradients are fp32; bf16 adds a copy of the weights of the blocks, which the
    backward pass also needs. What a block keeps for its backward pass follows Korthikanti et al.
    (arXiv:2205.05198), for a fused attention that never stores its scores.

    Args:
        model: the shape.
        micro_batch_size: sequences of one pass.
        optimizer: of the recipe.
        system: with device and precision resolved.
        head: whether next tokens are predicted.
        background: whether checkpoints are written during training.
        teacher: the shape of a network that is learned from.
        lora: adapters, beside which the weights have no gradients and no optimizer state.
    """
    n, shards = parameters(model), system.shards
    block = (non_embedding_parameters(model) - 2 * model.d_model) // model.n_layers
    tables = ngram_parameters(model)
    ends = n - tables - model.n_layers * block
    rows = tables
    if shards == 1 and system.device == "cpu":
        # A sparse gradient, and its copy without repeated rows.
        rows = min(tables, 2 * len(model.ngrams) * micro_batch_size * model.seq_len * model.d_model)
    adapters = adapter_parameters(model, lora)
    learning = adapters if lora.rank else n - tables + rows
    kept_blocks = 1 if system.activation_checkpointing else model.n_layers
    copies = 2 * (ends + kept_blocks * block) if system.precision == "bf16" else 0
    tokens = micro_batch_size * model.seq_len
    copy = checkpoint_bytes(model, optimizer, lora=lora)
    return Memory(
        weights=FP32 * (n + adapters) // shards,
        copies=copies,
        gradients=FP32 * learning // shards,
        optimizer=optimizer_bytes(model, optimizer, lora) // shards,
        # The next block is gathered while one computes.
        gathered=2 * FP32 * (2 * block + ends + tables) if shards > 1 else 0,
        activations=tokens * _activation_bytes_per_token(model, system, lora),
        logits=_logits_bytes(model, tokens, system, not lora.rank) if head else 0,
        saving=copy // shards if background and system.device != "cuda" else 0,
        runtime=RUNTIME_BYTES[system.device],
        teacher=0 if teacher is None else _teacher_bytes(teacher, tokens, system, head),
    )


def estimated_memory(recipe: Recipe, device: str) -> Memory:
    """Estimate the peak bytes of training by a resolved recipe on a kind of device."""
    # Each process reads its share of a batch.
    share = math.ceil(recipe.train.batch_size / recipe.system.nproc)
    dense = training_memory(
        running_shape(recipe),
        min(recipe.train.micro_batch_size, share) * recipe.held_sequences,
        recipe.optimizer,
        recipe.system.model_copy(update={"device": device}),
        head=recipe.vocabulary_head,
        background=recipe.checkpoint.background,
        teacher=teacher_shape(recipe),
        lora=recipe.lora,
    )
    return replace(dense, masks=mask_bytes(recipe) + change_bytes(recipe, dense))


def mask_bytes(recipe: Recipe) -> int:
    """Return the bytes of the masks that a process holds: one for each weight."""
    if recipe.sparsity.algorithm == "none":
        return 0
    found = matrices(recipe.model, recipe.sparsity).values()
    return sum(rows * columns for rows, columns in found) // recipe.system.shards


def change_bytes(recipe: Recipe, dense: Memory) -> int:
    """Return what a change of the masks takes beyond the activations, which are free by then."""
    algorithm = recipe.sparsity.algorithm
    if algorithm in ("none", "static"):
        return 0
    found = matrices(recipe.model, recipe.sparsity).values()
    largest = max(rows * columns for rows, columns in found)
    # Sizes of a matrix' weights, and of those that may come back; then all are sorted.
    needed = SORTED * largest + (FP32 * mask_bytes(recipe) if algorithm == "rigl" else 0)
    return max(0, needed - dense.activations - dense.logits)


def running_shape(recipe: Recipe) -> Model:
    """Return the model at the maximum length that it is trained at."""
    length = recipe.task.max_tokens if recipe.task else 0
    if not 0 < length < recipe.model.seq_len:
        return recipe.model
    return recipe.model.model_copy(update={"seq_len": length})


def optimizer_bytes(model: Model, optimizer: Optimizer, lora: Lora = WHOLE) -> int:
    """Return the bytes of the optimizer's state, as kept in memory and in checkpoints."""
    n = trained_parameters(model, lora)
    # One number for each row of an n-gram table.
    tables = 0 if lora.rank else FP32 * sum(table_rows(model))
    if optimizer.name == "sgd":
        return FP32 * n if optimizer.momentum else 0
    if optimizer.name == "muon":
        # One momentum for the matrices of the blocks; AdamW's two for the rest.
        widths = 2 * model.attention_width + model.d_ffn
        inside = 2 * model.n_layers * model.d_model * widths
        return FP32 * (2 * n - (n if lora.rank else inside)) + tables
    return 2 * FP32 * n + tables


def checkpoint_bytes(
    model: Model, optimizer: Optimizer, task_parameters: int = 0, lora: Lora = WHOLE
) -> int:
    """Return the bytes of one checkpoint: fp32 weights and the optimizer's state.

    Args:
        model: the shape.
        optimizer: of the recipe.
        task_parameters: weights of the task's own: mostly a table with one number for each row
            of two outputs or more.
        lora: adapters, which are then all that is stored of the GPT.
    """
    task = FP32 * task_parameters * 3 // 2
    stored = adapter_parameters(model, lora) if lora.rank else parameters(model)
    return FP32 * stored + optimizer_bytes(model, optimizer, lora) + task


def disk_bytes(recipe: Recipe, task_parameters: int = 0) -> int:
    """Return the maximum bytes of all checkpoints that a run holds at once.

    These are those kept, the milestones, the best one, and one being written.
    """
    kept, every = recipe.checkpoint.keep, recipe.checkpoint.keep_every
    milestones = (recipe.train.steps or 0) // every if every else 0
    one = checkpoint_bytes(recipe.model, recipe.optimizer, task_parameters, recipe.lora)
    return one * (kept + milestones + 2)


def micro_batch_that_fits(recipe: Recipe, memory_available: int) -> int:
    """Return the largest micro-batch, a divisor of every batch, that trains in the memory.

    Args:
        recipe: with device and precision settled.
        memory_available: bytes for each process.

    Returns:
        1 if none fits; the recipe's own, if it sets one.
    """
    if recipe.train.micro_batch_size:
        return recipe.train.micro_batch_size
    whole = recipe.train.common_batch
    # A process reads no more than its share of a batch.
    share = math.ceil(whole / recipe.system.nproc)
    for micro in range(share, 1, -1):
        if whole % micro:
            continue
        need = estimated_memory(
            recipe.replace(train={"micro_batch_size": micro}), recipe.system.device
        )
        if need.total <= HEADROOM * memory_available:
            return micro
    return 1


def _activation_bytes_per_token(model: Model, system: System, lora: Lora) -> int:
    compute = 2 if system.precision == "bf16" else FP32
    d_model = model.d_model
    # The stream before each of the two norms, in fp32 as the residual is.
    stream = 2 * FP32 * d_model
    # The input of a frozen matrix is not kept; of an adapter, also what is between A and B.
    kept = [role in lora.roles or not lora.rank for role in ("qkv", "ffn_in", "ffn_out")]
    between = compute * lora.rank * len(lora.roles)
    # Normed inputs of both halves, packed q, k and v, attention's output.
    matrices = compute * ((kept[0] + kept[1]) * d_model + 4 * model.attention_width) + between
    # Before and after the GELU.
    feed_forward = compute * (1 + kept[2]) * model.d_ffn
    dropout = compute * 2 * d_model if model.dropout else 0
    block = stream + matrices + feed_forward + dropout + FP32 * model.n_heads
    # Embeddings, the last norm, and the gradients that flow through one block at a time.
    ends = 6 * FP32 * d_model + 2 * compute * model.d_ffn
    if system.activation_checkpointing:
        # The input of each block, and one block's own.
        return model.n_layers * FP32 * d_model + block + ends
    return model.n_layers * block + ends


GPU_LOGITS = 1 << 28
"""Logits of a chunk on a GPU: enough for products at full speed, and half a gigabyte in bf16."""


def head_chunk_rows(vocab_size: int, d_model: int, device: str) -> int:
    """Return the tokens per chunk of logits in the loss.

    On a CPU small chunks stay in the cache; but each adds to the whole gradient of the head, and
    where that does not fit the cache, fewer and larger chunks are faster.
    """
    if device == "cuda":
        return 1 << max(8, (GPU_LOGITS // vocab_size).bit_length() - 1)
    return 256 if vocab_size * d_model <= 1 << 22 else 1024


def _logits_bytes(model: Model, tokens: int, system: System, learns: bool = True) -> int:
    compute = 2 if system.precision == "bf16" else FP32
    vocab_size = model.vocab_size
    rows = min(tokens, head_chunk_rows(vocab_size, model.d_model, system.device))
    # The logits, and the softmax that becomes their gradient.
    chunk = rows * vocab_size * 2 * compute
    # A chunk's part of the head's gradient, and their sum; of a frozen head, its copy alone.
    copy = compute if compute < FP32 else 0
    head_gradient = (FP32 + compute if learns else copy) * vocab_size * model.d_model
    return chunk + head_gradient + tokens * model.d_model * compute


def _teacher_bytes(teacher: Model, tokens: int, system: System, head: bool) -> int:
    """Return the bytes of a teacher: its activations are gone before the network has its own."""
    compute = 2 if system.precision == "bf16" else FP32
    logits = 0
    if head:
        rows = min(tokens, head_chunk_rows(teacher.vocab_size, teacher.d_model, system.device))
        # Its logits and their softmax, and its head in the type of the products.
        logits = compute * teacher.vocab_size * (2 * rows + teacher.d_model)
    return FP32 * parameters(teacher) + compute * tokens * teacher.d_model + logits
