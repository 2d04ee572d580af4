"""Adversarial training against the same loss of Hugging Face's GPT-2."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from tests.suites.test_evaluation import rows, tiny
from tests.tasks.test_finetune import write
from wafergpt.api import export
from wafergpt.errors import InputError
from wafergpt.inference.predictor import Predictor
from wafergpt.shapes.counts import training_flops
from wafergpt.tasks.adversarial import SHIFT
from wafergpt.tasks.base import task_of

SHARE = 0.2


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    write(home / "train.jsonl", rows(300, 0))
    write(home / "test.jsonl", rows(120, 1))
    return home


@pytest.fixture(scope="module")
def robust(home: Path) -> Predictor:
    return trained(home, "robust", f"task.adversarial={SHARE}")


def trained(home: Path, name: str, *asked: str) -> Predictor:
    return tiny(home, name, "task.pooling=last", "task.ngrams=none", "model.dropout=0", *asked)


def batch_of(predictor: Predictor, n: int) -> Any:
    _, splits = task_of(predictor.recipe).prepare(predictor.tokenizer)
    return splits.train.batch(0, n)


def test_the_loss_is_that_of_transformers_embeddings_moved_up_its_slope(
    home: Path, robust: Predictor
) -> None:
    transformers = pytest.importorskip("transformers", reason="compares with transformers")
    export(robust.run, home / "hf")
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(home / "hf").eval()
    batch, wanted = batch_of(robust, 6), torch.zeros(())
    for tokens, length, target in zip(
        batch["tokens"], batch["lengths"], batch["targets"], strict=True
    ):
        words = theirs.transformer.wte(tokens[:length]).detach()
        units = (words + theirs.transformer.wpe.weight[:length]).norm(dim=1, keepdim=True).detach()
        shift = torch.zeros_like(words, requires_grad=True)

        def loss(words: torch.Tensor, target: torch.Tensor = target) -> torch.Tensor:
            logits = theirs(inputs_embeds=words[None]).logits
            return F.cross_entropy(logits, target[None])

        (slope,) = torch.autograd.grad(loss(words + shift * units), shift)
        # Every token may move by its own norm: the row, by the root of their number.
        shift = SHARE * length.sqrt() * slope / slope.norm()
        wanted += (loss(words) + loss(words + shift * units)) / 2
    ours = task_of(robust.recipe).training_loss(robust.network.train(), batch)
    assert ours.item() == pytest.approx(wanted.item(), rel=1e-4)


def test_a_model_that_was_trained_so_loses_less_where_it_is_answered_worst(
    home: Path, robust: Predictor
) -> None:
    plain = trained(home, "plain")
    lost = []
    for one in (plain, robust):
        batch, task = batch_of(one, 200), task_of(robust.recipe)
        clean = task.loss(one.network.train(), batch)
        lost.append((task.training_loss(one.network, batch) - clean).item())
    assert 0 < lost[1] < 0.8 * lost[0]


def test_a_batch_costs_what_its_passes_cost(robust: Predictor) -> None:
    batch = batch_of(robust, 8)
    texts, length = batch["tokens"].shape
    model = robust.recipe.model
    once = texts * training_flops(model, length, 0, 2 * model.d_model)
    assert task_of(robust.recipe).training_flops(batch) == pytest.approx(8 / 3 * once)
    assert SHIFT not in batch


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["task.adversarial=2"], "less than or equal to 1"),
        (
            ["task.adversarial=0.1", "task.augment=[typos]", "task.consistency=1"],
            "one of the two",
        ),
        (["task.adversarial=0.1", "train.teacher=robust"], "no use beside task.adversarial"),
    ],
)
@pytest.mark.usefixtures("robust")
def test_what_does_not_fit_is_refused(home: Path, asked: list[str], said: str) -> None:
    with pytest.raises(InputError, match=said):
        trained(home, "wrong", *asked)
    assert not (home / "wrong").exists()
