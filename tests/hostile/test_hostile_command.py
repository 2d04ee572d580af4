"""Hostile files through the command itself: exit code 2 or 1, one line, no traceback."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.hostile import folders
from tests.hostile.inputs import bounded, pickled
from wafergpt.cli import main


def written(name: str, data: bytes) -> Callable[[Path], None]:
    def write(home: Path) -> None:
        (home / name).write_bytes(data)

    return write


def long_base(home: Path) -> None:
    (home / "a.yaml").write_text(f"extends: {'a' * 300}.yaml")


CALLS: dict[str, tuple[Callable[[Path], None], str, int, str]] = {
    "recipe of laughs": (
        written("a.yaml", b"a: &a [x]\nb: &b [*a, *b]\nmodel: *b"), "plan a.yaml", 2, "a.yaml"
    ),
    "recipe of digits": (written("a.yaml", b"seed: " + b"1" * 5000), "plan a.yaml", 2, "a.yaml"),
    "recipe without base": (long_base, "plan a.yaml", 2, "no such recipe file"),
    "recipe of a long file": (lambda _: None, f"plan data.corpus={'a' * 300}", 2, "data.corpus"),
    "a batch of 10**12": (lambda _: None, f"plan train.batch_size={10**12}", 2, "batch_size"),
    "an object": (
        written("a.yaml", b"!!python/object/apply:os.mkdir [executed]"), "pretrain a.yaml", 2,
        "a.yaml",
    ),
    "deep result": (written("runs/r/result.json", b"[" * 10**5), "report r", 2, "result.json"),
    "result of a list": (written("runs/r/result.json", b"[1]"), "report r", 2, "result.json"),
    "metrics of text": (written("runs/r/metrics.jsonl", b"x\n"), "report r", 2, "metrics.jsonl"),
    "deep metrics": (
        written("runs/r/metrics.jsonl", b"[" * 10**5 + b"\n"), "checkpoints r", 2, "metrics.jsonl"
    ),
    "checkpoint of a pickle": (
        written("runs/r/checkpoints/step-00000002/model.safetensors", pickled(Path("executed"))),
        "generate r --prompt a", 1, "model.safetensors",
    ),
    "deep manifest": (
        written("runs/r/checkpoints/step-00000002/manifest.json", b"[" * 10**5),
        "generate r --prompt a", 1, "manifest",
    ),
    "tokenizer of nothing": (
        written("runs/r/tokenizer.json", b"{}"), "generate r --prompt a", 2, "tokenizer.json"
    ),
    "deep corpus": (
        written("corpus/corpus.json", b"[" * 10**5), "pretrain data.corpus=corpus", 2, "corpus.json"
    ),
    "deep rows": (
        written("rows.jsonl", b"[" * 10**5), "prepare rows.jsonl --out c", 2, "rows.jsonl, line 1"
    ),
    "half a character": (
        written("a.jsonl", b'{"text": "\\ud800", "label": 1}\n'),
        "finetune scratch task.train=a.jsonl", 2, "a.jsonl, line 1",
    ),
    "weights of a pickle": (
        written("hf/model.safetensors", pickled(Path("executed"))), "import hf --name i", 2,
        "model.safetensors",
    ),
    "deep configuration": (
        written("hf/config.json", b"[" * 10**5), "import hf --name i", 2, "config.json"
    ),
}  # fmt: skip


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    run = folders.make_run(tmp_path / "runs")
    recipe = run.recipe.model_dump(mode="json") | {"task": None}
    (run.path / "recipe.yaml").write_text(json.dumps(recipe))
    folders.tokenizer().save(run.tokenizer)
    folders.make_corpus(tmp_path / "corpus")
    folders.make_hugging_face(tmp_path / "hf")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(words: str, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["wafergpt", *words.split()])
    with bounded(20), pytest.raises(SystemExit) as end:
        main()
    assert isinstance(end.value.code, int)
    return end.value.code


@pytest.mark.parametrize(("make", "words", "code", "message"), CALLS.values(), ids=CALLS)
def test_one_line_and_a_code(
    home: Path,
    make: Callable[[Path], None],
    words: str,
    code: int,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    make(home)
    assert call(words, monkeypatch) == code
    said = capsys.readouterr()
    errors = [line for line in said.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, said.err
    assert message in errors[0]
    assert "bug in wafergpt" not in errors[0]
    assert "Traceback" not in said.err
    assert said.out == ""
    assert not (home / "executed").exists()


def test_the_same_files_unspoilt_are_no_mistake(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Else every refusal above could be for another reason."""
    for words in ("report r", "checkpoints r", "runs", "generate r --max-tokens 2",
                  "import hf --name i"):  # fmt: skip
        assert call(words, monkeypatch) == 0, capsys.readouterr().err


def test_a_damaged_run_hides_no_other(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folders.make_run(home / "other").path.rename(home / "runs" / "good")
    (home / "runs" / "r" / "result.json").write_bytes(b"[" * 10**5)
    assert call("runs", monkeypatch) == 0
    assert "damaged" in (out := capsys.readouterr().out)
    assert "good" in out
