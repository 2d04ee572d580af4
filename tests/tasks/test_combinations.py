"""Capabilities together: going on, folds, adapters, abstention, files, and all tasks."""

from __future__ import annotations

import csv
import json
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from wafergpt.api import cross_validate, evaluate, finetune
from wafergpt.checkpoint import store
from wafergpt.cli import finetune as finetune_cli
from wafergpt.data.labelled_batches import LabelledBatches
from wafergpt.data.tokenizer import Tokenizer
from wafergpt.errors import InputError
from wafergpt.evaluation.answers import best_margin, token_f1
from wafergpt.inference.predictor import Predictor
from wafergpt.runs.run import Run
from wafergpt.tasks.base import task_of

ON = [
    "system.precision=fp32", "system.threads=1", "system.compile=off", "optimizer.lr=5e-3",
    "train.steps=4", "train.batch_size=8", "checkpoint.keep=99",
]  # fmt: skip
SMALL = [
    *ON, "model.n_layers=1", "model.d_model=16", "model.n_heads=2", "model.seq_len=24",
    "model.vocab_size=270",
]  # fmt: skip
LABELS = ("bad", "fair", "good")

KEYS: dict[str, list[str]] = {
    "classify": ["task.ngrams=words", "task.ngram_rows=512", "task.ngram_ratios=true"],
    "multi": ["task.name=classify", "task.multi=true", "task.ngrams=words", "task.ngram_rows=512",
              "task.ngram_ratios=true"],
    "regress": ["task.name=regress"],
    "tag": ["task.name=tag", "task.feature_rows=512"],
    "embed": ["task.name=embed", "task.projection=8"],
    "rank": ["task.name=rank"],
    "answer": ["task.name=answer", "task.feature_rows=512"],
}  # fmt: skip


def rows_of(task: str, n: int = 40) -> list[dict[str, Any]]:
    rng = random.Random(0)
    numbers = range(n)
    if task == "multi":
        some = [rng.sample(LABELS, rng.randint(0, 2)) for _ in numbers]
        return [{"text": f"{' '.join(s)} film {i}", "label": s} for i, s in enumerate(some)]
    if task == "regress":
        return [{"text": f"film {i}", "label": 100 + i % 7} for i in numbers]
    if task == "tag":
        return [{"tokens": ["see", f"Bob{i}"], "tags": ["O", "S-PER"]} for i in numbers]
    if task == "embed":
        return [{"query": f"who is {i}", "positive": f"{i} is Bob{i}"} for i in numbers]
    if task == "rank":
        return [{"query": f"q {i // 2}", "text": f"text {i}", "label": i % 2} for i in numbers]
    if task == "answer":
        return [{"question": f"who is {i}?", "context": f"Nr {i} is Bob{i}.",
                 "answer": f"Bob{i}" if i % 3 else ""} for i in numbers]  # fmt: skip
    labels = [rng.choice(LABELS) for _ in numbers]
    return [{"text": f"{label} film {i}", "label": label} for i, label in enumerate(labels)]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows of each task, and a run of each."""
    home = tmp_path_factory.mktemp("home")
    for task, keys in KEYS.items():
        train = write(home / f"{task}.jsonl", rows_of(task))
        asked = [*SMALL, *keys, f"task.train={train}", f"name={task}"]
        finetune("scratch", None, asked, root=home)
    return home


@pytest.mark.slow
@pytest.mark.parametrize("task", list(KEYS))
def test_adapters_go_on_from_every_task(home: Path, task: str) -> None:
    """Before the first update the network is that of the run; a resume finds its base."""
    asked = [*ON, "lora.rank=2", f"task.train={home / f'{task}.jsonl'}", f"name=lora-{task}"]
    run = finetune(task, None, asked, root=home).run
    assert run.recipe.task is not None
    assert run.recipe.task.name == task.replace("multi", "classify")
    before = store.weights(Run(home / task))
    start = store.weights(Run(run.path, run.checkpoints / "step-00000000"))
    assert start.by_rows.keys() == before.by_rows.keys()
    for name in before.by_rows:
        assert torch.equal(start[name], before[name]), name
    assert Predictor.load(run).task.recipe.lora.rank == 2
    finetune(resume=run, overrides=["train.steps=6"], root=home)
    assert run.read("result")["metrics"]


UNSAMPLED = {"embed": {"loss"}, "answer": {"loss"}, "tag": {"loss", "word_accuracy"}}
"""Metrics that are of batches, of windows or of words, not of rows."""


@pytest.mark.slow
@pytest.mark.parametrize("task", list(KEYS))
def test_metrics_of_every_task_are_known_of_resamples(home: Path, task: str) -> None:
    run = Run(home / task)
    one: Any = task_of(run.recipe)
    references = one.validation(Tokenizer.load(run.tokenizer)).references
    sampled = one.resampled(run.outputs_of("validation"), references)
    assert one.metrics.keys() - sampled.whole.keys() == UNSAMPLED.get(task, set())
    metrics = run.read("result")["metrics"]
    assert sampled.whole == pytest.approx({name: metrics[name] for name in sampled.whole})
    for low, high in sampled.intervals().values():
        assert low <= high


def test_a_ranking_is_compared_with_another_one(home: Path) -> None:
    asked = [*SMALL, *KEYS["rank"], f"task.train={home / 'rank.jsonl'}", "task.held_out=0.5"]
    for name, lr in (("rank-1", "1e-6"), ("rank-2", "2e-2")):
        more = [f"name={name}", f"optimizer.lr={lr}", "train.steps=60"]
        finetune("scratch", None, [*asked, *more], root=home)
    found = evaluate("rank-1", ["rows"], against=["rank-2", "rank-1"], root=home)["rows"]["sets"]
    (one,) = found.values()
    other, itself = one["against"].values()
    ours = one["metrics"][one["metric"]]
    assert other["difference"]["value"] == pytest.approx(ours - other["value"])
    assert other["value"] != ours
    assert (itself["difference"]["value"], itself["difference"]["p"]) == (0, 1)


def test_adapters_with_a_new_label_are_resumed(home: Path) -> None:
    rows = [*rows_of("classify"), *({"text": f"odd film {i}", "label": "odd"} for i in range(8))]
    train = write(home / "odd.jsonl", rows)
    asked = [*ON, "lora.rank=2", f"task.train={train}", "name=odd"]
    run = finetune("classify", None, asked, root=home).run
    finetune(resume=run, overrides=["train.steps=6"], root=home)
    assert Predictor.load(run).recipe.task.labels == ("bad", "fair", "good", "odd")  # type: ignore[union-attr]


def test_n_grams_of_tokens_are_added_when_going_on(home: Path) -> None:
    asked = [*ON, "model.ngrams=[2]", "model.ngram_rows=64", "name=grams",
             f"task.train={home / 'classify.jsonl'}"]  # fmt: skip
    assert finetune("classify", None, asked, root=home).recipe.model.ngrams == (2,)


def test_labels_of_a_text_go_on(home: Path) -> None:
    rows = [{"text": f"new zebra {i}", "label": ["new"] if i % 2 else []} for i in range(24)]
    train = write(home / "more.jsonl", rows)
    asked = [*ON, f"task.train={train}", "task.held_out=0", "name=more"]
    run = finetune("multi", None, asked, root=home).run
    assert run.recipe.task.labels == ("bad", "fair", "good", "new")  # type: ignore[union-attr]
    begun = Run(run.path, run.checkpoints / "step-00000000")
    texts = [row["text"] for row in rows_of("multi")]
    one, two = (Predictor.load(one).predict(texts) for one in (Run(home / "multi"), begun))
    for before, after in zip(one, two, strict=True):
        assert before is not None
        assert after is not None
        known = {label: after["scores"][label] for label in LABELS}
        assert known == pytest.approx(before["scores"], abs=1e-6)
    old, start = (dict(store.weights(each)) for each in (Run(home / "multi"), begun))
    learned, new = (weights["head_ngrams.kept.rows"] for weights in (old, start))
    here = torch.isin(new, learned)
    assert {*learned.tolist()} < {*new.tolist()}
    assert torch.equal(start["head_ngrams.ratios"][1:][here], old["head_ngrams.ratios"][1:])
    # N-grams that new rows alone have are as uneven as the labels of these rows use them.
    task = task_of(run.recipe)
    train_batches = task.prepare(Predictor.load(run).tokenizer)[1].train
    assert isinstance(train_batches, LabelledBatches)
    uneven = np.abs(train_batches.ngram_ratios(new.numpy(), 4)[:, 3])[~here]
    assert (uneven > 0).any()
    assert start["head_ngrams.ratios"].numpy()[1:][~here] == pytest.approx(uneven)
    write(train, [{**row, "label": [x.upper() for x in row["label"]]} for row in rows_of("multi")])
    with pytest.raises(InputError, match=r"differ only in spelling: 'bad' .* 'BAD'"):
        finetune("multi", None, [*asked, "name=capitals"], root=home)


@pytest.mark.parametrize(
    ("task", "keys"),
    [
        ("classify", ["task.thresholds=one", "evaluate.metric=macro_f1"]),
        ("embed", ["task.name=embed", "task.temperature=0.1"]),
        ("rank", ["task.name=rank", "task.objective=pairwise"]),
    ],
)
def test_what_is_not_of_the_network_may_change(home: Path, task: str, keys: list[str]) -> None:
    asked = [*ON, *keys, f"task.train={home / f'{task}.jsonl'}", f"name=changed-{task}"]
    settings = finetune(task, None, asked, root=home).recipe.task
    key, value = keys[-1 if task != "classify" else 0].removeprefix("task.").split("=")
    assert str(getattr(settings, key)) == value


@pytest.mark.parametrize("task", ["embed", "rank", "answer"])
def test_tasks_of_several_texts_have_folds_and_learn_from_all_rows(home: Path, task: str) -> None:
    asked = [*SMALL, *KEYS[task], f"task.train={home / f'{task}.jsonl'}", f"name=cv-{task}"]
    run = cross_validate("scratch", None, asked, folds=2, refit=True, root=home)
    result, whole = run.read("result"), Run(home / f"cv-{task}")
    assert whole.read("result")["metrics"] is None
    assert len(result["folds"]["done"]) == 2
    # A vector says nothing to the vectors of another network.
    assert (result["metrics"] is None) == (task == "embed")


def test_folds_agree_on_one_margin(home: Path) -> None:
    asked = [*SMALL, *KEYS["answer"], f"task.train={home / 'answer.jsonl'}", "name=margin"]
    run = cross_validate("scratch", None, asked, folds=2, refit=True, root=home)
    outputs = {k.removeprefix("validation/"): v for k, v in run.read_outputs().items()}
    assert len({*outputs["margins"].tolist()}) == 2
    margin = Run(home / "margin").recipe.task.no_answer_margin  # type: ignore[union-attr]
    known = rows_of("answer")
    gains = []
    for row, span, score, none in zip(
        known, outputs["spans"], outputs["scores"], outputs["nones"], strict=True
    ):
        words = re.findall(r"\w+|\.", row["context"])[span[0] : span[1] + 1]
        right = token_f1(" ".join(words), row["answer"]) if row["answer"] else 0.0
        gains.append((none - score, right - (not row["answer"])))
    assert margin == pytest.approx(best_margin(gains))


@pytest.mark.slow
def test_a_rare_label_of_one_fold_is_judged_by_it(home: Path) -> None:
    """The fold that holds all of its rows out cannot find it, and has as many outputs."""
    for task, row in (
        ("multi", {"text": "odd film", "label": ["odd"]}),
        ("tag", {"tokens": ["odd"], "tags": ["S-ODD"]}),
    ):
        train = write(home / f"rare-{task}.jsonl", [*rows_of(task), row])
        asked = [*SMALL, *KEYS[task], f"task.train={train}", f"name=rare-{task}"]
        run = cross_validate("scratch", None, asked, folds=2, root=home)
        first, second = (Run(run.path / f"fold-{n}").recipe.task.labels for n in (1, 2))  # type: ignore[union-attr]
        assert first == second
        assert {"odd", "ODD"} & {*first}
        assert run.read("result")["metrics"]


@pytest.mark.slow
def test_what_is_of_no_class_is_never_trained_on(home: Path) -> None:
    rows = [*rows_of("classify"), *({"text": f"rain {i}", "label": "none"} for i in range(9))]
    train = write(home / "scope.jsonl", rows)
    asked = [*SMALL, f"task.train={train}", "task.out_of_scope=none"]
    alone = finetune("scratch", None, [*asked, "task.held_out=0", "name=alone"], root=home)
    assert alone.recipe.task.labels == LABELS  # type: ignore[union-attr]
    asked += ["task.abstain=0.5", "name=scope"]
    run = cross_validate("scratch", None, asked, folds=3, refit=True, root=home)
    metrics, whole = run.read("result")["metrics"], Run(home / "scope")
    assert {"auroc", "fpr95", "coverage"} <= metrics.keys()
    assert sum(row["support"] for row in metrics["per_class"]) == 40
    settings = whole.recipe.task
    assert settings.labels == LABELS  # type: ignore[union-attr]
    assert settings.abstain_below > 0  # type: ignore[union-attr]
    # The median of 4 updates of 8 rows over 26, 27 and 27 rows, of 40.
    assert whole.recipe.train.steps == 6
    with pytest.raises(InputError, match=r"task\.abstain is a share of validation rows"):
        finetune("scratch", None, [*asked, "task.held_out=0", "name=x"], root=home)


def test_answers_of_a_table_need_not_have_the_same_keys(home: Path) -> None:
    source = write(home / "asked.jsonl", rows_of("classify")[:12])
    sure = Predictor.load(Run(home / "classify")).with_coverage(0.5)
    answers = sure.predict([row["text"] for row in rows_of("classify")[:12]])
    unsure = [answer is not None and "abstained" in answer for answer in answers]
    assert True in unsure
    assert False in unsure
    for place, first in ((unsure.index(False), "sure"), (unsure.index(True), "unsure")):
        rows = rows_of("classify")[:12]
        write(source, [rows[place], *rows])
        out = home / f"{first}.csv"
        sure.predict_file(source, out)
        with out.open(newline="") as file:
            found = list(csv.DictReader(file))
        assert [bool(row["predicted_abstained"]) for row in found] == [unsure[place], *unsure]


def test_strict_folds_are_refused_and_the_runs_task_is_read(home: Path) -> None:
    rows = [
        *rows_of("classify"),
        {"text": "same", "label": "bad"},
        {"text": "same", "label": "good"},
    ]
    train = write(home / "contradictory.jsonl", rows)
    asked = [f"task.train={train}", "name=strict", "--folds", "2", "--strict", "--runs", str(home)]
    found = CliRunner().invoke(finetune_cli.command, ["scratch", *SMALL, *asked])
    assert isinstance(found.exception, InputError)
    assert "1 text has several labels" in str(found.exception)
    assert not (home / "strict-folds").exists()
    # Without task.name, that of the run to start from.
    asked = [f"task.train={home / 'tag.jsonl'}", "name=checked", "--strict", "--runs", str(home)]
    assert CliRunner().invoke(finetune_cli.command, ["tag", *ON, *asked]).exit_code == 0


def test_what_is_noted_of_the_rows_is_said_once(
    home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [*rows_of("classify"), *({"text": "same", "label": label} for label in ("bad", "good"))]
    train = write(home / "noted.jsonl", rows)
    with caplog.at_level("INFO"):
        asked = [*SMALL, f"task.train={train}", "name=noted"]
        cross_validate("scratch", None, asked, folds=2, root=home)
    found = [line for line in caplog.messages if "1 text has several labels" in line]
    assert len(found) == 1
    assert len([line for line in caplog.messages if line.startswith("step 4: ")]) == 2
