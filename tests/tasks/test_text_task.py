"""What a task with one answer a text computes, against plain torch, and nothing is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.hostile import folders
from wafergpt.config import recipe_from
from wafergpt.data.batches import Batch
from wafergpt.data.labelled_batches import LabelledBatches
from wafergpt.engines.base import reseed
from wafergpt.model.heads import Classifier
from wafergpt.tasks.base import task_of
from wafergpt.tasks.classify import Classify


def classify(**settings: object) -> Classify:
    recipe = recipe_from({**folders.RECIPE, "task": {"labels": ["a", "b"], **settings}})
    task = task_of(recipe)
    assert isinstance(task, Classify)
    return task


def network_of(task: Classify) -> Classifier:
    """Return the task's network with weights large enough that all of them show."""
    torch.manual_seed(0)
    network = task.network()
    assert isinstance(network, Classifier)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.5)
    return network


@pytest.mark.parametrize("pooling", ["last", "mean", "max", "mean_max_last"])
def test_the_head_reads_what_the_pooling_says(
    pooling: Literal["last", "mean", "max", "mean_max_last"],
) -> None:
    task = classify(pooling=pooling)
    network = network_of(task).eval()
    texts = [np.arange(n) % 250 + 5 for n in (3, 1, 12, 7)]
    batch = LabelledBatches(texts, np.zeros(4, dtype=np.int64), 4, None).batch(0, 4)
    assert batch["lengths"].tolist() == [1, 3, 7, 12]
    with torch.no_grad():
        scores = task.scores(network, batch)
        for row, tokens in zip(scores, sorted(texts, key=len), strict=True):
            hidden = network.gpt(torch.from_numpy(tokens)[None])[0]
            pooled = {"last": hidden[-1], "mean": hidden.mean(0), "max": hidden.max(0).values}
            pooled["mean_max_last"] = torch.cat([pooled["mean"], pooled["max"], pooled["last"]])
            expected = network.head.weight @ pooled[pooling]
            torch.testing.assert_close(row, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("loss", ["cross_entropy", "binary"])
def test_balanced_classes_weigh_as_torch_weighs_them(tmp_path: Path, loss: str) -> None:
    """An update of four rows of one class and one of the other, in two parts."""
    rows = tmp_path / "rows.csv"
    answers = ["a", "a", "b", "a", "a", "a"]
    lines = [f"{'the end ' * n}{answer}" for n, answer in enumerate(answers, 1)]
    texts = [f"{line},{answer}\n" for line, answer in zip(lines, answers, strict=True)]
    rows.write_text("text,label\n" + "".join(texts))
    asked = classify(train=rows, validation=rows, loss=loss, class_weights="balanced")
    recipe, splits = asked.prepare(folders.tokenizer())
    task = Classify(recipe)
    network = network_of(task)
    batches = [splits.train.batch(1, 3), splits.train.batch(4, 2)]
    weight = sum(batch.weight for batch in batches)
    # On average over the training rows a row weighs 1.
    assert splits.train.batch(0, 6).weight == pytest.approx(6)
    ours = sum(task.loss(network, batch) for batch in batches) / weight
    assert isinstance(ours, Tensor)
    gradients = torch.autograd.grad(ours, list(network.parameters()))

    scores = torch.cat([network(batch["tokens"], batch["lengths"]) for batch in batches])
    if loss == "binary":
        # One score is the log-odds of the second class: a softmax against zero.
        scores = torch.cat([torch.zeros_like(scores), scores], 1)
    targets = torch.cat([batch["targets"] for batch in batches])
    assert sorted(targets.tolist()) == [0, 0, 0, 0, 1]
    theirs = F.cross_entropy(scores, targets, weight=torch.tensor([6 / (2 * 5), 6 / (2 * 1)]))
    torch.testing.assert_close(ours, theirs)
    expected = torch.autograd.grad(theirs, list(network.parameters()))
    torch.testing.assert_close(gradients, expected, atol=1e-6, rtol=1e-4)


class Reader(nn.Module):
    """Gives no scores, but remembers what it read."""

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        self.read = tokens
        return torch.zeros(len(tokens), 2)


def test_word_dropout_hides_its_share_while_training_only_and_repeats() -> None:
    task, reader = classify(word_dropout=0.3, end_of_text=7), Reader()
    tokens = torch.arange(64 * 64).reshape(64, 64) % 200 + 10
    lengths = torch.full((64,), 64)
    batch = Batch({"tokens": tokens.clone(), "targets": lengths * 0, "lengths": lengths}, 64)

    def read(step: int) -> Tensor:
        reseed(3, step, 0)
        task.loss(reader, batch)
        return reader.read

    first, other = read(1), read(2)
    for seen in (first, other):
        hidden = seen == 7
        assert hidden.float().mean().item() == pytest.approx(0.3, abs=0.03)
        assert torch.equal(seen[~hidden], tokens[~hidden])
    assert torch.equal(read(1), first)
    assert not torch.equal(other, first)
    reader.eval()
    assert torch.equal(read(1), tokens)
    task.outputs(reader, batch)
    assert torch.equal(reader.read, tokens)
