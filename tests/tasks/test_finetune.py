"""Fine-tuning end to end on rows whose answer is easy to learn."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from wafergpt.api import finetune, pretrain
from wafergpt.apps.comparison import compare
from wafergpt.checkpoint import store
from wafergpt.config import Recipe, load_recipe, recipe_from
from wafergpt.data.labelled_batches import LabelledBatches
from wafergpt.data.labelled_rows import read_table
from wafergpt.data.labelled_split import hold_out, hold_out_of_each_class, normalized
from wafergpt.data.prepare import prepare
from wafergpt.errors import InputError
from wafergpt.inference.predictor import Predictor
from wafergpt.inference.writer import Writer
from wafergpt.model.heads import Classifier
from wafergpt.runs.run import Run
from wafergpt.tasks.base import task_of
from wafergpt.tasks.classify_settings import ClassifySettings
from wafergpt.tasks.tables import VALIDATION_SHARE, Tables
from wafergpt.tasks.text_task import TextTask

SMALL = [
    "model.n_layers=1", "model.d_model=32", "model.n_heads=2", "model.seq_len=24",
    "system.precision=fp32", "system.threads=1", "system.compile=off", "optimizer.lr=5e-3",
]  # fmt: skip


def write(path: Path, rows: list[tuple[str, str]]) -> Path:
    path.write_text("".join(json.dumps({"text": t, "label": y}) + "\n" for t, y in rows))
    return path


def sentences(
    n: int, seed: int, labels: tuple[str, ...] = ("bad", "good")
) -> list[tuple[str, str]]:
    rng = random.Random(seed)
    filler = ["the", "film", "was", "plot", "and", "it", "cast"]
    rows = []
    for _ in range(n):
        label = rng.choice(labels)
        words = [*rng.choices(filler, k=rng.randint(2, 12)), f"very{label}"]
        rng.shuffle(words)
        rows.append((" ".join(words), label))
    return rows


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    write(home / "train.jsonl", sentences(400, 0))
    write(home / "test.jsonl", sentences(100, 1))
    prepare(home / "train.jsonl", home / "corpus", vocab_size=280)
    pretrain(
        None,
        [*SMALL, f"data.corpus={home / 'corpus'}", "train.steps=30", "name=pre", "seed=3",
         "evaluate.prompts=[the film]"],
        root=home,
    )  # fmt: skip
    return home


def tables_of(recipe: Recipe) -> Tables:
    task = task_of(recipe)
    assert isinstance(task, TextTask)
    return task.tables


def settings(home: Path, *more: str) -> list[str]:
    return [*SMALL, f"task.train={home / 'train.jsonl'}", "train.epochs=4", *more]


@pytest.mark.slow
def test_from_a_pretrained_run_to_answers(home: Path) -> None:
    more = (f"task.test={home / 'test.jsonl'}", "name=clf", "model.dropout=0.1")
    classifier = finetune("pre", None, settings(home, *more), root=home)
    result = classifier.run.read("result")
    assert result["test"]["accuracy"] >= 0.95
    assert sum(map(sum, result["test"]["confusion"])) == 100
    for done in (result, Run.find("pre", home).read("result")):
        assert 0 < done["mfu"] < 1
        assert "predicted_loss" not in done
    assert result["init"] == "pre"
    recipe = classifier.run.recipe
    assert isinstance(recipe.task, ClassifySettings)
    assert recipe.task.labels == ("bad", "good")
    assert recipe.model.dropout == 0.1
    assert recipe.model.vocab_size == 280
    texts = [text for text, _ in sentences(50, 1)]
    again = Predictor.load(Run.find("clf", home)).predict(texts)
    assert again == classifier.predict(texts)
    alone = [classifier.predict([text])[0] for text in texts]
    pairs = [(a, b) for a, b in zip(alone, again, strict=True) if a and b]
    assert len(pairs) == 50
    assert all(a["label"] == b["label"] for a, b in pairs)
    assert all(a["score"] == pytest.approx(b["score"], abs=1e-5) for a, b in pairs)
    assert sum(pairs[0][1]["scores"].values()) == pytest.approx(1.0)
    assert classifier.predict([]) == []
    assert classifier.predict(["", texts[0]]) == [None, alone[0]]


def test_flops_count_padding_and_not_the_embedding() -> None:
    """Against torch's counter, with attention as plain products."""
    shape = {"n_layers": 2, "d_model": 32, "n_heads": 2, "seq_len": 64, "vocab_size": 5000}
    task = {
        "labels": list("abc"),
        "pooling": "mean_max_last",
        "word_dropout": 0.1,
        "end_of_text": 0,
    }
    recipe = recipe_from({"model": shape, "task": task})
    classify = task_of(recipe)
    network = classify.network().train()
    texts = [np.arange(n) for n in (3, 40, 17, 64, 9)]
    batches = LabelledBatches(texts, np.array([0, 1, 2, 0, 1]), 2, seed=0)
    for first in range(0, 6, 2):
        batch = batches.batch(first, 2)
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            classify.loss(network, batch).backward()
        assert classify.flops(batch) == counter.get_total_flops()


@pytest.mark.slow
def test_the_baselines_stand_beside_it(home: Path) -> None:
    classifier = finetune("pre", None, settings(home, "name=compared"), root=home)
    rows = compare(classifier)
    assert [row["kind"] for row in rows] == ["gpt", "tfidf", "bilstm"]
    supports = {row["test"]["per_class"][0]["support"] for row in rows}
    assert len(supports) == 1, "they were evaluated on different rows"
    assert rows[1]["accuracy"] >= 0.95
    assert classifier.run.read("comparison") == rows
    assert rows[0]["seconds"] > classifier.run.read("result")["seconds"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("binary", ["task.loss=binary"]),
        ("smooth", ["task.label_smoothing=0.1", "task.class_weights=balanced"]),
        ("pooled", ["task.pooling=mean_max_last", "evaluate.metric=macro_f1"]),
    ],
)
def test_every_loss_and_pooling_learns(home: Path, name: str, more: list[str]) -> None:
    overrides = settings(home, f"name={name}", "train.epochs=6", "model.vocab_size=280", *more)
    classifier = finetune("scratch", None, overrides, root=home)
    metrics = classifier.run.read("result")["metrics"]
    assert metrics["accuracy"] >= 0.9
    assert classifier.run.read("result")["init"] == "scratch"


@pytest.mark.slow
def test_regression_predicts_numbers(home: Path) -> None:
    rows = [(text, "1.5" if label == "good" else "-0.5") for text, label in sentences(400, 0)]
    write(home / "scores.jsonl", rows)
    overrides = [*SMALL, f"task.train={home / 'scores.jsonl'}", "task.loss=squared_error",
                 "train.epochs=6", "name=scores"]  # fmt: skip
    classifier = finetune("pre", None, overrides, root=home)
    assert classifier.run.read("result")["metrics"]["r2"] > 0.8
    texts = ["the film was verygood", "it was verybad"]
    values = [output["value"] for output in classifier.predict(texts) if output]
    assert values == pytest.approx([1.5, -0.5], abs=0.5)
    with pytest.raises(InputError, match="the baselines are classifiers"):
        compare(classifier)


@pytest.mark.slow
def test_early_stopping_returns_the_best(home: Path) -> None:
    noise = [
        (text, label)
        for (text, _), (_, label) in zip(sentences(300, 5), sentences(300, 6), strict=True)
    ]
    write(home / "noise.jsonl", noise)
    overrides = [*SMALL, f"task.train={home / 'noise.jsonl'}", "train.epochs=60", "name=noise",
                 "evaluate.every=10", "evaluate.patience=2"]  # fmt: skip
    classifier = finetune("pre", None, overrides, root=home)
    result = classifier.run.read("result")
    rows = [row for row in classifier.run.metrics() if "val_loss" in row]
    best = min(rows, key=lambda row: row["val_loss"])
    assert result["stopped_early"]
    assert result["step"] == best["step"] + 20
    assert result["metrics"]["loss"] == pytest.approx(best["val_loss"], rel=1e-4)


def test_long_texts_are_cut_and_counted(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(
        home / "long.jsonl", sentences(60, 2) + [("word " * 50 + str(n), "bad") for n in range(5)]
    )
    overrides = settings(home, f"task.test={home / 'long.jsonl'}", "name=long", "train.epochs=1")
    predictor = finetune("pre", None, overrides, root=home)
    assert "5 of 65 test texts are longer than 24 tokens" in capsys.readouterr().err
    predictor.predict(["a short one", "very good " * 40])
    said = capsys.readouterr().err
    assert "1 of 2 texts are longer than 24 tokens; what is beyond is cut (task.cut=end)" in said


@pytest.mark.parametrize(
    ("start", "more", "message"),
    [
        ("pre", ["model.d_model=64"], "model.d_model=64 cannot change"),
        ("pre", ["task.label=lable"], "no column 'lable'; did you mean 'label'?"),
        ("pre", ["task.train=nowhere.csv"], "no such file: nowhere.csv"),
        ("pre", ["task.max_tokens=100"], "more than the model's context of 24"),
        ("pre", ["train.tokens=100", "train.epochs=null"], "fine-tuning counts in train.epochs"),
        ("pre", ["train.batch_size=4096"], "less than one batch of 4096"),
        ("per", [], "no run 'per'; did you mean 'pre'?"),
        ("pre", ["schedule.warmup=150%"], "150% is more than the whole run"),
    ],
)
def test_wrong_use(home: Path, start: str, more: list[str], message: str) -> None:
    with pytest.raises(InputError) as caught:
        finetune(start, None, settings(home, "name=wrong", *more), root=home)
    assert message in str(caught.value)
    assert not (home / "wrong").exists()


def test_labels_that_cannot_be_learned(home: Path) -> None:
    write(home / "one.jsonl", [(f"text {n}", "same") for n in range(50)])
    with pytest.raises(InputError, match="nothing to tell apart"):
        finetune("pre", None, settings(home, f"task.train={home / 'one.jsonl'}"), root=home)
    write(home / "new.jsonl", [("text", "ugly")])
    with pytest.raises(InputError, match=r"the test rows have the label 'ugly'.*new.jsonl, line 1"):
        finetune("pre", None, settings(home, f"task.test={home / 'new.jsonl'}"), root=home)


def of_rows(path: Path, *more: str) -> Recipe:
    return load_recipe(None, ["task.name=classify", f"task.train={path}", *more])


def test_rows_of_every_class_are_held_out_and_the_rest_is_reported(tmp_path: Path) -> None:
    rows = [*sentences(300, 11), ("a lonely one", "odd-39"), (" ", "bad")]
    path = write(tmp_path / "a.jsonl", rows)
    tables = tables_of(of_rows(path))
    assert tables.validation is not None
    for label in ("bad", "good"):
        whole = sum(y == label for t, y in rows if t.strip())
        # Some sentences stand there twice.
        assert tables.validation.labels.count(label) == pytest.approx(whole / 10, abs=2)
    left_out, kept = tables.notes
    assert "1 of 302 rows have no text" in left_out
    assert kept.endswith("'odd-39' (1 row)")
    write(path, rows[::-1])
    again = tables_of(of_rows(path)).validation
    assert again is not None
    assert set(again.texts) == set(tables.validation.texts)


def test_a_run_keeps_its_rows(tmp_path: Path) -> None:
    """An older run split its rows by a hash alone, and its labels stayed as they were written."""
    path = tmp_path / "a.jsonl"
    rows = [(text, 1 if label == "good" else 1.0) for text, label in sentences(200, 12)]
    path.write_text("".join(json.dumps({"text": t, "label": y}) + "\n" for t, y in rows))
    recipe = of_rows(path)
    with pytest.raises(InputError, match="nothing to tell apart"):
        tables_of(recipe)
    before = Tables(*hold_out(read_table(path), VALIDATION_SHARE), None)
    assert set(before.train.labels) == {"1", "1.0"}
    resumed = recipe.replace(data={"fingerprint": before.fingerprint()})
    assert tables_of(resumed) == before
    write(path, sentences(200, 12))
    now = tables_of(recipe)
    again = recipe.replace(data={"fingerprint": now.fingerprint()})
    assert tables_of(again) == now != Tables(*hold_out(read_table(path), VALIDATION_SHARE), None)


def test_spellings_are_settled_by_the_recipe(tmp_path: Path) -> None:
    rows = sentences(100, 13)
    train = write(tmp_path / "a.jsonl", [(text, label.title()) for text, label in rows])
    test = f"task.test={write(tmp_path / 'b.jsonl', rows)}"
    with pytest.raises(InputError, match=r"'(bad|good)' \(.*; none in training\).*labels=merge"):
        tables_of(of_rows(train, test))
    tables = tables_of(of_rows(train, test, "task.similar_labels=merge"))
    assert tables.test is not None
    assert tables.test.labels == [label.title() for _, label in rows]
    with pytest.raises(InputError, match=r"the test rows have the label '(bad|good)'"):
        tables_of(of_rows(train, test, "task.similar_labels=keep"))


def test_numbers_with_decimal_commas(tmp_path: Path) -> None:
    train = write(tmp_path / "a.jsonl", [(f"text {n}", f"1,{n}") for n in range(100)])
    tables = tables_of(of_rows(train, "task.loss=squared_error"))
    assert {float(label) for label in tables.train.labels} < {float(f"1.{n}") for n in range(100)}
    assert "are read as 1.0" in tables.notes[0]


def test_a_changed_corpus_or_changed_rows_end_a_resume(home: Path, tmp_path: Path) -> None:
    prepare(write(tmp_path / "a.jsonl", sentences(300, 7)), tmp_path / "corpus", vocab_size=270)
    overrides = [*SMALL, f"data.corpus={tmp_path / 'corpus'}", "train.steps=2", "name=lm"]
    pretrain(None, overrides, root=tmp_path)
    shutil.rmtree(tmp_path / "corpus")
    prepare(write(tmp_path / "b.jsonl", sentences(300, 8)), tmp_path / "corpus", vocab_size=270)
    with pytest.raises(InputError, match="is not the corpus that this run started with"):
        pretrain(resume="lm", overrides=["train.steps=4"], root=tmp_path)
    rows = write(tmp_path / "rows.jsonl", sentences(100, 9))
    overrides = [*SMALL, f"task.train={rows}", "train.epochs=1", "name=c", "model.vocab_size=280"]
    finetune("scratch", None, overrides, root=tmp_path)
    write(rows, sentences(100, 10))
    with pytest.raises(InputError, match="the labelled rows are not those"):
        finetune(resume="c", overrides=["train.steps=9"], root=tmp_path)


def test_a_language_model_writes_and_a_classifier_does_not(home: Path) -> None:
    writer = Writer.load(Run.find("pre", home))
    assert writer.write("the film") == writer.write("the film") != ""
    assert "## step" in (home / "pre" / "samples.md").read_text()
    with pytest.raises(InputError, match="wafergpt finetune gives it a task"):
        Predictor.load(Run.find("pre", home))


def test_it_fine_tunes_from_the_weights_it_was_given(home: Path) -> None:
    """With a learning rate of almost nothing, the network stays the pretrained one."""
    overrides = settings(home, "name=still", "train.epochs=null", "train.steps=1")
    overrides = [o for o in overrides if not o.startswith("optimizer.lr")] + ["optimizer.lr=1e-12"]
    network = finetune("pre", None, overrides, root=home).network
    assert isinstance(network, Classifier)
    pretrained = Writer.load(Run.find("pre", home)).gpt.state_dict()
    for name, weight in network.gpt.state_dict().items():
        assert np.allclose(weight, pretrained[name], atol=1e-6), name


@pytest.mark.slow
def test_a_fine_tuning_that_was_moved(home: Path, tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    rows = write(old / "train.jsonl", sentences(60, 0))
    shutil.copytree(home / "pre", old / "runs/pre")
    wanted = [*SMALL, f"task.train={rows}", "train.steps=2", "name=clf"]
    finetune("pre", None, wanted, root=old / "runs")
    old.rename(new)
    # Found by itself, with the run that it started from.
    run = finetune("", None, ["train.steps=3"], resume="clf", root=new / "runs").run
    assert (run.recipe.start, run.read("result")["step"]) == (new / "runs/pre", 3)
    here = [s.replace(str(old), str(new)) for s in wanted]
    finetune("pre", None, [*here, "train.steps=4"], auto_resume=True, root=new / "runs")
    assert run.read("result")["step"] == 4

    # The rows moved, with their path given and not given; other rows.
    (new / "train.jsonl").rename(tmp_path / "rows.jsonl")
    with pytest.raises(InputError, match=r"is not there any more: add task\.train=PATH"):
        finetune("", resume="clf", root=new / "runs")
    there = [f"task.train={tmp_path / 'rows.jsonl'}", "train.steps=5"]
    finetune("", None, there, resume="clf", root=new / "runs")
    other = write(tmp_path / "other.jsonl", sentences(60, 5))
    with pytest.raises(
        InputError, match=r"are not those that this run started with: .*other\.jsonl"
    ):
        finetune("", None, [f"task.train={other}"], resume="clf", root=new / "runs")

    # Predicting needs nothing but the run's folder.
    alone = shutil.move(new / "runs/clf", tmp_path / "alone")
    shutil.rmtree(new)
    (tmp_path / "rows.jsonl").unlink()
    (answer,) = Predictor.load(Run.find(alone)).predict(["verygood"])
    assert answer is not None
    assert answer["label"] in ("bad", "good")


@pytest.mark.parametrize("result", [None, "{", "[]", '{"seconds": "long"}'])
def test_a_start_that_lost_its_result_is_compared_all_the_same(
    home: Path, tmp_path: Path, result: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from wafergpt.apps.comparison import _seconds_before

    path = tmp_path / "pre"
    path.mkdir()
    if result is not None:
        (path / "result.json").write_text(result)
    assert _seconds_before(path) == 0.0
    alone = _seconds_before(home / "pre")
    assert alone > 0
    # What a run began with counts too, and a mean of checkpoints takes none.
    later = Run.create(Run(home / "pre").recipe.replace(name="later", start=home / "pre"), tmp_path)
    later.write("result", {"seconds": 5.0})
    mean = Run.create(later.recipe.replace(name="mean"), tmp_path)
    mean.write("result", {"averaged": str(later.path), "seconds": None})
    assert _seconds_before(mean.path) == pytest.approx(alone + 5)


@pytest.mark.slow
def test_n_grams_are_added_to_a_model_without_any(home: Path) -> None:
    rows = ["model.ngrams=[2]", "model.ngram_rows=512"]
    run = finetune("pre", None, settings(home, "name=added", *rows), root=home).run
    assert run.recipe.model.ngrams == (2,)
    assert store.weights(run)["gpt.ngrams.tables.0.weight"].any()
    assert run.read("result")["metrics"]["accuracy"] >= 0.95
    # At the start they add nothing: the weights are those of the run without them.
    plain, added = Run.find("pre", home), task_of(run.recipe)
    drawn = dict(added.initial_weights(added.network(), store.weights(plain)))
    assert not drawn["gpt.ngrams.tables.0.weight"][...].any()
    assert torch.equal(drawn["gpt.embedding.weight"][...], store.weights(plain)["embedding.weight"])


def test_a_tokenizer_of_another_script_is_told(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        (f"好电影{n}" if n % 2 else f"烂电影{n}", "good" if n % 2 else "bad") for n in range(60)
    ]
    overrides = [*SMALL, f"task.train={write(home / 'zh.jsonl', rows)}"]
    finetune("pre", None, [*overrides, "name=zh", "train.steps=1"], root=home)
    assert "tokens for a character of these texts" in capsys.readouterr().err
    # Far longer than the context, so that most of a text is cut.
    long = write(home / "zh-long.jsonl", [(text * 40, label) for text, label in rows])
    asked = [*SMALL, f"task.train={long}", "train.steps=1", "name=zh-long"]
    finetune("pre", None, asked, root=home)
    assert "tokens for a character of these texts" in capsys.readouterr().err
    finetune("pre", None, settings(home, "name=en", "train.epochs=1"), root=home)
    finetune("scratch", None, [*overrides, "train.steps=1", "name=own"], root=home)
    assert "tokens for a character" not in capsys.readouterr().err


def test_copies_of_a_text_are_held_out_together(tmp_path: Path) -> None:
    """Copies that differ in case and spaces are judged on what was not learned."""
    rows = [(f"a text {n}", "good" if n % 2 else "bad") for n in range(80)]
    copies = [(f" A  Text {n}\t", label) for n, (_, label) in enumerate(rows)]
    path = write(tmp_path / "a.jsonl", [*rows, *copies])
    for more in ((), ("task.folds=4", "task.fold=2")):
        tables = tables_of(of_rows(path, *more))
        assert tables.validation is not None
        held = {normalized(text) for text in tables.validation.texts}
        assert len(tables.validation.texts) == 2 * len(held)
        assert held.isdisjoint(map(normalized, tables.train.texts))
    # A run of an older version, which told texts apart by their letters, keeps its rows.
    before = Tables(*hold_out_of_each_class(read_table(path), VALIDATION_SHARE)[:2], None)
    resumed = of_rows(path).replace(data={"fingerprint": before.fingerprint()})
    assert tables_of(resumed) == before != tables_of(of_rows(path))


def test_rows_that_were_written_again_are_read_again(tmp_path: Path) -> None:
    """What settings were chosen by is not trained on if a file of it has changed since."""
    folder = tmp_path / "rows"
    folder.mkdir()
    for source in (folder, tmp_path / "rows" / "*.jsonl"):
        write(folder / "train.jsonl", sentences(100, 3))
        task = task_of(of_rows(source))
        assert isinstance(task, TextTask)
        first = task.read_ahead()
        write(folder / "train.jsonl", sentences(100, 4))
        assert tables_of(of_rows(source)) != first
