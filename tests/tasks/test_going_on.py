"""Fine-tuning a run on that is fine-tuned already."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from wafergpt.api import cross_validate, finetune, prune
from wafergpt.checkpoint import store
from wafergpt.engines.outputs import evaluate
from wafergpt.errors import InputError
from wafergpt.inference.predictor import Predictor
from wafergpt.model.heads import NgramScores
from wafergpt.runs.run import Run
from wafergpt.tasks.base import Outputs, Task
from wafergpt.tasks.carried import placed
from wafergpt.tasks.classify import Classify
from wafergpt.tasks.tag import Tag

SMALL = [
    "model.n_layers=1", "model.d_model=16", "model.n_heads=2", "model.seq_len=16",
    "model.vocab_size=270", "system.precision=fp32", "system.threads=1", "system.compile=off",
    "optimizer.lr=5e-3", "train.epochs=4", "train.batch_size=8",
]  # fmt: skip
ON = [key for key in SMALL if not key.startswith("model.")]

TEXTS = [f"{word} film {n}" for n in range(6) for word in ("awful", "lovely", "strange")]


def rows(path: Path, words: dict[str, str], n: int = 12, more: str = "film") -> Path:
    lines = [{"text": f"{word} {more} {place}", "label": label}
             for place in range(n) for word, label in words.items()]  # fmt: skip
    path.write_text("\n".join(map(json.dumps, lines)) + "\n")
    return path


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    rows(home / "two.jsonl", {"awful": "bad", "lovely": "good"})
    rows(home / "three.jsonl", {"lovely": "good", "strange": "alien", "awful": "bad"})
    rows(home / "numbers.jsonl", {"awful": "1.5", "lovely": "4"})
    for name, label in (("first", "PER"), ("second", "ANIMAL")):
        sentence = f"Anna S-PER\nsaw O\nRex S-{label}\nagain{{}} O\n\n"
        (home / f"{name}.conll").write_text("".join(sentence.format(n) for n in range(20)))
    for name, more in (
        ("clf", ["task.train=two.jsonl", "task.ngram_rows=512", "task.ngram_ratios=true"]),
        ("triple", ["task.train=three.jsonl", "task.ngrams=none"]),
        ("binary", ["task.train=two.jsonl", "task.loss=binary", "task.ngram_rows=512"]),
        ("value", ["task.train=numbers.jsonl", "task.name=regress", "task.ngram_rows=512"]),
        (
            "names",
            [
                "task.train=first.conll",
                "task.name=tag",
                "task.feature_rows=512",
                "optimizer.task_ngram_lr=4",
            ],
        ),
    ):
        finetune("scratch", None, [*SMALL, *placed_in(home, more), f"name={name}"], root=home)
    return home


def placed_in(home: Path, keys: list[str]) -> list[str]:
    return [key.replace("task.train=", f"task.train={home}/") for key in keys]


def on(home: Path, start: str, name: str, *more: str) -> tuple[Run, Predictor]:
    """Go on, and return the run, and its network before the first update."""
    keys = [*ON, f"name={name}", "checkpoint.keep=99", *placed_in(home, list(more))]
    run = finetune(start, None, keys, root=home).run
    return run, Predictor.load(Run(run.path, run.checkpoints / "step-00000000"))


def outputs(predictor: Predictor) -> Outputs:
    encoded = predictor.task.encode(TEXTS, predictor.tokenizer)
    return evaluate(predictor.task, predictor.network, encoded, predictor.recipe, predictor.device)


def test_known_labels_keep_their_scores_among_new_ones(home: Path) -> None:
    before = Predictor.load(Run(home / "clf"))
    run, start = on(home, "clf", "three", "task.train=three.jsonl", "task.held_out=0")
    assert start.recipe.task.labels == ("alien", "bad", "good")  # type: ignore[union-attr]
    assert start.recipe.task.factors == before.recipe.task.factors  # type: ignore[union-attr]
    one, two = outputs(before), outputs(start)
    assert np.array_equal(one["scores"], two["scores"][:, :, 1:])
    assert np.abs(two["scores"][:, 1, 0]).max() == 0
    known = two["probabilities"][:, 1:]
    assert known / known.sum(1, keepdims=True) == pytest.approx(one["probabilities"], abs=1e-12)
    assert np.array_equal(known.argmax(1), one["probabilities"].argmax(1))
    assert run.tokenizer.read_bytes() == (home / "clf" / "tokenizer.json").read_bytes()
    answers = Predictor.load(run).predict(TEXTS[:3])
    assert [answer["label"] for answer in answers if answer] == ["bad", "good", "alien"]


def test_new_ngrams_can_be_learned(home: Path) -> None:
    """Those without a ratio, which would never have a gradient."""
    path = rows(home / "unseen.jsonl", {"zebra": "bad", "yak": "good"}, more="walk")
    before = store.weights(Run(home / "clf"))
    _, start = on(home, "clf", "unseen", f"task.train={path.name}", "task.held_out=0")
    table = start.network.get_submodule("head_ngrams")
    assert isinstance(table, NgramScores)
    assert table.kept is not None
    assert table.ratios is not None
    known = before["head_ngrams.kept.rows"]
    new = ~torch.isin(table.kept.rows, known)
    assert new.sum() == len(new) - len(known) > 10
    assert (table.ratios[1:][new] > 0).all()
    assert not table.weight[1:][new].any()
    for values, old in (("ratios", table.ratios), ("weight", table.weight)):
        assert torch.equal(old[1:][~new], before[f"head_ngrams.{values}"][1:])


def same_weights(one: Run, other: Run) -> bool:
    first, second = (dict(store.weights(run)) for run in (one, other))
    return first.keys() == second.keys() and all(torch.equal(first[n], second[n]) for n in first)


def test_a_runs_recipe_makes_it_again(home: Path) -> None:
    path = rows(home / "more.jsonl", {"zebra": "bad", "yak": "good"}, more="walk")
    grown, _ = on(home, "clf", "grown", f"task.train={path.name}", "task.held_out=0")
    for start, made in (("scratch", Run(home / "clf")), ("clf", grown)):
        asked = [f"name={made.name}-again"]
        again = finetune(start, made.path / "recipe.yaml", asked, root=home).run
        assert same_weights(made, again)
    asked = [*SMALL, f"task.train={path}", "task.ngrams=words", "task.ngram_ratios=true"]
    with pytest.raises(InputError, match=r"task\.ngram_kept is set by prune"):
        finetune("scratch", None, [*asked, "task.ngram_kept=3"], root=home)


@pytest.mark.parametrize("kind", ["grown", "adapters", "pruned", "whole"])
def test_what_has_other_rows_than_its_data_is_resumed(home: Path, kind: str) -> None:
    """Rows of tables that a run was given by another, or by an older version."""
    name = f"resumed-{kind}"
    path = rows(home / f"{name}.jsonl", {"zebra": "bad", "yak": "good"}, more="run")
    if kind == "pruned":
        made = prune("clf", name, rows=0.3, retrain=2, root=home)
    elif kind == "whole":
        asked = [*SMALL, "task.train=two.jsonl", "task.ngrams=words", "task.ngram_ratios=true"]
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(home)
            patch.setattr(Classify, "sized", Task.sized)
            made = finetune("scratch", None, [*asked, "task.ngram_rows=512", f"name={name}"],
                            root=home).run  # fmt: skip
        assert store.weights(made).by_rows["head_ngrams.weight"].shape == (512, 2)
    else:
        lora = ["lora.rank=2"] if kind == "adapters" else []
        made, _ = on(home, "clf", name, f"task.train={path.name}", "task.held_out=0", *lora)
    whole = dict(store.weights(made))
    again = finetune(resume=made.path, root=home).run
    assert again.path == made.path
    assert all(
        torch.equal(value, whole[name]) for name, value in dict(store.weights(again)).items()
    )


def test_a_run_that_went_on_is_pruned(home: Path) -> None:
    path = rows(home / "wide.jsonl", {"zebra": "bad", "yak": "good"}, more="swim")
    wide, _ = on(home, "clf", "wide", f"task.train={path.name}", "task.held_out=0.3")
    small = prune("wide", "wide-small", rows=0.5, retrain=1, root=home)
    kept = [getattr(each.recipe.task, "ngram_kept", 0) for each in (Run(home / "clf"), wide, small)]
    assert 0 < kept[0] < kept[1]
    assert 0 < kept[2] < kept[1]


def test_a_table_of_all_rows_goes_on(home: Path) -> None:
    """As older versions trained them: those rows with a ratio stay."""
    asked = [*SMALL, "task.train=two.jsonl", "task.ngrams=words", "task.ngram_ratios=true"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        patch.setattr(Classify, "sized", Task.sized)
        old = finetune("scratch", None, [*asked, "task.ngram_rows=512", "name=old"], root=home).run
    path = rows(home / "late.jsonl", {"zebra": "bad", "yak": "good"}, more="jump")
    run, first = on(home, "old", "late", f"task.train={path.name}", "task.held_out=0")
    assert run.recipe.task is not None
    assert run.recipe.task.model_dump()["ngram_kept"] < 512
    for one, other in zip(first.predict(TEXTS), Predictor.load(old).predict(TEXTS), strict=True):
        assert one is not None
        assert other is not None
        assert one["scores"] == pytest.approx(other["scores"], abs=1e-6)


@pytest.mark.parametrize(
    ("start", "train"), [("clf", "two"), ("value", "numbers"), ("names", "first")]
)
def test_the_same_answers_go_on_bit_for_bit(home: Path, start: str, train: str) -> None:
    suffix = "conll" if start == "names" else "jsonl"
    more = ["task.held_out=0", f"task.train={train}.{suffix}"]
    run, first = on(home, start, f"{start}-on", *more)
    assert first.recipe.task.name == Run(home / start).recipe.task.name  # type: ignore[union-attr]
    texts = ["Anna saw Rex again7"] if start == "names" else TEXTS
    assert first.predict(texts) == Predictor.load(Run(home / start)).predict(texts)
    assert run.read("result")["init"] == start


@pytest.mark.slow
@pytest.mark.parametrize(
    ("start", "train"),
    [("clf", "two"), ("triple", "two"), ("value", "numbers"), ("names", "first")],
)
def test_adapters_go_on_from_the_same_answers(home: Path, start: str, train: str) -> None:
    suffix = "conll" if start == "names" else "jsonl"
    more = ["task.held_out=0", f"task.train={train}.{suffix}", "lora.rank=2", "optimizer.lr=0.1"]
    run, first = on(home, start, f"{start}-lora", *more)
    texts = ["Anna saw Rex again7"] if start == "names" else TEXTS
    before = Predictor.load(Run(home / start))
    assert first.predict(texts) == before.predict(texts)
    after = Predictor.load(run)
    assert after.predict(texts) != before.predict(texts)
    matrix = "gpt.blocks.0.attention.qkv.weight"
    trained = after.network.get_parameter(matrix) - before.network.get_parameter(matrix)
    assert 1 <= torch.linalg.matrix_rank(trained) <= 2


def test_adapters_go_on_from_another_task(home: Path) -> None:
    more = ["task.name=regress", "task.train=numbers.jsonl", "lora.rank=2", "task.ngrams=none"]
    run, _ = on(home, "clf", "value-of-clf", *more)
    assert Predictor.load(run).predict(TEXTS)


def test_labels_without_a_new_row_stay(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, _ = on(home, "triple", "fewer", "task.train=two.jsonl", "task.class_weights=balanced")
    assert "no new row has the label 'alien', which" in capsys.readouterr().err
    assert run.recipe.task.labels == ("alien", "bad", "good")  # type: ignore[union-attr]
    assert run.read("result")["metrics"]["labels"] == ["alien", "bad", "good"]
    finetune(resume=run, overrides=["train.steps=14"], root=home)


@pytest.mark.slow
def test_log_odds_become_scores_of_labels(home: Path) -> None:
    before = outputs(Predictor.load(Run(home / "binary")))["probabilities"]
    with pytest.raises(InputError, match="needs two labels, not 3"):
        on(home, "binary", "odd", "task.train=three.jsonl")
    more = ["task.loss=cross_entropy", "task.held_out=0"]
    _, start = on(home, "binary", "opened", "task.train=three.jsonl", *more)
    found = outputs(start)["probabilities"][:, 1:]
    assert found / found.sum(1, keepdims=True) == pytest.approx(before, abs=1e-6)
    _, start = on(home, "clf", "closed", "task.train=two.jsonl", "task.loss=binary", more[1])
    one = outputs(Predictor.load(Run(home / "clf")))["probabilities"]
    assert outputs(start)["probabilities"] == pytest.approx(one, abs=1e-6)


def test_tags_keep_their_scores_among_new_ones(home: Path) -> None:
    before = Predictor.load(Run(home / "names"))
    _, start = on(home, "names", "names-more", "task.train=second.conll")
    assert isinstance(start.task, Tag)
    assert start.task.settings.labels == ("ANIMAL", "PER")
    # O, and the four of PER behind those of ANIMAL.
    places = torch.tensor([0, 5, 6, 7, 8])
    old, new = (dict(one.network.named_parameters()) for one in (before, start))
    assert torch.equal(new["head.tags.weight"][places], old["head.tags.weight"])
    assert torch.equal(new["head_ngrams.weight"][:, places], old["head_ngrams.weight"])
    ends = torch.tensor([*places, 9])
    steps = new["head.transitions.weight"][ends[:, None], ends[None]]
    assert torch.equal(steps, old["head.transitions.weight"])


def test_of_another_task_the_gpt_alone_goes_on(home: Path) -> None:
    more = ["task.name=regress", "task.train=numbers.jsonl", "task.ngrams=none"]
    _, start = on(home, "clf", "another", *more)
    old, new = store.weights(Run(home / "clf")), start.network.state_dict()
    assert all(torch.equal(new[name], old[name]) for name in new if name.startswith("gpt."))
    assert new["head.weight"].shape == (1, old["head.weight"].shape[1])
    assert "head_ngrams.weight" not in new


@pytest.mark.slow
def test_rows_that_were_learned_already_are_counted(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = (f"task.validation={home / 'two.jsonl'}", "train.epochs=1")
    on(home, "clf", "seen", "task.train=three.jsonl", *more)
    learned = len(Predictor.load(Run(home / "clf")).task.tables.train.texts)  # type: ignore[attr-defined]
    assert f"has learned from {learned} of 24 validation rows" in capsys.readouterr().err
    on(home, "clf", "unseen-2", "task.train=two.jsonl", "train.epochs=1")
    assert "has learned from" not in capsys.readouterr().err


def test_spellings_are_those_of_the_run(home: Path) -> None:
    path = rows(home / "spelled.jsonl", {"awful": "Bad", "lovely": "GOOD"})
    with pytest.raises(InputError, match=r"only in spelling.*'bad' \(1 row, first: .*clf\)"):
        on(home, "clf", "spelled", f"task.train={path.name}")
    run, _ = on(home, "clf", "merged", f"task.train={path.name}", "task.similar_labels=merge")
    assert run.recipe.task.labels == ("bad", "good")  # type: ignore[union-attr]


def test_another_network_is_refused(home: Path) -> None:
    for key in ("task.pooling=last", "task.ngram_rows=64", "model.n_layers=2"):
        with pytest.raises(InputError, match="cannot change"):
            on(home, "clf", "odd", "task.train=two.jsonl", key)
    assert not (home / "odd").exists()


def test_folds_go_on_from_a_task_too(home: Path) -> None:
    more = [*ON, f"task.train={home / 'three.jsonl'}", "name=deal", "train.epochs=1"]
    run = cross_validate("clf", None, more, folds=2, root=home)
    assert run.read("result")["metrics"]["labels"] == ["alien", "bad", "good"]


@given(st.permutations(range(4)), st.integers(0, 2))
def test_weights_are_placed(order: list[int], new: int) -> None:
    """Scores of old labels are those of before, wherever they stand."""
    old, inputs = torch.arange(12.0).view(4, 3), torch.tensor([1.0, -2.0, 0.5])
    fresh = torch.full((4 + new, 3), 7.0)
    found = placed(fresh, old, order, [0])
    assert torch.equal((found @ inputs)[order], old @ inputs)
    assert torch.equal(placed(fresh.T, old.T, order, [1]), found.T)
    assert (found == 7).all(1).sum() >= new
    square = placed(torch.zeros(4 + new, 4 + new), old @ old.T, order, [0, 1])
    assert torch.equal(square[order][:, order], old @ old.T)
