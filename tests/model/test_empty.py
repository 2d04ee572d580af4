"""A network without values loads none of torch's compiler, and has its buffers."""

from __future__ import annotations

import subprocess
import sys

import torch
from torch import nn

from wafergpt.model.empty import empty


class Net(nn.Module):
    """With parameters that three initializers of torch would fill, and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.linear, self.norm = (
            nn.Embedding(5, 3),
            nn.Linear(3, 2),
            nn.LayerNorm(2),
        )
        self.register_buffer("steps", torch.arange(4))


def test_shapes_and_buffers_are_there_and_no_number_is_drawn() -> None:
    state = torch.random.get_rng_state()
    network = empty(Net, "cpu")
    assert torch.equal(torch.random.get_rng_state(), state)
    assert dict(network.named_buffers())["steps"].tolist() == [0, 1, 2, 3]
    shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    assert shapes == {name: tuple(tensor.shape) for name, tensor in Net().state_dict().items()}
    assert all(parameter.is_meta for parameter in empty(Net).parameters())


def test_what_only_reads_weights_does_not_wait_for_the_compiler() -> None:
    code = (
        "import sys; from wafergpt.runs.run import Run; "
        "from wafergpt.inference.writer import Writer; Writer.load(Run.find('base')); "
        "print([m for m in ('torch._dynamo', 'sympy') if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout == "[]\n"
