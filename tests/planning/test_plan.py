from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import machines
from wafergpt.config import Model, Optimizer, Recipe, System, load_recipe
from wafergpt.engines.optimizers import Optimizer as RunningOptimizer
from wafergpt.errors import InputError
from wafergpt.model.gpt import GPT
from wafergpt.planning.budget import UNSET, Budget, best, bought, budget_of, candidates, not_taken
from wafergpt.planning.estimate import estimate, speed
from wafergpt.planning.hardware import Machine
from wafergpt.planning.intervals import horizon
from wafergpt.planning.laws import expected_loss, learning_rate
from wafergpt.planning.memory import checkpoint_bytes, micro_batch_that_fits, training_memory
from wafergpt.planning.plan import Candidate, CorpusFacts, passes_warning
from wafergpt.planning.speed import best_precision, compile_pays, tokens_per_second
from wafergpt.shapes.counts import parameters, training_flops

RATES = {128: 5e10, 256: 8e10, 512: 1.2e11, 1024: 1.5e11}
MACHINE = replace(
    machines.MACHINE,
    training_flops={"fp32": RATES, "bf16": {w: 2 * r for w, r in RATES.items()}},
)
BF16 = System(precision="bf16", device="cpu")
SMALL = ["model.n_layers=2", "model.d_model=64", "model.n_heads=2", "model.vocab_size=1000"]


def test_the_horizon_is_20_tokens_a_parameter_unless_it_is_given() -> None:
    found = estimate(load_recipe(None, SMALL), MACHINE)
    assert found.tokens == pytest.approx(20 * parameters(found.resolved.model), rel=1e-3)
    steps = estimate(load_recipe(None, [*SMALL, "train.steps=50"]), MACHINE)
    assert (steps.steps, steps.tokens) == (50, 50 * 16 * 256)
    seconds = estimate(load_recipe(None, [*SMALL, "train.seconds=60"]), MACHINE)
    assert seconds.seconds == pytest.approx(60, rel=0.5)


def test_of_a_count_and_a_time_what_ends_first_counts() -> None:
    timed = estimate(load_recipe(None, [*SMALL, "train.seconds=60"]), MACHINE).steps
    for steps in (timed // 2, timed * 2):
        settings = [*SMALL, "train.seconds=60", f"train.steps={steps}"]
        assert estimate(load_recipe(None, settings), MACHINE).steps == min(steps, timed)
    recipe = load_recipe(None, [*SMALL, "train.seconds=60", "train.tokens=1000000"])
    assert horizon(recipe, 10**9, update_seconds=1.0) == 60
    assert horizon(recipe, 10**9, update_seconds=0.01) == math.ceil(1e6 / 256 / 16)


def test_the_contract() -> None:
    facts = estimate(load_recipe(None, SMALL), MACHINE).to_dict()
    assert not any(key.startswith("predicted_loss") for key in facts)
    assert "no scaling law" in facts["why"]
    sequences = facts["tokens"] // facts["model"]["seq_len"]
    assert facts["flops"] == sequences * training_flops(Model.model_validate(facts["model"]))
    assert facts["fits"] is True
    assert set(facts) >= {"seconds", "memory_bytes", "model", "batch_tokens", "device"}
    json.dumps(facts)


def test_a_recipe_of_the_family_quotes_the_published_law() -> None:
    facts = estimate(load_recipe("cerebras-gpt/111m"), MACHINE).to_dict()
    assert facts["predicted_loss"] == pytest.approx(2.6, abs=0.01)
    assert facts["predicted_loss_low"] < facts["predicted_loss"] < facts["predicted_loss_high"]
    assert "why" not in facts
    cut = estimate(load_recipe("cerebras-gpt/111m", ["train.steps=100"]), MACHINE)
    assert "predicted_loss" not in cut.to_dict()
    assert any("1,525 updates and the run has 100" in note for note in cut.notes)


def test_flops_count_what_a_pass_multiplies() -> None:
    settings = [*SMALL, "train.steps=10"]
    whole, sampled, task = (
        estimate(load_recipe(None, [*settings, *more]), MACHINE)
        for more in ((), ("train.sampled_softmax=10",), ("task.max_tokens=128",))
    )
    shape = whole.resolved.model
    assert whole.flops == 160 * training_flops(shape)
    assert 160 * training_flops(shape, rows=0) < sampled.flops <= whole.flops
    assert task.flops == 160 * training_flops(shape, 128, 0)


def test_a_warm_up_of_more_than_the_run_is_refused() -> None:
    with pytest.raises(InputError, match="150% is more than the whole run"):
        estimate(load_recipe(None, [*SMALL, "schedule.warmup=150%"]), MACHINE)


def test_a_plan_that_does_not_fit_has_a_note() -> None:
    tiny = replace(MACHINE, memory_available=200 << 20)
    assert not estimate(load_recipe(None, SMALL), tiny).fits


def test_the_corpus_decides_the_vocabulary(tmp_path: Path) -> None:
    card = {"vocab_size": 777, "tokens_train": 10_000, "tokens_val": 500}
    (tmp_path / "corpus.json").write_text(json.dumps(card))
    recipe = load_recipe(None, [*SMALL[:3], f"data.corpus={tmp_path}", "train.epochs=2"])
    found = estimate(recipe, MACHINE)
    assert found.resolved.model.vocab_size == 777
    assert found.tokens == pytest.approx(2 * 10_000, rel=0.3)
    with pytest.raises(InputError, match=r"too small: 10,000 tokens are less than one sequence"):
        estimate(recipe.replace(model={"seq_len": 20_000}), MACHINE)
    (tmp_path / "train.bin").write_bytes(b"cut")
    (tmp_path / "corpus.json").write_text(
        json.dumps({**card, "files": {"train.bin": {"bytes": 9}}})
    )
    with pytest.raises(InputError, match=r"train.bin has changed since it was prepared"):
        estimate(recipe, MACHINE)
    (tmp_path / "corpus.json").write_text("{")
    with pytest.raises(InputError):
        estimate(recipe, MACHINE)
    with pytest.raises(InputError, match="there is no folder"):
        estimate(recipe.replace(data={"corpus": tmp_path / "moved"}), MACHINE)


def chosen(recipe: Recipe, budget: str | float, machine: Machine = MACHINE) -> Candidate:
    return best(candidates(recipe, budget_of(budget), machine))


@given(seconds=st.floats(10, 1e6), vocab_size=st.sampled_from([300, 8192, 50257]))
@settings(max_examples=30)
def test_a_budget_is_kept_and_a_larger_one_never_buys_less(seconds: float, vocab_size: int) -> None:
    recipe = load_recipe(None, [f"model.vocab_size={vocab_size}"])
    found = chosen(recipe, seconds)
    assert found.tokens <= found.tokens_per_second * seconds or found.tokens <= 8 * 256
    larger = chosen(recipe, 4 * seconds)
    assert parameters(larger.recipe.model) >= parameters(found.recipe.model)
    assert larger.loss < found.loss


@pytest.mark.parametrize(
    ("text", "kind", "amount"),
    [
        ("90s", "seconds", 90), ("30m", "seconds", 1800), ("2h", "seconds", 7200),
        ("1h30m", "seconds", 5400), (45, "seconds", 45), ("50M tokens", "tokens", 5e7),
        ("1e15 FLOPs", "flops", 1e15), ("2.5e15flops", "flops", 2.5e15),
        ("10 minutes", "seconds", 600), ("1 day 2 hours", "seconds", 93600),
        ("30 s", "seconds", 30),
        ("100 GFLOPs", "flops", 1e11),
    ],
)  # fmt: skip
def test_budgets(text: str | float, kind: str, amount: float) -> None:
    assert budget_of(text) == Budget(kind, amount)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text",
    ["", "soon", "-3m", "0s", "30 fortnights", "5M", "nan", "tokens", "0 tokens", "1e99 FLOPs²"],
)
def test_impossible_budgets(text: str) -> None:
    with pytest.raises(InputError, match="is not a budget"):
        budget_of(text)


def test_what_a_budget_does_not_take_over_is_named() -> None:
    asked = load_recipe(None, ["model.n_layers=7", "train.steps=5", "model.d_ffn=100"])
    found = chosen(asked, "50M tokens")
    assert not_taken(asked, found.recipe) == [
        "model.n_layers=7",
        "model.d_ffn=100",
        "train.steps=5",
    ]
    assert not_taken(load_recipe(None, []), found.recipe) == []
    with pytest.raises(InputError, match="a budget of 1e\\+99 flops is above any training"):
        chosen(asked, "1e99 FLOPs")


def test_of_equal_shapes_the_smallest_is_chosen() -> None:
    found = candidates(load_recipe(None, ["model.vocab_size=8192"]), budget_of("1h"), MACHINE)
    equal = [replace(one, loss=5.0 + place * 1e-6) for place, one in enumerate(reversed(found))]
    assert best(equal[::-1]).recipe.model.d_model == min(
        one.recipe.model.d_model for one in found if one.tokens_per_parameter <= 25
    )


def test_rows_and_texts_that_are_read_too_often_are_said() -> None:
    labelled = load_recipe(None, ["task.train=rows.csv", "train.steps=10"])
    assert "read 30 times" in passes_warning(labelled, 300, 10)
    assert not passes_warning(labelled.replace(evaluate={"patience": 2}), 300, 10)
    assert not passes_warning(labelled, 150, 10)
    assert "read 5.0 times" in passes_warning(load_recipe(None, []), 50, 10)


def test_budgets_of_tokens_and_flops_buy_no_more() -> None:
    recipe = load_recipe(None, ["model.vocab_size=8192"])
    found = chosen(recipe, "50M tokens")
    assert found.tokens == pytest.approx(5e7, rel=0.01)
    found = chosen(recipe, "1e15 FLOPs")
    assert estimate(found.recipe, MACHINE).flops == pytest.approx(1e15, rel=0.02)


def test_a_budget_of_tokens_buys_the_same_of_any_larger_corpus(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is not read does not make a shape worth more."""
    monkeypatch.setattr(
        "wafergpt.planning.budget.read_corpus",
        lambda path: CorpusFacts(8192, int(path.name), 10_000),
    )
    recipe = load_recipe(None, ["model.vocab_size=8192"])
    without = bought(recipe, budget_of("5M tokens"), 1e4)
    for size in (10**7, 10**9):
        of = recipe.replace(data={"corpus": Path(str(size))})
        assert bought(of, budget_of("5M tokens"), 1e4).loss == without.loss


def test_neighbours_stand_beside_the_best() -> None:
    found = candidates(load_recipe(None, ["model.vocab_size=8192"]), budget_of("1h"), MACHINE)
    sizes = [parameters(candidate.recipe.model) for candidate in found]
    assert sizes == sorted(sizes)
    assert 4 <= len(found) <= 7
    with pytest.raises(InputError, match="not even the smallest"):
        chosen(load_recipe(None, []), "1h", replace(MACHINE, memory_available=1 << 20))


def test_text_that_is_read_again_is_worth_less() -> None:
    model = Model(n_layers=2, d_model=128, n_heads=2, vocab_size=8192)
    once, again = (expected_loss(model, 1e8, text) for text in (1e8, 1e7))
    assert once < again < expected_loss(model, 1e7, 1e7)


def test_learning_rates_fall_with_width_and_are_near_the_published_ones() -> None:
    widths = [64, 256, 768, 1088, 1536, 2048, 2560, 4096, 5120]
    rates = [learning_rate(Model(d_model=d, n_heads=1, vocab_size=50257)) for d in widths]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] == pytest.approx(6.25e-3)
    # Table 1 of arXiv:2304.03208, from 111M on.
    published = [6e-4, 6e-4, 2e-4, 2e-4, 2e-4, 1.2e-4, 1.2e-4]
    for ours, theirs in zip(rates[2:], published, strict=True):
        assert 1 / 1.7 < ours / theirs < 1.7


@pytest.mark.parametrize("name", ["adamw", "sgd", "muon"])
def test_checkpoint_bytes_are_those_of_the_tensors(name: str) -> None:
    settings_ = Optimizer(name=name, weight_decay=0)
    shape = Model(n_layers=2, d_model=32, n_heads=2, d_ffn=128, seq_len=16, vocab_size=99)
    gpt = GPT(shape).initialize(0)
    optimizer = RunningOptimizer(gpt.named_parameters(), settings_)
    for parameter in gpt.parameters():
        parameter.grad = parameter.detach().clone()
    optimizer.step(1e-3)
    tensors = [*gpt.state_dict().values(), *optimizer.state_tensors().values()]
    actual = sum(t.numel() * t.element_size() for t in tensors)
    assert checkpoint_bytes(shape, settings_) == pytest.approx(actual, rel=0.01)


def test_a_checkpoint_written_beside_the_training_takes_its_copy() -> None:
    shape = load_recipe("cerebras-gpt/111m", ["model.vocab_size=50257"]).model
    beside, between = (
        training_memory(shape, 1, Optimizer(), BF16, background=b).total for b in (True, False)
    )
    assert beside - between == checkpoint_bytes(shape, Optimizer())


def test_memory_grows_with_the_batch_and_a_micro_batch_is_found() -> None:
    shape = Model(n_layers=4, d_model=256, n_heads=4, d_ffn=1024, seq_len=256, vocab_size=8192)
    sizes = [training_memory(shape, n, Optimizer(), BF16).total for n in (1, 8, 64)]
    assert sizes == sorted(sizes)
    recipe = Recipe(model=shape, system=BF16).replace(train={"batch_size": 64})
    fits = micro_batch_that_fits(recipe, sizes[1] * 2)
    assert 64 % fits == 0
    assert 8 <= fits < 64
    assert micro_batch_that_fits(recipe, 1) == 1
    assert micro_batch_that_fits(recipe.replace(train={"micro_batch_size": 2}), 1) == 2
    # Each process reads its share, so more memory is of no use.
    several = recipe.replace(system={"nproc": 8})
    assert micro_batch_that_fits(several, 1 << 40) == 8
    # A classifier of short texts keeps no logits, and no more activations than they have tokens.
    task = recipe.replace(task={"name": "classify", "train": "rows.csv", "max_tokens": 32})
    assert micro_batch_that_fits(task, sizes[1] * 2) == 64


def test_gpus_compute_side_by_side_and_processes_on_cpus_share_them() -> None:
    recipe = load_recipe("cerebras-gpt/111m", ["system.compile=off", "system.precision=bf16"])
    many = recipe.replace(system={"nproc": 8})
    gpu = replace(MACHINE, device="cuda", memory_available=1 << 38)
    one, eight = (estimate(r, gpu).tokens_per_second for r in (recipe, many))
    assert 7 < eight / one <= 8
    one, eight = (estimate(r, MACHINE).tokens_per_second for r in (recipe, many))
    assert one == eight


def test_a_ranking_is_as_fast_as_its_sequences() -> None:
    settings = [*SMALL, "task.name=rank", "task.train=rows.csv", "task.candidates=16"]
    recipe = load_recipe(None, settings)
    alone = load_recipe(None, [*SMALL, "task.name=classify", "task.train=rows.csv"])
    listed, single = speed(recipe, MACHINE, 16 * 256, False), speed(alone, MACHINE, 256, False)
    # An optimizer's step is divided among more tokens.
    assert single <= listed < 1.1 * single


@pytest.mark.parametrize("more", [[], ["train.sampled_softmax=256"]])
def test_a_budget_of_flops_is_used_whatever_the_softmax(more: list[str]) -> None:
    settings = [*SMALL, "model.vocab_size=50000", *more]
    found = bought(load_recipe(None, settings), budget_of("1e15 FLOPs"), 1e4)
    assert estimate(found.recipe, MACHINE).flops == pytest.approx(1e15, rel=0.02)


def test_a_budget_gives_each_process_a_sequence_and_leaves_the_rate_of_sgd() -> None:
    settings = [*SMALL, "system.nproc=16", "optimizer.name=sgd", "optimizer.lr=0.3",
                "optimizer.weight_decay=0", "train.micro_batch_size=24", "train.batch_size=48",
                "train.first_steps=100", "train.first_batch_size=24"]  # fmt: skip
    asked = load_recipe(None, settings)
    found = bought(asked, budget_of("3M tokens"), 1e4).recipe
    found.train.require_enough_for(16)
    assert found.optimizer.lr == 0.3
    unset = {f"train.{key}" for key in UNSET}
    assert unset < {text.partition("=")[0] for text in not_taken(asked, found)}


def test_sharding_and_activation_checkpointing_take_less_memory() -> None:
    settings_ = ["system.precision=bf16", "train.micro_batch_size=4"]
    found = {}
    for extra in (
        "system.nproc=1", "system.nproc=16", "system.nproc=16 system.shard=0",
        "system.nproc=16 system.shard=8", "system.activation_checkpointing=true",
    ):  # fmt: skip
        recipe = load_recipe("cerebras-gpt/1.3b", [*settings_, *extra.split()])
        found[extra] = estimate(recipe, MACHINE).memory
    alone, copies, sixteenth, eighth, recomputed = found.values()
    assert copies == alone
    for part in ("gradients", "optimizer"):
        assert getattr(sixteenth, part) == pytest.approx(getattr(alone, part) / 16, rel=1e-6)
        assert getattr(eighth, part) == pytest.approx(getattr(alone, part) / 8, rel=1e-6)
    assert sixteenth.gathered > 0 == alone.gathered
    assert sixteenth.total < eighth.total < 0.6 * alone.total
    assert recomputed.activations < alone.activations / 5
    assert recomputed.copies < alone.copies / 5


def test_speed_follows_what_was_measured() -> None:
    shape = Model(n_layers=6, d_model=256, n_heads=4, d_ffn=1024, seq_len=256, vocab_size=4096)
    assert best_precision(MACHINE, 256) == "bf16"
    slow = replace(MACHINE, training_flops={"fp32": RATES, "bf16": RATES})
    assert best_precision(slow, 256) == "fp32"
    plain = tokens_per_second(shape, MACHINE, "bf16", False, 4096)
    assert tokens_per_second(shape, MACHINE, "bf16", True, 4096) > plain
    assert plain > tokens_per_second(shape, MACHINE, "fp32", False, 4096)
    sampled = tokens_per_second(
        shape, MACHINE, "bf16", False, 4096, sampled_softmax=256, micro_batch_tokens=4096
    )
    assert sampled > plain
    everything = tokens_per_second(
        shape, MACHINE, "bf16", False, 4096, sampled_softmax=4096, micro_batch_tokens=4096
    )
    assert everything == plain
    assert compile_pays(3600, "cpu", "bf16")
    assert not compile_pays(60, "cpu", "bf16")
    assert not compile_pays(3600, "cpu", "fp32")


@pytest.mark.parametrize(
    ("seq_len", "tokens", "batch"),
    # Measured at two minutes; Cerebras-GPT 111M's 120 sequences, rounded to a power of two.
    [(256, 9_500_000, 16), (256, 25_000_000, 32), (2048, 2_200_000_000, 128), (256, 10**12, 1024)],
)
def test_batches_grow_with_the_horizon(seq_len: int, tokens: int, batch: int) -> None:
    recipe = load_recipe(None, [*SMALL, f"model.seq_len={seq_len}"])
    found = bought(recipe, Budget("tokens", tokens), 1e4)
    assert found.recipe.train.batch_size == batch


def test_a_budget_under_mup_keeps_its_learning_rate_and_one_batch() -> None:
    recipe = load_recipe("cerebras-gpt/111m-mup", ["model.seq_len=256"])
    kept = chosen(recipe, "1h").recipe
    assert kept.optimizer.lr == recipe.optimizer.lr
    kept = chosen(load_recipe("cerebras-gpt/13b", ["model.seq_len=256"]), "1h").recipe
    assert (kept.train.first_steps, kept.train.first_batch_size) == (0, 0)


def test_seconds_count_the_batches_that_are_read() -> None:
    phases = ["train.first_steps=1000000", "train.first_batch_size=1", "train.batch_size=32"]
    settings = ["model.vocab_size=1000", "train.seconds=600", "system.compile=off"]
    small, large = (
        estimate(load_recipe(None, [*settings, *more]), MACHINE)
        for more in (phases, ["train.batch_size=32"])
    )
    assert small.tokens == pytest.approx(large.tokens, rel=0.01)
