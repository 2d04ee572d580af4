"""Folders for onnxruntime: every head, every shape, padded and alone, and run without wafergpt."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from tests.tasks.test_finetune import SMALL, sentences, write
from wafergpt.api import export, finetune
from wafergpt.checkpoint.imported_run import run_with
from wafergpt.cli.export import command
from wafergpt.config import Model, recipe_from
from wafergpt.data.spelling import Spelling
from wafergpt.data.text_ngrams import text_ngrams
from wafergpt.data.tokenizer import Tokenizer
from wafergpt.errors import InputError, RunFailed
from wafergpt.inference.predictor import Predictor
from wafergpt.interop import onnx_graph, onnx_readme
from wafergpt.model.gpt import GPT
from wafergpt.model.ngrams import KeptRows
from wafergpt.runs.run import Run
from wafergpt.tasks.base import task_of
from wafergpt.tasks.text_task import TextTask

onnxruntime = pytest.importorskip("onnxruntime", reason="the tests of ONNX need onnxruntime")
pytest.importorskip("onnxscript", reason="a graph is written by onnxscript")
tokenizers = pytest.importorskip("tokenizers")

SHAPE = {"n_layers": 2, "d_model": 32, "n_heads": 2, "seq_len": 24, "vocab_size": 280}
EVERYTHING = {
    "parametrization": "mup", "base_d_model": 16, "embedding_scale": 10.0, "output_scale": 3.0,
    "ngrams": [2, 4], "ngram_rows": 211, "d_head": 8, "n_layers": 2,
}  # fmt: skip
MESSY = [
    "", " ", "a", "It's a film that I loved. It's dull!", "I LOVRD it, hatde it",
    "e\u0301 naïve 👩‍👩‍👧 你好", "<|endoftext|>",
    "\x00\u202e\ufeff", "word " * 5000, "字" * 3000, "İSTANBUL ǅ ß", "1,234.5 \r\n\t--",
]  # fmt: skip


def make_run(root: Path, task: dict[str, Any] | None = None, **shape: Any) -> Run:
    """Make a run whose every weight matters, without data; of a task mostly with one layer."""
    layers = {} if task is None else {"n_layers": 1}
    values: dict[str, Any] = {"name": "run", "model": {**SHAPE, **layers, **shape}, "task": task}
    recipe = recipe_from(values)
    network = task_of(recipe).network()
    torch.manual_seed(0)
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if name.endswith(".rows"):
                rows = 997 if "head" in name else 211
                tensor.copy_(torch.randperm(rows - 1)[: len(tensor)].sort().values + 1)
            elif name.endswith(".ids"):
                tensor.copy_(torch.arange(len(tensor)) * 3)
            else:
                tensor.copy_(0.3 * torch.randn_like(tensor) + float(name.endswith("norm.weight")))
    tokenizer = Tokenizer.train(["It is a film that I loved. 你好"], 280, exactly=False)
    if task and task.get("spelling"):
        tokenizer = tokenizer.with_spelling(Spelling({"loved": 9, "filmed": 9, "hated": 9}))
    return run_with(network.state_dict(), recipe, root, tokenizer, {})


def run_readme(folder: Path, *replaced: tuple[str, str]) -> str:
    """Run the lines of the README in a process that cannot import this package."""
    (lines,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), flags=re.S)
    for old, new in replaced:
        assert old in lines
        lines = lines.replace(old, new)
    blocked = "import sys\nfor name in ('torch', 'wafergpt'):\n    sys.modules[name] = None\n"
    done = subprocess.run(
        [sys.executable, "-c", blocked + lines], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def answers_of(folder: Path) -> list[list[str]]:
    """Return the answers of the README's lines to messy texts: label or number, and score."""
    texts = f"texts = json.loads({json.dumps(json.dumps(MESSY))})"
    old = 'texts = ["A warm and funny film.", "It was dull."]'
    printed = run_readme(folder, (old, texts), (", text)", ", '\\u2400')"))
    return [line.split()[:-1] for line in printed.splitlines()]


TASKS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "n-grams of everything": (
        {"labels": ("bad", "so-so", "good"), "pooling": "mean_max_last", "ngrams": "characters",
         "ngram_rows": 997, "ngram_ratios": True, "cut": "start", "max_tokens": 20},
        EVERYTHING,
    ),
    "tables of few rows": (
        {"labels": ("bad", "good"), "ngrams": "words", "ngram_rows": 997, "ngram_kept": 40},
        {"ngrams": [2, 3], "ngram_rows": 211, "ngram_kept": [30, 20], "ngram_ids": True},
    ),
    "binary": ({"labels": ("bad", "good"), "loss": "binary", "cut": "middle"}, {}),
    "spelling": (
        {"labels": ("bad", "good"), "ngrams": "words", "ngram_rows": 97, "spelling": True},
        {},
    ),
    "regression": (
        {"name": "regress", "pooling": "mean", "ngrams": "words", "ngram_rows": 99,
         "max_tokens": 24},
        {"activation": "gelu_tanh"},
    ),
}  # fmt: skip


@pytest.mark.slow
@given(st.sets(st.integers(1, 2**26), min_size=1), st.lists(st.integers(0, 2**26), min_size=1))
def test_rows_are_found_as_torch_finds_them(rows: set[int], numbers: list[int]) -> None:
    kept = KeptRows(len(rows))
    kept.rows.copy_(torch.tensor(sorted(rows)))
    asked = torch.tensor([[*numbers, *rows, min(rows) - 1, max(rows) + 1]])
    searched = onnx_graph.SearchedRows(kept)
    assert torch.equal(searched(asked), kept(asked).long())
    # As large as what is left of the table, whatever its rows' numbers.
    assert sum(buffer.numel() for buffer in searched.buffers()) == len(rows)


@pytest.mark.parametrize("name", TASKS)
def test_the_lines_of_the_readme_give_our_answers(tmp_path: Path, name: str) -> None:
    task, shape = TASKS[name]
    run = make_run(tmp_path, task, **shape)
    result = export(run, tmp_path / "out", "onnx")
    assert 0 < result["max_relative_logit_difference"] <= 1e-5
    assert result["compared_on"] == "made-up texts"
    predictor = Predictor.load(run, "cpu")
    answers = predictor.answers(MESSY)
    found = answers_of(tmp_path / "out")
    assert len(found) == len(answers)
    for answer, printed in zip(answers, found, strict=True):
        assert answer is not None
        if name == "regression":
            assert float(printed[0]) == pytest.approx(answer["value"], rel=1e-4, abs=1e-5)
        else:
            assert printed[0] == answer["label"]
            assert float(printed[1]) == pytest.approx(answer["score"], rel=1e-4)
    written = json.loads((tmp_path / "out" / "settings.json").read_text())
    assert written["task"] == task.get("name", "classify")
    assert written["max_tokens"] == task.get("max_tokens", 24)
    assert written.get("labels", []) == list(task.get("labels", ()))


@pytest.mark.slow
@pytest.mark.parametrize("features", [True, False])
def test_the_lines_of_the_readme_find_our_entities(tmp_path: Path, features: bool) -> None:
    task: dict[str, Any] = {"name": "tag", "labels": ("LOC", "PER"), "word_features": features,
                            "feature_rows": 997, "pooling": "mean" if features else "last",
                            "attention": "two_way" if features else "causal"}  # fmt: skip
    run = make_run(tmp_path, task, **(EVERYTHING if features else {}))
    result = export(run, tmp_path / "out", "onnx")
    assert 0 < result["max_relative_logit_difference"] <= 1e-5
    found = Predictor.load(run, "cpu").answers(MESSY)
    answers = [answer["entities"] for answer in found if answer is not None]
    assert sum(map(len, answers)) > 100
    old = 'texts = ["Anna Smith went to New York.", "Bob saw Rome."]'
    printed = run_readme(
        tmp_path / "out", (old, f"texts = json.loads({json.dumps(json.dumps(MESSY))})")
    )
    for line, expected in zip(printed.splitlines(), answers, strict=True):
        found = ast.literal_eval(line)
        assert [one | {"score": 0} for one in found] == [one | {"score": 0} for one in expected]
        scores = [one["score"] for one in expected]
        assert [one["score"] for one in found] == pytest.approx(scores, rel=1e-3)


@pytest.mark.slow
def test_the_lines_of_the_readme_answer_as_we_do(tmp_path: Path) -> None:
    task = {"name": "answer", "feature_rows": 997, "no_answer": True, "no_answer_margin": 0.5}
    run = make_run(tmp_path, task, **EVERYTHING)
    result = export(run, tmp_path / "out", "onnx")
    assert 0 < result["max_relative_logit_difference"] <= 1e-5
    asked = [(one, other[:400]) for one in MESSY[2:6] for other in MESSY[2:] if other.strip()]
    answers = [one for one in Predictor.load(run, "cpu").answers(asked) if one is not None]
    assert {bool(answer["answer"]) for answer in answers} == {True, False}
    old = 'asked = [("Where does Anna live?", "Anna lives in Oslo, and Bob in Rome.")]'
    printed = run_readme(
        tmp_path / "out", (old, f"asked = json.loads({json.dumps(json.dumps(asked))})")
    )
    for line, expected in zip(printed.splitlines(), answers, strict=True):
        found = ast.literal_eval(line)
        assert found | {"score": 0} == expected | {"score": 0}
        assert found["score"] == pytest.approx(expected["score"], rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    "shape", [EVERYTHING, {"tied": False, "activation": "gelu_tanh"}], ids=["everything", "untied"]
)
def test_a_language_model_has_the_same_logits_and_continues(
    tmp_path: Path, shape: dict[str, Any]
) -> None:
    run = make_run(tmp_path, **shape)
    result = export(run, tmp_path / "out", "onnx")
    assert result["compared_on"] == "random tokens"
    network = task_of(run.recipe).network()
    assert isinstance(network, GPT)
    from wafergpt.checkpoint import store

    network.load_state_dict(store.weights(run))
    network.eval()
    graph = tmp_path / "out" / "model.onnx"
    # Nothing of this machine is in it.
    assert not any(part in graph.read_bytes() for part in (bytes(Path.home()), b"wafergpt", b".py"))
    session = onnxruntime.InferenceSession(graph)
    for rows, length in ((1, 1), (3, 24), (2, 7)):
        tokens = torch.randint(0, 280, (rows, length))
        (found,) = session.run(None, {"input_ids": tokens.numpy()})
        with torch.no_grad():
            expected = network.logits(network(tokens)).numpy()
        assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()
    tokenizer = Tokenizer.load(run.tokenizer)
    ids = tokenizer.encode("This is")
    with torch.no_grad():
        for _ in range(20):
            context = torch.tensor([ids[-24:]])
            ids.append(int(network.logits(network(context))[0, -1].argmax()))
    assert run_readme(tmp_path / "out").rstrip("\n") == tokenizer.decode(ids).rstrip("\n")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A classifier whose data is there."""
    home = tmp_path_factory.mktemp("trained")
    write(home / "train.jsonl", sentences(300, 0))
    overrides = [*SMALL, f"task.train={home / 'train.jsonl'}", "task.ngrams=words", "name=clf",
                 "task.pooling=mean_max_last", "task.ngram_rows=4096", "train.epochs=2",
                 "model.vocab_size=280", "model.ngrams=[2]", "model.ngram_rows=512"]  # fmt: skip
    return finetune("scratch", None, overrides, root=home).run


@pytest.mark.slow
def test_int8_is_measured_on_the_validation_rows(trained: Run, tmp_path: Path) -> None:
    done = CliRunner().invoke(
        command,
        [str(trained.path), "--format", "onnx", "--weights", "int8", "--out", str(tmp_path / "out"),
         "--json"],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["compared_on"] == "validation data"
    assert result["rows"] == 31
    assert result["bytes_after"] < 0.5 * result["bytes_before"]
    before, after = result["metrics_before"], result["metrics_after"]
    kept = trained.read("result")["metrics"]
    assert before["accuracy"] == pytest.approx(kept["accuracy"])
    assert before["loss"] == pytest.approx(kept["loss"], rel=1e-3)
    assert after["loss"] == pytest.approx(before["loss"], rel=0.02)
    assert 0 < result["max_relative_difference_int8"] < 0.05
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "README.md", "model.onnx", "settings.json", "text_ngrams.py", "tokenizer.json",
    ]  # fmt: skip
    assert "good" in run_readme(tmp_path / "out") or "bad" in run_readme(tmp_path / "out")


def test_changed_data_is_not_compared_on(trained: Run, tmp_path: Path) -> None:
    task = task_of(trained.recipe)
    assert isinstance(task, TextTask)
    assert task.settings.train is not None
    other = write(tmp_path / "other.jsonl", sentences(300, 5))
    moved = task_of(trained.recipe.replace(task={"train": other}))
    with pytest.raises(InputError, match="not those of the training"):
        moved.validation(Tokenizer.load(trained.tokenizer))


@pytest.mark.slow
def test_int8_of_a_large_language_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its head is in int8 too, and its weights lie in a file beside the graph."""
    import onnx

    monkeypatch.setattr(onnx_graph, "PROTOBUF_BYTES", 10_000)
    run = make_run(tmp_path, ngrams=[2], ngram_rows=64)
    result = export(run, tmp_path / "out", "onnx", weights="int8")
    # Weights that were never trained amplify what is rounded.
    assert 0 < result["max_relative_difference_int8"] < 0.2
    assert "metrics_before" not in result
    assert result["bytes_after"] < 0.6 * result["bytes_before"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "README.md", "model.onnx", "model.onnx.data", "settings.json", "tokenizer.json",
    ]  # fmt: skip
    weights = onnx.load(tmp_path / "out" / "model.onnx", load_external_data=False).graph.initializer
    large = [tensor for tensor in weights if np.prod(tensor.dims) > 24 * 32]
    assert {tensor.data_type for tensor in large} == {onnx.TensorProto.INT8}
    assert {tensor.data_location for tensor in large} == {onnx.TensorProto.EXTERNAL}
    run_readme(tmp_path / "out")


@pytest.mark.slow
def test_a_wrong_graph_never_appears(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path / "runs", {"labels": ("a", "b")})
    unchanged = onnx_graph.input_arrays

    def without_padding(graph: Any, batch: Any) -> Any:
        arrays = unchanged(graph, batch)
        return {**arrays, "attention_mask": np.ones_like(arrays["attention_mask"])}

    monkeypatch.setattr(onnx_graph, "input_arrays", without_padding)
    with pytest.raises(RunFailed, match="computes other outputs than the run"):
        export(run, tmp_path / "out", "onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


@pytest.mark.parametrize("missing", ["onnx", "onnxruntime", "onnxscript"])
def test_a_missing_package_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    run = make_run(tmp_path / "runs")
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(InputError, match=rf"package {missing}: pip install 'wafergpt\[onnx\]'"):
        export(run, tmp_path / "out", "onnx")
    assert not (tmp_path / "out").exists()


def test_wrong_use(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    with pytest.raises(InputError, match="int8 is for --format onnx; gguf"):
        export(run, tmp_path / "out", "gguf", weights="int8")
    run.tokenizer.unlink()
    with pytest.raises(InputError, match="no tokenizer"):
        export(run, tmp_path / "out", "onnx")
    narrow = Model.model_validate({**SHAPE, "d_head": 8})
    with pytest.raises(InputError, match="--format onnx"):
        export(make_run(tmp_path / "narrow", d_head=narrow.d_head), tmp_path / "out", "hf")


@given(st.text(max_size=60), st.sampled_from(["words", "characters"]), st.integers(2, 1 << 26))
def test_the_shipped_module_finds_the_same_n_grams(text: str, kind: Any, rows: int) -> None:
    assert (shipped(text, kind, rows) == text_ngrams(text, kind, rows)).all()


def test_the_shipped_module_reads_messy_texts() -> None:
    for text in MESSY:
        found, expected = (
            shipped(text, "characters", 1 << 26),
            text_ngrams(text, "characters", 1 << 26),
        )
        assert found.tolist() == expected.tolist()


_namespace: dict[str, Any] = {}
exec(onnx_readme.module("text_ngrams"), _namespace)
shipped = _namespace["text_ngrams"]
