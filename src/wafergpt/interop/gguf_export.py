"""A GGUF file that llama.cpp loads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wafergpt import atomic_files
from wafergpt.data.dialogues import TEMPLATE
from wafergpt.data.tokenizer import Tokenizer
from wafergpt.errors import InputError, RunFailed
from wafergpt.files import short, system_errors
from wafergpt.interop.export_source import Source, language_model
from wafergpt.interop.hf_config import EPSILON
from wafergpt.interop.logit_check import TOLERANCE, Checked, Network
from wafergpt.model.gpt import GPT

_OUTSIDE = {
    "embedding.weight": "token_embd.weight",
    "position.weight": "position_embd.weight",
    "norm.weight": "output_norm.weight",
    "norm.bias": "output_norm.bias",
    "lm_head.weight": "output.weight",
}
_MODULES = {
    "attention_norm": "attn_norm",
    "attention.qkv": "attn_qkv",
    "attention.out": "attn_output",
    "ffn_norm": "ffn_norm",
    "ffn.up": "ffn_up",
    "ffn.out": "ffn_down",
}

OTHER_TOKENS = (
    "end_of_word_suffix", "continuing_subword_prefix", "byte_fallback", "ignore_merges", "fuse_unk",
)  # fmt: skip
"""Options of a BPE that GPT-2's has not."""


def write_gguf(source: Source, out: Path) -> Checked:
    """Write a run's language model as a GGUF file in fp32, read it back and compare.

    llama.cpp computes the GELU of a GPT-2 by its tanh approximation. A run with the exact GELU is
    exported with a warning that contains the measured difference.

    Raises:
        InputError: if the run is a classifier or has n-gram embeddings, or llama.cpp cannot
            tokenize texts the same way.
        RunFailed: if the logits differ after reading the file back.
    """
    try:
        import gguf
    except ImportError:
        raise InputError("GGUF needs the package gguf: pip install 'wafergpt[gguf]'") from None
    if source.recipe.task is not None:
        raise InputError(
            f"{source.run.path} is a classifier, which llama.cpp does not support: use --format "
            "hf or onnx"
        )
    if source.model.ngrams:
        raise InputError(
            f"{source.run.path} has n-gram embeddings, which llama.cpp does not support: "
            "use --format hf or onnx"
        )
    vocabulary = _vocabulary(source)
    with atomic_files.replacing(out, new=True) as temporary, system_errors():
        writer = gguf.GGUFWriter(temporary, "gpt2")
        try:
            _describe(writer, source)
            _add_tokenizer(writer, vocabulary, source)
            for ours, tensor in source.body.items():
                writer.add_tensor(_name(ours), tensor.contiguous().numpy())
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
        finally:
            writer.close()
        same = source.difference(_read_back(temporary, source, source.model.activation))
        if same > TOLERANCE:
            raise RunFailed(
                f"{out} was not written: read back, its logits differ (relative difference "
                f"{same:.2g})"
            )
        if source.model.activation == "gelu_tanh":
            return Checked(same, "its own tensors")
        tanh = source.difference(_read_back(temporary, source, "gelu_tanh"))
    return Checked(
        tanh,
        "its own tensors, with the tanh GELU",
        (
            "not equal: the model was trained with the exact GELU, and llama.cpp computes its tanh "
            f"approximation; logits differ by {tanh:.1e} of the largest",
        ),
    )


def _describe(writer: Any, source: Source) -> None:
    model = source.model
    writer.add_name(source.run.name)
    writer.add_block_count(model.n_layers)
    writer.add_context_length(model.seq_len)
    writer.add_embedding_length(model.d_model)
    writer.add_feed_forward_length(model.d_ffn)
    writer.add_head_count(model.n_heads)
    writer.add_layer_norm_eps(EPSILON)
    # All tensors are fp32.
    writer.add_file_type(0)


def _add_tokenizer(writer: Any, vocabulary: list[tuple[str, int]], source: Source) -> None:
    tokenizer = _tokenizer(source)
    merges = tokenizer.definition["model"]["merges"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([token for token, _ in vocabulary])
    writer.add_token_types([kind for _, kind in vocabulary])
    writer.add_token_merges([pair if isinstance(pair, str) else " ".join(pair) for pair in merges])
    writer.add_bos_token_id(tokenizer.end_of_text)
    writer.add_eos_token_id(tokenizer.end_of_text)
    writer.add_add_bos_token(False)
    task = source.run.recipe.task
    if task is not None and task.name == "dialogue":
        writer.add_chat_template(TEMPLATE)


def _tokenizer(source: Source) -> Tokenizer:
    if source.tokenizer is None:
        raise InputError(f"{source.run.path} has no tokenizer, which a GGUF file requires")
    return source.tokenizer


def _vocabulary(source: Source) -> list[tuple[str, int]]:
    """Return each row's token and its kind.

    Raises:
        InputError: if the tokenizer differs from GPT-2's kind, naming the difference.
    """
    import gguf

    tokenizer = _tokenizer(source)
    content, where = tokenizer.definition, f"{source.run.path}: the tokenizer"
    if content.get("normalizer") is not None:
        kind = content["normalizer"].get("type")
        raise InputError(f"{where} normalizes texts ({kind}), which GGUF cannot express")
    before = content.get("pre_tokenizer") or {}
    if (
        content["model"].get("type", "BPE") != "BPE"
        or before.get("type") != "ByteLevel"
        or before.get("add_prefix_space")
        or not before.get("use_regex", True)
    ):
        raise InputError(f"{where} is not a byte-level BPE that splits words as GPT-2's does")
    for option in OTHER_TOKENS:
        if content["model"].get(option):
            raise InputError(f"{where} has {option}, which GGUF cannot express")
    kinds = gguf.TokenType
    added = {}
    for token in content.get("added_tokens", []):
        for flag in ("lstrip", "rstrip", "single_word"):
            if token.get(flag) and not token["special"]:
                raise InputError(
                    f"{where} finds the added token {short(token['content'])} with {flag}, which "
                    "GGUF cannot express"
                )
        added[token["id"]] = int(kinds.CONTROL if token["special"] else kinds.USER_DEFINED)
    rows = []
    for index in range(source.model.vocab_size):
        token = tokenizer.token(index)
        if token is None:
            # A row of the embedding that no token uses.
            rows.append((f"[PAD{index}]", int(kinds.UNUSED)))
        else:
            kind = added.get(index, int(kinds.NORMAL))
            rows.append((token, int(kinds.CONTROL) if index == tokenizer.end_of_text else kind))
    return rows


def _name(ours: str) -> str:
    if ours in _OUTSIDE:
        return _OUTSIDE[ours]
    _, layer, rest = ours.split(".", 2)
    module, _, kind = rest.rpartition(".")
    return f"blk.{layer}.{_MODULES[module]}.{kind}"


def _read_back(path: Path, source: Source, activation: str) -> Network:
    import gguf

    reader = gguf.GGUFReader(path)
    tensors = {tensor.name: tensor.data for tensor in reader.tensors}
    gpt = GPT(source.model.model_copy(update={"activation": activation}))
    weights: dict[str, Tensor] = {
        ours: torch.from_numpy(tensors[_name(ours)].copy()) for ours in source.body
    }
    gpt.load_state_dict(weights)
    return language_model(gpt)
