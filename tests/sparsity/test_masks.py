"""Masks in training, and their numbers."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from benchmarks import soak
from tests.distributed.processes import RECIPE, begin, end, losses
from wafergpt.api import export, finetune, pretrain
from wafergpt.checkpoint import store
from wafergpt.config import Recipe, load_recipe
from wafergpt.errors import InputError
from wafergpt.model.gpt import GPT
from wafergpt.planning.memory import estimated_memory, mask_bytes
from wafergpt.runs.run import Run
from wafergpt.shapes import sparse
from wafergpt.sparsity.masks import SUFFIX, Masks, largest, packed, unpacked, with_whole_masks

SMALL = [
    "model.n_layers=2", "model.d_model=32", "model.n_heads=2", "model.seq_len=32",
    "train.batch_size=4", "system.compile=off", "system.precision=fp32", "system.threads=1",
    "evaluate.batches=2", "seed=3",
]  # fmt: skip


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return soak.corpus(tmp_path_factory.mktemp("corpus"))


def recipe(*overrides: str) -> Recipe:
    return load_recipe(
        None, [*SMALL, "model.vocab_size=300", "sparsity.algorithm=static", *overrides]
    )


def gpt(made: Recipe) -> GPT:
    torch.manual_seed(0)
    return GPT(made.model)


def blocks(weights: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
    return {n: w for n, w in weights if n.endswith(
        ("qkv.weight", "attention.out.weight", "up.weight", "ffn.out.weight"))}  # fmt: skip


def zeros(run: Run) -> float:
    found = list(blocks(store.weights(run).items()).values())
    return sum(int((w == 0).sum()) for w in found) / sum(w.numel() for w in found)


@given(
    st.floats(0.01, 0.99), st.sampled_from(["uniform", "erk"]), st.sampled_from([32, 48, 256]),
    st.sampled_from([1, 2, 4]),
)  # fmt: skip
def test_densities_keep_what_was_asked_for(
    sparsity: float, distribution: str, width: int, ffn: int
) -> None:
    made = recipe(f"sparsity.sparsity={sparsity}", f"sparsity.distribution={distribution}",
                  f"model.d_model={width}", f"model.d_ffn={ffn * width}")  # fmt: skip
    shapes = {role: s for (_, role), s in sparse.matrices(made.model, made.sparsity).items()}
    found = sparse.densities(shapes, made.sparsity)
    sizes = {role: math.prod(shape) for role, shape in shapes.items()}
    kept = sum(found[role] * size for role, size in sizes.items()) / sum(sizes.values())
    assert kept == pytest.approx(1 - sparsity, abs=1e-9)
    assert all(0 < density <= 1 for density in found.values())
    if distribution == "erk":
        free = {role for role, density in found.items() if density < 1}
        raw = {found[r] * sizes[r] / sum(shapes[r]) for r in free}
        assert max(raw, default=1.0) == pytest.approx(min(raw, default=1.0))


@given(st.integers(1, 40), st.integers(1, 40))
def test_packing_loses_nothing(rows: int, columns: int) -> None:
    mask = torch.rand(rows, columns) < 0.5
    values = packed(mask)
    assert values.shape == (rows, math.ceil(columns / 8))
    assert torch.equal(unpacked(values, columns), mask)


@given(st.integers(1, 30), st.integers(0, 30))
def test_the_largest_and_of_equal_ones_the_first(size: int, n: int) -> None:
    scores = torch.randint(0, 3, (size,)).float()
    mask = largest(scores, min(n, size))
    assert int(mask.sum()) == min(n, size)
    if mask.any() and not mask.all():
        assert scores[mask].min() >= scores[~mask].max()
    tied = scores == scores[mask].min() if mask.any() else scores < 0
    assert torch.equal(mask[tied], mask[tied].sort(descending=True).values)


def test_gradual_pruning_follows_the_published_cubic() -> None:
    """S - S (1 - t/T)³ (arXiv:1710.01878, equation 1, from zero sparsity)."""
    made = recipe("sparsity.algorithm=gmp", "sparsity.sparsity=0.8", "sparsity.every=10")
    for step in (0, 9, 10, 30, 74, 75, 99):
        changed = 75 if step >= 75 else step // 10 * 10
        expected = 0.8 - 0.8 * (1 - changed / 75) ** 3
        assert sparse.share_of_zeros(made.sparsity, step, 100) == pytest.approx(expected)


def test_a_skipped_change_is_made_up_for_and_a_longer_horizon_brings_nothing_back() -> None:
    made = recipe("sparsity.algorithm=gmp", "sparsity.sparsity=0.8", "sparsity.every=100")
    network = gpt(made)
    masks = Masks(network.named_parameters(), made, from_run=False)

    def zeros_after(step: int, steps: int) -> float:
        masks.after_update(step - 1, steps, {})
        found = blocks(network.named_parameters()).values()
        return sum(int((w == 0).sum()) for w in found) / sum(w.numel() for w in found)

    # The last change is due at step 45 of 60.
    assert zeros_after(44, 60) == 0
    assert zeros_after(47, 60) == pytest.approx(0.8, abs=1e-3)
    assert zeros_after(100, 1000) == pytest.approx(0.8, abs=1e-3)


def test_a_run_with_more_zeros_gets_some_back_everywhere() -> None:
    made = recipe("sparsity.sparsity=0.5")
    network = gpt(made)
    first = Masks(network.named_parameters(), recipe("sparsity.sparsity=0.8"), from_run=False)
    assert first.tensors()
    masks = Masks(network.named_parameters(), made, from_run=True)
    for name, mask in masks.tensors().items():
        weights = dict(network.named_parameters())[name.removesuffix(SUFFIX)]
        kept = unpacked(mask, weights.shape[1]).float()
        assert float(kept.mean()) == pytest.approx(0.5, abs=0.001)
        quarters = kept.chunk(4)
        assert all(0.4 < float(quarter.mean()) < 0.6 for quarter in quarters)
    again = recipe("sparsity.algorithm=gmp", "sparsity.sparsity=0.8")
    Masks(network.named_parameters(), again, from_run=True)
    with pytest.raises(InputError, match="supar is for a training from scratch"):
        Masks(network.named_parameters(), recipe("sparsity.supar=true"), from_run=True)


def test_a_process_without_rows_packs_them() -> None:
    assert packed(torch.zeros(0, 12, dtype=torch.bool)).shape == (0, 2)
    assert unpacked(torch.zeros(0, 2, dtype=torch.uint8), 12).shape == (0, 12)


def test_masks_that_never_change_are_said() -> None:
    settings_ = recipe("sparsity.algorithm=rigl").sparsity
    assert "rigl never changes its mask in 100 steps" in sparse.mask_warning(settings_, 100)
    assert not sparse.mask_warning(settings_, 200)


def one_change(algorithm: str, share: float = 0.3) -> tuple[dict[str, Tensor], ...]:
    """Make one update by hand at which the masks change; return masks before, weights, gradients
    and masks after."""
    made = recipe(f"sparsity.algorithm={algorithm}", "sparsity.every=1", "sparsity.sparsity=0.6",
                  f"sparsity.drop_fraction={share}")  # fmt: skip
    network = gpt(made)
    named = dict(network.named_parameters())
    masks = Masks(named.items(), made, from_run=False)
    before = {n.removesuffix(SUFFIX): unpacked(t, named[n.removesuffix(SUFFIX)].shape[1])
              for n, t in masks.tensors().items()}  # fmt: skip
    for name in before:
        named[name].grad = torch.randn_like(named[name])
    gradients = {n: named[n].grad.clone() for n in before}  # type: ignore[union-attr]
    masks.mask_gradients(10, 100)
    for name, mask in before.items():
        assert torch.equal(named[name].grad, gradients[name] * mask)  # type: ignore[arg-type]
    weights = {n: named[n].detach().clone() for n in before}
    moment: dict[Tensor, list[Tensor]] = {named[n]: [torch.ones_like(named[n])] for n in before}
    masks.after_update(10, 100, moment)
    after = {n: unpacked(masks.tensors()[n + SUFFIX], named[n].shape[1]) for n in before}
    for name, mask in after.items():
        assert torch.equal(moment[named[name]][0], mask.float())
        assert torch.equal(named[name].detach(), weights[name] * mask)
    return before, weights, gradients, after


@pytest.mark.parametrize("share", [0.3, 0.1])
@pytest.mark.parametrize("algorithm", ["set", "rigl"])
def test_small_weights_are_exchanged(algorithm: str, share: float) -> None:
    """Against the rule of arXiv:1911.11134, written from the paper for one matrix."""
    before, weights, gradients, after = one_change(algorithm, share)
    for name, mask in before.items():
        kept = int(mask.sum())
        assert int(after[name].sum()) == kept
        drop = round(share * (1 + math.cos(math.pi * 11 / 75)) / 2 * kept)
        size = weights[name].abs()
        threshold = size[mask].sort().values[drop]
        survivors = mask & (size >= threshold)
        assert bool((after[name] & survivors == survivors).all())
        grown = after[name] & ~survivors
        assert int(grown.sum()) == drop > 0
        if algorithm == "set":
            # By chance a few of those that were dropped.
            assert int((grown & ~mask).sum()) > drop / 2
        else:
            rest = ~survivors & ~grown
            assert gradients[name].abs()[grown].min() >= gradients[name].abs()[rest].max()


def test_a_dense_start_keeps_the_largest_weights() -> None:
    made = recipe("sparsity.sparsity=0.75")
    network = gpt(made)
    before = {n: p.detach().clone() for n, p in network.named_parameters()}
    Masks(network.named_parameters(), made, from_run=True)
    for name, weights in blocks(network.named_parameters()).items():
        kept = weights != 0
        assert float(kept.float().mean()) == pytest.approx(0.25, abs=0.001)
        assert before[name][kept].abs().min() >= before[name][~kept].abs().max()


def test_supar_widens_what_is_sparse() -> None:
    """By ρ to the power of -1/2 at first, and rates by 1/ρ (arXiv:2405.15743, table 1)."""
    made = recipe("sparsity.sparsity=0.75", "sparsity.supar=true")
    network = gpt(made)
    name = "blocks.0.ffn.up.weight"
    before = dict(network.named_parameters())[name].detach().clone()
    masks = Masks(network.named_parameters(), made, from_run=False)
    weights = dict(network.named_parameters())[name].detach()
    assert torch.allclose(weights[weights != 0], 2 * before[weights != 0])
    assert masks.lr_factor(name) == pytest.approx(4)
    assert masks.lr_factor("embedding.weight") == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("algorithm", "optimizer"),
    [("static", "adamw"), ("gmp", "adamw"), ("set", "adamw"), ("rigl", "adamw"), ("rigl", "muon")],
)
def test_a_run_ends_with_its_zeros_and_a_resume_with_the_same_bits(
    corpus: Path, tmp_path: Path, algorithm: str, optimizer: str
) -> None:
    asked = [*SMALL, f"data.corpus={corpus}", f"sparsity.algorithm={algorithm}",
             "sparsity.sparsity=0.7", "sparsity.every=4", f"optimizer.name={optimizer}",
             "checkpoint.every=10", "checkpoint.keep=9", "train.micro_batch_size=2"]  # fmt: skip
    whole = pretrain(None, [*asked, "train.steps=30", "name=whole"], root=tmp_path)
    assert zeros(whole) == pytest.approx(0.7, abs=0.005)
    assert whole.metrics()[-1]["val_loss"] < whole.metrics()[0]["loss"]
    result, last = whole.read("result"), whole.metrics()[-1]
    assert 0 < last["sparse_flops"] < last["flops"]
    shutil.copytree(whole.path, tmp_path / "half")
    half = store.every(Run.find("half", tmp_path))
    for folder in half[half.index(tmp_path / "half" / "checkpoints" / "step-00000020") + 1 :]:
        shutil.rmtree(folder)
    resumed = pretrain(resume="half", root=tmp_path)
    assert resumed.read("result")["weights_sha256"] == result["weights_sha256"]
    rows = [row["loss"] for row in resumed.metrics()]
    assert rows == [row["loss"] for row in whole.metrics()]


@pytest.mark.slow
def test_dense_fine_tuning_moves_the_zeros_and_sparse_keeps_them(
    corpus: Path, tmp_path: Path
) -> None:
    asked = [*SMALL, f"data.corpus={corpus}", "sparsity.algorithm=rigl", "sparsity.sparsity=0.75",
             "sparsity.every=4", "train.steps=12", "name=base"]  # fmt: skip
    base = pretrain(None, asked, root=tmp_path)
    rows = tmp_path / "rows.csv"
    rows.write_text("text,label\n" + "".join(f"it is {w} {n},{w}\n" for n in range(30)
                                             for w in ("good", "bad")))  # fmt: skip
    task = [f"task.train={rows}", "train.steps=3", "system.threads=1"]
    dense = finetune(base, None, [*task, "name=dense"], root=tmp_path).run
    assert zeros(dense) < 0.01
    kept = finetune(base, None, [*task, "name=kept", "sparsity.algorithm=static",
                                 "sparsity.sparsity=0.75"], root=tmp_path).run  # fmt: skip
    assert zeros(kept) == pytest.approx(0.75, abs=0.002)
    parent, child = (blocks(store.weights(r).items()) for r in (base, kept))
    for name, weights in parent.items():
        same = ((weights != 0) == (child[f"gpt.{name}"] != 0)).float().mean()
        assert float(same) > 0.99
    export(base, tmp_path / "hf")


def test_masks_of_cerebras_are_read_and_missing_ones_refused() -> None:
    made = recipe()
    masks = Masks(gpt(made).named_parameters(), made, from_run=False)
    stored = masks.tensors()
    name = next(iter(stored))
    whole = with_whole_masks(stored, dict(gpt(made).named_parameters()))
    masks.load(whole)
    assert all(torch.equal(stored[n], again) for n, again in masks.tensors().items())
    with pytest.raises(ValueError, match="fits no matrix"):
        masks.load({**stored, name: stored[name][:, :1]})
    with pytest.raises(ValueError, match="has no mask"):
        masks.load({n: t for n, t in stored.items() if n != name})


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["sparsity.sparsity=1"], "sparsity.sparsity"),
        (["sparsity.sparsity=0"], "sparsity.sparsity"),
        (["sparsity.roles=[embedding]"], "sparsity.roles"),
        (["sparsity.roles=[]"], "sparsity.roles"),
        (["sparsity.roles=[qkv, qkv]"], "names a role twice"),
        (["sparsity.algorithm=gmp", "sparsity.supar=true"], "gmp starts dense"),
        (["sparsity.supar=true", "optimizer.name=muon"], "adam and adamw alone"),
        (["sparsity.distribution=erk", "system.device=cerebras"], "not for system.device=cerebras"),
    ],
)
def test_bad_settings(overrides: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        recipe(*overrides)


@pytest.mark.slow
@pytest.mark.parametrize("shard", ["1", "0"])
def test_several_processes_change_the_same_masks(corpus: Path, tmp_path: Path, shard: str) -> None:
    """Copies (shard=1), and weights that no process has whole."""
    asked = [*RECIPE, f"data.corpus={corpus}", "sparsity.algorithm=rigl", "train.steps=24",
             "sparsity.every=4", "sparsity.sparsity=0.6", "model.ngrams=[]",
             "evaluate.prompts=[]"]  # fmt: skip
    end(begin(tmp_path, "name=one", *asked))
    end(begin(tmp_path, "name=two", *asked, f"system.shard={shard}", "--nproc", "2"))
    assert losses(tmp_path, "two") == pytest.approx(losses(tmp_path, "one"), abs=1e-4)
    one, two = (blocks(store.weights(Run.find(name, tmp_path)).items()) for name in ("one", "two"))
    same = sum(int(((one[n] == 0) == (two[n] == 0)).sum()) for n in one)
    assert same >= 0.999 * sum(w.numel() for w in one.values())
    run = Run.find("two", tmp_path)
    shutil.rmtree(store.every(run)[-1])
    (run.path / "result.json").unlink()
    again = [row["loss"] for row in run.metrics()]
    end(begin(tmp_path, "--resume", "two", "--nproc", "2"))
    assert losses(tmp_path, "two") == again


@pytest.mark.parametrize("algorithm", ["static", "set", "rigl"])
def test_the_plan_counts_masks_and_what_their_change_needs(algorithm: str) -> None:
    made = recipe(f"sparsity.algorithm={algorithm}", "train.micro_batch_size=1", "model.seq_len=1",
                  "model.d_model=256", "system.precision=fp32", "system.device=cpu")  # fmt: skip
    masks = Masks(gpt(made).named_parameters(), made, from_run=False)
    held = sum(mask.numel() * mask.element_size() for mask in masks._masks.values())
    assert mask_bytes(made) == held
    dense = estimated_memory(made.replace(sparsity={"algorithm": "none"}), "cpu")
    assert dense.masks == 0
    more = estimated_memory(made, "cpu").total - dense.total
    largest_ = max(mask.numel() for mask in masks._masks.values())
    # RigL holds the gradients of all weights, of four bytes each, until the masks have changed.
    assert {"static": more == held, "set": held < more < held + 57 * largest_,
            "rigl": 3 * held < more < 5 * held + 57 * largest_}[algorithm]  # fmt: skip


@given(st.sampled_from(["static", "gmp", "set", "rigl"]), st.integers(1, 30), st.integers(1, 60),
       st.floats(0.1, 1.0))  # fmt: skip
def test_changes_are_counted_as_they_happen(
    algorithm: str, every: int, steps: int, until: float
) -> None:
    settings_ = recipe(f"sparsity.algorithm={algorithm}", f"sparsity.every={every}",
                       f"sparsity.until={until}").sparsity  # fmt: skip
    happen = [step for step in range(1, steps + 1) if sparse.changes(settings_, step, steps)]
    if algorithm == "gmp":
        last = max(1, round(until * steps))
        # The first one at the end of the schedule is the last one that takes weights.
        happen = [step for step in happen if step <= last] or happen[:1]
    assert sparse.mask_changes(settings_, steps) == len(happen)
