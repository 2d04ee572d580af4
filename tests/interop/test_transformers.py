"""Exports and imports against transformers, which we did not write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from wafergpt.checkpoint.imported_run import run_with
from wafergpt.checkpoint.store import weights
from wafergpt.config import Model, recipe_from
from wafergpt.data.tokenizer import Tokenizer
from wafergpt.data.tokenizer_files import END_OF_TEXT as END
from wafergpt.errors import InputError
from wafergpt.interop.export import export
from wafergpt.interop.hf_import import import_folder, read_network
from wafergpt.model.gpt import GPT
from wafergpt.model.heads import Classifier
from wafergpt.runs.run import Run
from wafergpt.tasks.classify_settings import ClassifySettings
from wafergpt.tasks.regress import RegressSettings
from wafergpt.tasks.text_settings import TextTaskSettings

transformers = pytest.importorskip("transformers", reason="the parity tests need transformers")
find_labels = pytest.importorskip("transformers.utils").find_labels

SHAPE: dict[str, Any] = {
    "n_layers": 2, "d_model": 48, "n_heads": 4, "d_ffn": 112, "seq_len": 24, "vocab_size": 101,
}  # fmt: skip
MUP: dict[str, Any] = {
    "parametrization": "mup", "base_d_model": 16, "base_d_ffn": 32, "init_std": 0.08,
    "embedding_scale": 10.0, "output_scale": 3.0,
}  # fmt: skip
NGRAMS: dict[str, Any] = {"ngrams": [2, 4], "ngram_rows": 211}
SHAPES = {
    "sp": {},
    "tanh": {"activation": "gelu_tanh"},
    "untied": {"tied": False},
    "scaled sp": {"output_scale": 2.0},
    "mup": MUP,
    "mup untied": {**MUP, "tied": False},
    "mup tanh": {**MUP, "activation": "gelu_tanh"},
    "gpt-2's vocabulary": {"vocab_size": 50257, "d_model": 4, "n_heads": 2, "d_ffn": 8},
    "one head": {"n_heads": 1, "vocab_size": 1031},
    "n-grams": NGRAMS,
    "n-grams under mup": {**MUP, **NGRAMS},
    "few n-grams": {**MUP, **NGRAMS, "ngram_kept": [9, 150], "ngram_ids": True},
}


def noisy(network: torch.nn.Module) -> torch.nn.Module:
    """Make every weight matter, biases too."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        for name, rows in network.named_buffers():
            # Tables whose other rows were taken out.
            chosen = torch.randperm(NGRAMS["ngram_rows"])[: len(rows)]
            rows.copy_(chosen.sort().values if "kept" in name else chosen)
    return network.eval()


def tokenizer(lowercase: bool = False) -> Tokenizer:
    return Tokenizer.train(["It's a film that I loved. It's dull!"], 270, lowercase)


def make_run(root: Path, shape: dict[str, Any], task: dict[str, Any] | None = None) -> Run:
    model = Model.model_validate({**SHAPE, **shape})
    gpt = GPT(model).initialize(0)
    values: dict[str, Any] = {"name": "run", "model": model.model_dump()}
    network: torch.nn.Module = gpt
    outputs = 0
    if task is not None:
        outputs = 1 if task.get("loss", "cross_entropy") != "cross_entropy" else 3
        labels = ("bad", "so-so", "good") if outputs == 3 else ("bad", "good")
        task = {"labels": () if task.get("loss") == "squared_error" else labels, **task}
        values["task"] = task
    recipe = recipe_from(values)
    if isinstance(recipe.task, TextTaskSettings):
        network = Classifier(gpt, outputs, recipe.task.pooling)
    state = noisy(network).state_dict()
    return run_with(state, recipe, root, tokenizer() if task else None, {})


def ours(run: Run, tokens: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor:
    recipe, state = run.recipe, weights(run)
    gpt = GPT(recipe.model).eval()
    with torch.no_grad():
        if not isinstance(recipe.task, TextTaskSettings):
            gpt.load_state_dict(state)
            return gpt.logits(gpt(tokens))
        classifier = Classifier(gpt, len(state["head.weight"]), recipe.task.pooling).eval()
        classifier.load_state_dict(state)
        assert lengths is not None
        scores: torch.Tensor = classifier(tokens, lengths)
        return scores


def theirs(folder: Path, tokens: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = loaded(folder)(tokens).logits
        return logits


def loaded(folder: Path) -> Any:
    config = json.loads((folder / "config.json").read_text())
    (kind,) = config["architectures"]
    if "auto_map" not in config:
        return getattr(transformers, kind).from_pretrained(folder).eval()
    (auto,) = (name for name, at in config["auto_map"].items() if at.endswith(f".{kind}"))
    return getattr(transformers, auto).from_pretrained(folder, trust_remote_code=True).eval()


def close(given: torch.Tensor, expected: torch.Tensor) -> bool:
    return bool((given - expected).abs().max() <= 1e-5 * expected.abs().max())


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_an_export_has_the_same_logits_and_comes_back(
    tmp_path: Path, shape: dict[str, Any]
) -> None:
    run = make_run(tmp_path, shape)
    result = export(run, tmp_path / "hf")
    assert result["max_relative_logit_difference"] <= 1e-5
    assert result["compared_with"] == f"transformers {transformers.__version__}"
    tokens = torch.randint(0, run.recipe.model.vocab_size, (3, 24))
    expected = ours(run, tokens)
    assert close(theirs(tmp_path / "hf", tokens), expected)
    back = import_folder(tmp_path / "hf", "back", tmp_path)
    assert back.recipe.model.parametrization == "sp"
    assert close(ours(back, tokens), expected)
    # What is plain already is exported bit for bit.
    export(back, tmp_path / "again")
    for name, tensor in load_file(tmp_path / "hf" / "model.safetensors").items():
        assert torch.equal(load_file(tmp_path / "again" / "model.safetensors")[name], tensor), name


def test_n_grams_are_right_while_transformers_decodes(tmp_path: Path) -> None:
    """With a cache, in several beams, and after padding on the left."""
    run = make_run(tmp_path, NGRAMS)
    export(run, tmp_path / "hf")
    model = loaded(tmp_path / "hf")
    text = torch.randint(0, 101, (1, 5))
    expected = text
    for _ in range(12):
        best = ours(run, expected)[:, -1].argmax(-1, keepdim=True)
        expected = torch.cat([expected, best], 1)
    settings = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    mask = torch.ones_like(text)
    for use_cache in (True, False):
        found = model.generate(text, attention_mask=mask, use_cache=use_cache, **settings)
        assert torch.equal(found, expected)
    beams = [
        model.generate(text, attention_mask=mask, use_cache=cached, num_beams=3, **settings)
        for cached in (True, False)
    ]
    assert torch.equal(*beams)
    padded = torch.cat([torch.zeros(1, 3, dtype=torch.long), text], 1)
    mask = torch.tensor([[0] * 3 + [1] * 5])
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        logits = model(padded, attention_mask=mask, position_ids=positions).logits
    assert close(logits[:, 3:], ours(run, text))
    for cache in ("dynamic", "static"):
        found = model.generate(padded, attention_mask=mask, cache_implementation=cache, **settings)
        assert torch.equal(found[:, 3:], expected), cache
    with pytest.raises(ValueError, match="mask of the whole text"):
        model(text, attention_mask=torch.ones(1, 1, 5, 5))
    assert find_labels(type(model)) == ["labels"]
    with torch.no_grad():
        found = model(text, labels=text)
    shifted = F.cross_entropy(found.logits[:, :-1].flatten(0, 1), text[:, 1:].flatten())
    assert found.loss == pytest.approx(float(shifted), rel=1e-5)


def test_without_its_own_code_it_does_not_load_as_something_else(tmp_path: Path) -> None:
    export(make_run(tmp_path, NGRAMS), tmp_path / "hf")
    with pytest.raises(ValueError, match=r"custom code|trust_remote_code"):
        transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf", trust_remote_code=False)


def test_the_multipliers_matter(tmp_path: Path) -> None:
    """A fold that forgets one of them has other logits than the run."""
    run = make_run(tmp_path, MUP)
    tokens = torch.randint(0, 101, (3, 24))
    expected = ours(run, tokens)
    state = weights(run)
    for change in ({"embedding_scale": 1.0}, {"output_scale": 1.0}, {"parametrization": "sp"}):
        other = GPT(run.recipe.model.model_copy(update=change)).eval()
        other.load_state_dict(state)
        assert not close(other.logits(other(tokens)), expected), change


def test_equal_scales_stay_tied(tmp_path: Path) -> None:
    run = make_run(tmp_path, {"embedding_scale": 2.0, "output_scale": 2.0})
    export(run, tmp_path / "hf")
    assert json.loads((tmp_path / "hf" / "config.json").read_text())["tie_word_embeddings"]
    assert "lm_head.weight" not in load_file(tmp_path / "hf" / "model.safetensors")


TASKS = {
    "labels": {},
    "binary": {"loss": "binary"},
    "regression": {"loss": "squared_error"},
}


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
@pytest.mark.parametrize(
    "shape",
    [{}, MUP, {**MUP, "tied": False}, NGRAMS],
    ids=["sp", "mup", "untied", "ngrams"],
)
def test_a_classifier_has_the_same_logits_on_padded_rows(
    tmp_path: Path, shape: dict[str, Any], task: dict[str, Any]
) -> None:
    run = make_run(tmp_path, {**shape, "vocab_size": 270}, task)
    assert export(run, tmp_path / "hf")["max_relative_logit_difference"] <= 1e-5
    end = Tokenizer.load(run.tokenizer).end_of_text
    tokens = torch.randint(1, 270, (5, 20))
    lengths = torch.tensor([20, 7, 1, 13, 1])
    tokens[torch.arange(20) >= lengths[:, None]] = end
    # A text of no letters is the end of text alone.
    tokens[4] = end
    expected = ours(run, tokens, lengths)
    if task.get("loss") == "binary":
        expected = torch.cat([torch.zeros_like(expected), expected], 1)
    assert close(theirs(tmp_path / "hf", tokens), expected)
    back = import_folder(tmp_path / "hf", "back", tmp_path)
    assert close(ours(back, tokens, lengths), expected)
    if task.get("loss") == "squared_error":
        assert isinstance(run.recipe.task, RegressSettings)
        assert isinstance(back.recipe.task, RegressSettings)
    else:
        assert isinstance(run.recipe.task, ClassifySettings)
        assert isinstance(back.recipe.task, ClassifySettings)
        assert back.recipe.task.labels == run.recipe.task.labels
    export(back, tmp_path / "again")
    first, second = (load_file(tmp_path / f / "model.safetensors") for f in ("hf", "again"))
    assert all(torch.equal(first[name], second[name]) for name in first)
    model = loaded(tmp_path / "hf")
    if isinstance(run.recipe.task, ClassifySettings):
        assert tuple(model.config.id2label.values()) == run.recipe.task.labels


@pytest.mark.parametrize("pooling", ["mean", "max", "mean_max_last"])
@pytest.mark.parametrize("shape", [{}, {**MUP, **NGRAMS}], ids=["plain", "n-grams under mup"])
def test_a_pooled_classifier_answers_as_ours(
    tmp_path: Path, shape: dict[str, Any], pooling: str
) -> None:
    """With a mask and without one, padded on either side where positions are given."""
    run = make_run(tmp_path, {**shape, "vocab_size": 270}, {"pooling": pooling})
    assert export(run, tmp_path / "hf")["max_relative_logit_difference"] <= 1e-5
    end = Tokenizer.load(run.tokenizer).end_of_text
    tokens = torch.randint(1, 270, (4, 20))
    lengths = torch.tensor([20, 7, 1, 13])
    mask = (torch.arange(20) < lengths[:, None]).long()
    tokens = tokens.masked_fill(mask == 0, end)
    expected = ours(run, tokens, lengths)
    model = loaded(tmp_path / "hf")
    with torch.no_grad():
        assert close(model(tokens).logits, expected)
        assert close(model(tokens, attention_mask=mask).logits, expected)
        assert close(model(tokens, attention_mask=mask, return_dict=False)[0], expected)
        left, left_mask = (
            torch.stack([row.roll(20 - int(n)) for row, n in zip(rows, lengths, strict=True)])
            for rows in (tokens, mask)
        )
        places = (left_mask.cumsum(1) - 1).clamp(min=0)
        found = model(left, attention_mask=left_mask, position_ids=places).logits
        assert close(found, expected)
    labels = torch.tensor([0, 1, 2, 0])
    with torch.no_grad():
        loss = float(model(tokens, labels=labels).loss)
    assert loss == pytest.approx(float(F.cross_entropy(expected, labels)), rel=1e-4)
    back = import_folder(tmp_path / "hf", "back", tmp_path)
    assert isinstance(back.recipe.task, ClassifySettings)
    assert back.recipe.task.pooling == pooling
    assert close(ours(back, tokens, lengths), expected)


@pytest.mark.parametrize("lowercase", [False, True])
def test_auto_tokenizer_gives_our_ids(tmp_path: Path, lowercase: bool) -> None:
    made = tokenizer(lowercase)
    run = make_run(tmp_path, {"vocab_size": 270})
    made.save(run.tokenizer)
    assert export(run, tmp_path / "hf")["warnings"] == []
    read = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    for text in ("It's a FILM!", "  two  spaces ", "naïve 你好\n\n\t", ""):
        assert read(text)["input_ids"] == made.encode(text), text
    assert read.eos_token_id == read.pad_token_id == made.end_of_text


def saved(folder: Path, kind: str = "GPT2LMHeadModel", **settings: Any) -> Any:
    values = {
        "n_layer": 2, "n_embd": 24, "n_head": 3, "n_positions": 16, "vocab_size": 101,
        "bos_token_id": 0, "eos_token_id": 0, **settings,
    }  # fmt: skip
    torch.manual_seed(0)
    model = getattr(transformers, kind)(transformers.GPT2Config(**values))
    noisy(model)
    model.save_pretrained(folder, max_shard_size=settings.get("shard", "5GB"))
    return model


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"activation_function": "gelu"},
        {"activation_function": "gelu_pytorch_tanh"},
        {"tie_word_embeddings": False},
        {"n_inner": 40},
        {"reorder_and_upcast_attn": True},
    ],
    ids=str,
)
def test_an_import_has_the_same_logits_and_goes_back_bit_for_bit(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    model = saved(tmp_path / "hf", **settings)
    run = import_folder(tmp_path / "hf", "run", tmp_path)
    tokens = torch.randint(0, 101, (3, 16))
    with torch.no_grad():
        expected = model(tokens).logits
    assert close(ours(run, tokens), expected)
    assert run.recipe.model.tied == settings.get("tie_word_embeddings", True)
    export(run, tmp_path / "back")
    state = model.state_dict()
    for name, tensor in load_file(tmp_path / "back" / "model.safetensors").items():
        assert torch.equal(tensor, state[name]), name


@pytest.mark.parametrize("kind", ["GPT2Model", "GPT2LMHeadModel"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_shards_without_prefix(
    tmp_path: Path, kind: str, dtype: torch.dtype
) -> None:
    model = saved(tmp_path / "hf", kind).to(dtype)
    model.save_pretrained(tmp_path / "half", max_shard_size="10KB")
    assert len(list((tmp_path / "half").glob("*.safetensors"))) > 2
    read = read_network(tmp_path / "half").weights
    body = getattr(model, "transformer", model)
    assert torch.equal(read["embedding.weight"], body.wte.weight.float())
    assert torch.equal(read["blocks.1.ffn.up.weight"], body.h[1].mlp.c_fc.weight.float().T)
    assert all(tensor.dtype == torch.float32 for tensor in read.values())


def test_the_configuration_of_cerebras_gpt(tmp_path: Path) -> None:
    """Its published settings, at a smaller width."""
    model = saved(
        tmp_path / "hf", n_embd=64, n_head=4, n_inner=256, n_positions=2048, resid_pdrop=0.0,
        embd_pdrop=0.0, attn_pdrop=0.0, activation_function="gelu", scale_attn_weights=True,
        layer_norm_epsilon=1e-5, initializer_range=0.02,
    )  # fmt: skip
    run = import_folder(tmp_path / "hf", "run", tmp_path)
    assert run.recipe.model.activation == "gelu"
    assert run.recipe.model.seq_len == 2048
    tokens = torch.randint(0, 101, (1, 200))
    with torch.no_grad():
        assert close(ours(run, tokens), model(tokens).logits)


def test_a_classifier_of_theirs(tmp_path: Path) -> None:
    names = {0: "no", 1: "yes", 2: "perhaps"}
    model = saved(
        tmp_path / "hf", "GPT2ForSequenceClassification", num_labels=3, id2label=names,
        label2id={v: k for k, v in names.items()}, pad_token_id=0,
    )  # fmt: skip
    run = import_folder(tmp_path / "hf", "run", tmp_path)
    assert isinstance(run.recipe.task, ClassifySettings)
    assert run.recipe.task.labels == ("no", "yes", "perhaps")
    tokens = torch.randint(1, 101, (2, 16))
    tokens[1, 5:] = 0
    with torch.no_grad():
        expected = model(tokens).logits
    assert close(ours(run, tokens, torch.tensor([16, 5])), expected)


def test_an_exported_tokenizer_puts_nothing_around_a_text(tmp_path: Path) -> None:
    """As the network was trained, whatever the tokenizer's own template says."""
    definition = tokenizer().definition
    flags = {"single_word": False, "rstrip": False, "normalized": False, "special": False}
    definition["added_tokens"].append({"id": 270, "content": "<city>", "lstrip": True, **flags})
    first, second = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    definition["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": END, "type_id": 0}}, first],
        "pair": [first, second],
        "special_tokens": {END: {"id": END, "ids": [0], "tokens": [END]}},
    }  # fmt: skip
    run = make_run(tmp_path, {"vocab_size": 271})
    run.tokenizer.write_text(json.dumps(definition))
    export(run, tmp_path / "hf")
    theirs_ = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    for text in ("It's a film", "in  <city> I", "<city><city>"):
        assert theirs_(text)["input_ids"] == Tokenizer.load(run.tokenizer).encode(text), text
    assert Tokenizer.load(tmp_path / "hf").encode("in  <city>")[-1] == 270


def around(folder: Path) -> None:
    """Let the tokenizer of a folder begin each text with a token."""
    path = folder / "tokenizer.json"
    definition = json.loads(path.read_text())
    first = {"Sequence": {"id": "A", "type_id": 0}}
    definition["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": END, "type_id": 0}}, first],
        "pair": [first, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {END: {"id": END, "ids": [0], "tokens": [END]}},
    }
    path.write_text(json.dumps(definition))


def test_a_tokenizer_that_begins_each_text_is_not_dropped_in_silence(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    task = {"name": "classify", "labels": ["a", "b", "c"], "pooling": "last"}
    for name, own in (("lm", None), ("clf", task)):
        run = make_run(tmp_path / name, {"vocab_size": 270}, own)
        tokenizer().save(run.tokenizer)
        export(run, tmp_path / f"{name}-hf")
        around(tmp_path / f"{name}-hf")
    import_folder(tmp_path / "lm-hf", "lm-back", tmp_path)
    assert f"its tokenizer puts '{END}' around each text, which is left out here" in caplog.text
    with pytest.raises(InputError, match="the classifier would read other texts"):
        import_folder(tmp_path / "clf-hf", "clf-back", tmp_path)


def test_a_classifier_reads_its_end_of_text_in_a_text_as_letters(tmp_path: Path) -> None:
    task = {"name": "classify", "labels": ["a", "b", "c"], "pooling": "last"}
    run = make_run(tmp_path, {"vocab_size": 270}, task)
    assert export(run, tmp_path / "hf")["warnings"] == []
    theirs_ = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    for text in (END, f"a dog{END}", f"a {END} b"):
        ids = theirs_(text)["input_ids"]
        assert ids == Tokenizer.load(run.tokenizer).encode(text)
        assert 0 not in ids


def test_names_of_outputs_mean_nothing_in_a_language_model(tmp_path: Path) -> None:
    export(make_run(tmp_path, {"vocab_size": 270}), tmp_path / "hf")
    path = tmp_path / "hf" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "id2label": {"1": "a", "2": "b"}}))
    assert import_folder(tmp_path / "hf", "back", tmp_path).recipe.task is None


@pytest.mark.parametrize("name", ["vocab.json.gz", "encoder.json", "spelling.json"])
def test_no_file_of_a_tokenizer_leads_out_of_the_folder(tmp_path: Path, name: str) -> None:
    export(make_run(tmp_path, {"vocab_size": 270}), tmp_path / "hf")
    (tmp_path / "outside").write_text("{}")
    (tmp_path / "hf" / name).symlink_to(tmp_path / "outside")
    with pytest.raises(InputError, match="leads out of the folder"):
        import_folder(tmp_path / "hf", "back", tmp_path)
