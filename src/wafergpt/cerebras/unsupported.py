"""Settings that a Cerebras system does not support, and what to use instead."""

from __future__ import annotations

from wafergpt.config import Recipe
from wafergpt.errors import InputError
from wafergpt.tasks.base import task_of


def require_supported(recipe: Recipe) -> None:
    """Refuse recipes that do not lower to Cerebras IR, or have settings without meaning there.

    Raises:
        InputError: with the setting, and what to use instead.
    """
    train, system = recipe.train, recipe.system
    refused = [
        (recipe.optimizer.name not in {"adamw", "adam"},
         f"optimizer.name={recipe.optimizer.name}", "optimizer.name=adamw or adam"),
        (train.sampled_softmax, "train.sampled_softmax", "the whole softmax: 0"),
        (train.teacher, "train.teacher", "system.device=cpu or cuda"),
        (train.first_batch_size, "train.first_batch_size", "one batch size: 0"),
        (train.seconds, "train.seconds", "train.steps or train.tokens"),
        (recipe.lora.rank, "lora.rank", "0: its SDK trains whole weights"),
        (recipe.model.ngrams, "model.ngrams", "[]"),
        (recipe.data.document_mask, "data.document_mask", "false"),
        (system.activation_checkpointing, "system.activation_checkpointing",
         "false: the SDK's compiler fits activations itself"),
        (system.nproc > 1 or system.shard != 1, "system.nproc or system.shard",
         "system.cerebras.systems"),
        (recipe.guard.spike, "guard.spike", "0"),
        (recipe.start and recipe.sparsity.algorithm not in ("none", "gmp"),
         f"sparsity.algorithm={recipe.sparsity.algorithm} from a run's weights",
         "system.device=cpu or cuda: the SDK draws the first zeros at random"),
        (recipe.evaluate.prompts, "evaluate.prompts", "wafergpt generate, afterwards"),
        (getattr(recipe.task, "word_dropout", 0), "task.word_dropout", "0"),
        (getattr(recipe.task, "consistency", 0), "task.consistency", "task.augment alone: 0"),
        (getattr(recipe.task, "adversarial", 0), "task.adversarial", "0"),
        (getattr(recipe.task, "ngrams", "none") != "none", "task.ngrams", "none"),
        (getattr(recipe.task, "class_weights", "none") != "none", "task.class_weights", "none"),
        (getattr(recipe.task, "multi", False), "task.multi", "false"),
        (not task_of(recipe).lowers, f"task.name={recipe.task and recipe.task.name}",
         "system.device=cpu or cuda"),
    ]  # fmt: skip
    if train.batch_size < system.cerebras.systems:
        raise InputError(
            f"a batch of {train.batch_size} is less than a sequence for each of "
            f"{system.cerebras.systems} systems: raise train.batch_size"
        )
    for found, name, instead in refused:
        if found:
            raise InputError(f"{name} is not for system.device=cerebras: use {instead}")
