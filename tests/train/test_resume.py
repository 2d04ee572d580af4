"""Starting from another run's weights, resuming, and evaluating weights on their corpus."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from wafergpt import api
from wafergpt.api import average, pretrain
from wafergpt.checkpoint import store
from wafergpt.config import load_recipe
from wafergpt.data.corpus import Corpus
from wafergpt.data.prepare import prepare
from wafergpt.errors import InputError, RunFailed
from wafergpt.inference.evaluation import validation_loss
from wafergpt.reports import list_runs, write_report
from wafergpt.runs.run import Run
from wafergpt.train.resume import asked_for, may_change

SETTINGS = [
    "model.n_layers=1", "model.d_model=16", "model.n_heads=2", "model.seq_len=16",
    "train.batch_size=4", "train.steps=6", "system.device=cpu", "system.compile=off",
    "system.threads=1", "system.precision=fp32", "evaluate.every=2", "checkpoint.every=2",
    "checkpoint.keep=3",
]  # fmt: skip


def corpus(folder: Path, seed: int, vocab_size: int = 270, tokenizer: Path | None = None) -> Corpus:
    rng = random.Random(seed)
    words = ["the", "cat", "sat", "on", "a", "mat", "and", "saw", "two", "dogs", f"word{seed}"]
    lines = [json.dumps({"text": " ".join(rng.choices(words, k=40))}) for _ in range(100)]
    folder.mkdir()
    (folder / "a.jsonl").write_text("\n".join(lines))
    if tokenizer is not None:
        return prepare(folder / "a.jsonl", folder / "corpus", tokenizer=tokenizer)
    return prepare(folder / "a.jsonl", folder / "corpus", vocab_size=vocab_size)


@pytest.fixture
def first(tmp_path: Path) -> Run:
    path = corpus(tmp_path / "one", 1).path
    return pretrain(None, [*SETTINGS, f"data.corpus={path}", "name=first"], root=tmp_path)


def test_it_starts_from_the_weights_and_shape_of_the_run(first: Run, tmp_path: Path) -> None:
    other = corpus(tmp_path / "two", 2, tokenizer=first.tokenizer).path
    settings = [f"data.corpus={other}", "name=second", "train.steps=1", "optimizer.lr=1e-9"]
    settings += ["system.device=cpu", "system.compile=off", "system.threads=1"]
    second = pretrain(None, settings, start="first", root=tmp_path)
    assert second.recipe.model == first.recipe.model
    assert second.recipe.start == first.path.resolve()
    theirs = store.weights(first)
    for name, tensor in store.weights(second).items():
        assert torch.allclose(tensor, theirs[name], atol=1e-6), name


def test_a_run_too_short_for_its_warm_up_is_warned_of_before_it_trains(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = [*SETTINGS, f"data.corpus={corpus(tmp_path / 'one', 1).path}", "name=short"]
    with pytest.raises(InputError, match="150% is more than the whole run"):
        pretrain(None, [*settings, "schedule.warmup=150%"], root=tmp_path)
    assert not (tmp_path / "short").exists()
    for words, of in (
        ({"overrides": [*settings, "schedule.warmup=50"]}, "the run has 6:"),
        ({"overrides": ["train.steps=8"], "resume": "short"}, "the run has 8:"),
    ):
        capsys.readouterr()
        run = pretrain(None, root=tmp_path, **words)
        output = capsys.readouterr().err
        assert output.count(f"the warm-up takes 50 updates and {of}") == 1
        assert output.index("warning: the warm-up") < output.index("steps in")
    assert [note for note in run.read("plan")["notes"] if "warm-up takes 50" in note]


def test_another_shape_tokenizer_or_a_task_is_refused(first: Run, tmp_path: Path) -> None:
    same = f"data.corpus={first.recipe.data.corpus}"
    with pytest.raises(InputError, match=r"model\.d_model=32 cannot change"):
        pretrain(None, [same, "name=x", "model.d_model=32"], start=first, root=tmp_path)
    other = corpus(tmp_path / "two", 2).path
    with pytest.raises(InputError, match="another tokenizer than"):
        pretrain(None, [f"data.corpus={other}", "name=x"], start=first, root=tmp_path)
    with pytest.raises(InputError, match="no run 'nobody'"):
        pretrain(None, [same, "name=x"], start="nobody", root=tmp_path)
    assert not (tmp_path / "x").exists()


def test_a_run_is_evaluated_as_in_its_training(first: Run, tmp_path: Path) -> None:
    result = first.read("result")
    last = Run(first.path, store.every(first)[-1])
    assert validation_loss(last) == pytest.approx(result["val_loss"], rel=1e-6)
    mean = average(first, "mean", last=2, root=tmp_path)
    val_loss = mean.read("result")["val_loss"]
    losses = [row["val_loss"] for row in first.metrics() if "val_loss" in row][-2:]
    assert min(losses) - 0.05 < val_loss < max(losses) + 0.05
    assert val_loss != result["val_loss"]


def test_a_run_that_was_not_trained_cannot_be_resumed(first: Run, tmp_path: Path) -> None:
    pytest.importorskip("plotly", reason="the report draws with plotly")
    mean = average(first, "mean", last=2, root=tmp_path)
    states = {row["name"]: row["state"] for row in list_runs(tmp_path)}
    assert states == {"first": "finished", "mean": "averaged"}
    page = write_report(mean).read_text()
    assert "The mean of first&#x27;s checkpoints at the steps 4 and 6." in page
    assert "learning rate" not in page.partition("Recipe")[0].partition("<main")[2]


def test_the_recipe_names_the_run_it_started_from(first: Run) -> None:
    assert load_recipe(first.path / "recipe.yaml").start is None


def test_the_same_command_starts_a_run_resumes_it_and_finds_it_finished(tmp_path: Path) -> None:
    path = corpus(tmp_path / "one", 1).path
    settings = [*SETTINGS, f"data.corpus={path}", "name=r"]
    straight = pretrain(None, [*settings, "name=straight"], root=tmp_path)
    run = pretrain(None, settings, auto_resume=True, root=tmp_path)
    # As if it had been killed after the second checkpoint.
    (run.path / "result.json").unlink()
    shutil.rmtree(store.every(run)[-1])
    for _ in range(2):
        pretrain(None, settings, auto_resume=True, root=tmp_path)
        result = run.read("result")
        assert result["weights_sha256"] == straight.read("result")["weights_sha256"]
        assert [row["step"] for row in run.metrics()] == [1, 2, 3, 4, 5, 6]


def test_auto_resume_takes_what_may_change_and_refuses_what_may_not(tmp_path: Path) -> None:
    path = corpus(tmp_path / "one", 1).path
    settings = [*SETTINGS, f"data.corpus={path}", "name=r"]
    run = pretrain(None, settings, root=tmp_path)
    pretrain(
        None, [*settings, "train.steps=8", "checkpoint.keep=1"], auto_resume=True, root=tmp_path
    )
    assert run.read("result")["step"] == 8
    assert len(store.every(run)) <= 2
    # Back again, and an unasked horizon is the run's.
    pretrain(None, [*settings, "train.steps=10"], auto_resume=True, root=tmp_path)
    pretrain(None, [*settings, "train.steps=8"], auto_resume=True, root=tmp_path)
    assert run.recipe.train.steps == 8
    pretrain(None, [s for s in settings if "steps" not in s], auto_resume=True, root=tmp_path)
    assert run.recipe.train.steps == 8
    with pytest.raises(InputError, match=r"evaluate\.metric=bits_per_byte cannot change on resume"):
        pretrain(None, ["evaluate.metric=bits_per_byte"], resume=run, root=tmp_path)
    with pytest.raises(InputError, match=r"evaluate\.batches=1 cannot change on resume"):
        pretrain(None, ["evaluate.batches=1"], resume=run, root=tmp_path)
    # Only the path of a teacher may: nothing else that begins so.
    with pytest.raises(InputError, match=r"'train\.teacher_weight=0\.9' cannot change on resume"):
        may_change(run, ["train.teacher_weight=0.9"])
    run.write("result", {**run.read("result"), "folds": 3})
    pretrain(None, [], resume=run, root=tmp_path)
    assert run.read("result")["folds"] == 3
    with pytest.raises(InputError, match=r"r was started by another recipe: 'optimizer.lr=0.5'"):
        pretrain(None, [*settings, "optimizer.lr=0.5"], auto_resume=True, root=tmp_path)
    pretrain(
        None, [*settings, "train.steps=8", "evaluate.prompts=[🙂]"], auto_resume=True, root=tmp_path
    )
    asked = run.read("asked")
    # A key that came later.
    del asked["model"]["embedding_scale"]
    run.write("asked", asked)
    pretrain(
        None, [*settings, "train.steps=8", "evaluate.prompts=[🙂]"], auto_resume=True, root=tmp_path
    )
    (run.path / "asked.json").unlink()
    with pytest.raises(InputError, match="was not started by"):
        pretrain(None, settings, auto_resume=True, root=tmp_path)


def test_an_unfinished_run_is_not_finished_by_a_shorter_horizon(tmp_path: Path) -> None:
    path = corpus(tmp_path / "one", 1).path
    run = pretrain(None, [*SETTINGS, f"data.corpus={path}", "name=r"], root=tmp_path)
    (run.path / "result.json").unlink()
    shutil.rmtree(store.every(run)[-1])
    before = (run.path / "recipe.yaml").read_text()
    with pytest.raises(InputError, match=r"train.steps=3: .* has made 4 updates already"):
        pretrain(resume=run, overrides=["train.steps=3"], root=tmp_path)
    assert (run.path / "recipe.yaml").read_text() == before
    pretrain(resume=run, overrides=["train.steps=5"], root=tmp_path)
    assert run.read("result")["step"] == 5


def test_a_project_that_was_moved_or_copied_can_be_resumed(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    path = corpus(old, 1).path
    settings = [*SETTINGS, "name=r"]
    first = pretrain(None, [*settings, f"data.corpus={path}", "name=a"], root=old / "runs")
    pretrain(
        None, [*settings, f"data.corpus={path}"], start="a", auto_resume=True, root=old / "runs"
    )
    shutil.copytree(old, new)

    # The same command in the copy, while the old place is still there and when it is gone.
    again = [*settings, f"data.corpus={new / 'corpus'}"]
    pretrain(None, [*again, "train.steps=7"], start="a", auto_resume=True, root=new / "runs")
    shutil.rmtree(old)
    run = pretrain(None, [*again, "train.steps=8"], start="a", auto_resume=True, root=new / "runs")
    assert run.read("result")["step"] == 8
    assert first.name == "a"

    # Resumed with the corpus moved and its new path given, then not given.
    (new / "corpus").rename(tmp_path / "elsewhere")
    for more in ([], ["train.steps=9"]):
        with pytest.raises(InputError, match=r"is not there any more: add data\.corpus=PATH"):
            pretrain(None, more, resume="r", root=new / "runs")
    there = f"data.corpus={tmp_path / 'elsewhere'}"
    pretrain(None, [there, "train.steps=9"], resume="r", root=new / "runs")
    assert run.recipe.data.corpus == tmp_path / "elsewhere"
    assert run.read("result")["step"] == 9
    other = corpus(tmp_path / "two", 2).path
    with pytest.raises(InputError, match="is not the corpus that this run started with"):
        pretrain(None, [f"data.corpus={other}"], resume="r", root=new / "runs")
    with pytest.raises(InputError, match=r"'task\.train=x' cannot change"):
        pretrain(None, ["task.train=x"], resume="r", root=new / "runs")


def test_what_is_left_of_a_run(first: Run, tmp_path: Path) -> None:
    for name in ("metrics.jsonl", "asked.json", "plan.json", "result.json", "tokenizer.json"):
        (first.path / name).unlink()
    pretrain(None, [], resume="first", root=tmp_path)
    assert first.read("result")["best_val_loss"] > 0
    shutil.rmtree(first.checkpoints)
    with pytest.raises(RunFailed, match="first has no good checkpoint"):
        pretrain(None, [], resume="first", root=tmp_path)
    same = f"data.corpus={first.recipe.data.corpus}"
    with pytest.raises(InputError, match="first has no checkpoint yet"):
        pretrain(None, [same, "name=x"], start="first", root=tmp_path)


def test_a_mean_is_not_evaluated_on_another_corpus(
    first: Run, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(tmp_path / "one")
    corpus(tmp_path / "one", 2)
    mean = average(first, "mean", last=2, root=tmp_path)
    assert mean.read("result")["val_loss"] is None
    assert "is not evaluated: " in capfd.readouterr().err


def test_a_run_without_a_checkpoint_starts_again(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = corpus(tmp_path / "one", 1).path
    settings = [*SETTINGS, f"data.corpus={path}", "name=r"]
    run = pretrain(None, settings, root=tmp_path)
    shutil.rmtree(run.checkpoints)
    run.checkpoints.mkdir()
    pretrain(None, settings, auto_resume=True, root=tmp_path)
    assert "killed before its first checkpoint" in capfd.readouterr().err
    assert len(run.metrics()) == 6


def test_auto_resume_with_another_start_is_refused(first: Run, tmp_path: Path) -> None:
    settings = [*SETTINGS, f"data.corpus={first.recipe.data.corpus}", "name=second"]
    pretrain(None, settings, root=tmp_path)
    with pytest.raises(InputError, match="another recipe"):
        pretrain(None, settings, start="first", auto_resume=True, root=tmp_path)


def test_a_run_is_held_from_its_first_moment(tmp_path: Path) -> None:
    recipe = load_recipe(None, [*SETTINGS, "name=r"])
    run = Run.create(recipe, tmp_path, asked_for(recipe))
    script = (
        "import sys; from pathlib import Path; from wafergpt.runs.run import Run\n"
        "with Run(Path(sys.argv[1])).held(): pass"
    )
    command = [sys.executable, "-c", script, str(run.path)]
    assert "is in use by" in subprocess.run(command, capture_output=True, text=True).stderr
    with run.held():
        assert (run.path / "holder").is_file()
    subprocess.run(command, check=True)


def test_a_language_model_is_not_resumed_as_a_fine_tuning(first: Run, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a language model: wafergpt pretrain --resume"):
        api.finetune(resume="first", overrides=["train.steps=9"], root=tmp_path)
    assert first.read("result")["step"] == 6
    kept = tmp_path / "kept.html"
    kept.write_text("<p>mine</p>")
    with pytest.raises(InputError, match="is no report"):
        api.report(first, str(kept))
    assert kept.read_text() == "<p>mine</p>"
    with pytest.raises(InputError, match="to='GGUF' is none of"):
        api.export(first, tmp_path / "lm.gguf", to="GGUF")  # type: ignore[arg-type]
    kept.unlink()
    for _ in range(2):
        assert api.report(first, str(kept)) == kept
