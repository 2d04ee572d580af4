"""Recipes and records of a machine that are none, or want too much: one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.hostile import folders
from tests.hostile.inputs import NO_FILE, NO_OBJECT, NOT_JSON, bounded, judged
from wafergpt.config import Recipe, load_recipe
from wafergpt.devices import probe
from wafergpt.planning.hardware import Machine
from wafergpt.reports import list_runs
from wafergpt.runs.run import Run

RECIPES: dict[str, tuple[bytes, str]] = {
    "laughs": (
        b"a0: &a0 [x, x]\n"
        + b"".join(b"a%d: &a%d [*a%d, *a%d]\n" % (n, n, n - 1, n - 1) for n in range(1, 60)),
        "more than 100,000 values",
    ),
    "merges": (
        b"a0: &a0 {x: 1}\n"
        + b"".join(b"a%d: &a%d {<<: [*a%d, *a%d]}\n" % (n, n, n - 1, n - 1) for n in range(1, 60)),
        "more than 100,000 values",
    ),
    "itself": (b"model: &a {d_model: *a}", "more than 100,000 values"),
    "long strings": (
        b"a: &a " + b"x" * 500_000 + b"\nmodel: [" + b"*a, " * 20_000 + b"]", "is impossible"
    ),
    "digits": (b"seed: " + b"1" * 5000, "more than 100 digits"),
    "hex digits": (b"seed: 0x" + b"f" * 50_000, "more than 100 digits"),
    "sixties": (b"seed: 1" + b":59" * 100_000, "more than 100 digits"),
    "sixties of floats": (b"seed: 1" + b":59" * 1000 + b".5", "more than 100 digits"),
    "no date": (b"seed: 2024-99-99", "is not YAML"),
    "no boolean": (b"seed: !!bool x", "seed='x' is impossible"),
    "no number": (b"seed: !!int ''", "is not YAML"),
    "no float": (b"seed: !!float x", "is not YAML"),
    "no time": (b"seed: !!timestamp x", "is not YAML"),
    "an object": (b"!!python/object/new:os.system [true]", "is not YAML"),
    "a name": (b"seed: !!python/name:os.system", "is not YAML"),
    "deep": (b"[" * 100_000, "is not YAML"),
    "deep sections": (b"{a: " * 100_000, "is not YAML"),
    "NUL": (b"seed: \0", "is not YAML"),
    "tab": (b" \n\t\n", "is not YAML"),
    "half a character": (b'name: "\\ud800"', "is not YAML"),
    "number for a key": (b"1: 2", "keys should be strings"),
    "wide": (b"model: {d_model: 1000000000000}", "d_model=1000000000000 is impossible"),
    "negative": (b"model: {d_model: -256}", "d_model=-256 is impossible"),
    "NaN": (b"model: {d_model: .nan}", "d_model=nan is impossible"),
    "steps": (b"train: {steps: " + b"9" * 90 + b"}", "train.steps="),
    "a batch": (b"train: {batch_size: 1000000000000}", "train.batch_size=1000000000000"),
    "epochs": (b"train: {epochs: 1.0e+300}", "train.epochs=1e+300"),
    "warm-up": (b"schedule: {warmup: '" + b"9" * 400 + b"'}", "is not a number of tokens"),
    "warm-up share": (b"schedule: {warmup: '" + b"9" * 400 + b"%'}", "is not a number of tokens"),
    "long base": (b"extends: " + b"a" * 300 + b".yaml", "no such recipe file"),
    "long name of a base": (b"extends: " + b"a" * 300_000, "no recipe named 'aaa"),
    "base NUL": (b'extends: "a\\0.yaml"', "no such recipe file"),
    "long file": (b"data: {corpus: " + b"a" * 300 + b"}", "no file can have this name"),
    "NUL file": (b'task: {train: "a\\0b"}', "no file can have this name"),
    "half a file": (b'start: "\\ud800"', "is not YAML"),
    "a long key": (b"? " + b"k" * 100_000 + b"\n: 1", "unknown key 'kkk"),
    "no width": (b"model: {d_ffn: '0'}", "model.d_ffn='0' is impossible"),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("content", "message"), RECIPES.values(), ids=RECIPES)
def test_hostile_recipes(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(content)
    loaded, said = judged(lambda: load_recipe(path))
    assert loaded is None
    assert message in said


def test_an_empty_recipe_is_the_defaults(tmp_path: Path) -> None:
    for content in (b"", b"\n\n", b"# nothing\n", b"\xef\xbb\xbf"):
        (tmp_path / "a.yaml").write_bytes(content)
        assert load_recipe(tmp_path / "a.yaml") == Recipe()


@pytest.mark.parametrize("width", ["256", "256.0", "'256'"])
def test_a_width_in_other_words_has_its_feed_forward_width(width: str) -> None:
    assert load_recipe(None, [f"model.d_model={width}"]).model.d_ffn == 1024


@pytest.mark.parametrize("there", NO_FILE)
def test_a_recipe_that_is_no_file(tmp_path: Path, there: Callable[[Path], None]) -> None:
    run = folders.make_run(tmp_path).path
    (run / "recipe.yaml").unlink()
    there(run / "recipe.yaml")
    assert "no such recipe file" in judged(lambda: load_recipe(run / "recipe.yaml"))[1]
    assert "no run" in judged(lambda: Run.find(run))[1]
    with bounded():
        assert all(row["state"] == "damaged" for row in list_runs(tmp_path))


def _machine(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    monkeypatch.setattr(probe, "_record", lambda device: folder / "machine.json")
    return folder / "machine.json"


GOOD_MACHINE: dict[str, Any] = {
    "version": probe.VERSION, "device": "cpu", "name": "x", "cores": 2, "memory_bytes": 1 << 33,
    "memory_available": 1 << 32, "torch": "2", "compiler": True, "matmul_flops_fp32": 1e11,
    "matmul_flops_bf16": 0.0, "training_flops": {"fp32": {"128": 1e10}}, "bandwidth": 1e10,
    "softmax_rate": 1e8,
}  # fmt: skip
NO_MACHINE: list[dict[str, Any]] = [
    {"bandwidth": float("nan")}, {"bandwidth": 10**400}, {"softmax_rate": float("inf")},
    {"softmax_rate": "fast"}, {"matmul_flops_fp32": None}, {"matmul_flops_bf16": -1},
    {"training_flops": {"fp32": {"128": float("nan"), "256": 1.0}}}, {"training_flops": 7},
    {"training_flops": {"fp32": {"0": 1.0}}}, {"training_flops": {"fp32": {"128": 10**400}}},
    {"training_flops": {"fp32": {"1e999": 1.0}}}, {"training_flops": {"fp32": {}}}, {"more": 1},
]  # fmt: skip


def test_a_record_of_no_machine_is_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = _machine(tmp_path, monkeypatch)
    record.write_text(json.dumps(GOOD_MACHINE))
    good = probe.probe("cpu")
    assert good.training_flops == {"fp32": {128: 1e10}}
    measured: list[object] = []

    def measure(*asked: object) -> Machine:
        measured.append(asked)
        return good

    monkeypatch.setattr(probe, "measure", measure)
    monkeypatch.setattr(probe, "busy_percent", lambda seconds=0.3: 0.0)
    bad = [json.dumps({**GOOD_MACHINE, **change}).encode() for change in NO_MACHINE]
    for data in (*bad, *NOT_JSON.values(), *NO_OBJECT.values()):
        record.write_bytes(data)
        with bounded():
            probe.probe("cpu")
    assert len(measured) == len(bad) + len(NOT_JSON) + len(NO_OBJECT)
    for there in NO_FILE:
        folder = tmp_path / there.__name__
        folder.mkdir()
        record = _machine(folder, monkeypatch)
        there(record)
        with bounded():
            assert probe._read(record) is None
