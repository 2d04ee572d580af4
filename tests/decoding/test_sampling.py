from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wafergpt.decoding.sampling import sample
from wafergpt.errors import RunFailed


def draws(logits: torch.Tensor, n: int = 2000, **choice: Any) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return sample(logits.expand(n, -1), generator, **choice)


LOGITS = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()


def test_frequencies_follow_the_probabilities() -> None:
    counts = draws(LOGITS, 20_000).bincount(minlength=4) / 20_000
    assert counts.tolist() == pytest.approx([0.5, 0.3, 0.15, 0.05], abs=0.012)


def test_temperature_sharpens() -> None:
    counts = draws(LOGITS, 20_000, temperature=0.5).bincount(minlength=4) / 20_000
    squares = torch.tensor([0.25, 0.09, 0.0225, 0.0025])
    assert counts.tolist() == pytest.approx((squares / squares.sum()).tolist(), abs=0.012)


@pytest.mark.parametrize(
    ("choice", "allowed"),
    [
        ({"top_k": 2}, {0, 1}),
        ({"top_p": 0.7}, {0, 1}),
        ({"top_p": 0.81}, {0, 1, 2}),
        ({"top_p": 1e-9}, {0}),
        ({"top_p": 1e-300}, {0}),
        ({"top_p": 0}, {0}),
        ({"temperature": 1e-40}, {0}),
        ({"temperature": 5e-324, "top_k": 3, "top_p": 1e-40}, {0}),
        ({"temperature": 1e-30}, {0}),
        ({"temperature": 100}, {0, 1, 2, 3}),
        ({"temperature": 1e308}, {0, 1, 2, 3}),
        ({"top_k": 10**30}, {0, 1, 2, 3}),
        ({"temperature": 0}, {0}),
        ({"top_k": 1000}, {0, 1, 2, 3}),
    ],
)
def test_only_the_allowed_tokens(choice: dict[str, Any], allowed: set[int]) -> None:
    assert set(draws(LOGITS, **choice).tolist()) == allowed


@given(st.integers(2, 40), st.integers(0, 50), st.floats(0.01, 1.0), st.integers(0, 99))
@settings(max_examples=50)
def test_filters_equal_hugging_face(vocab: int, top_k: int, top_p: float, seed: int) -> None:
    logits_process = pytest.importorskip(
        "transformers.generation.logits_process", reason="the parity tests need transformers"
    )
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(1, vocab, generator=generator)
    filtered = logits
    if top_k:
        filtered = logits_process.TopKLogitsWarper(min(top_k, vocab))(None, filtered)
    if top_p < 1:
        filtered = logits_process.TopPLogitsWarper(top_p)(None, filtered)
    allowed = set(filtered[0].isfinite().nonzero()[:, 0].tolist())
    seen = set(draws(logits, 300, top_k=top_k, top_p=top_p).tolist())
    assert seen <= allowed


EXTREME = st.sampled_from([0.0, 5e-324, 1e-300, 1e-45, 1e-40, 1.2e-38, 1e-20, 0.5, 1e38, 1e308])


@given(
    rows=st.lists(
        st.floats(-(2.0**127), 2.0**127, width=32) | st.just(float("-inf")), min_size=1, max_size=12
    ).filter(lambda row: max(row) > float("-inf")),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    temperature=EXTREME | st.floats(0, 1e308),
    top_k=st.integers(0, 40) | st.just(10**18),
    top_p=EXTREME.filter(lambda p: p <= 1) | st.floats(0, 1),
)
def test_whatever_the_limits_a_possible_token_is_drawn(
    rows: list[float], dtype: torch.dtype, temperature: float, top_k: int, top_p: float
) -> None:
    logits = torch.tensor([rows]).to(dtype)
    (token,) = draws(logits, 1, temperature=temperature, top_k=top_k, top_p=top_p).tolist()
    assert logits[0, token] > float("-inf")
    if temperature < 1e-38 or top_k == 1 or top_p < 1e-12:
        assert logits[0, token] == logits.max()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_of_a_broken_network_are_named(value: float) -> None:
    with pytest.raises(RunFailed, match="logits are not finite"):
        draws(torch.tensor([[0.0, value]]), 1)
