"""Folders that others wrote: whole, odd, damaged and hostile."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file

from wafergpt.api import pretrain
from wafergpt.checkpoint import store
from wafergpt.cli.generate import command as generate
from wafergpt.cli.import_ import command
from wafergpt.data.tokenizer import Tokenizer
from wafergpt.errors import InputError
from wafergpt.interop.export import export
from wafergpt.interop.gpt2 import hugging_face_names, is_transposed
from wafergpt.interop.hf_import import import_folder
from wafergpt.model.gpt import GPT

CONFIG: dict[str, Any] = {
    "model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "n_layer": 1, "n_embd": 8,
    "n_head": 2, "n_positions": 12, "vocab_size": 270, "activation_function": "gelu",
}  # fmt: skip

Change = Callable[[Path], None]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a good folder."""
    folder = tmp_path / "hf"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    save_file(tensors(), folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def tensors() -> dict[str, torch.Tensor]:
    from wafergpt.config import Model

    model = Model(n_layers=1, d_model=8, n_heads=2, seq_len=12, vocab_size=270)
    state = GPT(model).initialize(0).state_dict()
    return {
        theirs: (state[ours].T if is_transposed(ours) else state[ours]).contiguous()
        for ours, theirs in hugging_face_names(model).items()
    }


def configured(**changes: Any) -> Change:
    def change(folder: Path) -> None:
        (folder / "config.json").write_text(json.dumps({**CONFIG, **changes}))

    return change


def written(name: str, content: bytes) -> Change:
    def change(folder: Path) -> None:
        (folder / name).write_bytes(content)

    return change


def with_tensors(**changes: torch.Tensor | None) -> Change:
    def change(folder: Path) -> None:
        values = {**tensors(), **{k.replace("__", "."): v for k, v in changes.items()}}
        kept = {name: value for name, value in values.items() if value is not None}
        save_file(kept, folder / "model.safetensors")

    return change


def sharded(*places: str, content: Any = None) -> Change:
    """Move the weights to a shard outside, and let an index lead there."""

    def change(folder: Path) -> None:
        outside = folder.parent / "outside.safetensors"
        (folder / "model.safetensors").rename(outside)
        mapped = dict.fromkeys(tensors(), places[0].format(outside=outside)) if places else content
        index = {"metadata": {}, "weight_map": mapped}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))

    return change


def linked(name: str) -> Change:
    def change(folder: Path) -> None:
        outside = folder.parent / f"outside-{name}"
        (folder / name).rename(outside)
        (folder / name).symlink_to(outside)

    return change


def pickled(name: str) -> Change:
    def change(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        (folder / name).write_bytes(pickle.dumps({"wte.weight": os.getpid}))

    return change


def truncated(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-40])


def fifo(name: str) -> Change:
    def change(folder: Path) -> None:
        (folder / name).unlink()
        os.mkfifo(folder / name)

    return change


def header(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()


OUT_OF_RANGE = header('{"wte.weight":{"dtype":"F32","shape":[270,8],"data_offsets":[0,8640]}}')
OVERLAP = header(
    '{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},'
    '"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}'
) + bytes(12)
EMPTY = ',"k{}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}'
KEYS = header("{" + "".join(EMPTY.format(n) for n in range(10**5)).removeprefix(",") + "}")

ZERO = torch.zeros
HOSTILE: dict[str, tuple[Change, str]] = {
    "n_embd 10**12": (configured(n_embd=10**12), "n_embd=1000000000000 is not a valid size"),
    "n_embd too wide": (configured(n_embd=1 << 20), "less than or equal to 131072"),
    "n_embd negative": (configured(n_embd=-8), "n_embd=-8 is not a valid size"),
    "n_embd float": (configured(n_embd=8.0), "n_embd=8.0 is not a valid size"),
    "n_embd string": (configured(n_embd="8"), "n_embd='8' is not a valid size"),
    "n_embd true": (configured(n_embd=True), "n_embd=True is not a valid size"),
    "n_embd null": (configured(n_embd=None), "n_embd=None is not a valid size"),
    "n_inner 0": (configured(n_inner=0), "n_inner=0 is not a valid size"),
    "n_layer 10**5": (configured(n_layer=10**5), "less than or equal to 1024"),
    "n_head": (configured(n_head=3), "does not divide"),
    "another model": (configured(model_type="llama"), "model_type='llama' cannot be imported"),
    "no model_type": (written("config.json", b"{}"), "names no model_type"),
    "another activation": (configured(activation_function="relu"), "activation_function='relu'"),
    "activation list": (configured(activation_function=["gelu"]), "activation_function=['gelu']"),
    "epsilon": (configured(layer_norm_epsilon=1e-6), "layer_norm_epsilon=1e-06 cannot"),
    "layer scale": (configured(scale_attn_by_inverse_layer_idx=True), "by_inverse_layer_idx=True"),
    "no attention scale": (configured(scale_attn_weights=False), "scale_attn_weights=False"),
    "cross attention": (configured(add_cross_attention=True), "add_cross_attention=True"),
    "quantized": (configured(quantization_config={"bits": 4}), "quantization_config="),
    "pruned": (configured(pruned_heads={"0": [1]}), "pruned_heads="),
    "tie": (configured(tie_word_embeddings="yes"), "tie_word_embeddings='yes'"),
    "unknown setting": (
        configured(my_own=4), "the setting 'my_own'=4 is not known here, and may change what the "
        "network computes: if you know that it does not, import with --ignore 'my_own'",
    ),
    "another position": (configured(rotary_dim=4), "rotary_dim=4 cannot be imported: it changes"),
    "a setting that steers": (configured(**{"\x1b[2J": 1}), "'\\x1b[2J'=1 is not known"),
    "a tensor that steers": (with_tensors(**{"\x1b[2J": ZERO(1)}), "the tensor '\\x1b[2J' has no"),
    "another head": (configured(architectures=["GPT2DoubleHeadsModel"]), "GPT2DoubleHeadsModel"),
    "architectures": (configured(architectures=7), "architectures=7"),
    "no score": (configured(architectures=["GPT2ForSequenceClassification"]), "'score.weight'"),
    "id2label": (configured(id2label={"0": 1}), "id2label does not name"),
    "multi-label": (configured(problem_type="multi_label_classification"), "problem_type="),
    "config list": (written("config.json", b"[]"), "config.json is not a JSON object"),
    "config empty": (written("config.json", b""), "config.json is not JSON"),
    "config not UTF-8": (written("config.json", b"\xff\xfe\x00"), "config.json is not JSON"),
    "config deep": (written("config.json", b"[" * 10**5), "config.json is not JSON: too deep"),
    "config huge number": (written("config.json", b'{"a":' + b"9" * 5000 + b"}"), "is not JSON"),
    "config too large": (written("config.json", b" " * (1 << 21)), "too large (limit 1 MiB)"),
    "config a pipe": (fifo("config.json"), "no config.json"),
    "config a link": (linked("config.json"), "leads out of the folder"),
    "no config": (lambda folder: (folder / "config.json").unlink(), "no config.json"),
    "weights a link": (linked("model.safetensors"), "leads out of the folder"),
    "weights a pipe": (fifo("model.safetensors"), "no model.safetensors"),
    "weights truncated": (truncated, "is not a valid safetensors file"),
    "weights empty": (written("model.safetensors", b""), "is not a valid safetensors file"),
    "header 2**63": (
        written("model.safetensors", struct.pack("<Q", 1 << 63) + b"{}"), "valid safetensors file"
    ),
    "header not JSON": (written("model.safetensors", header("nonsense")), "valid safetensors file"),
    "out of range": (written("model.safetensors", OUT_OF_RANGE), "valid safetensors file"),
    "overlap": (written("model.safetensors", OVERLAP), "valid safetensors file"),
    "10**5 keys": (written("model.safetensors", KEYS), "has no place in the network"),
    "pickle renamed": (
        written("model.safetensors", pickle.dumps({"a": os.getpid})), "valid safetensors file"
    ),
    "pickle only": (pickled("pytorch_model.bin"), 'save_pretrained("converted")\' '),
    "pickle shards": (pickled("pytorch_model-00001-of-00002.bin"), "pickled weights"),
    "nothing": (lambda folder: (folder / "model.safetensors").unlink(), "no model.safetensors"),
    "missing": (with_tensors(wpe__weight=None), "the tensor 'wpe.weight' is missing"),
    "extra": (with_tensors(h__1__ln_1__bias=ZERO(8)), "'h.1.ln_1.bias' has no place"),
    "mis-shaped": (with_tensors(wpe__weight=ZERO(13, 8)), "is [13, 8], but config.json makes it"),
    "transposed": (
        with_tensors(h__0__attn__c_attn__weight=ZERO(24, 8)), "makes it [8, 24]"
    ),
    "integers": (with_tensors(wpe__weight=ZERO(12, 8, dtype=torch.int8)), "'wpe.weight' is I8"),
    "doubles": (with_tensors(wpe__weight=ZERO(12, 8).double()), "'wpe.weight' is F64"),
    "NaN": (with_tensors(ln_f__bias=ZERO(8) / 0), "'ln_f.bias' contains NaN or infinity"),
    "twice": (
        with_tensors(**{"transformer.wpe.weight": ZERO(12, 8)}), "with and without 'transformer.'"
    ),
    "two heads": (with_tensors(lm_head__weight=ZERO(270, 8)), "not equal to wte.weight: set it"),
    "untied without head": (configured(tie_word_embeddings=False), "'lm_head.weight' is missing"),
    "shard ..": (sharded("../outside.safetensors"), "leads out of the folder"),
    "shard absolute": (sharded("{outside}"), "leads out of the folder"),
    "shard empty name": (sharded(".safetensors/"), "not a .safetensors file"),
    "shard missing": (sharded("gone.safetensors"), "gone.safetensors is missing"),
    "map list": (sharded(content=["a"]), "has no weight_map"),
    "map of numbers": (sharded(content={"wte.weight": 7}), "is in 7, which is not"),
    "tokenizer": (written("tokenizer.json", b"{}"), "tokenizer.json"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "message"), HOSTILE.values(), ids=HOSTILE)
def test_one_line_and_nothing_left_behind(folder: Path, change: Change, message: str) -> None:
    change(folder)
    root = folder.parent / "runs"
    done = CliRunner().invoke(command, [str(folder), "--name", "r", "--runs", str(root)])
    assert isinstance(done.exception, InputError), done.exception
    assert message in str(done.exception)
    assert str(done.exception).isprintable()
    assert len(str(done.exception)) < 700
    assert not root.exists()


def test_the_good_folder_is_good(folder: Path) -> None:
    """Else every refusal above could be for another reason."""
    run = import_folder(folder, "r", folder.parent)
    state = store.weights(run)
    assert torch.equal(state["embedding.weight"], tensors()["wte.weight"])
    assert torch.equal(state["blocks.0.ffn.up.weight"], tensors()["h.0.mlp.c_fc.weight"].T)
    assert run.read("result")["parameters"] == sum(t.numel() for t in tensors().values())
    assert sorted(p.name for p in folder.parent.iterdir()) == ["hf", "r"]


def test_a_setting_that_is_known_to_be_harmless_passes(folder: Path) -> None:
    configured(my_own=4, another=None)(folder)
    with pytest.raises(InputError, match="'another'=None is not known"):
        import_folder(folder, "r", folder.parent, ignore=["my_own"])
    options = ["--name", "r", "--runs", str(folder.parent), "--ignore", "my_own"]
    done = CliRunner().invoke(command, [str(folder), *options, "--ignore", "another"])
    assert done.exit_code == 0, done.exception
    assert (
        import_folder(folder, "s", folder.parent, ["my_own", "another"]).recipe.model.d_model == 8
    )


@pytest.mark.parametrize(
    ("settings", "ignore", "message"),
    [
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx", "cannot"),
        ({"rotary_dim": 4}, "rotary_dim", "rotary_dim=4 cannot be imported"),
        ({"quantization_config": {"bits": 4}}, "quantization_config", "cannot be imported"),
        ({"n_embd": 8}, "n_embd", "--ignore 'n_embd': this setting defines the network"),
        ({"my_own": 4}, "my_ownn", "has no such setting; did you mean 'my_own'?"),
    ],
)
def test_what_changes_the_network_is_not_ignored(
    folder: Path, settings: dict[str, Any], ignore: str, message: str
) -> None:
    configured(**settings)(folder)
    with pytest.raises(InputError) as caught:
        import_folder(folder, "r", folder.parent, [ignore])
    assert message in str(caught.value)


@pytest.mark.parametrize("name", ["tokenizer.model", "spiece.model", "vocab.txt"])
def test_other_kinds_of_tokenizers_are_named(folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"x")
    with pytest.raises(InputError, match=f"{name} is not a supported tokenizer: convert"):
        import_folder(folder, "r", folder.parent / "runs")


def test_the_end_and_the_rows_of_a_padded_model(folder: Path, tmp_path: Path) -> None:
    """A configured end ends a text, is exported, and rows without a token are never drawn."""
    made = Tokenizer.train(["It's a film that I loved. It's dull!"], 262).definition
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    made["added_tokens"] += [
        {"id": 262, "content": "<city>", "special": False, **plain},
        {"id": 263, "content": "<|im_end|>", "special": True, **plain},
    ]
    (folder / "tokenizer.json").write_text(json.dumps(made))
    (folder / "special_tokens_map.json").write_text(json.dumps({"eos_token": "<|im_end|>"}))
    run = import_folder(folder, "r", tmp_path)
    assert Tokenizer.load(run.tokenizer).end_of_text == 263
    assert 262 in Tokenizer.load(run.tokenizer).encode("in <city>")
    options = ["--temperature", "100", "--top-p", "1", "--max-tokens", "300", "--json"]
    done = CliRunner().invoke(generate, [str(run.path), "--prompt", "a", *options])
    result = json.loads(done.stdout)
    again = Tokenizer.load(run.tokenizer).encode(result["text"])
    assert 0 < result["tokens"] <= 300
    assert result["tokens"] != len(again), "random tokens are not how the text would be read"
    export(run, tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["eos_token_id"], config["bos_token_id"]) == (263, 263)
    settings = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert settings["eos_token"] == "<|im_end|>"
    assert Tokenizer.load(tmp_path / "out").end_of_text == 263


@pytest.mark.parametrize("name", ["../r", "", "a/b", ".hidden"])
def test_a_name_is_no_path(folder: Path, name: str) -> None:
    with pytest.raises(InputError, match="name="):
        import_folder(folder, name, folder.parent / "runs")
    assert not (folder.parent / "runs").exists()


def test_an_existing_run_is_left_alone(folder: Path) -> None:
    run = import_folder(folder, "r", folder.parent)
    before = run.read("result")
    with pytest.raises(InputError, match="r exists"):
        import_folder(folder, "r", folder.parent)
    assert run.read("result") == before


def test_shards_with_an_index(folder: Path) -> None:
    values = tensors()
    (folder / "model.safetensors").unlink()
    names = sorted(values)
    parts = {"a.safetensors": names[:5], "b.safetensors": names[5:]}
    for file, keys in parts.items():
        save_file({key: values[key] for key in keys}, folder / file)
    index = {"weight_map": {key: file for file, keys in parts.items() for key in keys}}
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps(index))
    run = import_folder(folder, "r", folder.parent)
    assert torch.equal(store.weights(run)["embedding.weight"], values["wte.weight"])
    path.write_text(json.dumps({"weight_map": {**index["weight_map"], "gone": "a.safetensors"}}))
    with pytest.raises(
        InputError, match=r"'gone' is in model\.safetensors\.index\.json, but in no"
    ):
        import_folder(folder, "s", folder.parent)
    index["weight_map"][names[0]] = "b.safetensors"
    path.write_text(json.dumps(index))
    with pytest.raises(InputError, match="is not in the file of"):
        import_folder(folder, "s", folder.parent)


def test_masks_prefix_and_a_copied_head(folder: Path) -> None:
    """As old files have it."""
    values = {f"transformer.{name}": tensor for name, tensor in tensors().items()}
    values["transformer.h.0.attn.bias"] = torch.ones(1, 1, 12, 12, dtype=torch.uint8)
    values["transformer.h.0.attn.masked_bias"] = torch.tensor(-1e4)
    values["lm_head.weight"] = values["transformer.wte.weight"].clone()
    save_file(values, folder / "model.safetensors")
    run = import_folder(folder, "r", folder.parent)
    assert run.recipe.model.tied
    assert "lm_head.weight" not in store.weights(run)


def test_the_links_of_the_hub_cache_are_followed(folder: Path) -> None:
    snapshot = folder.parent / "models--a--b" / "snapshots" / "0123"
    blobs = folder.parent / "models--a--b" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for file in folder.iterdir():
        shutil.copyfile(file, blobs / f"hash-{file.name}")
        (snapshot / file.name).symlink_to(f"../../blobs/hash-{file.name}")
    assert import_folder(snapshot, "r", folder.parent).recipe.model.d_model == 8


def test_without_a_tokenizer_the_run_is_refused_on_texts(folder: Path) -> None:
    run = import_folder(folder, "r", folder.parent / "runs")
    assert not run.tokenizer.exists()
    done = CliRunner().invoke(generate, [str(run.path), "--prompt", "a"])
    assert isinstance(done.exception, InputError)
    assert re.fullmatch(r"no tokenizer at .*", str(done.exception))


def test_a_tokenizer_in_the_files_of_gpt2(folder: Path) -> None:
    made = Tokenizer.train(["It's a film that I loved. It's dull!"], 265)
    content = made.definition["model"]
    (folder / "vocab.json").write_text(json.dumps(content["vocab"]))
    pairs = "".join(f"{left} {right}\n" for left, right in content["merges"])
    for first_line in ("#version: 0.2\n", ""):
        (folder / "merges.txt").write_text(first_line + pairs)
        run = import_folder(folder, f"r{len(first_line)}", folder.parent)
        read = Tokenizer.load(run.tokenizer)
        assert read.encode("It's a dull film") == made.encode("It's a dull film")
        assert read.end_of_text == made.end_of_text


def test_a_tokenizer_larger_than_the_model_is_refused(folder: Path) -> None:
    words = "a film that I loved, and a dull one that nobody ever watched to its bitter end"
    Tokenizer.train([words], 280).save(folder / "tokenizer.json")
    with pytest.raises(InputError, match="280 tokens, the model only 270"):
        import_folder(folder, "r", folder.parent / "runs")


def test_an_imported_run_is_fine_tuned_but_not_resumed(folder: Path, tmp_path: Path) -> None:
    from wafergpt.api import finetune

    # Fewer tokens than rows of the embedding, as in models padded to a round number.
    Tokenizer.train(["It's a film that I loved. It's dull!"], 265).save(folder / "tokenizer.json")
    run = import_folder(folder, "r", tmp_path)
    rows = [{"text": f"{w} {n}", "label": w} for w in ("good", "bad") for n in range(30)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    settings = ["train.steps=2", "train.batch_size=4", "name=judge", "system.compile=off",
                "system.threads=1", "system.device=cpu"]  # fmt: skip
    judge = finetune(run, None, settings, data=tmp_path / "rows.jsonl", root=tmp_path)
    assert judge.recipe.model.vocab_size == 270
    (answer,) = judge.predict(["good 1"])
    assert answer is not None
    assert answer["label"] in ("good", "bad")
    with pytest.raises(InputError, match="was imported, not trained here"):
        pretrain(resume=run.path)
