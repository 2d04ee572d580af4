"""What each parameter is for, by its name: the rows of the parametrization's table."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal, get_args

Role = Literal[
    "embedding", "position", "ngram", "qkv", "attention_out", "ffn_in", "ffn_out", "vector",
    "ffn_vector", "head", "task_head", "task_step", "task_ngram", "lora_a", "ffn_lora_a", "lora_b",
    "ffn_lora_b",
]  # fmt: skip
ROLES: tuple[Role, ...] = get_args(Role)

MEANING: Mapping[Role, str] = {
    "embedding": "token embedding, and the head tied to it",
    "position": "position embedding",
    "ngram": "n-gram embeddings",
    "qkv": "query, key and value",
    "attention_out": "projection from attention into the residual stream",
    "ffn_in": "first feed-forward matrix",
    "ffn_out": "projection from the feed-forward layer into the residual stream",
    "vector": "norms, and biases as wide as the stream",
    "ffn_vector": "bias inside the feed-forward layer",
    "head": "untied head",
    "task_head": "head of a task",
    "task_step": "scores of each tag after another",
    "task_ngram": "n-grams of a task's texts, added to its head",
    "lora_a": "A of an adapter, from the width of the stream to its rank",
    "ffn_lora_a": "A of an adapter, from the feed-forward width to its rank",
    "lora_b": "B of an adapter, from its rank to the width of the stream",
    "ffn_lora_b": "B of an adapter, from its rank to the feed-forward width",
}

LORA: tuple[Role, ...] = ("lora_a", "ffn_lora_a", "lora_b", "ffn_lora_b")
"""Roles of the parameters of adapters."""

_NAMES: Mapping[str, Role] = {
    "embedding.weight": "embedding",
    "position.weight": "position",
    "attention.qkv.weight": "qkv",
    "attention.out.weight": "attention_out",
    "ffn.up.weight": "ffn_in",
    "ffn.out.weight": "ffn_out",
    "ffn.up.bias": "ffn_vector",
    "lm_head.weight": "head",
    "head.transitions.weight": "task_step",
    "head_ngrams.weight": "task_ngram",
    "head_ngrams.ratios": "task_ngram",
    "head_ngrams.kept.rows": "task_ngram",
    "ffn.out.lora_a": "ffn_lora_a",
    "ffn.up.lora_b": "ffn_lora_b",
    "lora_a": "lora_a",
    "lora_b": "lora_b",
}


def role_of(name: str) -> Role:
    """Return the role of a parameter by its name, whatever wraps its module.

    Raises:
        ValueError: if no GPT has a parameter of this name.
    """
    for ending, role in _NAMES.items():
        if f".{name}".endswith(f".{ending}"):
            return role
    if re.search(r"(^|\.)ngrams\.(tables\.\d+\.weight|kept\.\d+\.rows|ids)$", name):
        return "ngram"
    if re.search(r"(norm\.weight|\.bias)$", name):
        return "vector"
    if re.search(r"(^|\.)head\..*weight$", name):
        return "task_head"
    raise ValueError(f"no role is known for the parameter '{name}'")
