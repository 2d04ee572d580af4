"""Parameters and FLOPs of a shape, counted from its numbers alone."""

from __future__ import annotations

from wafergpt.config import Model


def parameters(model: Model) -> int:
    """Return the number of weights; a tied head counts once.

    Raises:
        ValueError: if the vocabulary is not known yet.
    """
    if model.vocab_size < 1:
        raise ValueError("model.vocab_size must be known to count parameters")
    vocabularies = 1 if model.tied else 2
    embeddings = (vocabularies * model.vocab_size + model.seq_len) * model.d_model
    return embeddings + non_embedding_parameters(model)


def non_embedding_parameters(model: Model) -> int:
    """Return the weights of the blocks and the last norm: all but token and position tables."""
    d_model, d_ffn = model.d_model, model.d_ffn
    attention = 4 * d_model * d_model + 4 * d_model
    feed_forward = 2 * d_model * d_ffn + d_ffn + d_model
    norms = 4 * d_model
    return model.n_layers * (attention + feed_forward + norms) + 2 * d_model


def flops_6nd(model: Model) -> float:
    """Return 6·N, the training FLOPs of a token by the usual rule (arXiv:2001.08361, section 2.1).

    Two for each weight forward, four backward. This is the count of ``flops`` and ``mfu`` in plans
    and metrics.
    """
    return 6.0 * parameters(model)


def flops_per_token(model: Model) -> float:
    """Return the training FLOPs of a token in the count of Cerebras-GPT (arXiv:2304.03208).

    The paper prints totals, not its formula. This one gives all seven to the two digits printed:
    six for each weight of the blocks, attention scores and mixing at 24·L·s·d (twice the plain
    count of both products), and five passes of 2·V·d for embedding and head together. A scaling
    law fitted on the paper's totals holds for this count only.
    """
    d_model = model.d_model
    blocks = 12.0 * model.n_layers * d_model * (2 * d_model + model.d_ffn)
    attention = 24.0 * model.n_layers * model.seq_len * d_model
    vocabulary = 10.0 * model.vocab_size * d_model
    return blocks + attention + vocabulary


def flops_executed(model: Model) -> float:
    """Return the FLOPs that a training step really multiplies, a token: for timing.

    Blocks and head at six a weight, attention at 12·L·s·d (arXiv:2204.02311, appendix B); looking
    up an embedding multiplies nothing.
    """
    d_model = model.d_model
    weights = 2 * model.n_layers * d_model * (2 * d_model + model.d_ffn)
    attention = 12.0 * model.n_layers * model.seq_len * d_model
    return 6.0 * (weights + model.vocab_size * d_model) + attention
