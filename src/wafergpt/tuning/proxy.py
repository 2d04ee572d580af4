"""The narrow proxy of a wide training: under µP it has the same best settings.

µTransfer (Yang et al., arXiv:2203.03466). Cerebras-GPT tuned a model of width 256 and used its
settings up to 2.7B parameters (arXiv:2304.03208, section 3.3).
"""

from __future__ import annotations

from wafergpt.config import Recipe
from wafergpt.config.warmup import warmup_steps
from wafergpt.errors import InputError
from wafergpt.planning.plan import TOKENS_PER_PARAMETER
from wafergpt.shapes.counts import dense_parameters
from wafergpt.shapes.parametrization import require_whole_heads

SHARES = 10_000
"""Steps of a hypothetical run, to turn a warm-up in percent into a share of it."""


def proxy_of(target: Recipe, width: int, steps: int | None = None) -> Recipe:
    """Return the recipe of the proxy: the target's in all but width and horizon.

    Heads keep their width where that divides; otherwise their number. A warm-up in steps or tokens
    becomes its share of the target's run, and every batch is the target's last.

    Args:
        target: a recipe under µP.
        width: d_model of the proxy.
        steps: the number of its updates; if omitted, 20 tokens per parameter.

    Raises:
        InputError: if the target is not under µP, the width is not possible, or its warm-up is not
            a known share because its horizon is not known.
    """
    model = target.model
    require_whole_heads(model)
    if model.parametrization != "mup":
        raise InputError(
            "settings transfer only under µP: add model.parametrization=mup, or name a µP recipe"
        )
    if width >= model.d_model:
        raise InputError(f"a proxy of width {width} is no narrower than d_model={model.d_model}")
    d_head = model.head_width
    heads = width // d_head if width % d_head == 0 else model.n_heads
    if width % heads:
        near = max(1, round(width / heads)) * heads
        raise InputError(f"{heads} heads do not divide a proxy of width {width}: try {near}")
    shape = {"d_model": width, "n_heads": heads, "d_ffn": width * model.d_ffn // model.d_model}
    train = {"steps": steps, "tokens": None, "epochs": None, "seconds": None}
    train |= {"first_steps": 0, "first_batch_size": 0}
    warmup = f"{100 * _warmup_share(target):.4g}%"
    return target.replace(
        name=f"{target.name}-proxy", model=shape, train=train, schedule={"warmup": warmup}
    )


def _warmup_share(target: Recipe) -> float:
    train, seq_len = target.train, target.model.seq_len
    batch_tokens = train.batch_size * seq_len
    if train.steps:
        tokens = train.samples(train.steps) * seq_len
    elif train.tokens:
        tokens = train.tokens
    elif not (train.epochs or train.seconds) and target.model.vocab_size:
        tokens = round(TOKENS_PER_PARAMETER * dense_parameters(target.model))
    else:
        tokens = 0
    steps = tokens // batch_tokens or SHARES
    warmup = warmup_steps(target.schedule.warmup, steps, batch_tokens)
    relative = isinstance(target.schedule.warmup, str) and "%" in target.schedule.warmup
    if warmup and not tokens and not relative:
        raise InputError(
            "the proxy trains for a different time than the target: set schedule.warmup as a share,"
            " such as schedule.warmup=10%"
        )
    return warmup / steps
