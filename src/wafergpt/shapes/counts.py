"""Parameters and FLOPs of a shape, computed from its numbers alone."""

from __future__ import annotations

from wafergpt.config import Lora, Model
from wafergpt.shapes.sparse import matrices


def parameters(model: Model) -> int:
    """Return the number of weights; a tied head counts once.

    Raises:
        ValueError: if the vocabulary is not known yet.
    """
    if model.vocab_size < 1:
        raise ValueError("model.vocab_size must be known to count parameters")
    vocabularies = 1 if model.tied else 2
    embeddings = (vocabularies * model.vocab_size + model.seq_len) * model.d_model
    return embeddings + ngram_parameters(model) + non_embedding_parameters(model)


def pooled_width(model: Model, pooling: str) -> int:
    """Return the numbers of a text's pooled states, which a head reads."""
    return model.d_model * (3 if pooling == "mean_max_last" else 1)


def table_rows(model: Model) -> tuple[int, ...]:
    """Return the rows of each n-gram table; a pruned one has a row of zeros beside those kept."""
    return tuple(kept + 1 for kept in model.ngram_kept) or (model.ngram_rows,) * len(model.ngrams)


def ngram_parameters(model: Model) -> int:
    """Return the number of weights of the n-gram tables, of which an update moves a few rows."""
    return sum(table_rows(model)) * model.d_model


def dense_parameters(model: Model) -> int:
    """Return the number of weights that every update moves: all but the n-gram tables.

    Raises:
        ValueError: if the vocabulary is not known yet.
    """
    return parameters(model) - ngram_parameters(model)


def non_embedding_parameters(model: Model) -> int:
    """Return the number of weights of the blocks and the last norm, without the embeddings."""
    d_model, d_ffn, heads = model.d_model, model.d_ffn, model.attention_width
    attention = 4 * d_model * heads + 3 * heads + d_model
    feed_forward = 2 * d_model * d_ffn + d_ffn + d_model
    norms = 4 * d_model
    return model.n_layers * (attention + feed_forward + norms) + 2 * d_model


def adapter_parameters(model: Model, lora: Lora) -> int:
    """Return the number of weights of all adapters; 0 without any."""
    return lora.rank * sum(sum(shape) for shape in matrices(model, lora).values())


def trained_parameters(model: Model, lora: Lora) -> int:
    """Return the number of the GPT's weights that every update moves.

    Raises:
        ValueError: if the vocabulary is not known yet.
    """
    return adapter_parameters(model, lora) if lora.rank else dense_parameters(model)


def training_flops(
    model: Model,
    length: int = 0,
    rows: float | None = None,
    score_weights: int = 0,
    lora: Lora | None = None,
) -> float:
    """Return the FLOPs of one sequence's forward and backward pass: two for each multiplication.

    As torch.utils.flop_counter and the usual model FLOPs count them (arXiv:2204.02311, appendix
    B): matrix products only, each once forward and twice backward. So an embedding lookup
    counts nothing, and recomputation for the backward pass (activation checkpointing, attention's
    probabilities) is not counted again. Attention's scores count as the whole square, padding like
    tokens; causal kernels skip up to half of that square.

    Args:
        model: the shape.
        length: of the sequence, padding included; 0 stands for ``seq_len``.
        rows: of the head that each token is multiplied with: if omitted, the whole vocabulary; 0
            without a head; for a sampled softmax, those that were drawn.
        score_weights: of a classifier's own head, which reads each sequence once.
        lora: adapters, if there are some: frozen weights have no gradient.
    """
    d_model, heads, length = model.d_model, model.attention_width, length or model.seq_len
    head = (model.vocab_size if rows is None else rows) * d_model
    if lora is not None and lora.rank:
        return length * (_adapted_flops(model, length, lora) + 4.0 * head) + 6.0 * score_weights
    weights = 2 * model.n_layers * d_model * (2 * heads + model.d_ffn)
    scores = 2 * model.n_layers * length * heads
    return 6.0 * (length * (weights + scores + head) + score_weights)


def _adapted_flops(model: Model, length: int, lora: Lora) -> float:
    """Return a token's FLOPs in blocks with adapters.

    The gradient goes back through frozen matrices, but not beyond the first adapter.
    """
    total, differentiable = 0, False
    for (_, role), (fan_out, fan_in) in matrices(model, Lora()).items():
        total += fan_out * fan_in * (4 if differentiable else 2)
        if role in lora.roles:
            # Forward, gradients of A and B, and of what both read.
            total += lora.rank * (6 * fan_out + (6 if differentiable else 4) * fan_in)
            differentiable = True
        if role == "qkv":
            total += 4 * length * model.attention_width * (3 if differentiable else 1)
    return float(total)


def published_flops(model: Model) -> float:
    """Return the training FLOPs of a token by the count of Cerebras-GPT (arXiv:2304.03208).

    The paper prints totals, not its formula. This one matches all seven to the two digits printed:
    six for each weight of the blocks, attention scores and mixing at 24·L·s·d (twice the plain
    count of both products), and five passes of 2·V·d for embedding and head together. The paper's
    law holds for this count only.
    """
    d_model = model.d_model
    blocks = 12.0 * model.n_layers * d_model * (2 * d_model + model.d_ffn)
    attention = 24.0 * model.n_layers * model.seq_len * d_model
    vocabulary = 10.0 * model.vocab_size * d_model
    return blocks + attention + vocabulary
