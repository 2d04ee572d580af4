"""Tagging end to end, on sentences whose entities are easy to find."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from wafergpt.api import evaluate, finetune
from wafergpt.checkpoint import store
from wafergpt.cli import main
from wafergpt.cli.predict import command
from wafergpt.config import Recipe, load_recipe, recipe_from
from wafergpt.data.tagged_rows import read_sentences
from wafergpt.errors import InputError
from wafergpt.evaluation.perturbations import perturbed
from wafergpt.inference.predictor import Predictor
from wafergpt.model.gpt import GPT
from wafergpt.reports import write_report
from wafergpt.tasks.base import Splits, task_of
from wafergpt.tasks.tag import Tag
from wafergpt.tasks.tag_words import word_rows

SMALL = [
    "model.n_layers=1", "model.d_model=32", "model.n_heads=2", "model.seq_len=24",
    "model.vocab_size=300", "system.precision=fp32", "system.threads=1", "system.compile=off",
    "task.name=tag", "task.feature_rows=4096",
]  # fmt: skip
NAMES = {"PER": ["Anna", "Bob Ray", "Cleo"], "LOC": ["Oslo", "New York", "Rome"]}


def conll(n: int, seed: int) -> str:
    rng, lines = random.Random(seed), []
    for _ in range(n):
        for label in rng.choices(["", "PER", "LOC"], k=rng.randint(2, 6)):
            words = rng.choice(
                NAMES[label] if label else ["went", "saw", "to", "well-known"]
            ).split()
            lines += [f"{w} {'BI'[i > 0]}-{label}" if label else f"{w} O"
                      for i, w in enumerate(words)]  # fmt: skip
        lines += [". O", ""]
    return "\n".join(lines)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("tag")
    (home / "train.conll").write_text(conll(300, 0))
    (home / "test.conll").write_text(conll(60, 1))
    return home


@pytest.fixture(scope="module")
def tagger(home: Path) -> Predictor:
    rows = [f"task.train={home / 'train.conll'}", f"task.test={home / 'test.conll'}"]
    return finetune("scratch", None, [*SMALL, *rows, "train.epochs=3", "name=t"], root=home)


def of(home: Path, *more: str) -> Recipe:
    return load_recipe(None, [*SMALL, f"task.train={home / 'train.conll'}", *more])


def prepared(recipe: Recipe) -> tuple[Tag, Splits]:
    task = task_of(recipe)
    resolved, splits = task.prepare(task.tokenizer(None))
    found = task_of(resolved)
    assert isinstance(found, Tag)
    return found, splits


def test_it_learns_and_counts_as_nervaluate_does(tagger: Predictor, home: Path) -> None:
    result = tagger.run.read("result")
    assert result["test"]["f1"] > 0.9
    table = read_sentences(home / "test.conll")
    known = [text.split() for text in table.labels]
    assert f1_of(tagger, table.words, known) == pytest.approx(result["test"]["f1"])


def test_the_table_of_features_learns_fast_unless_asked_otherwise(home: Path) -> None:
    for asked, rate in (
        ([], 64.0),
        (["optimizer.task_ngram_lr=3"], 3.0),
        (["task.word_features=false"], 4.0),
    ):
        recipe = of(home, *asked)
        task = task_of(recipe)
        assert isinstance(task, Tag)
        keys = [one.partition("=")[0] for one in asked]
        assert task.with_choices(keys).optimizer.task_ngram_lr == rate


def test_tags_that_follow_each_other_are_learned_from_their_order(tmp_path: Path) -> None:
    """The words say nothing; what does is that B comes after B, and O after O."""
    rng, lines = random.Random(0), []
    for _ in range(200):
        tag = rng.choice(["B-ODD", "O"])
        words = [f"{rng.choice('uvwxyz')} {tag}" for _ in range(8)]
        # One word in eight tells.
        words[rng.randrange(8)] = f"{tag[0]} {tag}"
        lines += [*words, ""]
    (tmp_path / "rows.conll").write_text("\n".join(lines))
    asked = [*SMALL, "model.vocab_size=264", f"task.train={tmp_path / 'rows.conll'}",
             "task.attention=causal", "train.epochs=12", "name=t"]  # fmt: skip
    run = finetune("scratch", None, asked, root=tmp_path).run
    steps = store.weights(run)["head.transitions.weight"]
    # At the network's learning rate they would be 0.1 at most.
    assert float(steps.abs().max()) > 0.3
    assert run.read("result")["metrics"]["f1"] > 0.8


def f1_of(tagger: Predictor, rows: Sequence[Sequence[str]], known: list[list[str]]) -> float:
    """Return nervaluate's strict F1 of what predict says."""
    from nervaluate import Evaluator

    found = tagger.predict([list(words) for words in rows])
    predicted = []
    for words, answer in zip(rows, (one or {} for one in found), strict=True):
        tags = ["O"] * len(words)
        starts = np.cumsum([0, *(len(word) + 1 for word in words)]).tolist()
        for entity in answer["entities"]:
            first = starts.index(entity["start"])
            length = len(entity["text"].split())
            tags[first : first + length] = [
                f"{'BI'[i > 0]}-{entity['label']}" for i in range(length)
            ]
        predicted.append(tags)
    theirs = Evaluator(known, predicted, tags=["LOC", "PER"], loader="list").evaluate()
    return float(theirs["overall"]["strict"].f1)


@pytest.mark.slow
def test_letters_of_words_change_and_tags_stay(
    tagger: Predictor, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = evaluate("t", ["robustness"], rows=60, seed=4, root=home)["robustness"]
    assert {one["kind"] for one in found["kinds"]} >= {"typos", "case"}
    assert not {one["kind"] for one in found["kinds"]} & {"whitespace", "truncation"}
    table = read_sentences(home / "test.conll")
    for one in found["kinds"]:
        new = [perturbed("\n".join(words), one["kind"], one["severity"], 4).split("\n")
               for words in table.words]  # fmt: skip
        changed = [tuple(a) != b for a, b in zip(new, table.words, strict=True)]
        assert one["changed"] == pytest.approx(np.mean(changed))
        if one["kind"] in ("typos", "case"):
            wanted = f1_of(tagger, new, [text.split() for text in table.labels])
            assert one["value"] == pytest.approx(wanted)
    assert found["mean_drop"]["5"] > found["mean_drop"]["1"]
    with pytest.raises(InputError, match="takes words apart"):
        evaluate("t", ["robustness"], kinds=["whitespace"], root=home)
    # Such as of Russian ones.
    monkeypatch.setattr("wafergpt.suites.robustness.fitting", lambda texts: ["whitespace"])
    with pytest.raises(InputError, match="for the script of these texts"):
        evaluate("t", ["robustness"], root=home)


def test_offsets_are_places_in_the_raw_text(tagger: Predictor) -> None:
    text = "  👩‍🔬 Anna saw\tNew York.\nBob Ray went to 北京Rome!"
    answer = tagger.predict(text)
    assert answer is not None
    found = answer["entities"]
    assert [text[e["start"] : e["end"]] for e in found] == [e["text"] for e in found]
    assert {"Anna", "New York", "Bob Ray"} <= {entity["text"] for entity in found}
    assert all(0 < entity["score"] <= 1 for entity in found)
    assert tagger.predict([" ", None, "went"])[:2] == [None, None]
    with pytest.raises(InputError, match=r"texts\[0\] \[1\] is a number"):
        tagger.predict([["a", 5]])


def test_long_texts_lose_no_word(tagger: Predictor) -> None:
    text = " ".join(["Anna saw Rome and"] * 40)
    answer = tagger.predict(text)
    assert answer is not None
    assert sum(entity["text"] == "Anna" for entity in answer["entities"]) >= 35
    assert answer["entities"][-1]["end"] > len(text) - 20


def test_predict_on_the_command_line(tagger: Predictor, home: Path) -> None:
    path = str(tagger.run.path)
    done = CliRunner().invoke(command, [path, "--file", str(home / "test.conll")])
    assert done.exit_code == 0
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(answers) == 60
    assert set(answers[0]["entities"][0]) == {"text", "label", "start", "end", "score"}
    done = CliRunner().invoke(command, [path, "--text", "Anna went to Rome."])
    assert len(json.loads(done.stdout)["entities"]) == 2


def test_lists_of_words_are_predicted_as_they_are_trained_on(
    tagger: Predictor, tmp_path: Path
) -> None:
    source, words = tmp_path / "words.jsonl", ["Anna", "went", "to", "Rome", "."]
    tags = ["B-PER", "O", "O", "B-LOC", "O"]
    rows: list[dict[str, Any]] = [{"tokens": words, "tags": tags, "id": 7}, {"tokens": []}]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert tagger.predict_file(source, tmp_path / "out.jsonl")["blank"] == 1
    first, second = map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines())
    (answer,) = tagger.predict([words])
    assert answer is not None
    assert (first["id"], first["predicted_entities"]) == (7, answer["entities"])
    assert second["predicted_entities"] is None
    # What was written can be read again, and a column of texts is read first.
    tagger.predict_file(tmp_path / "out.jsonl", tmp_path / "again.jsonl", prefix="again")
    source.write_text(json.dumps({"tokens": words, "text": "No one."}) + "\n")
    assert tagger.task.read_inputs(source, None, None)[0] == ["No one."]
    assert tagger.task.read_inputs(source, "tokens", None)[0] == [tuple(words)]
    # The recipe's column of the one kind of files is none of the other.
    source.write_text(json.dumps({"tokens": words}) + "\n")
    (tmp_path / "a.conll").write_text("".join(f"{word} O\n" for word in words))
    for path, tokens in ((source, "2"), (tmp_path / "a.conll", "words")):
        found = word_rows(path, None, None, tokens, "text")
        assert found is not None
        assert [row.value for row in found] == [tuple(words)]
    source.write_text(json.dumps({"tokens": words}) + "\n" + json.dumps({"tokens": "Anna"}) + "\n")
    with pytest.raises(InputError, match="line 2: 'tokens' is not a list"):
        tagger.predict_file(source, tmp_path / "none.jsonl")


def test_the_report_shows_entities(tagger: Predictor) -> None:
    page = write_report(tagger.run).read_text()
    assert "Label by label" in page
    assert '<mark class="entity e' in page
    assert "Test F1" in page


def test_what_was_read_is_in_the_recipe(tagger: Predictor) -> None:
    task = tagger.task
    assert isinstance(task, Tag)
    assert task.settings.labels == ("LOC", "PER")
    assert task.settings.units == "words"


@pytest.mark.parametrize("features", ["true", "false"])
def test_flops_are_torchs(home: Path, features: str) -> None:
    task, splits = prepared(of(home, f"task.word_features={features}", "train.epochs=1"))
    network, batch = task.network(), splits.train.batch(0, 4)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        task.loss(network, batch).backward()
    assert task.flops(batch) == pytest.approx(counter.get_total_flops(), rel=0.01)


def test_every_token_sees_the_whole_text_and_no_padding() -> None:
    gpt = GPT(recipe_from({"model": {"n_layers": 2, "d_model": 16, "n_heads": 2, "seq_len": 8,
                                     "vocab_size": 20}}).model).initialize(0)  # fmt: skip
    tokens = torch.tensor([[1, 2, 3, 4]])
    seen = torch.ones(1, 4, dtype=torch.bool)
    other = torch.tensor([[1, 2, 3, 9]])
    assert not torch.allclose(gpt(tokens, seen=seen)[:, 0], gpt(other, seen=seen)[:, 0])
    assert torch.allclose(gpt(tokens)[:, 0], gpt(other)[:, 0])
    padded = torch.tensor([[1, 2, 3, 4, 0, 0]])
    mask = torch.tensor([[True] * 4 + [False] * 2])
    whole = gpt(tokens, seen=seen)
    assert torch.allclose(gpt(padded, seen=mask)[:, :4], whole, atol=1e-6)


def test_parts_of_long_sentences_have_tags_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "train.conll").write_text(
        "\n".join(f"word{i} {'B' if i == 0 else 'I'}-X" for i in range(60)) + "\n\nA O\n\n" * 3
    )
    (tmp_path / "v.conll").write_text("word1 B-X\n")
    recipe = of(tmp_path, f"task.validation={tmp_path / 'v.conll'}", "train.batch_size=1")
    task, splits = prepared(recipe)
    network = task.network()
    torch.manual_seed(0)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    n = splits.train.samples_per_epoch
    assert n > 5
    batch = splits.train.batch(0, n)
    assert batch.weight == 63
    assert batch["lengths"].max() <= 24
    assert 0 < task.loss(network, batch).item() / batch.weight < 10


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a B-Y\n", "the test rows have the label 'Y', which no training row has"),
        ("a B-PER\n\nb I-PER\n\nc B-LOC\n", "line 3: 'I-PER' after"),
        ("a\n", "one column"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    home: Path, tmp_path: Path, text: str, message: str, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    (tmp_path / "test.conll").write_text(text)
    rows = [f"task.train={home / 'train.conll'}", f"task.test={tmp_path / 'test.conll'}"]
    line = ["wafergpt", "finetune", "scratch", *SMALL, *rows, "--runs", str(tmp_path / "runs")]
    monkeypatch.setattr("sys.argv", line)
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "runs").exists()


def test_no_entities_and_other_settings_are_refused(home: Path, tmp_path: Path) -> None:
    (tmp_path / "train.conll").write_text("a O\n\nb O\n")
    with pytest.raises(InputError, match="has no entities"):
        prepared(of(tmp_path))
    with pytest.raises(InputError, match="word_features has no rule for sgd"):
        of(home, "optimizer.name=sgd", "optimizer.weight_decay=0")


def test_a_cerebras_system_is_refused_by_name(home: Path) -> None:
    from wafergpt.cerebras.unsupported import require_supported

    recipe = of(home)
    assert recipe.task is not None
    settings: dict[str, Any] = {"device": "cerebras"}
    with pytest.raises(InputError, match="=tag is not for system"):
        require_supported(recipe.replace(system=settings))
