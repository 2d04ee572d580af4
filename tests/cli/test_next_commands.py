"""What is proposed to be typed next works when pasted."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from wafergpt.cli.next_commands import after_preparing, at_work, opening
from wafergpt.cli.pretrain import _text
from wafergpt.config import load_recipe, recipe_from
from wafergpt.data.prepare import prepare
from wafergpt.runs.run import PROMPT, Run, command_line

CHINESE = "第一个故事讲的是一只小猫在花园里遇见了一只小狗。"


@pytest.mark.parametrize(
    ("words", "root", "line"),
    [
        (("generate", "a"), Path("runs"), "wafergpt generate a"),
        (("generate", "a"), Path("./runs/"), "wafergpt generate a"),
        (("report", "it's a"), Path("my runs"), "wafergpt report 'it'\"'\"'s a' --runs 'my runs'"),
        (("predict", "a", "--text", "$HOME `x` !"), Path("/r"),
         "wafergpt predict a --text '$HOME `x` !' --runs /r"),
    ],
)  # fmt: skip
def test_a_command_is_quoted(words: tuple[str, ...], root: Path, line: str) -> None:
    assert command_line(*words, root=root) == line
    assert shlex.split(line)[: len(words) + 1] == ["wafergpt", *words]


def test_the_command_of_a_run_finds_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for root in (Path("runs"), Path("other runs"), tmp_path / "far"):
        made = Run.create(recipe_from({"name": "r"}), root)
        words = shlex.split(made.command("report"))
        assert words[:3] == ["wafergpt", "report", "r"]
        where = Path(words[4]) if words[3:] else Path("runs")
        assert Run.find(words[2], where).path.resolve() == made.path.resolve()
    monkeypatch.chdir("runs/r")
    here = Run.find(".")
    assert Run.find(shlex.split(here.command("report"))[2]).path == here.path
    one = Run(Path("r"), Path("r/checkpoints/step-00000002"))
    assert one.command("generate") == "wafergpt generate r/checkpoints/step-00000002"


@pytest.mark.parametrize(
    ("text", "prompt"),
    [
        ("Once more, it rained all night.", "Once more, it"),
        (CHINESE, CHINESE[:6]),
        ("  \n\t", PROMPT),
        ("\x1b[31m \ufffd", "[31m"),
        ("averyveryverylongword here", "averyv"),
        ("'quoted' words \"go\"", "words"),
    ],
)
def test_the_opening_of_a_text(text: str, prompt: str) -> None:
    assert opening(text) == prompt


def test_a_prompt_is_taken_from_the_corpus(tmp_path: Path) -> None:
    rows = [json.dumps({"text": f"{CHINESE}{n}"}) for n in range(300)]
    (tmp_path / "zh.jsonl").write_text("\n".join(rows))
    prepare(tmp_path / "zh.jsonl", tmp_path / "corpus", vocab_size=300)
    made = Run.create(
        recipe_from({"name": "zh", "data": {"corpus": str(tmp_path / "corpus")}}), tmp_path / "runs"
    )
    words = shlex.split(at_work(made))
    assert words[:5] == ["wafergpt", "generate", "zh", "--prompt", CHINESE[:6]]
    assert words[5:] == ["--runs", str(tmp_path / "runs")]
    (tmp_path / "corpus" / "corpus.json").unlink()
    assert shlex.split(at_work(made))[4] == PROMPT


def test_a_classifier_is_given_a_text(tmp_path: Path) -> None:
    made = Run.create(recipe_from({"name": "clf", "task": {}}), tmp_path)
    assert shlex.split(at_work(made))[:4] == ["wafergpt", "predict", "clf", "--text"]


@pytest.mark.parametrize("tokens", [3, 200, 257, 300, 2000, 5_000_000])
def test_the_next_training_fits_the_corpus(tokens: int) -> None:
    words = shlex.split(after_preparing(Path("my corpus"), tokens))
    if tokens > 4096:
        assert words == ["wafergpt", "plan", "data.corpus=my corpus", "--budget", "10m"]
        return
    assert words[:2] == ["wafergpt", "pretrain"]
    recipe = load_recipe(None, words[2:])
    assert recipe.data.corpus == Path("my corpus")
    # As LanguageBatches counts.
    assert (tokens - 1) // recipe.model.seq_len >= recipe.train.batch_size


def test_the_end_of_a_training_names_the_step_of_its_best_loss() -> None:
    result = {"step": 1400, "val_loss": 2.5, "best_val_loss": 2.25, "best_step": 1200}
    assert _text(result) == (
        "best validation loss 2.2500 at step 1,200; 2.5000 at the last step, 1,400"
    )
    assert _text({**result, "val_loss": 2.25}) == "validation loss 2.2500 at step 1,400"
    assert _text({**result, "val_loss": None, "best_val_loss": None}) == (
        "1,400 steps, never validated"
    )
