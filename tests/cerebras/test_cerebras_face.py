"""What needs no SDK: settings in its names, refusals, slices of the data, the wheel."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from benchmarks import soak
from wafergpt.cerebras import environment
from wafergpt.cerebras.cluster import (
    cluster_arguments,
    micro_batch_size,
    sparsity_arguments,
)
from wafergpt.cerebras.dataloader import Steps, batches_of
from wafergpt.cerebras.unsupported import require_supported
from wafergpt.config import load_recipe
from wafergpt.distributed.collectives import ProcessGroup
from wafergpt.errors import InputError
from wafergpt.tasks.language_model import for_corpus


def test_cluster_settings_have_the_sdks_names(tmp_path: Path) -> None:
    recipe = load_recipe(
        None,
        [
            "system.device=cerebras", "system.cerebras.systems=4", "system.cerebras.priority=p1",
            "system.cerebras.management=head:9000", f"system.cerebras.mounts=[{tmp_path}]",
            "system.cerebras.micro_batch=explore", "system.cerebras.micro_batch_max=64",
        ],
    )  # fmt: skip
    assert cluster_arguments(recipe.system.cerebras) == {
        "num_csx": 4, "job_priority": "p1", "mgmt_address": "head:9000",
        "mount_dirs": [str(tmp_path)], "python_paths": [],
    }  # fmt: skip
    assert micro_batch_size(recipe.system.cerebras) == {"explore": {"max": 64}}
    for value in ("auto", "explore", 8):
        settings = load_recipe(None, [f"system.cerebras.micro_batch={value}"]).system.cerebras
        assert micro_batch_size(settings) == value
    with pytest.raises(InputError, match=r"cerebras.management"):
        load_recipe(None, ["system.cerebras.management=head"])


@pytest.mark.parametrize(
    ("override", "instead"),
    [
        ("optimizer.name=muon", "adamw"),
        ("train.sampled_softmax=100", "whole softmax"),
        ("train.teacher=base", "system.device=cpu or cuda"),
        ("data.document_mask=true", "false"),
        ("model.ngrams=[2]", r"\[\]"),
        ("system.activation_checkpointing=true", "compiler"),
        ("system.nproc=2", "system.cerebras.systems"),
        ("guard.spike=8", "0"),
        ("evaluate.prompts=[a]", "generate"),
    ],
)
def test_what_does_not_lower_is_refused_by_name(override: str, instead: str) -> None:
    recipe = load_recipe(None, [override, "system.device=cerebras"])
    name = override.partition("=")[0]
    with pytest.raises(InputError, match=f"{name}.*use .*{instead}"):
        require_supported(recipe)


def test_sparsity_is_of_the_sdk_and_of_the_blocks_only() -> None:
    with pytest.raises(InputError, match=r"sparsity.until is not for system.device=cerebras"):
        sparse = ["sparsity.algorithm=rigl", "sparsity.until=1"]
        load_recipe(None, [*sparse, "system.device=cerebras"])
    names = ["gpt.blocks.0.attention.qkv.weight", "blocks.11.ffn.out.weight"]
    others = ["embedding.weight", "position.weight", "lm_head.weight", "head.weight"]
    others += ["blocks.0.attention_norm.weight", "blocks.0.ffn_norm.weight", "norm.weight"]
    for algorithm in ("static", "gmp", "set", "rigl"):
        settings = ["system.device=cerebras", f"sparsity.algorithm={algorithm}", "train.steps=9"]
        filters = sparsity_arguments(load_recipe(None, settings))["param_filter"]
        assert all(any(Path(name).match(glob) for glob in filters) for name in names)
        assert not any(Path(name).match(glob) for name in others for glob in filters)


@pytest.mark.slow
def test_without_the_sdk_or_a_cluster_one_line_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WAFERGPT_CEREBRAS", str(tmp_path / "nothing"))
    corpus = soak.corpus(tmp_path)
    settings = [f"data.corpus={corpus}", "train.steps=2", "system.device=cerebras", "name=r"]
    command = [sys.executable, "-c", "from wafergpt.cli import main; main()", "pretrain"]
    command += ["--runs", str(tmp_path), *settings]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert "wafergpt doctor --install-cerebras" in done.stderr
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("systems", [1, 4, 16])
def test_the_slices_of_several_systems_are_disjoint_and_complete(
    tmp_path: Path, systems: int
) -> None:
    from wafergpt.data.corpus import Corpus

    corpus = Corpus.open(soak.corpus(tmp_path))
    recipe = load_recipe(None, ["train.batch_size=24", "model.seq_len=16", "seed=3"])
    recipe = for_corpus(recipe, corpus)
    batches = batches_of(recipe, tmp_path)
    whole = Steps(batches, 7, 24, ProcessGroup())
    shares = [Steps(batches, 7, 24, ProcessGroup(rank, systems)) for rank in range(systems)]
    for step in (0, 1, 500):
        parts = [share[step] for share in shares]
        for key in ("tokens", "targets"):
            assert torch.equal(torch.cat([part[key] for part in parts]), whole[step][key])
        assert {len(part["tokens"]) for part in parts} <= {24 // systems, 24 // systems + 1}
    assert torch.equal(whole[1]["tokens"], batches.batch(7 + 24, 24)["tokens"].int())


@pytest.mark.slow
def test_the_wheel_of_this_package_installs_and_imports(tmp_path: Path) -> None:
    wheel = environment.write_wheel(tmp_path)
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        assert archive.testzip() is None
    assert "wafergpt/cerebras/worker.py" in names
    assert "wafergpt/recipes/cerebras-gpt/111m.yaml" in names
    target = tmp_path / "there"
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--quiet"]
    subprocess.run([*pip, "--target", str(target), str(wheel)], check=True, capture_output=True)
    code = "import wafergpt.config as c; print(c.__file__, len(c.load_recipe('demo').to_yaml()))"
    command = [
        sys.executable,
        "-I",
        "-c",
        f"import sys; sys.path.insert(0, {str(target)!r}); {code}",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(str(target))
