"""The batches that the device reads: global ones, or one system's share of each.

Runs in the SDK's environment, and on the cluster's own workers, which are sent names only.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from wafergpt.cerebras.cluster import RECIPE, ROWS
from wafergpt.config import Recipe, load_recipe
from wafergpt.data.batches import Batch, Batches
from wafergpt.data.corpus import Corpus
from wafergpt.data.labelled_batches import LabelledBatches
from wafergpt.data.language_batches import LanguageBatches
from wafergpt.distributed.collectives import ProcessGroup

Inputs = dict[str, Tensor]
"""The tensors of one batch: tokens and targets, and the lengths of labelled texts."""


def input_fn(folder: str, first: int) -> DataLoader[Inputs]:
    """Return the training batches from sample ``first`` on, or a streamer's share of them.

    Args:
        folder: of the engine, with the recipe and labelled rows.
        first: the first sample.
    """
    import cerebras.pytorch as cstorch

    recipe = load_recipe(Path(folder) / RECIPE)
    share = ProcessGroup()
    if cstorch.distributed.is_streamer():
        share = ProcessGroup(
            cstorch.distributed.get_streaming_rank(), cstorch.distributed.num_streamers()
        )
    batches = batches_of(recipe, Path(folder))
    return DataLoader(Steps(batches, first, recipe.train.batch_size, share), batch_size=None)


def batches_of(recipe: Recipe, folder: Path) -> Batches:
    """Return the training samples: of the corpus, or of the encoded rows in ``folder``."""
    if recipe.task is not None:
        rows = load_file(folder / ROWS)
        texts = np.split(rows["tokens"].numpy(), rows["ends"].numpy()[:-1])
        # The device needs one shape for all batches.
        size, length = recipe.train.batch_size, length_of(recipe)
        targets = rows["targets"].numpy()
        return LabelledBatches(texts, targets, size, recipe.seed, length=length)
    assert recipe.data.corpus is not None
    corpus = Corpus.open(recipe.data.corpus)
    stream = corpus.tokens("train")
    return LanguageBatches(stream, recipe.model.seq_len, corpus.fingerprint, recipe.seed)


class Steps(Dataset[Inputs]):
    """The global batches from one sample on, or one worker's share of each.

    Args:
        batches: the samples.
        first: first sample of the first batch.
        size: of the global batch.
        share: this worker among all.
    """

    def __init__(self, batches: Batches, first: int, size: int, share: ProcessGroup) -> None:
        self._batches, self._first, self._size, self._share = batches, first, size, share

    def __len__(self) -> int:
        """Return a number of batches that is never reached."""
        return (1 << 62) // self._size

    def __getitem__(self, index: int) -> Inputs:
        first, n = self._share.share(self._first + index * self._size, self._size)
        return inputs_of(self._batches.batch(first, n))


def inputs_of(batch: Batch) -> Inputs:
    """Return the tensors of a batch, in the device's types."""
    return {
        name: value.float() if value.is_floating_point() else value.int()
        for name, value in batch.items()
    }


def made_up(recipe: Recipe) -> Inputs:
    """Return a batch of zeros in the recipe's shape."""
    length = length_of(recipe)
    if recipe.task is None:
        tokens = torch.zeros(recipe.train.batch_size, length, dtype=torch.int32)
        return {"tokens": tokens, "targets": tokens}
    texts = [np.zeros(length, dtype=np.int64)] * recipe.train.batch_size
    targets = np.zeros(len(texts), dtype=np.int64)
    if recipe.task.name == "regress":
        targets = targets.astype(np.float64)
    rows = LabelledBatches(texts, targets, len(texts), None, length=length)
    return inputs_of(rows.batch(0, len(texts)))


def length_of(recipe: Recipe) -> int:
    """Return the tokens of one row."""
    longest = None if recipe.task is None else recipe.task.max_tokens
    return longest or recipe.model.seq_len


def once(inputs: Inputs) -> DataLoader[Inputs]:
    """Return one batch as a loader of one."""
    return DataLoader([inputs], batch_size=None)  # type: ignore[arg-type]
