"""Cross-validation: folds, what is judged over all rows, and the network of all rows."""

from __future__ import annotations

import json
import random
import re
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from wafergpt import api
from wafergpt.api import cross_validate, finetune
from wafergpt.checkpoint import store
from wafergpt.checkpoint.imported_run import require_trained
from wafergpt.cli import finetune as finetune_cli
from wafergpt.cli import runs as runs_cli
from wafergpt.errors import InputError, Interrupted
from wafergpt.evaluation.intervals import wilson
from wafergpt.reports import list_runs
from wafergpt.runs.run import Run
from wafergpt.tasks.base import task_of
from wafergpt.tasks.classify_settings import ClassifySettings
from wafergpt.tasks.labelled_task import LabelledTask
from wafergpt.train import run as run_module
from wafergpt.train.run import train

SMALL = [
    "model.n_layers=1", "model.d_model=16", "model.n_heads=2", "model.seq_len=16",
    "model.vocab_size=270", "system.precision=fp32", "system.threads=1", "system.compile=off",
    "optimizer.lr=5e-3", "train.epochs=2",
]  # fmt: skip

WORDS = {"bad": "awful", "fair": "decent", "good": "lovely"}


def write(path: Path, n: int, seed: int = 0, value: bool = False) -> Path:
    rng = random.Random(seed)
    rows = []
    for number in range(n):
        label = rng.choice(sorted(WORDS))
        word = WORDS[label if rng.random() < 0.8 else rng.choice(sorted(WORDS))]
        answer = float(len(label)) + rng.random() if value else label
        rows.append(json.dumps({"text": f"{word} film {number}", "label": answer}))
    path.write_text("\n".join(rows) + "\n")
    return path


def filled(home: Path) -> Path:
    write(home / "rows.jsonl", 61)
    write(home / "test.jsonl", 20, seed=1)
    return home


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return filled(tmp_path_factory.mktemp("home"))


def settings(home: Path, *more: str) -> list[str]:
    return [*SMALL, f"task.train={home / 'rows.jsonl'}", *more]


@pytest.fixture(scope="module")
def done(home: Path) -> Run:
    """Three folds that were interrupted in the second one, and what they end as."""
    trained: list[str] = []

    def stopped(recipe, **given):  # type: ignore[no-untyped-def]
        trained.append(recipe.name)
        if recipe.name == "fold-2" and len(trained) == 2:
            raise Interrupted("stopped at step 3; everything is saved", "wafergpt …")
        if recipe.name == "fold-2" and len(trained) == 3:
            raise KeyboardInterrupt
        return train(recipe, **given)

    more = settings(home, "name=clf", f"task.test={home / 'test.jsonl'}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_module, "train", stopped)
        with pytest.raises(Interrupted, match=r"^fold-2: .* saved; the same command goes on$"):
            cross_validate("scratch", None, more, folds=3, refit=True, root=home)
        (row,) = [one for one in list_runs(home) if one["name"] == "clf-folds"]
        assert row["state"] == "1 of 3 folds"
        with pytest.raises(Interrupted, match=r"^fold-2: interrupted; the same command goes on$"):
            cross_validate("scratch", None, more, folds=3, refit=True, root=home)
        run = cross_validate("scratch", None, more, folds=3, refit=True, root=home)
    assert trained == ["fold-1", *3 * ["fold-2"], "fold-3", "clf"], "a fold was repeated"
    return run


def test_every_row_is_judged_once(home: Path, done: Run) -> None:
    """Metrics over all rows, by the definitions."""
    result = done.read("result")
    rows = [json.loads(line) for line in (home / "rows.jsonl").read_text().splitlines()]
    parts = result["folds"]["done"]
    assert sum(part["rows"] for part in parts) == 61
    probabilities = done.read_outputs()["validation/probabilities"]
    labels = sorted(WORDS)
    targets = np.array([labels.index(row["label"]) for row in rows])
    right = probabilities.argmax(1) == targets
    metrics = result["metrics"]
    assert metrics["accuracy"] == pytest.approx(right.mean())
    assert np.array(metrics["confusion"]).sum() == 61
    assert result["intervals"]["accuracy"] == pytest.approx(wilson(right.mean(), 61))
    low, high = result["intervals"]["macro_f1"]
    assert low < metrics["macro_f1"] < high
    shares = [part["metrics"]["accuracy"] for part in parts]
    assert result["folds"]["mean"]["accuracy"] == pytest.approx(np.mean(shares))
    assert result["folds"]["deviation"]["accuracy"] == pytest.approx(np.std(shares, ddof=1))
    mean = np.average(shares, weights=[part["rows"] for part in parts])
    assert metrics["accuracy"] == pytest.approx(mean)


def test_a_fold_is_held_out_of_its_training(home: Path, done: Run) -> None:
    texts = [json.loads(line)["text"] for line in (home / "rows.jsonl").read_text().splitlines()]
    seen = []
    for fold in (1, 2, 3):
        task = task_of(Run(done.path / f"fold-{fold}").recipe)
        assert isinstance(task, LabelledTask)
        tables = task.tables
        assert tables.validation is not None
        assert not set(tables.train.texts) & set(tables.validation.texts)
        assert tables.test is None
        seen += tables.validation.texts
    assert sorted(seen) == sorted(texts)


def test_the_network_of_all_rows(home: Path, done: Run) -> None:
    run = Run(Path(done.read("result")["refit"]))
    recipe, result = run.recipe, run.read("result")
    assert (run.name, recipe.name) == ("clf", "clf")
    assert isinstance(recipe.task, ClassifySettings)
    passes = [part["epochs"] for part in done.read("result")["folds"]["done"]]
    assert recipe.train.steps == recipe.train.steps_for(min(2.0, statistics.median(passes)) * 61)
    assert (result["metrics"], result["val_loss"]) == (None, None)
    assert sum(map(sum, result["test"]["confusion"])) == 20
    assert store.best(run) is None
    assert not any("val_loss" in row for row in run.metrics())
    found = {k: v for k, v in done.read_outputs().items() if k.startswith("validation/")}
    scores = {k.removeprefix("validation/"): v for k, v in found.items()}
    first = task_of(Run(done.path / "fold-1").recipe)
    rows = [json.loads(line)["label"] for line in (home / "rows.jsonl").read_text().splitlines()]
    fitted, _ = first.fit(scores, np.array([sorted(WORDS).index(label) for label in rows]))
    assert recipe.task.factors == pytest.approx(fitted["factors"])
    assert recipe.task.factors != Run(done.path / "fold-1").recipe.task.factors  # type: ignore[union-attr]
    assert api.predict("clf", ["lovely film"], root=home)[0] is not None


def test_what_is_listed_and_drawn(home: Path, done: Run) -> None:
    by_name = {row["name"]: row for row in list_runs(home)}
    row = by_name["clf-folds"]
    assert row["state"] == "folds"
    assert (row["accuracy_of"], by_name["clf"]["accuracy_of"]) == ("val", "test")
    assert row["accuracy"] == done.read("result")["metrics"]["accuracy"]
    for name in ("clf", "clf-folds"):
        page = api.report(name, root=home).read_text()
        assert page.count("Fold by fold") == 1
    assert "Confusion matrix" in page
    assert re.search(r"Mean over 3 folds of 61 rows: accuracy 0\.\d{4} ± 0\.\d{4}\.", page)
    with pytest.raises(InputError, match="the same command goes on"):
        require_trained(done)
    listed = CliRunner().invoke(runs_cli.command, ["--runs", str(home), str(done.path)])
    assert "fold-3" in listed.output


@pytest.mark.slow
def test_the_command_prints_the_table(home: Path, done: Run) -> None:
    words = ["scratch", *settings(home, "name=clf"), "--folds", "3", "--runs", str(home)]
    shown = CliRunner().invoke(finetune_cli.command, words, catch_exceptions=False)
    lines = shown.stdout.splitlines()
    assert [line.split()[0] for line in lines[:6]] == ["fold", "1", "2", "3", "mean", "all"]
    assert "±" in lines[4]
    found = CliRunner().invoke(finetune_cli.command, [*words, "--json"], catch_exceptions=False)
    result = json.loads(found.stdout.splitlines()[-1])
    assert result["folds"]["count"] == 3
    assert result["test"] == Run(home / "clf").read("result")["test"]


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_the_same_command_goes_on(tmp_path: Path) -> None:
    write(tmp_path / "rows.jsonl", 30)
    words = ["scratch", *settings(tmp_path, "name=clf"), "--folds", "2"]
    command = [sys.executable, "-m", "wafergpt", "finetune", *words, "--runs", str(tmp_path)]
    limited = ["bash", "-c", 'ulimit -f 100; exec "$@"', "bash", *command]
    done = subprocess.run(limited, capture_output=True, text=True, timeout=120)
    last = "error: the disk is full; everything saved before this is intact"
    assert (done.returncode, done.stderr.splitlines()[-1]) == (1, last)
    run = cross_validate("scratch", None, words[1:-2], folds=2, root=tmp_path)
    assert len(run.read("result")["folds"]["done"]) == 2


def test_another_command_or_other_rows_are_refused(home: Path, done: Run) -> None:
    with pytest.raises(InputError, match=r"train\.batch_size=8"):
        more = settings(home, "name=clf", "train.batch_size=8")
        cross_validate("scratch", None, more, folds=3, root=home)
    path = home / "rows.jsonl"
    before = path.read_text()
    try:
        write(path, 61, seed=5)
        with pytest.raises(InputError, match="other rows than"):
            cross_validate("scratch", None, settings(home, "name=clf"), folds=3, root=home)
    finally:
        path.write_text(before)


@pytest.mark.parametrize(
    ("more", "count", "said"),
    [
        (["task.test=rows.jsonl"], 3, r"task\.test is judged once"),
        (["task.validation=rows.jsonl"], 3, "validation names the rows"),
        ([], 1, "folds=1"),
        ([], 0, "2 folds or more"),
        ([], 40, "of the class '"),
        (["system.nproc=2"], 3, "one process"),
        (["evaluate.metric=bleu"], 3, "no metric"),
    ],
)
def test_what_is_impossible_leaves_nothing(
    home: Path, tmp_path: Path, more: list[str], count: int, said: str
) -> None:
    with pytest.raises(InputError, match=said):
        cross_validate("scratch", None, settings(home, *more), folds=count, root=tmp_path)
    assert not list(tmp_path.glob("*/fold-*"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--refit", "--baselines"], "--baselines does not go with --refit"),
        (["--folds", "3", "--baselines"], "--baselines does not go with --folds"),
        (["--folds", "3", "--auto-resume"], "goes on by itself"),
        (["--folds", "1"], "not in the range"),
    ],
)
def test_options_that_do_not_go_together(words: list[str], said: str) -> None:
    shown = CliRunner().invoke(finetune_cli.command, ["scratch", *words])
    assert shown.exit_code == 2
    assert said in shown.output


@pytest.mark.slow
def test_numbers_and_entities_have_folds_too(tmp_path: Path) -> None:
    write(tmp_path / "rows.jsonl", 30, value=True)
    more = settings(tmp_path, "task.name=regress", "name=numbers", "train.batch_size=5")
    result = cross_validate("scratch", None, more, folds=2, root=tmp_path).read("result")
    assert result["metrics"]["loss"] > 0
    known = {"loss", "mean_absolute_error", "rmse", "r2", "pearson", "spearman"}
    assert set(result["intervals"]) == known
    sentence = "Anna S-PER\nleft O\nOslo S-LOC\n{} O\n\n"
    (tmp_path / "rows.conll").write_text("".join(sentence.format(n) for n in range(24)))
    more = [*SMALL, "task.name=tag", f"task.train={tmp_path / 'rows.conll'}", "name=names",
            "train.batch_size=5", "task.feature_rows=1024"]  # fmt: skip
    run = cross_validate("scratch", None, more, folds=2, refit=True, root=tmp_path)
    result = run.read("result")
    assert result["metrics"]["words"] == 4 * 24
    assert result["metrics"]["entities"] == 2 * 24
    assert result["intervals"]["f1"] == result["metrics"]["f1_interval"]
    assert Run(tmp_path / "names").read("result")["metrics"] is None


def test_nothing_is_held_out(home: Path) -> None:
    classifier = finetune(
        "scratch", None, settings(home, "task.held_out=0", "name=whole"), root=home
    )
    run = classifier.run
    assert len(classifier.task.tables.train.texts) == 61  # type: ignore[attr-defined]
    assert run.read("result")["metrics"] is None
    assert api.report(run).is_file()
    before = run.read("result")["weights_sha256"]
    again = finetune(resume=run, overrides=["train.steps=12"], root=home).run
    assert again.read("result")["step"] == 12
    assert again.read("result")["weights_sha256"] != before
    with pytest.raises(InputError, match="no validation rows"):
        api.prune(run, "less", sparsity=0.5, root=home)
    for impossible in ("evaluate.patience=2", "evaluate.prompts=[a]"):
        with pytest.raises(InputError, match="held out"):
            finetune("scratch", None, settings(home, "task.held_out=0", impossible), root=home)
