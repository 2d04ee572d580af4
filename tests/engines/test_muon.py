"""Matrices that are moved together move as torch's own Muon moves each."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from wafergpt.engines import muon
from wafergpt.engines.muon import BatchedMuon

SHAPES = [(24, 8), (8, 24), (24, 8), (16, 16), (24, 8)]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("most", [1 << 25, 400])
def test_moved_together_they_go_where_torchs_own_moves_them(
    most: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(muon, "MOST_ELEMENTS", most)
    if dtype == torch.float32:
        # Torch's own has no choice.
        monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.clone)
    torch.manual_seed(0)
    ours = [nn.Parameter(torch.randn(shape)) for shape in SHAPES]
    theirs = [nn.Parameter(p.detach().clone()) for p in ours]
    lr, decay = 0.02, 0.1
    together = BatchedMuon([{"params": ours, "weight_decay": decay}], lr, 0.95, dtype)
    apart = torch.optim.Muon(theirs, lr=lr, weight_decay=decay, adjust_lr_fn="match_rms_adamw")
    for _ in range(4):
        for mine, other in zip(ours, theirs, strict=True):
            mine.grad = torch.randn(mine.shape)
            other.grad = mine.grad.clone()
        ours[3].grad = theirs[3].grad = None
        together.step()
        apart.step()
    for mine, other in zip(ours, theirs, strict=True):
        # bf16 has three digits.
        near = 1e-4 if dtype == torch.float32 else 0.02
        assert torch.allclose(mine, other, atol=near * lr)
        state, their_state = together.state[mine], apart.state[other]
        assert state.keys() == their_state.keys()
        for key, value in state.items():
            assert torch.equal(value, their_state[key])
