"""Overrides and recipe files, each value read by the kind of its key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from wafergpt.config import Recipe, known_keys, load_recipe, recipe_with
from wafergpt.errors import InputError


def value_of(recipe: Recipe, key: str) -> Any:
    found: Any = recipe
    for part in key.split("."):
        found = getattr(found, part)
    return found


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder with oddly named files in it, which is the current folder too."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DATA", str(tmp_path))
    monkeypatch.delenv("NOTHING", raising=False)
    monkeypatch.chdir(tmp_path)
    names = ["my", "my #1 file.jsonl", "one.csv", "two.csv", "two.tsv", " spaced.csv", "$5.csv"]
    for name in names:
        Path(name).touch()
    return tmp_path


TYPED: list[tuple[str, Any]] = [
    ("task.train=my #1 file.jsonl", Path("my #1 file.jsonl")),
    ("task.train=notes: v2.jsonl", Path("notes: v2.jsonl")),
    ("task.train=dir=with=equals/a.csv", Path("dir=with=equals/a.csv")),
    ("data.corpus=2025", Path("2025")),
    ("data.corpus=no", Path("no")),
    ("data.corpus=[a]", Path("[a]")),
    ("task.train=$5.csv", Path("$5.csv")),
    ('task.train="one.csv"', Path("one.csv")),
    ("task.train= one.csv ", Path("one.csv")),
    ("task.train= spaced.csv", Path(" spaced.csv")),
    ("task.train=one*.csv", Path("one.csv")),
    ("task.train=none*.csv", Path("none*.csv")),
    ("task.validation=null", None),
    ("task.validation=None", None),
    ("data.corpus=", None),
    ("name=2024-05-01", "2024-05-01"),
    ("name=007", "007"),
    ("name=1e5", "1e5"),
    ("name=null", "null"),
    ('name="x"', "x"),
    ("name=“x”", "x"),
    ("task.text=no", "no"),
    ("task.text=1.50", "1.50"),
    ("task.text=none", "none"),
    ("task.text=[question, no]", ("question", "no")),
    ("task.text= review", " review"),
    ("task.text=text: body # 1", "text: body # 1"),
    ("task.text='my' and 'yours'", "'my' and 'yours'"),
    ("task.text = review", "review"),
    ("task.text=review\r", "review"),
    ("task.labels=[no, 1.0, 2024-05-01]", ("no", "1.0", "2024-05-01")),
    ('evaluate.prompts=["a","b"]', ("a", "b")),
    ("evaluate.prompts=Once: upon a time", ("Once: upon a time",)),
    ("evaluate.prompts=", ()),
    ("train.steps = 10", 10),
    ("train.steps=010", 10),
    ("train.steps=none", None),
    ("train.tokens=1e9", 1_000_000_000),
    ("optimizer.lr=3e-4", 3e-4),
    ("schedule.warmup=5%", "5%"),
    ("schedule.warmup=007", 7),
    ("tracking.wandb=yes", True),
    ("system.compile=off", "off"),
    ("task.class_weights=none", "none"),
]


@pytest.mark.parametrize(("override", "expected"), TYPED, ids=lambda value: str(value))
def test_an_override_is_read_as_what_its_key_wants(
    home: Path, override: str, expected: Any
) -> None:
    found = value_of(load_recipe(None, [override]), override.partition("=")[0].strip())
    assert (found, type(found)) == (expected, type(expected))


@pytest.mark.parametrize("path", ["~/x.csv", "$HOME/x.csv", "${DATA}/x.csv", "'~/x.csv'"])
def test_a_path_from_home(home: Path, path: str) -> None:
    task = load_recipe(None, [f"task.train={path}"]).task
    assert task is not None
    assert task.train == home / "x.csv"
    written = home / "r.yaml"
    written.write_text("task: {train: ~/x.csv}\n")
    assert load_recipe("~/r.yaml").task == task


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.corpus=two.*", "matches 2 files, two.csv and two.tsv among them: name one"),
        ("task.train=$NOTHING/a.csv", "$NOTHING is not set"),
        (r"task.train=C:\data\a.csv", "task.train=/mnt/c/data/a.csv"),
        ("task.train=caf\udce9", "is not UTF-8"),
        ("task.train=https://example.org/a.csv", "fetch it first"),
        ("task.text=", "has no value"),
        ("evaluate.prompts=[a", 'a list is written ["…", "…"]'),
        ("name=my run", "write ASCII letters, digits"),
        ("extends=imdb", "given alone, as 'imdb'"),
        ("text=notes: v2", "did you mean 'task.text'?"),
        ("train.steps=1,000", "train.steps='1,000' is impossible"),
        ("train.steps=yes", "train.steps='yes' is impossible"),
        ("train.steps=1:30", "train.steps='1:30' is impossible"),
        ("train.batch_size=0x10", "train.batch_size='0x10' is impossible"),
        ("optimizer.lr=1:30.5", "optimizer.lr='1:30.5' is impossible"),
        ("task=null", "task=null: a section cannot be unset"),
        ("task=~", "task=~: a section cannot be unset"),
        ("lora=", "lora=: a section cannot be unset"),
    ],
)
def test_what_cannot_be_meant_is_one_line(home: Path, override: str, message: str) -> None:
    with pytest.raises(InputError) as refused:
        load_recipe(None, [override])
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_the_last_of_two_overrides_wins() -> None:
    assert load_recipe(None, ["train.steps=1", "train.steps=2"]).train.steps == 2


def test_every_key_has_a_kind() -> None:
    kinds = {
        key: (wanted.kind, wanted.optional, wanted.several) for key, wanted in known_keys().items()
    }
    assert kinds["data.corpus"] == ("path", True, False)
    assert kinds["task.text"] == ("text", False, True)
    assert kinds["task.similar_labels"] == ("other", False, False)
    assert kinds["task.labels"] == ("text", False, True)
    assert kinds["system.cerebras.mounts"] == ("path", False, True)
    assert kinds["train.steps"] == ("number", True, False)
    assert kinds["schedule.warmup"] == ("other", False, False)
    assert kinds["tracking.wandb"] == ("other", False, False)


FILES = [
    ("name: 2024-05-01", "name", "2024-05-01"),
    ("name: 007", "name", "007"),
    ("task: {text: no}", "task.text", "no"),
    ("task:\n  label: null", "task.label", "null"),
    ("task: {train: 2025, validation: null}", "task.train", Path("2025")),
    ("task: {train: x, validation: null}", "task.validation", None),
    ("task: {train: x, test: ~}", "task.test", None),
    ("task: {labels: [no, 1.0]}", "task.labels", ("no", "1.0")),
    ("evaluate: {prompts: [2024-05-01, '7']}", "evaluate.prompts", ("2024-05-01", "7")),
    ("seed: 010", "seed", 10),
    ("train: {tokens: 1e9}", "train.tokens", 1_000_000_000),
    ("model: &m {n_layers: 2}\nsystem: {compile: on}", "system.compile", "on"),
]


@pytest.mark.parametrize(("text", "key", "expected"), FILES, ids=lambda value: str(value))
def test_a_recipe_file_is_read_so_too(tmp_path: Path, text: str, key: str, expected: Any) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(text + "\n")
    assert value_of(load_recipe(path), key) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train:\n  steps: 3\n  steps: 5", "'train.steps' appears twice, in lines 2 and 3"),
        ("model: {}\nseed: 1\nmodel: {}", "'model' appears twice, in lines 1 and 3"),
        (
            "system:\n  cerebras:\n    systems: 1\n    systems: 2",
            "'system.cerebras.systems' appears twice, in lines 3 and 4",
        ),
        ("extends: demo\nextends: imdb", "'extends' appears twice, in lines 1 and 2"),
        ("train.steps: 3", "write 'train:', and 'steps:' under it"),
        ("evaluate: {prompts: hello}", "write a list"),
    ],
)
def test_a_recipe_file_that_cannot_be_meant(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(text + "\n")
    with pytest.raises(InputError) as refused:
        load_recipe(path)
    assert message in str(refused.value)
    assert "r.yaml" in str(refused.value)


def test_other_things_where_a_recipe_is_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("rows.csv", "corpus/corpus.json", "run/recipe.yaml"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).touch()
    for name, message in (
        ("rows.csv", "given as task.train=rows.csv"),
        ("corpus", "write data.corpus=corpus"),
        ("run", "its recipe is run/recipe.yaml"),
    ):
        with pytest.raises(InputError, match=message):
            load_recipe(name)


@pytest.mark.parametrize("section", ["model:\n- n_layers: 2", "model: small", "model: 5"])
def test_what_is_no_section_is_refused_under_an_override_too(tmp_path: Path, section: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(f"{section}\n")
    for overrides in ([], ["model.seq_len=32"]):
        with pytest.raises(InputError, match=r"model=.* is impossible"):
            load_recipe(str(path), overrides)
    with pytest.raises(InputError, match=r"model=5 is impossible"):
        recipe_with(Recipe(), ["model=5"])
