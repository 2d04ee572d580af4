"""Changed copies of training rows, from which a classifier learns to read what people mistype."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING

from wafergpt.data.labelled_rows import Table
from wafergpt.data.text_columns import in_each
from wafergpt.data.word_splitting import split_sentences, words_of
from wafergpt.evaluation.perturbations import SEVERITIES, perturbed
from wafergpt.tasks.ngram_scores import mean_of_each

if TYPE_CHECKING:
    from torch import Tensor, nn

    from wafergpt.data.batches import Batch
    from wafergpt.tasks.text_task import TextTask

LEAST_WORDS = 3
"""Of an excerpt, marks among them."""


def changed(text: str, kind: str, severity: int, seed: int) -> str:
    """Return a text with a kind of change, in each of its columns.

    Args:
        text: of one column, or several that are joined.
        kind: of change (see ``KINDS``).
        severity: from 1 to 5.
        seed: of the places that change.

    Returns:
        The changed text.
    """
    return in_each(text, lambda part: perturbed(part, kind, severity, seed))


def changed_copies(table: Table, kinds: Sequence[str], copies: int, seed: int) -> list[Table]:
    """Return changed copies of all rows, each text with a kind and a severity of its own.

    Args:
        table: the training rows.
        kinds: of changes that are drawn from.
        copies: of each row.
        seed: of the draw.

    Returns:
        The tables of copies, in the order of the rows.
    """
    # Seeded by a text, which every version of Python hashes alike.
    draw, found = random.Random(f"augment {seed}"), []
    for copy in range(copies):
        texts = []
        for row, text in enumerate(table.texts):
            kind, severity = draw.choice(kinds), draw.choice(SEVERITIES)
            texts.append(changed(text, kind, severity, seed + copy * len(table.texts) + row))
        found.append(replace(table, texts=texts, notes=()))
    return found


def excerpts(table: Table, count: int, seed: int) -> list[Table]:
    """Return sentences of all rows, as rows with the same answers.

    Args:
        table: the training rows, of one column.
        count: of the sentences of each text; of one with fewer, the text itself for the rest.
        seed: of the draw.

    Returns:
        ``count`` tables, in the order of the rows.
    """
    draw = random.Random(f"excerpts {seed}")
    drawn = [[*_drawn(text, count, draw), *[text] * count][:count] for text in table.texts]
    return [replace(table, texts=list(texts), notes=()) for texts in zip(*drawn, strict=True)]


def _drawn(text: str, count: int, draw: random.Random) -> list[str]:
    """Return some sentences of a text that are long enough, fewer if it has fewer."""
    found = split_sentences(text)
    draw.shuffle(found)
    long = (one for one in found if len(words_of(one, "parts")) >= LEAST_WORDS)
    return list(islice(long, count))


def consistent_loss(task: TextTask, network: nn.Module, batch: Batch, changed: Batch) -> Tensor:
    """Return the mean loss of rows and copies, and the copies' divergence from the rows, summed.

    The answers to the rows are taken as they are, as virtual adversarial training does (Miyato et
    al., arXiv:1704.03976), with changes of the texts in place of those of their embeddings.

    Args:
        task: with a rule for the divergence.
        network: in training.
        batch: the rows.
        changed: a copy of each.

    Returns:
        A scalar.
    """
    import torch

    targets, weights = batch["targets"], batch.get("weights")
    rows, copies = (task.scores_of_each(network, one) for one in (batch, changed))
    loss = mean_of_each(
        torch.cat([rows, copies]),
        lambda one: task.loss_of(one, targets, weights, training=True),
    )
    apart = mean_of_each(
        torch.stack([rows.detach(), copies], 1),
        lambda pair: task.divergence(pair[1], task.absolute(pair[0]), weights),
    )
    return loss + task.settings.consistency * apart
