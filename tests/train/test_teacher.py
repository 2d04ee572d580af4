"""Trainings that learn from a teacher."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tests.sparsity.test_masks import SMALL, corpus
from wafergpt.api import finetune, plan, pretrain
from wafergpt.checkpoint import store
from wafergpt.config import load_recipe
from wafergpt.distributed.collectives import SINGLE
from wafergpt.errors import InputError
from wafergpt.model.gpt import GPT
from wafergpt.planning.memory import estimated_memory
from wafergpt.runs.run import Run
from wafergpt.runs.teacher import with_teacher
from wafergpt.tasks.base import task_of
from wafergpt.train.setup import set_up

__all__ = ["corpus"]

NARROW = [*SMALL, "model.n_layers=1", "model.d_model=16", "optimizer.lr=3e-3", "train.steps=10"]


@pytest.fixture(scope="module")
def home(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A language model, and classifiers and a regression on top of it."""
    home = tmp_path_factory.mktemp("home")
    asked = [*SMALL, f"data.corpus={corpus}", "train.steps=100", "optimizer.lr=3e-3", "name=lm"]
    base = pretrain(None, asked, root=home)
    rows, numbers = home / "rows.csv", home / "numbers.csv"
    words = [(n, w) for n in range(30) for w in ("good", "bad")]
    rows.write_text("text,label\n" + "".join(f"it is {w} {n},{w}\n" for n, w in words))
    numbers.write_text("text,label\n" + "".join(f"it is {n},{n}\n" for n, _ in words))
    short = [f"task.train={rows}", "train.steps=40", "optimizer.lr=3e-3"]
    finetune(base, None, [*short, "task.ngrams=none", "name=clf"], root=home)
    finetune(base, None, [*short, "task.ngrams=words", "task.ngram_rows=4096", "name=grams"],
             root=home)  # fmt: skip
    finetune(base, None, [*short[1:], f"task.train={numbers}", "task.name=regress", "name=reg"],
             root=home)  # fmt: skip
    return home


def asked(corpus: Path, *more: str) -> list[str]:
    return [*NARROW, f"data.corpus={corpus}", "train.teacher=lm", *more]


def test_its_loss_is_part_divergence_and_its_validation_none(home: Path, corpus: Path) -> None:
    recipe = with_teacher(load_recipe(None, asked(corpus, "train.teacher_weight=0.3")), home)
    setup = set_up(recipe, SINGLE, None)
    network, task = setup.engine.network, setup.task
    assert isinstance(network, GPT)
    batch = setup.splits.train.batch(0, 4)
    teacher = task_of(Run(home / "lm").recipe).network()
    assert isinstance(teacher, GPT)
    teacher.load_state_dict(dict(store.weights(Run(home / "lm"))))
    ours, theirs = (gpt.logits(gpt(batch["tokens"])).flatten(0, 1) for gpt in (network, teacher))
    hard = F.cross_entropy(ours, batch["targets"].flatten(), reduction="sum")
    logs = ours.log_softmax(1), theirs.log_softmax(1)
    soft = F.kl_div(*logs, reduction="sum", log_target=True)
    network.train()
    assert task.training_loss(network, batch).item() == pytest.approx(
        (0.7 * hard + 0.3 * soft).item(), rel=1e-5
    )
    assert task.outputs(network.eval(), batch)["loss"].item() == pytest.approx(hard.item())


def test_flops_count_the_teachers_pass(home: Path, corpus: Path) -> None:
    recipe = with_teacher(load_recipe(None, asked(corpus)), home)
    setup = set_up(recipe, SINGLE, None)
    batch = setup.splits.train.batch(0, 4)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        setup.task.training_loss(setup.engine.network.train(), batch).backward()
    assert setup.task.training_flops(batch) == counter.get_total_flops()


@pytest.mark.slow
def test_it_learns_what_the_teacher_knows(home: Path, corpus: Path) -> None:
    """By the divergence alone, a network of the teacher's shape comes near to the teacher."""
    more = ["train.steps=150", "train.teacher_weight=1", "name=near"]
    run = pretrain(None, [*asked(corpus), "model.n_layers=2", "model.d_model=32", *more], root=home)
    first, last = run.metrics()[0], run.metrics()[-1]
    assert last["loss"] < 0.4 * first["loss"]
    ours, theirs = run.read("result"), Run(home / "lm").read("result")
    assert ours["val_loss"] < 1.2 * theirs["val_loss"]
    assert ours["parameters"] == theirs["parameters"]
    assert set(store.weights(run)) == set(store.weights(Run(home / "lm")))
    teacher = run.recipe.train
    assert teacher.teacher == (home / "lm").resolve()
    assert teacher.teacher_sha256 == theirs["weights_sha256"]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_micro_batches_and_a_resume_change_nothing(
    home: Path, corpus: Path, precision: str
) -> None:
    more = [f"system.precision={precision}", "checkpoint.every=5", "checkpoint.keep=9"]
    names = [f"{kind}-{precision}" for kind in ("whole", "parts", "again")]
    whole, parts = (
        pretrain(None, asked(corpus, *more, f"train.micro_batch_size={n}", f"name={name}"),
                 root=home)
        for n, name in ((4, names[0]), (2, names[1]))
    )  # fmt: skip
    near = 1e-5 if precision == "fp32" else 0.01
    ours, theirs = ([row["loss"] for row in run.metrics()] for run in (whole, parts))
    assert ours == pytest.approx(theirs, rel=near)
    again = Run(shutil.copytree(whole.path, home / names[2]))
    (again.path / "result.json").unlink()
    (again.path / "checkpoints" / "best").unlink()
    shutil.rmtree(again.checkpoints / "step-00000010")
    pretrain(resume=again)
    same = [run.read("result")["weights_sha256"] for run in (whole, again)]
    assert same[0] == same[1]


def test_another_teacher_is_no_resume(home: Path, corpus: Path) -> None:
    teacher = shutil.copytree(home / "lm", home / "teacher")
    run = pretrain(None, asked(corpus, f"train.teacher={teacher}", "name=pupil"), root=home)
    teacher.rename(home / "elsewhere")
    with pytest.raises(InputError, match=r"is not there any more: add train.teacher=PATH"):
        pretrain(resume=run, overrides=["train.steps=12"])
    other = pretrain(None, asked(corpus, "name=other", "seed=9"), root=home).path
    with pytest.raises(InputError, match="other weights than when this run started"):
        pretrain(resume=run, overrides=["train.steps=12", f"train.teacher={other}"])
    moved = [f"train.teacher={home / 'elsewhere'}", "train.steps=12"]
    assert pretrain(resume=run, overrides=moved).read("result")["step"] == 12


@pytest.mark.slow
@pytest.mark.parametrize("teacher", ["clf", "grams"])
def test_a_classifier_learns_from_another(home: Path, teacher: str) -> None:
    settings = Run(home / teacher).recipe.task
    assert settings is not None
    grams = [f"task.{k}={getattr(settings, k)}" for k in ("ngrams", "ngram_rows")]
    rows = [f"task.train={home / 'rows.csv'}", *grams, "train.steps=20", "train.epochs=null"]
    found = [
        finetune("lm", None, [*rows, "optimizer.lr=3e-3", f"name={teacher}-{n}", *more], root=home)
        for n, more in enumerate(([], [f"train.teacher={teacher}"]))
    ]
    losses = [each.run.metrics()[0]["loss"] for each in found]
    # Half of the loss is the divergence now.
    assert losses[0] != losses[1]
    assert found[1].run.read("result")["metrics"]["accuracy"] > 0.9


def test_divergences_are_those_of_torch(home: Path) -> None:
    clf, reg = (task_of(Run(home / name).recipe) for name in ("clf", "reg"))
    scores, others = torch.randn(5, 2), torch.randn(5, 2)
    kinds = (
        torch.distributions.Categorical(logits=others),
        torch.distributions.Categorical(logits=scores),
    )
    weights = torch.rand(5)
    wanted = (torch.distributions.kl_divergence(*kinds) * weights).sum()
    assert torch.allclose(clf.divergence(scores, others, weights), wanted)  # type: ignore[attr-defined]
    one = [each[:, :1] for each in (scores, others)]
    wanted = ((one[0] - one[1]) ** 2).sum()
    numbers = reg.absolute(one[1])  # type: ignore[attr-defined]
    assert torch.allclose(reg.divergence(one[0], numbers, None), wanted)  # type: ignore[attr-defined]
    binary = task_of(clf.recipe.replace(task={"loss": "binary"}))
    sides = [torch.distributions.Bernoulli(logits=each[:, 0]) for each in (others, scores)]
    wanted = torch.distributions.kl_divergence(*sides).sum()
    assert torch.allclose(binary.divergence(*one, None), wanted, atol=1e-5)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("more", "named"),
    [
        (["train.teacher=gone"], "train.teacher=gone: no run 'gone'"),
        (["train.teacher=clf"], "is task.name=classify, and this is a language model"),
        (["train.teacher_weight=0"], "teacher_weight"),
        (["train.sampled_softmax=10"], "over the whole vocabulary: train.sampled_softmax=0"),
        (["model.seq_len=64"], "reads 32 tokens, and the sequences have 64"),
        (["train.teacher=base"], "base reads with another tokenizer"),
        (["system.device=cerebras"], "train.teacher is not for system.device=cerebras"),
    ],
)
def test_a_wrong_teacher_is_one_line(home: Path, corpus: Path, more: list[str], named: str) -> None:
    with pytest.raises(InputError) as error:
        pretrain(None, asked(corpus, *more, "name=never"), root=home)
    assert named in str(error.value)
    assert "\n" not in str(error.value)
    assert not (home / "never").exists()


@pytest.mark.parametrize(
    ("teacher", "more", "named"),
    [
        ("reg", [], "is task.name=regress, and this is task.name=classify"),
        ("lm", [], "is a language model, and this is task.name=classify"),
        ("clf", ["task.train={home}/three.csv"], "has the labels 'bad, good', not 'bad, good, so'"),
        ("clf", ["task.loss=binary"], "has task.loss=cross_entropy, not binary"),
        ("grams", [], "reads n-grams: task.ngrams=words task.ngram_rows=4096 must be set"),
    ],
)
def test_a_wrong_teacher_of_a_task_is_one_line(
    home: Path, teacher: str, more: list[str], named: str
) -> None:
    three = home / "three.csv"
    three.write_text((home / "rows.csv").read_text() + "it is so 1,so\nit is so 2,so\n" * 4)
    rows = [f"task.train={home / 'rows.csv'}", "task.ngrams=none", "train.steps=5"]
    more = [override.format(home=home) for override in more]
    with pytest.raises(InputError) as error:
        finetune("lm", None, [*rows, *more, f"train.teacher={teacher}", "name=never"], root=home)
    assert named in str(error.value)
    assert not (home / "never").exists()


def test_a_plan_counts_the_teacher(home: Path, corpus: Path) -> None:
    plain = [key for key in asked(corpus) if "teacher" not in key]
    found = [plan(None, each, quick=True, root=home) for each in (plain, asked(corpus))]
    weights = Run(home / "lm").read("result")["parameters"]
    assert found[1].memory.total - found[0].memory.total > 4 * weights
    assert found[1].memory.teacher == estimated_memory(found[1].resolved, "cpu").teacher
    assert found[1].tokens_per_second < found[0].tokens_per_second
    run = pretrain(None, asked(corpus, "name=planned"), root=home)
    counted, done = run.read("plan")["flops"], run.metrics()[-1]["flops"]
    assert found[1].flops == pytest.approx(counted) == pytest.approx(done)
    assert found[1].flops > 1.5 * found[0].flops
    with pytest.raises(InputError, match="--budget has no rule for a train"):
        plan(None, [key for key in asked(corpus) if "steps" not in key], budget="10s", root=home)


def test_a_task_without_a_rule_has_no_teacher(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = task_of(Run(home / "clf").recipe)
    task.require_teacher(task)
    monkeypatch.setattr(type(task), "distils", False)
    with pytest.raises(InputError, match="no rule to learn from a teacher"):
        task.require_teacher(task)
