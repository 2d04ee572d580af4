"""Hugging Face's ``config.json`` of a GPT-2: read into our types, and written from them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from wafergpt.config import Model, Recipe, TaskSettings, recipe_from
from wafergpt.errors import InputError, nearest
from wafergpt.files import short
from wafergpt.model.heads import Pooling
from wafergpt.tasks.classify_settings import ClassifySettings
from wafergpt.tasks.text_settings import TextTaskSettings

CAUSAL, CLASSIFIER = "GPT2LMHeadModel", "GPT2ForSequenceClassification"
ARCHITECTURES = (CAUSAL, CLASSIFIER, "GPT2Model")

ACTIVATIONS = {"gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh"}
"""``gelu`` uses erf; the other two are its tanh approximation."""

EPSILON = 1e-5
"""The epsilon of all our norms."""

NGRAM_TYPE, NGRAM_MODULE = "ngram_gpt2", "modeling_ngram_gpt2"
"""The model type of a GPT-2 with n-gram embeddings, and the module that computes it there."""

NGRAM_KEYS = ("ngrams", "ngram_rows", "ngram_kept", "ngram_ids")
"""Keys of their shape, there and here."""

NGRAM_PREFIX = "Ngram"
"""Of that module's classes, before the names of transformers' own."""

_SHAPE = {
    "n_layer": ("n_layers", 12),
    "n_embd": ("d_model", 768),
    "n_head": ("n_heads", 12),
    "n_positions": ("seq_len", 1024),
    "vocab_size": ("vocab_size", 50257),
}
"""Their key, our key, and their default if the key is missing."""

_ONLY: Mapping[str, tuple[Any, ...]] = {
    "model_type": ("gpt2",),
    "layer_norm_epsilon": (EPSILON,),
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "add_cross_attention": (False,),
    "is_encoder_decoder": (False,),
    "pruned_heads": ({}, None),
    "quantization_config": (None,),
    "tie_word_embeddings": (True, False),
}
"""Settings that change what the network computes, and the values that ours supports."""

_OTHER_NETWORKS = {
    # Positions.
    "rotary", "rotary_dim", "rotary_pct", "rotary_emb_base", "rotary_emb_fraction", "rope_theta",
    "rope_scaling", "rope_parameters", "partial_rotary_factor", "position_embedding_type",
    "alibi", "use_alibi",
    # Attention.
    "multi_query", "n_head_kv", "num_key_value_heads", "sliding_window", "window_size",
    "attention_types", "attention_layers", "attn_logit_softcapping", "qk_layernorm",
    # Blocks and norms.
    "parallel_attn", "use_parallel_residual", "norm_type", "use_rms_norm", "rms_norm_eps",
    "num_experts", "num_local_experts", "prefix_tuning", "moe", "mup_scale_qk_dot_by_d",
    # Multipliers.
    "mup_width_scale", "mup_embeddings_scale", "mup_output_alpha", "width_scale",
    "embeddings_scale", "output_logits_scale", "logit_scale", "embedding_multiplier",
    "final_logit_softcapping",
    # Another network.
    "auto_map",
}  # fmt: skip
"""Settings of other networks with a GPT-2's name, which cannot be ignored."""

_READ = {
    *_SHAPE, *_ONLY, "n_inner", "activation_function", "architectures", "id2label", "label2id",
    "num_labels", "problem_type", "initializer_range", "resid_pdrop", "embd_pdrop",
}  # fmt: skip

_HARMLESS = {
    # Of training, or of a head that is not imported.
    "attn_pdrop", "summary_type", "summary_use_proj", "summary_activation",
    "summary_proj_to_labels", "summary_first_dropout", "finetuning_task", "task_specific_params",
    "gradient_checkpointing", "classifier_dropout", "n_special", "predict_special_tokens",
    # The same numbers computed in another way; n_ctx is n_positions' old name, which is unused.
    "n_ctx", "reorder_and_upcast_attn", "use_cache", "chunk_size_feed_forward",
    "_attn_implementation", "_attn_implementation_autoset", "attn_implementation", "is_decoder",
    "use_bfloat16", "tie_encoder_decoder", "cross_attention_hidden_size", "tf_legacy_loss",
    # What a call returns, and how it was stored.
    "_name_or_path", "name_or_path", "transformers_version", "torch_dtype", "dtype", "torchscript",
    "return_dict", "output_hidden_states", "output_attentions", "output_past", "_commit_hash",
    "_num_labels", "use_return_dict", "xla_device", "keys_to_ignore_at_inference",
    # Of tokens and of decoding.
    "bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "decoder_start_token_id",
    "forced_bos_token_id", "forced_eos_token_id", "tokenizer_class", "prefix", "max_length",
    "min_length", "do_sample", "early_stopping", "num_beams", "num_beam_groups", "temperature",
    "diversity_penalty", "top_k", "top_p", "typical_p", "repetition_penalty", "length_penalty",
    "no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "bad_words_ids", "suppress_tokens",
    "begin_suppress_tokens", "num_return_sequences", "output_scores", "return_dict_in_generate",
    "exponential_decay_length_penalty", "remove_invalid_values",
}  # fmt: skip


@dataclass(frozen=True)
class Described:
    """The content of a ``config.json``.

    Attributes:
        model: the shape; ``tied`` is as configured.
        classifies: whether the folder's network is ``GPT2ForSequenceClassification``.
        labels: in the order of the outputs, if they are named.
        problem_type: the meaning of a classifier's outputs, if configured.
        pooling: of a classifier's hidden states.
    """

    model: Model
    classifies: bool
    labels: tuple[str, ...]
    problem_type: str | None
    pooling: Pooling = "last"


def describe(config: Mapping[str, Any], where: Path, ignore: Collection[str] = ()) -> Described:
    """Read a configuration.

    Args:
        config: the content of ``where``.
        where: the file.
        ignore: unknown settings to ignore.

    Raises:
        InputError: naming the first setting that is unknown, or that our network does not support.
    """
    ngrams: dict[str, Any] = {}
    pooling: Any = "last"
    if config.get("model_type") == NGRAM_TYPE:
        ngrams = {key: config[key] for key in NGRAM_KEYS if key in config}
        pooling = config.get("pooling", pooling)
        if pooling not in get_args(Pooling):
            raise InputError(f"{where}: pooling={short(pooling)} cannot be imported")
        config = _without_ngrams(config)
    if "model_type" not in config:
        raise InputError(f"{where} names no model_type: only 'gpt2' is read")
    for key, possible in _ONLY.items():
        value = config.get(key, possible[0])
        if not any(type(value) is type(p) and value == p for p in possible):
            allowed = " or ".join(map(repr, possible))
            raise InputError(f"{where}: {key}={short(value)} cannot be imported; only {allowed}")
    for key in sorted(_OTHER_NETWORKS & config.keys()):
        if config[key] not in (None, False, "absolute"):
            raise InputError(
                f"{where}: {key}={short(config[key])} cannot be imported: it changes what the "
                "network computes"
            )
    known = _READ | _HARMLESS | _OTHER_NETWORKS
    for key in ignore:
        if key in _READ:
            raise InputError(f"--ignore {short(key)}: this setting defines the network")
        if key not in config:
            raise InputError(
                f"--ignore {short(key)}: {where} has no such setting"
                + nearest(key, config.keys() - known)
            )
    unknown = sorted(config.keys() - known - set(ignore))
    if unknown:
        raise InputError(
            f"{where}: the setting {short(unknown[0])}={short(config[unknown[0]])} is not known "
            "here, and may change what the network computes: if you know that it does not, import "
            f"with --ignore {short(unknown[0])}"
        )
    kinds = config.get("architectures") or [CAUSAL]
    if not isinstance(kinds, list) or len(kinds) != 1 or kinds[0] not in ARCHITECTURES:
        raise InputError(
            f"{where}: architectures={short(kinds)} cannot be imported; only "
            + ", ".join(ARCHITECTURES)
        )
    problem = config.get("problem_type")
    if problem not in (None, "regression", "single_label_classification"):
        raise InputError(f"{where}: problem_type={short(problem)} cannot be imported")
    classifies = kinds[0] == CLASSIFIER
    labels = _labels(config, where) if classifies or _names_outputs(config) else ()
    model = _model(config, ngrams, where)
    return Described(model, classifies, labels, problem, pooling)


def _without_ngrams(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration of the same network without n-grams and pooling."""
    own = ("auto_map", "pooling", *NGRAM_KEYS)
    plain = {k: v for k, v in config.items() if k not in own}
    kinds = config.get("architectures")
    if isinstance(kinds, list):
        plain["architectures"] = [f"{kind}".removeprefix(NGRAM_PREFIX) for kind in kinds]
    return {**plain, "model_type": "gpt2"}


def _model(config: Mapping[str, Any], ngrams: Mapping[str, Any], where: Path) -> Model:
    shape = {}
    for theirs, (ours, default) in _SHAPE.items():
        shape[ours] = _whole(config, theirs, default, where)
    inner = config.get("n_inner")
    d_ffn = 4 * shape["d_model"] if inner is None else _whole(config, "n_inner", 0, where)
    activation = config.get("activation_function", "gelu_new")
    if not isinstance(activation, str) or activation not in ACTIVATIONS:
        raise InputError(
            f"{where}: activation_function={short(activation)} cannot be imported; only "
            + ", ".join(ACTIVATIONS)
        )
    residual, embedded = config.get("resid_pdrop", 0.1), config.get("embd_pdrop", 0.1)
    # Ours is one number for both; if they differ, the next training must set it.
    same = residual == embedded and type(residual) in (int, float) and 0 <= residual < 1
    spread = config.get("initializer_range", 0.02)
    values = {
        **shape,
        "d_ffn": d_ffn,
        **ngrams,
        "activation": ACTIVATIONS[activation],
        "tied": config.get("tie_word_embeddings", True),
        "dropout": residual if same else 0.0,
        "init_std": spread if type(spread) is float and 0 < spread <= 1 else 0.02,
    }
    return recipe_from({"model": values}, source=str(where)).model


def _whole(config: Mapping[str, Any], key: str, default: int, where: Path) -> int:
    value = config.get(key, default)
    if type(value) is not int or not 1 <= value <= 1 << 24:
        raise InputError(f"{where}: {key}={short(value)} is not a valid size of a GPT-2")
    return value


def _names_outputs(config: Mapping[str, Any]) -> bool:
    """Return whether labels are named from 0 on; those of a language model mean nothing."""
    named = config.get("id2label")
    return isinstance(named, Mapping) and all(str(place) in named for place in range(len(named)))


def _labels(config: Mapping[str, Any], where: Path) -> tuple[str, ...]:
    named = config.get("id2label")
    if named is None:
        return ()
    try:
        labels = tuple(named[str(index)] for index in range(len(named)))
        if not all(isinstance(label, str) for label in labels):
            raise TypeError
        "".join(labels).encode()
    except (TypeError, KeyError, UnicodeEncodeError):
        raise InputError(f"{where}: id2label does not name the outputs 0, 1, 2, …") from None
    return labels


def write(
    model: Model, end_of_text: int | None, recipe: Recipe, n_outputs: int | None
) -> dict[str, Any]:
    """Return the ``config.json`` of a plain GPT-2.

    Args:
        model: a shape without multipliers.
        end_of_text: the token that begins, ends and pads a text, if the run has a tokenizer.
        recipe: of the run.
        n_outputs: of a classifier's head; None for a language model.
    """
    activations = {"gelu": "gelu", "gelu_tanh": "gelu_new"}
    config: dict[str, Any] = {
        "architectures": [CAUSAL if n_outputs is None else CLASSIFIER],
        "model_type": "gpt2",
        **{theirs: getattr(model, ours) for theirs, (ours, _) in _SHAPE.items()},
        "n_inner": model.d_ffn,
        "activation_function": activations[model.activation],
        "layer_norm_epsilon": EPSILON,
        "scale_attn_weights": True,
        "initializer_range": model.init_std,
        "resid_pdrop": model.dropout,
        "embd_pdrop": model.dropout,
        "attn_pdrop": 0.0,
        "tie_word_embeddings": model.tied,
        "bos_token_id": end_of_text,
        "eos_token_id": end_of_text,
        "use_cache": True,
        "dtype": "float32",
        "torch_dtype": "float32",
    }
    if needs_module(model, recipe.task):
        config |= _ngrams(model, recipe.task, config["architectures"][0])
    if n_outputs is None:
        return config
    assert recipe.task is not None
    return config | {"pad_token_id": end_of_text} | _outputs(recipe.task, n_outputs)


def pooling_of(task: TaskSettings | None) -> Pooling:
    """Return how a task's head reads hidden states; GPT-2's reads the last one."""
    return task.pooling if isinstance(task, TextTaskSettings) else "last"


def needs_module(model: Model, task: TaskSettings | None) -> bool:
    """Return whether transformers has no such network of its own."""
    return bool(model.ngrams) or pooling_of(task) != "last"


def _ngrams(model: Model, task: TaskSettings | None, plain: str) -> dict[str, Any]:
    kind = NGRAM_PREFIX + plain
    auto = "AutoModelForCausalLM" if plain == CAUSAL else "AutoModelForSequenceClassification"
    return {
        "architectures": [kind],
        "model_type": NGRAM_TYPE,
        "ngrams": list(model.ngrams),
        "ngram_rows": model.ngram_rows,
        "ngram_kept": list(model.ngram_kept),
        "ngram_ids": model.ngram_ids,
        "pooling": pooling_of(task),
        "auto_map": {
            "AutoConfig": f"{NGRAM_MODULE}.{NGRAM_PREFIX}GPT2Config",
            auto: f"{NGRAM_MODULE}.{kind}",
        },
    }


def _outputs(task: TaskSettings, n_outputs: int) -> dict[str, Any]:
    regression = not isinstance(task, ClassifySettings)
    labels = task.labels if isinstance(task, ClassifySettings) else ("LABEL_0",)
    assert len(labels) == n_outputs
    return {
        "id2label": {str(index): label for index, label in enumerate(labels)},
        "label2id": {label: index for index, label in enumerate(labels)},
        "problem_type": "regression" if regression else "single_label_classification",
    }
