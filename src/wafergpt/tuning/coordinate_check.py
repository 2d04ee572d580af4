"""The coordinate check of µP: how much each layer's output changes in a few steps, by width.

Under µP every change keeps its size as the network gets wider; under the standard parametrization
changes grow with the width (Yang et al., arXiv:2203.03466, appendix D.1). The change since
initialization is measured, because the outputs themselves may hide it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from wafergpt.config import Model, Recipe
from wafergpt.engines.optimizers import Optimizer
from wafergpt.errors import RunFailed
from wafergpt.model.gpt import GPT, Attention, Block
from wafergpt.model.lora import add_adapters
from wafergpt.model.loss import next_token_loss
from wafergpt.progress import working
from wafergpt.shapes.parametrization import require_whole_heads, rules

WIDTHS = (64, 128, 256, 512)
TOLERANCE = 0.15
"""A change with a slope this close to 0 counts as independent of the width."""

VOCABULARY, BATCH, LENGTH = 128, 8, 32
"""Of the text, which networks of every width memorize."""

SCORES, LOGITS, INITIAL = "attention scores", "logits", "initial logits"

Outputs = dict[str, Tensor]


@dataclass(frozen=True)
class CoordinateCheck:
    """The measurements.

    Attributes:
        widths: of the networks, ascending.
        changes: mean |change| of each layer's output, by layer, in the order of ``widths``.
        initial_logits: mean |logit| before the first step, in the order of ``widths``.
        steps: the number of updates.
        n_heads: of every network.
    """

    widths: tuple[int, ...]
    changes: dict[str, list[float]]
    initial_logits: list[float]
    steps: int
    n_heads: int

    @property
    def slopes(self) -> dict[str, float]:
        """Return for each layer the slope of log |change| against log width."""
        return {name: _slope(self.widths, values) for name, values in self.changes.items()}

    @property
    def logits_slope(self) -> float:
        """Return the slope of the logits before the first step: it may fall, never rise."""
        return _slope(self.widths, self.initial_logits)

    @property
    def broken(self) -> list[str]:
        """Return the layers that depend on the width.

        The change of an output must not depend on the width. That of attention scores and logits
        must not grow; it may fall, because their random part shrinks as the width grows.
        """
        found = [
            name
            for name, slope in self.slopes.items()
            if slope > TOLERANCE or (slope < -TOLERANCE and not may_fall(name))
        ]
        return found + ([INITIAL] if self.logits_slope > TOLERANCE else [])

    @property
    def passed(self) -> bool:
        """Return whether nothing depends on the width."""
        return not self.broken

    @property
    def verdict(self) -> str:
        """Return one line on whether µP holds."""
        if self.passed:
            return f"µP holds: no layer's change depends on the width (slopes within ±{TOLERANCE})"
        name, slope = max(
            self.slopes.items(), key=lambda item: abs(item[1]) * (item[0] in self.broken)
        )
        return (
            f"µP does not hold within ±{TOLERANCE}: {len(self.broken)} of {len(self.slopes)} "
            f"changes depend on the width, above all {name} ({slope:+.2f})"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON."""
        return {
            "widths": list(self.widths),
            "steps": self.steps,
            "n_heads": self.n_heads,
            "changes": self.changes,
            "slopes": self.slopes,
            "initial_logits": self.initial_logits,
            "initial_logits_slope": self.logits_slope,
            "tolerance": TOLERANCE,
            "broken": self.broken,
            "passed": self.passed,
        }


def coordinate_check(
    recipe: Recipe, widths: Sequence[int] = WIDTHS, steps: int = 7, seeds: int = 3
) -> CoordinateCheck:
    """Train networks of the recipe at several widths, and compare how much their outputs change.

    The number of heads is the same at every width, so that d_head grows: it is the recipe's, or the
    next smaller one that divides all widths. Depth, optimizer, learning rate, parametrization and
    base width are the recipe's; the text is small and synthetic.

    With ``lora.rank``, only adapters are trained, on top of initial weights.

    Args:
        recipe: the recipe to check.
        widths: values of d_model.
        steps: the number of updates.
        seeds: the number of networks of each width, whose changes are averaged.

    Raises:
        InputError: if a width is impossible, or the optimizer has no µP rule.
        RunFailed: if a network diverges, or does not change at all.
    """
    widths = tuple(sorted(widths))
    require_whole_heads(recipe.model)
    recipe = recipe.replace(model=_heads_for(recipe.model, widths))
    shapes = [_at_width(recipe, width) for width in widths]
    changes: dict[str, list[float]] = {}
    logits = []
    for shape in shapes:
        with working(f"training networks of width {shape.d_model}"):
            found = [_changes(recipe, shape, steps, seed) for seed in range(seeds)]
        for name in found[0][0]:
            mean = sum(change[name] for change, _ in found) / seeds
            if not 0 < mean < math.inf:
                raise RunFailed(
                    f"at d_model {shape.d_model}, {name} changed by {mean:g}: "
                    f"try {'another' if mean else 'a higher'} optimizer.lr"
                )
            changes.setdefault(name, []).append(mean)
        logits.append(sum(first for _, first in found) / seeds)
    return CoordinateCheck(widths, changes, logits, steps, recipe.model.n_heads)


def may_fall(name: str) -> bool:
    """Return whether a layer's change may shrink as the width grows."""
    return name in (LOGITS, INITIAL) or name.startswith(SCORES)


def _heads_for(model: Model, widths: Sequence[int]) -> dict[str, int]:
    common = math.gcd(*widths)
    heads = next(n for n in range(min(model.n_heads, common), 0, -1) if common % n == 0)
    return {"n_heads": heads, "d_model": widths[0], "d_ffn": _ffn(model, widths[0])}


def _ffn(model: Model, width: int) -> int:
    return max(1, round(width * model.d_ffn / model.d_model))


def _at_width(recipe: Recipe, width: int) -> Model:
    change = {
        "d_model": width,
        "d_ffn": _ffn(recipe.model, width),
        "seq_len": LENGTH,
        "vocab_size": VOCABULARY,
    }
    return recipe.replace(model={**change, "dropout": 0.0}).model


def _changes(recipe: Recipe, shape: Model, steps: int, seed: int) -> tuple[dict[str, float], float]:
    """Return each layer's mean |change| after some steps, and the mean |logit| before them."""
    tokens, targets = _text(seed)
    gpt = GPT(shape).initialize(seed)
    if recipe.lora.rank:
        frozen = add_adapters(gpt, recipe.lora)
        for name, values in gpt.added(gpt.added_to(frozen), seed):
            gpt.get_parameter(name).detach().copy_(values)
    named = {name: p for name, p in gpt.named_parameters() if p.requires_grad}
    settings = recipe.optimizer.model_copy(update={"weight_decay": 0.0})
    optimizer = Optimizer(named.items(), settings, rules(shape, settings.name, named))
    before = _outputs(gpt, tokens)
    for _ in range(steps):
        hidden = gpt.scaled(gpt(tokens))
        loss = next_token_loss(hidden, gpt.head, targets) / targets.numel()
        loss.backward()
        optimizer.step(settings.lr)
    after = _outputs(gpt, tokens)
    changes = {name: float((after[name] - before[name]).abs().mean()) for name in before}
    if recipe.lora.rank:
        # Nothing that comes before the first adapter changes.
        changes = {name: change for name, change in changes.items() if change or name == LOGITS}
    return changes, float(before[LOGITS].abs().mean())


def _text(seed: int) -> tuple[Tensor, Tensor]:
    """Return random tokens and targets that depend on the row's first token.

    So attention has something to learn: otherwise random scores shrink as the heads get wider, and
    hide the effect of a wrong factor.
    """
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(VOCABULARY, (BATCH, LENGTH), generator=generator)
    answers = torch.randperm(VOCABULARY, generator=generator)
    return tokens, answers[tokens[:, :1]].expand_as(tokens)


@torch.no_grad()
def _outputs(gpt: GPT, tokens: Tensor) -> Outputs:
    """Return the output of every layer and all attention scores for some tokens."""
    outputs: Outputs = {}
    with _watched(gpt, outputs):
        outputs[LOGITS] = gpt.logits(gpt(tokens))
    return outputs


@contextmanager
def _watched(gpt: GPT, outputs: Outputs) -> Iterator[None]:
    def keep(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            outputs[name] = output

        return hook

    def keep_scores(name: str, attention: Attention) -> Callable[[nn.Module, Any, Tensor], None]:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            query, key, _ = output.view(*output.shape[:2], 3, attention.n_heads, -1).unbind(2)
            outputs[name] = torch.einsum("bqhd,bkhd->bhqk", query, key) * attention.scale

        return hook

    handles = [gpt.dropout.register_forward_hook(keep("embeddings"))]
    if gpt.ngrams is not None:
        handles.append(gpt.ngrams.register_forward_hook(keep("n-grams")))
    for index, block in enumerate(gpt.blocks):
        assert isinstance(block, Block)
        layers = {"qkv": block.attention.qkv, "attention": block.attention.out}
        layers |= {"ffn in": block.ffn.up, "ffn out": block.ffn.out}
        for name, module in layers.items():
            handles.append(module.register_forward_hook(keep(f"{name} {index + 1}")))
        scores = keep_scores(f"{SCORES} {index + 1}", block.attention)
        handles.append(block.attention.qkv.register_forward_hook(scores))
    handles.append(gpt.norm.register_forward_hook(keep("last norm")))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _slope(widths: Sequence[int], values: Sequence[float]) -> float:
    return float(np.polyfit(np.log(widths), np.log(values), 1)[0])
