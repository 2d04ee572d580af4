"""GPT-2 for other programs: their names of our tensors, and µP folded into plain weights."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from wafergpt.config import Model
from wafergpt.shapes.parametrization import parametrization
from wafergpt.shapes.roles import role_of

_OUTSIDE = {
    "embedding.weight": "wte.weight",
    "position.weight": "wpe.weight",
    "norm.weight": "ln_f.weight",
    "norm.bias": "ln_f.bias",
}
_MODULES = {
    "attention_norm": "ln_1",
    "attention.qkv": "attn.c_attn",
    "attention.out": "attn.c_proj",
    "ffn_norm": "ln_2",
    "ffn.up": "mlp.c_fc",
    "ffn.out": "mlp.c_proj",
}


def hugging_face_names(model: Model) -> dict[str, str]:
    """Return our name of each tensor of a body, and Hugging Face's without ``transformer.``."""
    tables = {f"ngrams.tables.{n}.weight": f"ngrams.{n}.weight" for n in range(len(model.ngrams))}
    tables |= {f"ngrams.kept.{n}.rows": f"kept.{n}.rows" for n in range(len(model.ngram_kept))}
    tables |= {"ngrams.ids": "ids"} if model.ngram_ids else {}
    inside = {
        f"blocks.{layer}.{ours}.{kind}": f"h.{layer}.{theirs}.{kind}"
        for layer in range(model.n_layers)
        for ours, theirs in _MODULES.items()
        for kind in ("weight", "bias")
    }
    return {**_OUTSIDE, **tables, **inside}


def is_transposed(name: str) -> bool:
    """Return whether Hugging Face stores a tensor, by our name, as ``[in, out]`` (Conv1D)."""
    return name.startswith("blocks.") and name.endswith(".weight") and "norm" not in name


def fold(model: Model, weights: Mapping[str, Tensor]) -> tuple[Model, dict[str, Tensor]]:
    """Fold every multiplier into the weights, so that a plain GPT-2 gives the same logits.

    All embeddings take the embedding multiplier; the keys take the ratio of the attention
    multiplier to 1/√d_head, in weight and bias; the head takes the logits multiplier. A tied head
    that needs another scale than its embedding is untied.

    Args:
        model: the shape, under any parametrization.
        weights: of a GPT by our names; not modified.

    Returns:
        The plain shape, and its weights.
    """
    table = parametrization(model)
    tied = model.tied and table.embedding_multiplier == table.logits_multiplier
    plain = Model.model_validate(
        {
            **model.model_dump(),
            "parametrization": "sp",
            "embedding_scale": 1.0,
            "output_scale": 1.0,
            "tied": tied,
        }
    )
    head = weights["embedding.weight" if model.tied else "lm_head.weight"]
    folded = dict(weights)
    for name in weights:
        scales = name.endswith("weight") and role_of(name) in ("embedding", "position", "ngram")
        if scales:
            folded[name] = _scaled(weights[name], table.embedding_multiplier)
    if not tied:
        folded["lm_head.weight"] = _scaled(head, table.logits_multiplier)
    keys = table.attention_multiplier / parametrization(plain).attention_multiplier
    if keys != 1:
        for name in weights:
            if ".attention.qkv." in name:
                folded[name] = weights[name].clone()
                folded[name][model.attention_width : 2 * model.attention_width] *= keys
    return plain, folded


def _scaled(tensor: Tensor, factor: float) -> Tensor:
    return tensor if factor == 1 else tensor * factor
