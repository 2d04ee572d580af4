"""Loads the run that a training learns from: knowledge distillation (arXiv:1503.02531)."""

from __future__ import annotations

import torch

from wafergpt.checkpoint import store
from wafergpt.checkpoint.format import weights_sha256
from wafergpt.checkpoint.restored import restored
from wafergpt.config import Recipe
from wafergpt.data.tokenizer import Tokenizer
from wafergpt.errors import InputError
from wafergpt.runs.teacher import teacher_run
from wafergpt.tasks.base import Task, Teacher, task_of
from wafergpt.tasks.language_model import PROBE


def teacher_of(task: Task, tokenizer: Tokenizer) -> tuple[Recipe, Teacher | None]:
    """Load the teacher that a task's recipe names, with the weights that it named at first.

    Each process holds the whole of it, whatever is sharded.

    Args:
        task: of the settled recipe.
        tokenizer: that it reads with.

    Returns:
        The recipe with a hash of the teacher's weights, and the teacher; None if there is none.

    Raises:
        InputError: if it cannot be learned from, or its weights are others than at the start.
        DamagedCheckpointError: if its checkpoint is not what was written.
    """
    recipe, train = task.recipe, task.recipe.train
    if train.teacher is None:
        return recipe, None
    run = teacher_run(recipe)
    named = f"train.teacher={run.checkpoint or run.path}"
    # What a training settles for itself is not of the network.
    theirs = task_of(run.recipe.replace(train={"sampled_softmax": 0}))
    _require_same_tokens(recipe, theirs.recipe, named)
    if run.tokenizer.is_file():
        known = Tokenizer.load(run.tokenizer)
        if known.encode(PROBE) != tokenizer.encode(PROBE):
            raise InputError(f"{named} reads with another tokenizer")
        words = [one.spelling and one.spelling.words for one in (known, tokenizer)]
        if words[0] != words[1]:
            raise InputError(f"{named} reads with other words (task.spelling)")
    try:
        task.require_teacher(theirs)
    except InputError as error:
        raise InputError(f"{named} {error}") from None
    network = restored(theirs.network, store.weights(run)).requires_grad_(False).eval()
    digest = weights_sha256(network.state_dict())
    if train.teacher_sha256 not in (None, digest):
        raise InputError(f"{named} has other weights than when this run started with it")
    network.to(torch.device(recipe.system.device))
    return recipe.replace(train={"teacher_sha256": digest}), Teacher(
        theirs, network, train.teacher_weight
    )


def _require_same_tokens(recipe: Recipe, theirs: Recipe, named: str) -> None:
    length = (recipe.task and recipe.task.max_tokens) or recipe.model.seq_len
    if theirs.model.seq_len < length:
        raise InputError(
            f"{named} reads {theirs.model.seq_len:,} tokens, and the sequences have {length:,}"
        )
