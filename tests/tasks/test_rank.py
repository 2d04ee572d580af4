"""Ranking end to end, on candidates of which one answers the question."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tests.tasks.retrieval import SMALL, facts, write_lists
from wafergpt.api import export, finetune, plan, prune
from wafergpt.baselines.requirements import require_comparable
from wafergpt.cli.predict import command
from wafergpt.config import load_recipe
from wafergpt.errors import InputError
from wafergpt.inference import prediction_file
from wafergpt.inference.predictor import Predictor
from wafergpt.model.retrieval_loss import ranking_losses
from wafergpt.planning.memory import estimated_memory
from wafergpt.reports import write_report
from wafergpt.tasks.base import Splits, task_of
from wafergpt.tasks.rank import Rank


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("rank")
    # What is asked for is told by one word of the answer.
    rows = [(question.split()[0], answer) for question, answer in facts(0)]
    with (home / "train.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["query", "text", "label", "list"])
        for place in range(0, 240, 4):
            for query, text in rows[place : place + 4]:
                asked = rows[place][0]
                writer.writerow([asked, text, int(query == asked), place])
    write_lists(home / "plain.csv", facts(0)[:40])
    return home


def settings(home: Path, *more: str) -> list[str]:
    rows = [f"task.train={home / 'train.csv'}", f"task.validation={home / 'train.csv'}"]
    return [*SMALL, "task.name=rank", *rows, "task.group=list", "train.batch_size=16", *more]


@pytest.fixture(scope="module")
def trained(home: Path) -> Predictor:
    asked = settings(home, "train.steps=60", "name=ranks", "evaluate.metric=ndcg_at_10")
    return finetune("scratch", None, asked, root=home / "runs")


def prepared(home: Path, *more: str) -> tuple[Rank, Splits]:
    task = task_of(load_recipe(None, settings(home, "train.steps=1", *more)))
    recipe, splits = task.prepare(task.tokenizer(None))
    found = task_of(recipe)
    assert isinstance(found, Rank)
    return found, splits


def rows_of(home: Path) -> list[dict[str, str]]:
    with (home / "train.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_it_learns_to_rank(trained: Predictor) -> None:
    metrics = trained.run.read("result")["metrics"]
    assert metrics["mrr"] > 0.95
    assert metrics["ndcg_at_10"] > 0.95
    assert sum(metrics["ndcgs"]) == metrics["queries"] > 40


def test_metrics_are_those_of_the_scores_that_are_predicted(trained: Predictor, home: Path) -> None:
    from sklearn.metrics import average_precision_score, ndcg_score

    rows = rows_of(home)
    answers = trained.predict([(row["query"], row["text"], row["list"]) for row in rows])
    lists: dict[str, list[tuple[float, int, int]]] = {}
    for row, answer in zip(rows, answers, strict=True):
        assert answer is not None
        one = (answer["score"], int(row["label"]), answer["rank"])
        lists.setdefault(row["list"], []).append(one)
    gains, precisions = [], []
    for some in lists.values():
        scores, known, ranks = (np.array(part) for part in zip(*some, strict=True))
        assert (ranks == 1 + np.argsort(np.argsort(-scores, kind="stable"))).all()
        if len(set(known)) > 1:
            gains.append(ndcg_score(known[None], scores[None], k=10))
            precisions.append(average_precision_score(known, scores))
    metrics = trained.run.read("result")["metrics"]
    assert metrics["queries"] == len(gains)
    assert metrics["ndcg_at_10"] == pytest.approx(np.mean(gains))
    assert metrics["map"] == pytest.approx(np.mean(precisions))


def test_close_candidates_have_scores_of_their_own_in_bfloat16(home: Path) -> None:
    network = prepared(home)[0].network().eval()
    for values in network.parameters():
        torch.nn.init.normal_(values, std=0.02, generator=torch.Generator().manual_seed(0))
    tokens = torch.randint(0, 50, (64, 8), generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        scores = network(tokens, torch.full((64,), 8))[:, 0]
    assert scores.dtype == torch.float32
    assert len(scores.bfloat16().unique()) < len(scores.unique())


def test_a_file_is_ranked_in_its_own_order(trained: Predictor, home: Path) -> None:
    lines = (home / "train.csv").read_text().splitlines()
    (home / "few.csv").write_text("\n".join([lines[0], *lines[5:9], ",,,9", lines[1]]) + "\n")
    asked = [str(trained.run.path), "--file", str(home / "few.csv"), "--json"]
    found = json.loads(CliRunner().invoke(command, asked).stdout)["outputs"]
    assert sorted(one["rank"] for one in found[:4]) == [1, 2, 3, 4]
    assert found[4] is None
    assert found[5]["rank"] == 1
    result = CliRunner().invoke(command, [str(trained.run.path), "--text", "food"])
    assert "a query and a text are wanted" in str(result.exception)
    given = json.dumps({"query": "food", "text": "x"})
    result = CliRunner().invoke(command, [str(trained.run.path), "--text", given])
    assert json.loads(result.stdout) == trained.predict([("food", "x")])[0]
    assert trained.predict([{"query": "food", "text": "x"}, ("food", " ")])[1] is None


class Scores(nn.Module):
    """Scores each sequence by its first and last tokens."""

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        last = tokens[torch.arange(len(tokens)), lengths - 1]
        return (tokens[:, :1] % 7 + last[:, None] % 11).float() / 4


@pytest.mark.parametrize("objective", ["listwise", "pairwise"])
def test_the_loss_of_a_batch_is_that_of_its_lists(home: Path, objective: str) -> None:
    task, splits = prepared(home, f"task.objective={objective}")
    network, whole = Scores(), splits.train.batch(0, 9)
    # However it is cut into parts.
    parts = [splits.train.batch(0, 4), splits.train.batch(4, 5)]
    assert whole.weight == sum(part.weight for part in parts) == 9
    found = task.loss(network, whole)
    torch.testing.assert_close(found, sum(task.loss(network, part) for part in parts))
    scores = network(whole["tokens"], whole["lengths"])[:, 0]
    losses = []
    for places, known in zip(whole["places"], whole["relevance"], strict=True):
        there = known >= 0
        own = scores[places[there]][None]
        losses.append(ranking_losses(own, known[there][None], task.settings.objective))
    torch.testing.assert_close(found, torch.cat(losses).sum())


def test_a_sequence_is_the_query_and_the_candidate(home: Path) -> None:
    task, splits = prepared(home, "task.max_tokens=12")
    tokenizer = task.tokenizer(None)
    long = "cat dog fox owl bee ant cow hen pig rat"
    encoded = task.encode([task.require_input(pair) for pair in (("food", "hay"), (long, long))],
                          tokenizer)  # fmt: skip
    end = [tokenizer.end_of_text]
    batch = encoded.batches.batch(0, 2)
    kept = [row[:n].tolist() for row, n in zip(batch["tokens"], batch["lengths"], strict=True)]
    query = tokenizer.encode(long)
    assert kept == [
        tokenizer.encode("food") + end + tokenizer.encode("hay"),
        # Half of the context is the query's.
        query[:6] + end + query[:5],
    ]
    assert splits.train.batch(0, 3)["tokens"].shape[1] <= 12


def test_flops_and_memory_are_those_of_all_candidates(home: Path) -> None:
    task, splits = prepared(home, "task.pooling=mean")
    network, batch = task.network(), splits.train.batch(0, 8)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        task.loss(network, batch).backward()
    assert task.flops(batch) == pytest.approx(counter.get_total_flops(), rel=0.01)
    memory = [
        estimated_memory(
            prepared(home, f"task.candidates={n}", "train.micro_batch_size=4")[0].recipe, "cpu"
        ).activations
        for n in (2, 8)
    ]
    assert memory[1] == 4 * memory[0]


@pytest.mark.slow
def test_a_resume_ends_with_the_same_bits(home: Path) -> None:
    asked = settings(home, "schedule.name=constant", "task.objective=pairwise",
                     "task.candidates=3")  # fmt: skip
    root = home / "runs"
    whole = finetune("scratch", None, [*asked, "train.steps=8", "name=whole"], root=root).run
    half = finetune("scratch", None, [*asked, "train.steps=4", "name=half"], root=root).run
    again = finetune(resume=half, overrides=["train.steps=8"], root=root).run
    hashes = [run.read("result")["weights_sha256"] for run in (whole, again)]
    assert hashes[0] == hashes[1]


def test_what_is_chosen_planned_and_said(home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    rows = f"{(home / 'plain.csv').read_text()}lonely,text,1\nequal,one,0\nequal,two,0\n"
    (home / "odd.csv").write_text(rows)
    asked = [*SMALL, "task.name=rank", f"task.train={home / 'odd.csv'}"]
    found = plan(None, asked, start="scratch", quick=True, root=home / "runs")
    assert found.resolved.evaluate.metric == "ndcg_at_10"
    # Four sequences of a query: so many queries are about 64.
    assert found.resolved.train.batch_size == 16
    said = " ".join(capfd.readouterr().err.split())
    assert "1 of 42 queries have one candidate and are skipped" in said
    assert "1 of 42 queries have candidates of equal relevance and are skipped" in said


def test_a_file_is_written_list_by_list(
    trained: Predictor, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = home / "train.csv", home / "ranked.jsonl"
    # A part would end in the midst of each list but for its rows' key.
    monkeypatch.setattr(prediction_file, "ROWS", 6)
    assert trained.predict_file(source, out)["rows"] == 240
    written = [json.loads(line) for line in out.read_text().splitlines()]
    asked = [str(trained.run.path), "--file", str(source), "--json"]
    whole = json.loads(CliRunner().invoke(command, asked).stdout)["outputs"]
    assert [one["predicted_rank"] for one in written] == [one["rank"] for one in whole]
    assert [one["predicted_score"] for one in written] == pytest.approx(
        [one["score"] for one in whole], abs=1e-5
    )
    assert written[7]["list"] == "4"

    lines = source.read_text().splitlines()
    # The sixth row, where a part would end, and the seventh are blank, and in the midst of a list.
    (home / "blank.csv").write_text("\n".join([*lines[:6], "", ",,,9", *lines[6:9]]) + "\n")
    assert trained.predict_file(home / "blank.csv", home / "blank.jsonl")["blank"] == 2
    found = [json.loads(line) for line in (home / "blank.jsonl").read_text().splitlines()]
    ranks = [one["predicted_rank"] for one in found]
    assert ranks[5:7] == [None, None]
    assert sorted([ranks[4], *ranks[7:]]) == [1, 2, 3, 4]

    (home / "mixed.csv").write_text("\n".join([*lines[:7], lines[2]]) + "\n")
    with pytest.raises(InputError, match="are both 'query'"):
        trained.predict_file(source, home / "none.csv", column="query")
    with pytest.raises(InputError, match="line 8: rows of '0' stood further up"):
        trained.predict_file(home / "mixed.csv", home / "none.csv")
    assert not (home / "none.csv").exists()


def test_its_page_shows_the_rankings_and_the_rest_is_refused(
    trained: Predictor, home: Path
) -> None:
    page = write_report(trained.run).read_text()
    assert "candidates are ranked with an NDCG@10 of" in page
    assert "How good the rankings are" in page
    run = prune(trained.run, "sparse", method="magnitude", sparsity=0.3, root=home / "runs")
    assert run.read("result")["val_loss_after"] > 0
    for form, message in (("onnx", "has no form in ONNX"), ("hf", "has no form in transformers")):
        expected = re.escape(f"task.name=rank {message}")
        with pytest.raises(InputError, match=expected):
            export(trained.run, home / form, form)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"task\.name=rank is another task"):
        require_comparable(trained.recipe)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["task.text=passage"], "no column 'passage'"),
        (["task.text=query"], "a text ranks itself"),
        (["task.label=query"], "line 2: column 'query' has the label '.*', not a number"),
        (["task.group=text"], "one candidate"),
        (["task.objective=pointwise"], "task.objective"),
        (["task.candidates=1"], "task.candidates"),
        (["train.batch_size=4096"], "less than one batch"),
        (["evaluate.metric=accuracy"], "accuracy"),
        (["system.device=cerebras"], "cerebras"),
    ],
)
def test_what_cannot_be_is_refused(home: Path, more: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        finetune("scratch", None, settings(home, "train.steps=1", "name=refused", *more),
                 root=home / "runs")  # fmt: skip
    assert not (home / "runs" / "refused").exists()


def test_inputs_without_a_text_are_blank_and_other_ones_are_refused(trained: Predictor) -> None:
    there = {"query": "what is red", "text": "red"}
    blank = [None, "", float("nan"), np.float32("nan"), {**there, "text": " "}]
    assert [one is None for one in trained.predict([*blank, there])] == [True] * 5 + [False]
    for value in ({}, {"Query": "a", "text": "b"}):
        with pytest.raises(InputError, match="has no query; "):
            trained.predict([value])


def test_lists_and_labels_of_spreadsheets(tmp_path: Path) -> None:
    """A space at the end of a query makes no list; 0,5 and TRUE are numbers."""
    path = tmp_path / "train.csv"
    labels = ["TRUE", "0", '"0,5"', "FALSE"]
    path.write_text("query,text,label\n" + "".join(
        f"what is {n}{' ' * (m % 2)},text {m},{label}\n"
        for n in range(40) for m, label in enumerate(labels)
    ))  # fmt: skip
    task = task_of(load_recipe(None, ["task.name=rank", f"task.train={path}", "task.held_out=0"]))
    assert isinstance(task, Rank)
    assert task.tables.train.relevance == [[1.0, 0.0, 0.5, 0.0]] * 40
