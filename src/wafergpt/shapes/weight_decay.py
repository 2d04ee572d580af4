"""Which parameters weight decay acts on, in every training."""

from __future__ import annotations

from wafergpt.shapes.roles import Role


def decays(role: Role) -> bool:
    """Return whether weight decay acts on a role: matrices and embeddings, no biases or norms.

    Nor on tables of n-grams: their steps get shorter with the number of updates, so that in the end
    decay would undo what frequent rows have learned. Nor on what is learned at a higher rate.
    """
    return role not in ("vector", "ffn_vector", "ngram", "task_ngram", "task_step")
