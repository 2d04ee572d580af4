from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wafergpt.generate.sampling import sample


def draws(logits: torch.Tensor, n: int = 2000, **choice: float) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return sample(logits.expand(n, -1), generator, **choice)  # type: ignore[arg-type]


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
        ({"temperature": 0}, {0}),
        ({"top_k": 1000}, {0, 1, 2, 3}),
    ],
)
def test_only_the_allowed_tokens(choice: dict[str, float], allowed: set[int]) -> None:
    assert set(draws(LOGITS, **choice).tolist()) == allowed


@given(st.integers(2, 40), st.integers(0, 50), st.floats(0.01, 1.0), st.integers(0, 99))
@settings(max_examples=50, deadline=None)
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
