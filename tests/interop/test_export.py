"""What an export refuses, and that a wrong one never appears."""

from __future__ import annotations

import json
import stat
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from wafergpt.checkpoint.imported_run import run_with
from wafergpt.cli.export import command
from wafergpt.config import Model, recipe_from
from wafergpt.data.tokenizer import Tokenizer
from wafergpt.errors import InputError, RunFailed
from wafergpt.interop import export_source, gpt2
from wafergpt.interop.export import export
from wafergpt.interop.hf_import import import_folder
from wafergpt.model.gpt import GPT
from wafergpt.model.heads import Classifier
from wafergpt.runs.run import Run
from wafergpt.tasks.text_settings import TextTaskSettings

MUP = Model(
    n_layers=2, d_model=48, n_heads=4, seq_len=24, vocab_size=270, parametrization="mup",
    base_d_model=16, embedding_scale=10.0, output_scale=3.0, init_std=0.08,
)  # fmt: skip
TEXTS = ["It's a film that I loved. It's dull!"]


@pytest.fixture(autouse=True)
def _without_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)


def make_run(root: Path, task: dict[str, Any] | None = None, **shape: Any) -> Run:
    model = MUP.model_copy(update=shape)
    gpt = GPT(model).initialize(0)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in gpt.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    values: dict[str, Any] = {"name": "run", "model": model.model_dump(), "task": task}
    recipe = recipe_from(values)
    state = gpt.state_dict()
    if recipe.task is not None:
        assert isinstance(recipe.task, TextTaskSettings)
        state = Classifier(gpt, 2, recipe.task.pooling).state_dict()
    return run_with(state, recipe, root, Tokenizer.train(TEXTS, 270), {})


def test_our_own_import_compares_where_transformers_is_not(tmp_path: Path) -> None:
    result = export(make_run(tmp_path), tmp_path / "hf")
    assert result["compared_with"] == "wafergpt import"
    assert 0 < result["max_relative_logit_difference"] <= 1e-5
    assert stat.S_IMODE((tmp_path / "hf" / "model.safetensors").stat().st_mode) == stat.S_IMODE(
        (tmp_path / "hf" / "config.json").stat().st_mode
    )


def test_the_command_prints_the_contract(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    done = CliRunner().invoke(command, [str(run.path), "--out", str(tmp_path / "hf"), "--json"])
    result = json.loads(done.stdout)
    assert result["path"] == str(tmp_path / "hf")
    assert result["format"] == "hf"
    assert result["max_relative_logit_difference"] <= 1e-5


def keys_as_they_are(model: Model, weights: dict[str, torch.Tensor]) -> Any:
    plain, folded = gpt2.fold(model, weights)
    return plain, {n: weights[n] if "qkv" in n else tensor for n, tensor in folded.items()}


def head_of_the_scaled_embedding(model: Model, weights: dict[str, torch.Tensor]) -> Any:
    plain, folded = gpt2.fold(model, weights)
    return plain, {**folded, "lm_head.weight": folded["lm_head.weight"] * model.embedding_scale}


@pytest.mark.parametrize("wrong", [keys_as_they_are, head_of_the_scaled_embedding])
def test_a_wrong_export_never_appears(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: Any
) -> None:
    run = make_run(tmp_path / "runs")
    monkeypatch.setattr(export_source, "fold", wrong)
    with pytest.raises(RunFailed, match="computes other logits than the run"):
        export(run, tmp_path / "hf")
    assert [p.name for p in tmp_path.iterdir()] == ["runs"]


def test_nan_is_a_difference(tmp_path: Path) -> None:
    opened = export_source.Source.open(make_run(tmp_path))
    assert opened.difference(opened.network) == 0
    assert opened.difference(lambda t, n: opened.network(t, n) * float("nan")) == float("inf")


@pytest.mark.parametrize("there", ["file", "folder", "link"])
def test_what_is_there_stays(tmp_path: Path, there: str) -> None:
    out = tmp_path / "out"
    if there == "file":
        out.write_text("mine")
    elif there == "folder":
        out.mkdir()
    else:
        out.symlink_to("nowhere")
    with pytest.raises(InputError, match="out exists"):
        export(make_run(tmp_path), out)
    if there == "file":
        assert out.read_text() == "mine"
    elif there == "folder":
        assert list(out.iterdir()) == []
    else:
        assert out.readlink() == Path("nowhere")


@pytest.mark.parametrize("pooling", ["mean", "max", "mean_max_last"])
def test_other_poolings_come_with_their_own_module(tmp_path: Path, pooling: str) -> None:
    run = make_run(tmp_path, {"labels": ("a", "b"), "pooling": pooling})
    result = export(run, tmp_path / "hf")
    assert result["compared_with"] == "wafergpt import"
    assert result["max_relative_logit_difference"] <= 1e-5
    assert (tmp_path / "hf" / "modeling_ngram_gpt2.py").is_file()
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    config["pooling"] = "median"
    (tmp_path / "hf" / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="pooling='median' cannot be imported"):
        import_folder(tmp_path / "hf", "back", tmp_path)


def test_a_classifier_without_tokenizer_is_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path, {"labels": ("a", "b")})
    run.tokenizer.unlink()
    with pytest.raises(InputError, match="without a tokenizer has no padding token"):
        export(run, tmp_path / "hf")


def test_where_long_texts_are_cut_comes_back(tmp_path: Path) -> None:
    for number, told in enumerate(({"cut": "start", "max_tokens": 9}, {})):
        run = make_run(tmp_path / f"runs{number}", {"labels": ("a", "b"), **told})
        export(run, tmp_path / f"hf{number}")
        back = import_folder(tmp_path / f"hf{number}", f"back{number}", tmp_path).recipe.task
        assert isinstance(back, TextTaskSettings)
        assert (back.cut, back.max_tokens) == (told.get("cut", "end"), told.get("max_tokens", 0))


def test_a_middle_cut_is_warned_of(tmp_path: Path) -> None:
    run = make_run(tmp_path, {"labels": ("a", "b"), "cut": "middle"})
    assert "task.cut=middle" in export(run, tmp_path / "hf")["warnings"][0]


def test_the_keys_are_scaled_in_weight_and_bias() -> None:
    """The bias adds the same to every score of a query, so logits cannot tell."""
    weights = {n: t + 1 for n, t in GPT(MUP).initialize(0).state_dict().items()}
    _, folded = gpt2.fold(MUP, weights)
    for kind in ("weight", "bias"):
        before, after = (w[f"blocks.1.attention.qkv.{kind}"] for w in (weights, folded))
        ratio = after / before
        # 1/d_head over 1/√d_head, with heads of 12.
        assert torch.allclose(ratio[48:96], torch.tensor(12**-0.5))
        assert torch.equal(torch.cat([ratio[:48], ratio[96:]]), torch.ones_like(ratio[:96]))


def test_folding_leaves_the_run_alone() -> None:
    weights = GPT(MUP).initialize(0).state_dict()
    before = {name: tensor.clone() for name, tensor in weights.items()}
    gpt2.fold(MUP, weights)
    assert all(torch.equal(weights[name], before[name]) for name in before)


@pytest.mark.parametrize("format_", ["hf", "gguf"])
def test_the_face_in_python(tmp_path: Path, format_: Any) -> None:
    import wafergpt as wg

    if format_ == "gguf":
        pytest.importorskip("gguf", reason="GGUF needs the package gguf")
    run = make_run(tmp_path)
    wg.export(run, tmp_path / "out", format_)
    if format_ == "hf":
        assert wg.import_model(tmp_path / "out", "back", tmp_path).name == "back"
    assert (tmp_path / "out").exists()
