"""How initial weights, learning rates and multipliers follow the shape, as a table of numbers.

Under the standard parametrization (``sp``) only the depth matters; under the maximal update
parametrization (``mup``; Yang et al., arXiv:2203.03466) they follow the width too, so that settings
tuned on a narrow network hold on a wide one. ``mup`` is Cerebras-GPT's (arXiv:2304.03208, appendix
G): at the base width both agree, except that attention scores are divided by d_head.

Nothing is attached to tensors: a parameter's role comes from its name, and a role's numbers from
the shape. So they are the same for a network that is compiled or sharded.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from wafergpt.config import Model
from wafergpt.errors import InputError
from wafergpt.shapes.roles import ROLES, Role, role_of
from wafergpt.shapes.weight_decay import decays

STEP_RATE = 30.0
"""Learning rate of a tag's score after another, over that of the network. Adam moves a number by
the rate at most: at the network's these scores would stay below 1 in a thousand updates, and those
of characters want several. At 100 the F1 is lower again (docs/log.md)."""


@dataclass(frozen=True)
class Row:
    """The numbers of one role.

    Attributes:
        init_std: of a normal, truncated at two standard deviations except for a task's head; of an
            adapter's A uniform; 0 for biases (norms start at 1).
        decays: whether weight decay, which is multiplied by the role's learning rate, acts on it.
        lr: the factor of the recipe's learning rate, by optimizer.
    """

    init_std: float
    decays: bool
    lr: Mapping[str, float]


@dataclass(frozen=True)
class Rule:
    """How an optimizer updates one parameter.

    Attributes:
        factor: of the recipe's learning rate.
        decays: whether weight decay acts on it.
    """

    factor: float
    decays: bool


@dataclass(frozen=True)
class Parametrization:
    """The whole table of a shape.

    Attributes:
        rows: by role.
        embedding_multiplier: of the sum of all embeddings.
        attention_multiplier: of query·key.
        logits_multiplier: of the logits, or of the head's input.
        task_multiplier: of a task head's scores.
    """

    rows: Mapping[Role, Row]
    embedding_multiplier: float
    attention_multiplier: float
    logits_multiplier: float
    task_multiplier: float

    def to_dict(self) -> dict[str, Any]:
        """Return every number as JSON."""
        return {
            "rows": {
                role: {"init_std": row.init_std, "decays": row.decays, "lr_factors": dict(row.lr)}
                for role, row in self.rows.items()
            },
            "multipliers": {
                "embedding": self.embedding_multiplier,
                "attention": self.attention_multiplier,
                "logits": self.logits_multiplier,
                "task": self.task_multiplier,
            },
        }


def parametrization(model: Model) -> Parametrization:
    """Return the table of a shape."""
    wide = model.d_model / model.base_d_model if model.parametrization == "mup" else 1.0
    ffn_wide = model.d_ffn / model.base_d_ffn if model.parametrization == "mup" else 1.0
    std, residual = model.init_std, (2 * model.n_layers) ** -0.5
    init: Mapping[Role, float] = {
        "qkv": std * wide**-0.5,
        "attention_out": std * residual * wide**-0.5,
        "ffn_in": std * wide**-0.5,
        "ffn_out": std * residual * ffn_wide**-0.5,
        "ngram": 0.0,
        "task_ngram": 0.0,
        "vector": 0.0,
        "ffn_vector": 0.0,
        # A's is uniform with He's bound for a slope of √5, 1/√fan_in, as in peft; B starts at zero.
        "lora_a": (3 * model.d_model) ** -0.5,
        "ffn_lora_a": (3 * model.d_ffn) ** -0.5,
        "lora_b": 0.0,
        "ffn_lora_b": 0.0,
    }
    rates = _learning_rates(wide, ffn_wide)
    rows = {
        role: Row(
            init.get(role, std),
            decays=decays(role),
            lr={name: column[role] for name, column in rates.items()},
        )
        for role in ROLES
    }
    d_head = model.head_width
    return Parametrization(
        rows,
        embedding_multiplier=model.embedding_scale,
        attention_multiplier=1 / d_head if model.parametrization == "mup" else d_head**-0.5,
        logits_multiplier=model.output_scale / wide,
        task_multiplier=1 / wide,
    )


def require_whole_heads(model: Model) -> None:
    """Require heads of d_model / n_heads, which widths are compared for.

    Raises:
        InputError: if ``model.d_head`` is another.
    """
    if model.d_head:
        raise InputError(
            f"networks of other widths have heads of d_model / n_heads, and not model.d_head="
            f"{model.d_head}"
        )


def rules(model: Model, optimizer: str, names: Iterable[str]) -> dict[str, Rule]:
    """Return how an optimizer updates each named parameter.

    Raises:
        InputError: if the optimizer has no column under ``mup``.
    """
    rows = parametrization(model).rows
    known = rows["embedding"].lr
    if optimizer not in known and model.parametrization == "mup":
        raise InputError(
            f"no µP rule is known for optimizer.name={optimizer}: use {', '.join(known)}"
        )
    found = {name: rows[role_of(name)] for name in names}
    return {name: Rule(row.lr.get(optimizer, 1.0), row.decays) for name, row in found.items()}


def _learning_rates(wide: float, ffn_wide: float) -> dict[str, Mapping[Role, float]]:
    """Return the factors of every role by optimizer, for multiples of the base widths.

    AdamW and Adam: arXiv:2203.03466, table 8 (a hidden matrix by 1/fan_in). SGD: the same table
    (vectors and embeddings by fan_out, heads by fan_in, a hidden matrix by fan_out/fan_in; momentum
    changes nothing). Muon moves hidden matrices by updates of a set spectral norm, which has to be
    √(fan_out/fan_in) (Yang et al., arXiv:2310.17813); torch's, scaled to AdamW's size, has one of
    √max(fan_out, fan_in), which is divided out. The rest is as under AdamW.

    An adapter's rank stays as the width grows. So A is like a head, whose update of entries η adds
    up over fan_in, and B like an embedding: η/fan_in for A and η for B, which is what efficient
    learning of features needs (Hayou et al., LoRA+, arXiv:2402.12354, theorem 1).
    """
    ones: dict[Role, float] = {**dict.fromkeys(ROLES, 1.0), "task_step": STEP_RATE}
    narrow, root = 1 / wide, wide**-0.5
    inputs: tuple[Role, ...] = ("qkv", "attention_out", "ffn_in")
    adapters: dict[Role, float] = {"lora_a": narrow, "ffn_lora_a": 1 / ffn_wide}
    adam: dict[Role, float] = {**ones, **dict.fromkeys(inputs, narrow), "ffn_out": 1 / ffn_wide}
    muon = {**ones, **dict.fromkeys(inputs, root), "ffn_out": wide**0.5 / ffn_wide}
    adam, muon = {**adam, **adapters}, {**muon, **adapters}
    sgd: dict[Role, float] = {
        **dict.fromkeys(ROLES, wide),
        "qkv": 1.0,
        "attention_out": 1.0,
        "ffn_in": ffn_wide / wide,
        "ffn_out": wide / ffn_wide,
        "ffn_vector": ffn_wide,
        "task_step": 1.0,
        **adapters,
        "ffn_lora_b": ffn_wide,
    }
    return {"adamw": adam, "adam": adam, "sgd": sgd, "muon": muon}
