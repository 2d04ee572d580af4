"""Networks with the weights of a checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Collection

from torch import nn

from wafergpt import files
from wafergpt.checkpoint.format import Stored
from wafergpt.checkpoint.store import DamagedCheckpointError
from wafergpt.distributed.sharding import fill
from wafergpt.model.empty import N, empty
from wafergpt.progress import working


def restored(build: Callable[[], N], stored: Stored) -> N:
    """Build a network and load its weights.

    Raises:
        DamagedCheckpointError: if they do not fit the network.
    """
    require_fit(empty(build), stored)
    # Built again, for moving it from meta would import half of torch's compiler.
    network = empty(build, "cpu")
    with working("loading the weights"):
        fill(network, stored.by_rows.items())
    return network


def require_fit(network: nn.Module, stored: Stored, new: Collection[str] = ()) -> None:
    """Compare the names and shapes of stored weights with those of a network.

    Args:
        network: to load the weights into.
        stored: the weights.
        new: names in ``network`` that are not among them.

    Raises:
        DamagedCheckpointError: naming the first that differs.
    """
    tensors = network.state_dict().items()
    own = {name: tuple(tensor.shape) for name, tensor in tensors if name not in new}
    there = {name: tensor.shape for name, tensor in stored.by_rows.items()}
    for name in sorted(own.keys() | there.keys()):
        if own.get(name) != there.get(name):
            found = there.get(name, "not there")
            raise DamagedCheckpointError(
                f"{stored.folder} does not fit its run's recipe: {files.short(name)} is {found}, "
                f"not {own.get(name, 'there')}"
            )
