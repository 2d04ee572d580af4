"""A network of all rows, after one without the held-out rows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tests.train.test_folds import filled, settings, write
from wafergpt import api
from wafergpt.api import finetune
from wafergpt.checkpoint import store
from wafergpt.cli import finetune as finetune_cli
from wafergpt.config import load_recipe
from wafergpt.errors import InputError, Interrupted
from wafergpt.inference.predictor import Predictor
from wafergpt.reports import list_runs
from wafergpt.runs.run import Run
from wafergpt.tasks.base import task_of
from wafergpt.tasks.classify_settings import ClassifySettings
from wafergpt.tasks.ngram_scores import START
from wafergpt.train import refit
from wafergpt.train import run as run_module
from wafergpt.train.run import train


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return filled(tmp_path_factory.mktemp("home"))


def asked(home: Path, *more: str) -> list[str]:
    return settings(home, f"task.test={home / 'test.jsonl'}", "task.held_out=0.2", *more)


@pytest.fixture(scope="module")
def done(home: Path) -> Predictor:
    """What two interrupted calls and a third one end as."""
    trained: list[str] = []

    def stopped(recipe, **given):  # type: ignore[no-untyped-def]
        trained.append(recipe.name)
        if trained.count(recipe.name) == 1:
            raise Interrupted("stopped at step 3; everything is saved", "wafergpt …")
        return train(recipe, **given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_module, "train", stopped)
        for name in ("clf-held-out", "clf"):
            with pytest.raises(Interrupted, match=f"^{name}: .* saved; the same command goes on$"):
                finetune("scratch", None, asked(home, "name=clf"), root=home)
        found = finetune("scratch", None, asked(home, "name=clf"), root=home)
    assert trained == [*2 * ["clf-held-out"], *2 * ["clf"]], "a training was repeated"
    return found


def test_the_second_network_learns_what_the_first_one_was_judged_by(
    home: Path, done: Predictor
) -> None:
    first, second = Run(home / "clf-held-out"), done.run
    tables = [task_of(run.recipe).tables for run in (first, second)]  # type: ignore[attr-defined]
    assert sorted(tables[1].train.texts) == sorted(
        [*tables[0].train.texts, *tables[0].validation.texts]
    )
    assert tables[1].validation is None
    before, after = first.read("result"), second.read("result")
    assert before["test"] is None
    assert after["metrics"] == before["metrics"]
    assert sum(map(sum, after["test"]["confusion"])) == 20
    held_out = {"run": str(first.path), "rows": 12, "metrics": before["metrics"]}
    assert second.read("held_out") == held_out
    assert len(second.outputs_of("validation")["probabilities"]) == 12
    assert store.best(second) is None
    assert before["best_step"] == first.recipe.train.steps
    assert before["passes"] == pytest.approx(7 * 16 / 49)
    assert second.recipe.train.steps == second.recipe.train.steps_for(2 * 61)


def test_what_was_fitted_to_held_out_rows_stays(home: Path, done: Predictor) -> None:
    first, second = Run(home / "clf-held-out").recipe.task, done.recipe.task
    assert isinstance(first, ClassifySettings)
    assert isinstance(second, ClassifySettings)
    assert second.factors == first.factors != START


def test_it_is_used_and_listed_as_any_run(home: Path, done: Predictor) -> None:
    by_name = {row["name"]: row for row in list_runs(home)}
    assert by_name["clf"]["accuracy_of"] == "test"
    assert by_name["clf-held-out"]["accuracy_of"] == "val"
    page = api.report(done.run).read_text()
    assert "clf-held-out, which has not learned the 12 validation rows" in page
    with pytest.raises(InputError, match="NAME-held-out has them"):
        api.prune(done.run, "less", sparsity=0.5, root=home)
    again = finetune(done.run, None, [*asked(home), "train.epochs=1", "name=more"], root=home)
    assert again.run.name == "more"
    assert not (home / "more-held-out").exists()


def test_other_rows_or_another_recipe_are_refused(home: Path, done: Predictor) -> None:
    with pytest.raises(InputError, match=r"of another command \(seed=5"):
        finetune("scratch", None, asked(home, "name=clf", "seed=5"), root=home)
    for path in (home / "rows.jsonl", home / "test.jsonl"):
        before = path.read_text()
        try:
            write(path, 61, seed=5)
            with pytest.raises(InputError, match="other rows than"):
                finetune("scratch", None, asked(home, "name=clf"), root=home)
        finally:
            path.write_text(before)


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"few": 60},
        {"task": {"test": None}},
        {"task": {"validation": "test.jsonl"}},
        {"task": {"held_out": 0.0}},
        {"task": {"folds": 3, "test": None}},
        {"train": {"epochs": None, "seconds": 3}},
        {"evaluate": {"patience": 2}},
        {"system": {"nproc": 2}},
        {"task": {"calibrate": True}},
        {"task": {"multi": True}},
        {"name": "begun"},
    ],
    ids=lambda more: " ".join(more),
)
def test_when_it_is_chosen(
    home: Path, more: Mapping[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home)
    (home / "begun").mkdir(exist_ok=True)
    recipe = load_recipe(None, [*asked(home), "task.name=classify", "name=fresh"])
    more = dict(more)
    monkeypatch.setattr(refit, "FEW_ROWS", more.pop("few", 61))
    chosen = not more and refit.FEW_ROWS == 61
    assert refit.is_worth_it(recipe.replace(**more), None, home) is chosen


def test_a_recipe_or_a_word_decides(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def train_(recipe: Any, **given: Any) -> Any:
        calls.append(recipe.name)
        raise Interrupted("enough")

    monkeypatch.setattr(run_module, "train", train_)
    recipe = load_recipe(None, [*asked(home), "task.name=classify", "name=one"])
    for given, twice in ((None, None), (recipe, None), (recipe, True), (None, False)):
        with pytest.raises(Interrupted):
            finetune("scratch", given, asked(home, "name=one"), refit=twice, root=home)
    assert calls == ["one-held-out", "one", "one-held-out", "one"]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("task.validation=rows.jsonl", "are never learned"),
        ("task.held_out=0", "learns all rows by itself"),
        ("task.test=nothere.jsonl", "no such file"),
        ("train.teacher=base", "tokenizer of other rows"),
        ("system.nproc=2", "in one process"),
        ("evaluate.metric=bleu", "no metric"),
    ],
)
def test_what_is_impossible_leaves_nothing(
    home: Path, tmp_path: Path, more: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home)
    with pytest.raises(InputError, match=said):
        finetune("scratch", None, [*asked(home), more], refit=True, root=tmp_path)
    assert not list(tmp_path.iterdir())


def test_resumed_it_keeps_what_was_measured_before(home: Path, done: Predictor) -> None:
    before = done.run.read("result")["metrics"], done.run.outputs_of("validation")
    run = finetune(resume="clf", overrides=["train.steps=11"], root=home).run
    assert run.read("result")["step"] == 11
    assert run.read("result")["metrics"] == before[0]
    assert run.outputs_of("validation").keys() == before[1].keys()


def test_a_name_that_is_taken(home: Path, done: Predictor, tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(InputError, match="exists"):
        finetune("scratch", None, asked(home, "name=taken"), refit=True, root=tmp_path)
    assert not (tmp_path / "taken-held-out").exists()
    with pytest.raises(InputError, match="omit refit"):
        finetune(resume=done.run, refit=True, root=home)


@pytest.mark.parametrize("option", ["--baselines", "--resume=x", "--nproc=2"])
def test_options_that_do_not_go_together(option: str) -> None:
    shown = CliRunner().invoke(finetune_cli.command, ["scratch", "--refit", option])
    assert shown.exit_code == 2
    assert f"{option.partition('=')[0]} does not go with --refit" in shown.output


def test_the_command_says_whose_metrics_they_are(home: Path, done: Predictor) -> None:
    words = ["scratch", *asked(home, "name=clf"), "--runs", str(home)]
    shown = CliRunner().invoke(finetune_cli.command, words, catch_exceptions=False)
    lines = shown.stdout.splitlines()
    start = f"validation ({home / 'clf-held-out'}, before the refit): accuracy "
    assert lines[0].startswith(start)
    assert lines[1].startswith("test: accuracy ")
    shown = CliRunner().invoke(finetune_cli.command, [*words, "--json"], catch_exceptions=False)
    assert json.loads(shown.stdout.splitlines()[-1])["held_out"]["rows"] == 12


@pytest.mark.parametrize(
    "more", [["task.augment=[swap]", "task.augment_copies=3"], ["task.abstain=0.99"]], ids=str
)
def test_what_other_settings_make_of_it(home: Path, tmp_path: Path, more: list[str]) -> None:
    run = finetune("scratch", None, asked(home, *more), refit=True, root=tmp_path).run
    samples = 61 * (4 if "task.augment_copies=3" in more else 1)
    assert run.recipe.train.steps == run.recipe.train.steps_for(2 * samples)
    assert isinstance(run.recipe.task, ClassifySettings)
    assert run.recipe.task.abstain_below == (0.0 if "task.abstain=0.99" in more else None)
    assert run.read("result")["test"]["accuracy"] > 0


def test_validation_rows_of_a_folder_are_not_learned(home: Path, tmp_path: Path) -> None:
    for part in ("train", "validation", "test"):
        (tmp_path / f"{part}.jsonl").write_text((home / "rows.jsonl").read_text())
    words = settings(home, f"task.train={tmp_path}", "task.name=classify", "name=of-folder")
    assert not refit.is_worth_it(load_recipe(None, words), None, tmp_path)
    with pytest.raises(InputError, match="are never learned"):
        finetune("scratch", None, words, refit=True, root=tmp_path)
