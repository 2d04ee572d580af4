"""What the device reads: global batches, or one system's share of each.

Runs in the SDK's environment, and on the cluster's own workers, which are sent the names of things
only.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from wafergpt.cerebras.cluster import ROWS
from wafergpt.config import Recipe
from wafergpt.data.batches import Batch, Batches, LanguageBatches
from wafergpt.data.corpus import Corpus
from wafergpt.data.labelled import LabelledBatches
from wafergpt.parallel.team import Team
from wafergpt.run import Run

Inputs = dict[str, Tensor]
"""Of one batch: tokens and targets, and the lengths of labelled texts."""


def input_fn(run: str, first: int) -> DataLoader[Inputs]:
    """Return the batches of a run's training from sample ``first`` on, for whoever calls."""
    import cerebras.pytorch as cstorch

    recipe = Run(Path(run)).recipe
    share = Team()
    if cstorch.distributed.is_streamer():
        share = Team(cstorch.distributed.get_streaming_rank(), cstorch.distributed.num_streamers())
    batches = batches_of(recipe, Path(run), "train")
    return DataLoader(Steps(batches, first, recipe.train.batch_size, share), batch_size=None)


def batches_of(recipe: Recipe, run: Path, split: str) -> Batches:
    """Return samples of a split: of the corpus, or of the rows that were encoded for the worker."""
    seed = recipe.seed if split == "train" else None
    if recipe.task is not None:
        rows = load_file(run / "cerebras" / ROWS)
        tokens, ends = rows[f"{split}.tokens"].numpy(), rows[f"{split}.ends"].numpy()
        texts, targets = np.split(tokens, ends[:-1]), rows[f"{split}.targets"].numpy()
        # One shape for all: the device has no other.
        size = recipe.train.batch_size
        return LabelledBatches(texts, targets, size, seed, length=length_of(recipe))
    assert recipe.data.corpus is not None
    corpus = Corpus.open(recipe.data.corpus)
    stream, length = corpus.tokens(split), recipe.model.seq_len
    if split == "val":
        length = min(length, max(len(stream) - 1, 1))
    return LanguageBatches(stream, length, corpus.fingerprint, seed)


class Steps(Dataset[Inputs]):
    """The global batches from one sample on, or one worker's share of each.

    Args:
        batches: samples.
        first: sample that the first batch begins with.
        size: of the global batch.
        share: of the workers, this one.
    """

    def __init__(self, batches: Batches, first: int, size: int, share: Team) -> None:
        self._batches, self._first, self._size, self._share = batches, first, size, share

    def __len__(self) -> int:
        """Count the batches: as many as anyone asks for."""
        return (1 << 62) // self._size

    def __getitem__(self, index: int) -> Inputs:
        first, n = self._share.share(self._first + index * self._size, self._size)
        return inputs_of(self._batches.batch(first, n))


def inputs_of(batch: Batch) -> Inputs:
    """Return what a step reads, in the types that the device has."""
    numbers = batch.targets.is_floating_point()
    targets = batch.targets.float() if numbers else batch.targets.int()
    inputs = {"tokens": batch.tokens.int(), "targets": targets}
    if batch.lengths is not None:
        inputs["lengths"] = batch.lengths.int()
    return inputs


def made_up(recipe: Recipe) -> Inputs:
    """Return a batch of the recipe's shape that says nothing."""
    shape = (recipe.train.batch_size, length_of(recipe))
    tokens = torch.zeros(shape, dtype=torch.int32)
    if recipe.task is None:
        return {"tokens": tokens, "targets": tokens}
    kind = torch.float32 if recipe.task.loss == "squared_error" else torch.int32
    lengths = torch.full(shape[:1], shape[1], dtype=torch.int32)
    return {"tokens": tokens, "targets": torch.zeros(shape[0], dtype=kind), "lengths": lengths}


def length_of(recipe: Recipe) -> int:
    """Return the tokens of one row."""
    longest = None if recipe.task is None else recipe.task.max_tokens
    return longest or recipe.model.seq_len


def once(inputs: Inputs) -> DataLoader[Inputs]:
    """Return one batch as a loader of one."""
    return DataLoader([inputs], batch_size=None)  # type: ignore[arg-type]
