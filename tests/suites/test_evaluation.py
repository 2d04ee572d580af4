"""The verb: suites of a classifier on its own rows, on others, on changed texts; page and card."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner
from torch.nn import functional as F

import wafergpt as wg
from tests.tasks.test_finetune import SMALL, write
from wafergpt.api import evaluate, finetune
from wafergpt.cli.evaluate import command
from wafergpt.data.labelled_rows import Table
from wafergpt.data.paired_batches import changed_of
from wafergpt.errors import InputError
from wafergpt.evaluation.intervals import mcnemar
from wafergpt.evaluation.perturbations import KINDS, perturbed
from wafergpt.inference.predictor import Predictor
from wafergpt.reports.page import write_report
from wafergpt.runs.run import Run
from wafergpt.suites import rows as own
from wafergpt.suites.evaluation import SUITES, kept_of
from wafergpt.tasks.augmented import changed_copies


def rows(n: int, seed: int) -> list[tuple[str, str]]:
    rng = random.Random(seed)
    words = {"good": ["lovely", "warm", "funny"], "bad": ["dull", "noisy", "awful"]}
    found = []
    for _ in range(n):
        label = rng.choice(["bad", "good"])
        told = rng.choice(words[label if rng.random() < 0.9 else "good"])
        found.append((f"the film is {told} and the cast is {rng.choice(words[label])}", label))
    return found


def tiny(home: Path, name: str, *asked: str) -> Predictor:
    files = [f"task.{part}={home / part}.jsonl" for part in ("train", "test")]
    return finetune(
        "scratch", None,
        [*SMALL, *files, "model.vocab_size=280", "train.epochs=3", "task.pooling=mean",
         "task.ngrams=words", "task.ngram_rows=4096", f"name={name}", *asked],
        refit=False, root=home,
    )  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    write(home / "train.jsonl", rows(300, 0))
    write(home / "test.jsonl", rows(120, 1))
    write(
        home / "other.jsonl",
        [(text.replace("film", "hotel"), label) for text, label in rows(80, 2)],
    )
    return home


@pytest.fixture(scope="module")
def clf(home: Path) -> Predictor:
    return tiny(home, "clf")


def test_its_own_rows_are_judged_as_its_training_judged_them(home: Path, clf: Predictor) -> None:
    found = evaluate("clf", ["rows"], files=[home / "other.jsonl"], root=home)["rows"]["sets"]
    result = clf.run.read("result")["test"]
    assert found["test"]["metrics"]["accuracy"] == result["accuracy"]
    assert found["test"]["metrics"]["loss"] == result["loss"]
    low, high = found["test"]["intervals"]["accuracy"]
    assert low < result["accuracy"] < high
    other = found[str(home / "other.jsonl")]
    answers = clf.predict([text.replace("film", "hotel") for text, _ in rows(80, 2)])
    right = np.mean([a["label"] == label for a, (_, label) in zip(answers, rows(80, 2), strict=True)
                     if a is not None])  # fmt: skip
    assert other["metrics"]["accuracy"] == pytest.approx(right)
    assert other["drop"] == pytest.approx(1 - right / result["accuracy"])


def test_answers_that_were_kept_are_those_that_are_computed(clf: Predictor) -> None:
    name, known = own.own_rows(clf)
    kept, made = own.judge_own(clf, name, known), own.judge(clf, known)
    assert (name, len(known.texts)) == ("test", 120)
    assert kept.metrics["accuracy"] == made.metrics["accuracy"]
    assert np.abs(kept.outputs["probabilities"] - made.outputs["probabilities"]).max() < 1e-6


def test_labels_of_others_are_mapped_or_refused(home: Path, clf: Predictor) -> None:
    named = {"good": "5 stars", "bad": "1 star"}
    changed = [(text, named[label]) for text, label in rows(80, 2)]
    path = home / "stars.jsonl"
    lines = [{"review": t, "stars": s} for t, s in [*changed, ("so so", "3 stars")]]
    path.write_text("\n".join(map(json.dumps, lines)))
    columns = ["task.text=review", "task.label=stars"]
    with pytest.raises(InputError, match="the run lacks"):
        evaluate("clf", ["rows"], columns, files=[path], root=home)
    with pytest.raises(InputError, match="did you mean 'good'"):
        evaluate("clf", ["rows"], columns, files=[path], labels={"5 stars": "goood"}, root=home)
    labels = {"5 stars": "good", "1 star": "bad"}
    found = evaluate("clf", ["rows"], columns, files=[path], labels=labels, root=home)
    assert found["rows"]["sets"][str(path)]["rows"] == 80
    with pytest.raises(InputError, match="no row with a label"):
        evaluate("clf", ["rows"], columns, files=[path], labels={"9": "good"}, root=home)


@pytest.mark.slow
def test_another_run_answers_the_same_rows(home: Path, clf: Predictor) -> None:
    other = tiny(home, "untrained", "train.steps=1", "train.epochs=null")
    found = evaluate("clf", ["rows", "cost"], against=["untrained"], root=home)
    beside = found["rows"]["sets"]["test"]["against"]["untrained"]
    value = clf.run.read("result")["test"]["accuracy"]
    assert beside["difference"]["value"] == pytest.approx(value - beside["value"])
    _, known = own.own_rows(clf)
    right = [
        np.array(own.answers_of(one, judged)) == judged.references
        for one in (clf, other)
        for judged in [own.judge(one, known)]
    ]
    assert (beside["difference"]["p"] < 0.05) == (mcnemar(right[0], right[1]) < 0.05)
    models = found["cost"]["models"]
    assert models["untrained"]["value"] == beside["value"]
    assert models["clf"]["parameters"] == sum(p.numel() for p in clf.network.parameters())
    assert models["clf"]["texts_per_second"] > 1 / models["clf"]["seconds_one"] / 10


@pytest.mark.slow
def test_changed_texts_are_what_predict_says_of_them(home: Path, clf: Predictor) -> None:
    found = evaluate("clf", ["robustness"], kinds=["typos"], rows=60, root=home)["robustness"]
    assert [one["severity"] for one in found["kinds"]] == [1, 3, 5]
    some = own.some(own.own_rows(clf)[1], 60, 0)
    texts = [perturbed(text, "typos", 5, 0) for text in some.texts]
    answers = clf.predict(texts)
    right = np.mean([a["label"] == y for a, y in zip(answers, some.labels, strict=True) if a])
    last = found["kinds"][-1]
    assert last["value"] == pytest.approx(right)
    assert last["changed"] == np.mean([a != b for a, b in zip(texts, some.texts, strict=True)])
    assert last["drop"] == pytest.approx(1 - right / found["clean"])
    assert found["mean_drop"]["5"] == last["drop"]
    again = evaluate("clf", ["robustness"], kinds=["typos"], rows=60, root=home)["robustness"]
    assert again == found


def test_copies_are_changed_and_keep_their_labels() -> None:
    table = Table([f"a good film number {n}, said my friend" for n in range(40)], [*"ab"] * 20)
    copies = changed_copies(table, ["typos", "case"], 2, seed=3)
    for copy in copies:
        assert copy.labels == table.labels
        assert np.mean([a != b for a, b in zip(copy.texts, table.texts, strict=True)]) > 0.6
    assert copies[0] != copies[1]
    assert copies == changed_copies(table, ["typos", "case"], 2, seed=3)
    assert copies != changed_copies(table, ["typos", "case"], 2, seed=4)


@pytest.mark.slow
def test_a_training_with_copies_has_twice_the_rows(home: Path) -> None:
    robust = tiny(home, "robust", "task.augment=[typos, swap]", "train.epochs=1")
    plain = tiny(home, "once", "train.epochs=1")
    steps = [one.run.read("result")["step"] for one in (robust, plain)]
    assert steps[0] == pytest.approx(2 * steps[1], abs=1)
    for asked, said in (
        ("task.augment=[typo]", "did you mean 'typos'"),
        ("task.consistency=1", "task.augment"),
    ):
        with pytest.raises(InputError, match=said):
            tiny(home, "wrong", asked)
    assert not (home / "wrong").exists()


@pytest.mark.slow
def test_answers_to_rows_and_copies_are_kept_together(home: Path) -> None:
    asked = ["task.augment=[drop, swap]", "task.augment_copies=2", "train.epochs=8"]
    weak, strong = (
        tiny(home, f"together-{weight}", *asked, f"task.consistency={weight}")
        for weight in (0.0001, 3)
    )
    task: Any = strong.task
    _, splits = task.prepare(strong.tokenizer)
    n = splits.train.samples_per_epoch
    batch = splits.train.batch(n - 4, 8)
    changed = changed_of(batch)
    assert changed is not None
    # Both epochs are in the batch, and each row is beside a copy of itself.
    copies = changed_copies(task.tables.train, ["drop", "swap"], 2, task.recipe.seed)
    for place, index in enumerate(splits.train.indices(n - 4, 8)):
        text = copies[place // 4].texts[index]
        length = int(changed["lengths"][place])
        found = changed["tokens"][place, :length].tolist()
        assert strong.tokenizer.decode(found) == text
    assert torch.equal(changed["targets"], batch["targets"])
    network = strong.network.train()
    for module in network.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    rows, others = (task.scores_of_each(network, one).float() for one in (batch, changed))
    wanted = torch.zeros(())
    for row, other in zip(rows, others, strict=True):
        wanted += (task.loss_of(row, batch["targets"]) + task.loss_of(other, batch["targets"])) / 4
        logs = [one.log_softmax(1) for one in (row, other)]
        kl = F.kl_div(logs[1], logs[0], reduction="sum", log_target=True)
        wanted += 3 * kl / 2
    assert task.training_loss(network, batch).item() == pytest.approx(wanted.item(), rel=1e-4)
    assert divergence(strong) < 0.85 * divergence(weak)


def divergence(predictor: Predictor) -> float:
    """Return the mean KL divergence of answers to changed rows from those to the rows."""
    table = own_texts(predictor)
    texts = table.texts, copies_of(table).texts
    p, q = (
        np.array([one["scores"]["good"] for one in predictor.predict(some) if one])
        for some in texts
    )
    return float((p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))).mean())


def own_texts(predictor: Predictor) -> Table:
    table: Table = own.own_rows(predictor)[1]
    return table


def copies_of(table: Table) -> Table:
    return changed_copies(table, ["drop"], 1, 9)[0]


@pytest.mark.slow
def test_the_page_and_the_card_have_what_was_measured(home: Path, clf: Predictor) -> None:
    evaluate("clf", ["robustness"], kinds=["case"], rows=40, root=home)
    evaluate("clf", ["rows"], files=[home / "other.jsonl"], root=home)
    assert set(clf.run.read("evaluation")) >= {"rows", "robustness"}
    page = write_report(clf.run).read_text()
    assert 'id="evaluation"' in page
    assert "chart-evaluation-robustness" in page
    card = (clf.run.path / "README.md").read_text()
    front = yaml.safe_load(card.split("---\n")[1])
    assert front["pipeline_tag"] == "text-classification"
    assert "other.jsonl" in card
    assert "Not measured:" in card
    info = pytest.importorskip("huggingface_hub").ModelCard(card)
    assert info.data.license == "unknown"


def test_a_card_that_was_changed_by_hand_stays(
    home: Path, clf: Predictor, caplog: pytest.LogCaptureFixture
) -> None:
    evaluate("clf", ["card"], root=home)
    path = clf.run.path / "README.md"
    ours = path.read_text()
    path.write_text(ours.replace("license: unknown", "license: mit"))
    evaluate("clf", ["card"], root=home)
    assert "license: mit" in path.read_text()
    assert "was changed by hand" in caplog.text
    path.unlink()
    evaluate("clf", ["card"], root=home)
    assert path.read_text() == ours


@pytest.mark.slow
def test_results_are_of_the_weights_that_a_run_has(home: Path, clf: Predictor) -> None:
    other = tiny(home, "again")
    evaluate("again", ["rows"], root=home)
    assert set(kept_of(other.run)) >= {"rows"}
    kept = (other.run.path / "evaluation.json").read_bytes()
    earlier = min(other.run.checkpoints.glob("step-*"))
    evaluate(earlier, ["calibration"], root=home)
    assert kept_of(Run.find(earlier)) == {}
    with pytest.raises(InputError, match=r"step-\d+ has no card"):
        evaluate(earlier, ["card"], root=home)
    assert (other.run.path / "evaluation.json").read_bytes() == kept
    result = other.run.read("result")
    other.run.write("result", {**result, "weights_sha256": "0" * 64})
    assert kept_of(other.run) == {}
    (other.run.path / "evaluation.json").write_text("[]")
    with pytest.raises(InputError, match="is damaged"):
        kept_of(other.run)
    (other.run.path / "evaluation.json").write_bytes(kept)
    evaluate("again", ["card"], root=home)
    assert "Not measured: rows (" in (other.run.path / "README.md").read_text()


@pytest.mark.slow
def test_texts_of_no_class_are_read_as_the_runs_own(home: Path) -> None:
    for part in ("train", "test"):
        lines = (home / f"{part}.jsonl").read_text().replace('"text"', '"review"')
        (home / f"reviews-{part}.jsonl").write_text(lines)
    files = [f"task.{part}={home / f'reviews-{part}.jsonl'}" for part in ("train", "test")]
    tiny(home, "reviews", *files, "task.text=review", "train.epochs=1")
    (home / "else.csv").write_text("review,stars\n" + "how do I pay my rent,1\n" * 20)
    outside = home / "else.csv"
    found = evaluate("reviews", ["outside"], outside=outside, root=home)["outside"]
    again = evaluate("reviews", ["outside"], ["task.text=review"], outside=outside, root=home)
    assert found == again["outside"]


def test_where_everything_is_left_out_nothing_was_evaluated(
    home: Path, clf: Predictor, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = Run.create(clf.run.recipe.replace(name="empty"), home)
    with pytest.raises(InputError, match=r"nothing of .*empty can be evaluated"):
        evaluate(empty, root=home)
    assert "rows is left out: " in capsys.readouterr().err


def test_all_that_a_model_has_read_is_searched(home: Path) -> None:
    shape = ["model.n_layers=1", "model.d_model=16", "model.n_heads=2", "model.seq_len=16"]
    asked = [*shape, "train.steps=1", "train.batch_size=2"]
    random_words = random.Random(0)
    for n, start in enumerate((None, "read-0")):
        texts = [" ".join(random_words.choices(["ant", "bee", "cow"], k=30)) for _ in range(40)]
        write(home / f"read-{n}.jsonl", [(text, "") for text in texts])
        told: dict[str, Any] = {"tokenizer": home / "read-0"} if n else {"vocab_size": 262}
        corpus = wg.prepare(home / f"read-{n}.jsonl", home / f"corpus-{n}", **told).path
        overrides = [*asked, f"data.corpus={corpus}", f"name=read-{n}"]
        wg.pretrain(None, overrides, start=start, root=home)
    # Some texts are of the corpora's own validation.
    for name, least, most in (("read-0", 30, 40), ("read-1", 60, 80)):
        files = [home / "read-0.jsonl", home / "read-1.jsonl"]
        found = evaluate(name, ["contamination"], files=files, root=home)["contamination"]
        assert found["rows"] == 80
        assert least <= found["duplicates"] <= most


def test_the_column_of_a_corpus_can_be_named(home: Path, clf: Predictor) -> None:
    texts = [json.loads(line)["text"] for line in (home / "test.jsonl").read_text().splitlines()]
    corpus = home / "read.csv"
    corpus.write_text("id,body\n" + "".join(f'{n},"{text}"\n' for n, text in enumerate(texts)))
    with pytest.raises(InputError, match=r"'text'.*--corpus-column COLUMN"):
        evaluate("clf", ["contamination"], corpus=[corpus], root=home)
    with pytest.raises(InputError, match="--corpus-column is read by contamination alone"):
        evaluate("clf", ["rows"], corpus_column="body", root=home)
    renamed = home / "renamed.jsonl"
    renamed.write_text((home / "other.jsonl").read_text().replace('"text"', '"review"'))
    asked: dict[str, Any] = {"files": [renamed], "corpus": [corpus], "corpus_column": "body"}
    found = evaluate("clf", ["rows", "contamination"], ["task.text=review"], **asked, root=home)
    found = found["contamination"]
    assert found["duplicates"] == found["rows"] == len(texts)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["robustnes"], "did you mean 'robustness'"),
        (["language"], "language is not for a task's run"),
        (["outside"], "add --outside FILE"),
        (["rows", "--file", "nowhere.csv"], "no such file: nowhere.csv"),
        (["robustness", "--kinds", "typo"], "did you mean 'typos'"),
        (["rows", "train.epochs=3"], "only columns"),
        (["rows", "--labels", "good"], "is not FILE'S=RUN'S"),
        (["rows", "--labels", "5=good"], "--labels is of the rows of a file: add --file FILE"),
        (["cost", "--file", "tests"], "--file is read by rows alone"),
        (["rows", "--kinds", "typos"], "--kinds is read by robustness alone"),
        (["rows", "--documents", "3"], "--documents is read by language alone"),
        (["behaviour", "--rows", "3"], "--rows is read by robustness, harness alone"),
        (["rows", "--seed", "0"], "--seed is read by robustness, behaviour, outside"),
        (["outside", "--outside", "tests", "task.label=x"], "task.label= is of the rows of a file"),
        (["outside", "--outside", "tests", "--labels", "5=good"], "--labels is read by rows alone"),
        (["card", "cost", "--rows", "3"], "--rows is read by robustness"),
    ],
)
def test_a_mistake_gets_one_line(home: Path, clf: Predictor, asked: list[str], said: str) -> None:
    before = sorted(clf.run.path.iterdir())
    result = CliRunner().invoke(command, ["clf", *asked, "--runs", str(home)])
    assert isinstance(result.exception, InputError)
    assert said in str(result.exception)
    assert sorted(clf.run.path.iterdir()) == before


@pytest.mark.slow
def test_without_suites_all_that_apply_run(
    home: Path, clf: Predictor, caplog: pytest.LogCaptureFixture
) -> None:
    options = ["clf", "--rows", "20", "--runs", str(home), "--json"]
    result = CliRunner().invoke(command, options, catch_exceptions=False)
    found: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    assert found["run"] == str(home / "clf")
    assert {"rows", "robustness", "cost"} <= set(found["suites"])
    assert "outside is left out" in caplog.text + result.stderr
    assert set(found["suites"]) <= set(SUITES)
    assert set(KINDS) > {one["kind"] for one in found["suites"]["robustness"]["kinds"]}
    assert wg.evaluate(Run(home / "clf"), ["card"]) == {}
