"""Embedding end to end, on questions that name what their answers name."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tests.tasks.retrieval import SMALL, facts, write_pairs
from wafergpt.api import export, finetune, plan, prune
from wafergpt.baselines.requirements import require_comparable
from wafergpt.cli.predict import command
from wafergpt.config import load_recipe
from wafergpt.errors import InputError
from wafergpt.inference.predictor import Predictor
from wafergpt.model.gpt import FeedForward
from wafergpt.pruning.calibration_network import Calibrated
from wafergpt.pruning.structured import _NarrowedNetwork
from wafergpt.reports import write_report
from wafergpt.tasks.base import Splits, gpt_of, task_of
from wafergpt.tasks.embed import Embed

STEPS = 60


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("embed")
    rows = facts(0)
    write_pairs(home / "train.jsonl", rows[:250])
    write_pairs(home / "test.jsonl", rows[250:])
    return home


def settings(home: Path, *more: str) -> list[str]:
    rows = [f"task.train={home / 'train.jsonl'}", f"task.validation={home / 'test.jsonl'}"]
    return [*SMALL, "task.name=embed", *rows, "train.batch_size=32", *more]


@pytest.fixture(scope="module")
def trained(home: Path) -> Predictor:
    asked = settings(home, "task.sizes=[8]", f"train.steps={STEPS}", "name=facts")
    return finetune("scratch", None, asked, root=home / "runs")


def prepared(home: Path, *more: str) -> tuple[Embed, Splits]:
    task = task_of(load_recipe(None, settings(home, "train.steps=1", *more)))
    recipe, splits = task.prepare(task.tokenizer(None))
    found = task_of(recipe)
    assert isinstance(found, Embed)
    return found, splits


def test_it_learns_to_find_answers(trained: Predictor) -> None:
    metrics = trained.run.read("result")["metrics"]
    assert metrics["candidates"] == 50
    assert metrics["recall_at_5"] > 0.8
    assert 0.3 < metrics["by_size"]["8"]["recall_at_5"] <= metrics["recall_at_5"]
    assert sum(metrics["ranks"].values()) == 50


def test_a_smaller_one_is_chosen_and_trained_by_rows_together(
    trained: Predictor, home: Path
) -> None:
    """A query alone has no wrong texts, and so no loss."""
    network = Calibrated.of(trained.run, trained.run.recipe)
    together = list(network.samples(64, for_loss=True))
    assert [batch.weight for batch in together] == [32, 32]
    work = _NarrowedNetwork(network, 64)
    assert work._loss() > 1e-3
    ffn = gpt_of(network.network).blocks[0].ffn
    assert isinstance(ffn, FeedForward)
    assert (work._importance([ffn.out])[ffn.out] > 0).all()
    narrow = prune(trained.run, "narrow", channels=32, retrain=1, root=home / "runs")
    assert narrow.recipe.train.micro_batch_size == trained.run.recipe.train.micro_batch_size == 32


def test_metrics_are_those_of_the_vectors_that_are_predicted(
    trained: Predictor, home: Path
) -> None:
    rows = [json.loads(line) for line in (home / "test.jsonl").read_text().splitlines()]
    queries, texts = (
        np.array([(one or {})["embedding"] for one in trained.predict([row[key] for row in rows])])
        for key in ("query", "positive")
    )
    assert np.linalg.norm(texts, axis=1) == pytest.approx(np.ones(len(rows)), abs=1e-5)
    cosines = queries @ texts.T
    ranks = (cosines >= np.diag(cosines)[:, None]).sum(1)
    metrics = trained.run.read("result")["metrics"]
    assert metrics["mrr"] == pytest.approx((1 / ranks).mean(), abs=1e-6)
    for k in (1, 5, 10):
        assert metrics[f"recall_at_{k}"] == pytest.approx((ranks <= k).mean())
    # In two batches of the validation rows as they are in training.
    pairs = trained.task.validation(trained.tokenizer).references.pairs
    places = {row["query"]: place for place, row in enumerate(rows)}
    names = list(dict.fromkeys([row["query"] for row in rows] + [row["positive"] for row in rows]))
    losses = []
    for first, n in ((0, 32), (32, 18)):
        own = [places[names[query]] for query in pairs.pairing(first, n).queries]
        for size in (8, 32):
            parts = [torch.tensor(vectors[own, :size]) for vectors in (queries, texts)]
            left, right = (F.normalize(part, dim=1) for part in parts)
            logits = left @ right.T / 0.05
            losses.append(F.cross_entropy(logits, torch.arange(n), reduction="sum").item() / 2)
    assert metrics["loss"] == pytest.approx(sum(losses) / 50, rel=1e-4)


def test_the_loss_is_of_the_network_that_predicts(home: Path) -> None:
    task, splits = prepared(home, "task.projection=16", "task.temperature=0.2")
    network = task.network().eval()
    torch.manual_seed(0)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    batch = splits.train.batch(3, 5)
    with torch.no_grad():
        found = task.loss(network, batch)
        vectors = [
            F.normalize(network(batch[tokens], batch[lengths]), dim=1)
            for tokens, lengths in (("queries", "query_lengths"), ("tokens", "lengths"))
        ]
    assert vectors[0].shape == (5, 16)
    logits = vectors[0] @ vectors[1].T / 0.2
    expected = F.cross_entropy(logits, torch.arange(5), reduction="sum")
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("projection", [0, 16])
def test_flops_are_torchs(home: Path, projection: int) -> None:
    more = "task.pooling=mean_max_last", "task.sizes=[4]", f"task.projection={projection}"
    task, splits = prepared(home, *more)
    network, batch = task.network(), splits.train.batch(0, 8)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        task.loss(network, batch).backward()
    assert task.flops(batch) == pytest.approx(counter.get_total_flops(), rel=0.01)


def test_a_resume_ends_with_the_same_bits(home: Path) -> None:
    asked = settings(home, "schedule.name=constant", "schedule.warmup=2", "seed=4",
                     "task.negative=[positive]")  # fmt: skip
    root = home / "runs"
    whole = finetune("scratch", None, [*asked, "train.steps=8", "name=whole"], root=root).run
    half = finetune("scratch", None, [*asked, "train.steps=4", "name=half"], root=root).run
    again = finetune(resume=half, overrides=["train.steps=8"], root=root).run
    hashes = [run.read("result")["weights_sha256"] for run in (whole, again)]
    assert hashes[0] == hashes[1]


def test_a_batch_is_one_micro_batch_on_every_machine(home: Path) -> None:
    assert prepared(home)[0].recipe.train.micro_batch_size == 32
    assert prepared(home, "train.micro_batch_size=8")[0].recipe.train.micro_batch_size == 8


@pytest.mark.slow
def test_what_is_chosen_and_planned(home: Path) -> None:
    asked = [*SMALL, "task.name=embed", f"task.train={home / 'train.jsonl'}"]
    found = plan(None, [*asked, "train.epochs=1"], start="scratch", root=home / "runs")
    assert found.resolved.evaluate.metric == "mrr"
    assert found.resolved.train.batch_size == found.resolved.train.micro_batch_size == 64
    quick = plan(None, [*asked, "train.epochs=1"], start="scratch", quick=True, root=home / "runs")
    assert abs(quick.steps - found.steps) <= 1


def test_vectors_are_written_and_shown(trained: Predictor, home: Path) -> None:
    asked = [str(trained.run.path), "--file", str(home / "test.jsonl"), "--json"]
    found = json.loads(CliRunner().invoke(command, asked).stdout)["outputs"]
    assert [len(one["embedding"]) for one in found] == [32] * 50
    page = write_report(trained.run).read_text()
    assert "a right text is among the first five of 50." in page
    assert "Where the right text is" in page


@pytest.mark.slow
def test_an_export_gives_the_same_vectors(trained: Predictor, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript", reason="a graph is written by onnxscript")
    from tests.interop.test_onnx import run_readme

    export(trained.run, tmp_path / "out", "onnx")
    texts = ["The owl bee eats honey.", "home of the hen pig?"]
    old = 'texts = ["A warm and funny film.", "It was dull."]'
    printed = run_readme(tmp_path / "out", (old, f"texts = {texts!r}"))
    cosines = np.array(printed.replace("[", " ").replace("]", " ").split(), dtype=float)
    vectors = trained.predict(texts)
    ours = np.array([(one or {})["embedding"] for one in vectors])
    assert cosines == pytest.approx((ours @ ours.T).ravel(), abs=1e-5)
    for form in ("hf", "gguf"):
        with pytest.raises(InputError, match=r"task\.name=embed has no form"):
            export(trained.run, tmp_path / form, form)


def test_it_is_pruned_and_has_no_teacher_and_no_baselines(trained: Predictor, home: Path) -> None:
    run = prune(trained.run, "sparse", method="magnitude", sparsity=0.3, root=home / "runs")
    result = run.read("result")
    assert result["val_loss_before"] == pytest.approx(trained.run.read("result")["metrics"]["loss"],
                                                      rel=1e-4)  # fmt: skip
    with pytest.raises(InputError, match="no classifier or regression"):
        prune(trained.run, "rows", rows=0.5, root=home / "runs")
    asked = settings(home, "train.steps=1", "name=student", f"train.teacher={trained.run.path}")
    with pytest.raises(InputError, match="no rule to learn from a teacher"):
        finetune("scratch", None, asked, root=home / "runs")
    with pytest.raises(InputError, match=r"task\.name=embed is another task"):
        require_comparable(trained.recipe)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["task.query=text"], "no column 'text'"),
        (["task.negative=[hard]"], "no column 'hard'"),
        (["task.positive=query"], "a text finds itself"),
        (["task.sizes=[32]"], r"task.sizes=\[32\] are parts of a vector, which has 32 numbers"),
        (["task.sizes=[0]"], "1 number or more"),
        (["task.temperature=0"], "task.temperature"),
        (["train.batch_size=1"], "has no wrong texts"),
        (["train.batch_size=4096"], "less than one batch"),
        (["evaluate.metric=accuracy"], "accuracy"),
        (["task.max_tokens=100"], "more than the model's context"),
        (["task.validation={home}/one.jsonl"], "validation rows have one text to find"),
        (["task.train={home}/one.jsonl"], "one.jsonl has one query: nothing to tell apart"),
    ],
)
def test_what_cannot_be_is_refused(home: Path, more: list[str], message: str) -> None:
    write_pairs(home / "one.jsonl", facts(0)[:1] * 3)
    more = [one.replace("{home}", str(home)) for one in more]
    with pytest.raises(InputError, match=message):
        finetune("scratch", None, settings(home, "train.steps=1", "name=refused", *more),
                 root=home / "runs")  # fmt: skip
    assert not (home / "runs" / "refused").exists()
