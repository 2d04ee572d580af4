from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from benchmarks import soak
from tests.machines import remember
from tests.planning.test_plan import MACHINE
from wafergpt.cli.plan import _next, command
from wafergpt.config import load_recipe
from wafergpt.devices import probe
from wafergpt.errors import InputError
from wafergpt.planning.estimate import RowFacts, estimate
from wafergpt.planning.hardware import Machine

CONTRACT = {
    "parameters", "tokens", "flops", "seconds", "memory_bytes", "fits", "model", "batch_tokens",
    "device",
}  # fmt: skip


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A machine that was measured before, in a cache of its own."""
    rates = {128: 1e11, 512: 2e11}
    known = Machine(
        device="cpu", name="test", cores=2, memory_bytes=1, memory_available=1, torch="2",
        compiler=False, matmul_flops_fp32=2e11, matmul_flops_bf16=8e11,
        training_flops={"fp32": rates, "bf16": {w: 2 * r for w, r in rates.items()}},
        bandwidth=4e10, softmax_rate=1.6e8,
    )  # fmt: skip
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    remember(known)
    return known


def run(*arguments: str) -> str:
    result = CliRunner().invoke(command, [*arguments, "system.device=cpu"])
    if result.exception is not None:
        raise result.exception
    return result.stdout


def as_json(*arguments: str) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(run(*arguments, "--json").splitlines()[-1])
    return values


def test_the_contract() -> None:
    values = as_json("model.vocab_size=1000", "train.tokens=1000000")
    assert values.keys() >= CONTRACT
    assert "predicted_loss" not in values
    assert values["why"]
    assert values["flops"] > 0
    predictions = {"predicted_loss", "predicted_loss_low", "predicted_loss_high"}
    assert as_json("cerebras-gpt/111m").keys() >= CONTRACT | predictions


def test_the_published_law_is_quoted_with_its_label() -> None:
    line = next(line for line in run("cerebras-gpt/111m").splitlines() if "loss" in line)
    assert line.split("loss  ")[1] == (
        "2.60 (2.58 to 2.62) on the Pile's test set, by the published law (nothing fitted here)"
    )
    assert "57,000 of 1,474,560 tokens, then 78,223" in run("cerebras-gpt/13b")
    assert "steps  100 of 1,474,560 tokens\n" in run("cerebras-gpt/13b", "train.steps=100")


def test_twice_the_steps_take_twice_the_time() -> None:
    settings = ("model.vocab_size=1000", "system.compile=off", "evaluate.batches=1")
    one, two = (as_json(*settings, f"train.steps={n}") for n in (1000, 2000))
    assert two["tokens"] == 2 * one["tokens"]
    assert two["seconds"] == pytest.approx(2 * one["seconds"], rel=0.02)


def test_a_budget_chooses_a_recipe_that_costs_no_more() -> None:
    values = as_json("--budget", "20m", "model.vocab_size=1000")
    assert values["seconds"] <= 1.01 * 1200
    recipe = yaml.safe_load(run("--budget", "20m", "--show", "model.vocab_size=1000"))
    assert recipe["train"]["tokens"] == values["tokens"]
    assert recipe["model"]["d_model"] == values["model"]["d_model"]


def test_show_prints_the_recipe_and_measures_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "probe", lambda *a, **k: pytest.fail("measured"))
    recipe = yaml.safe_load(run("--show", "train.steps=7"))
    assert recipe["train"]["steps"] == 7


@pytest.mark.parametrize(
    "options",
    [
        ["--parametrization", "--from", "run"], ["--parametrization", "--lower"],
        ["--lower", "--quick"], ["--show", "--machine", "doctor.json"], ["--show", "--from", "run"],
        ["--fresh", "--machine", "doctor.json"],
    ],
)  # fmt: skip
def test_options_that_would_do_nothing_are_refused(options: list[str]) -> None:
    assert CliRunner().invoke(command, options).exit_code == 2


def test_what_a_budget_leaves_out_is_said_and_not_in_the_next_command(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    asked = ["model.vocab_size=1000", "train.micro_batch_size=24", "train.batch_size=48"]
    recipe = yaml.safe_load(run("--budget", "3M tokens", "--quick", "--show", *asked))
    assert recipe["train"]["micro_batch_size"] == 0
    assert "not train.batch_size=48, train.micro_batch_size=24" in caplog.text
    found = replace(estimate(load_recipe(None, asked[:1]), MACHINE), measured=True)
    line = _next(found, asked, None, "3M tokens", Path("runs"))
    assert "micro_batch_size" not in line
    assert "model.vocab_size=1000" in line
    # What a file sets is unset.
    path = tmp_path / "mine.yaml"
    path.write_text("train: {batch_size: 48, micro_batch_size: 24}\n")
    line = _next(found, [str(path)], None, "3M tokens", Path("runs"))
    words = shlex.split(line.removeprefix("next:"))[2:]
    assert load_recipe(words[0], words[1:]).train.micro_batch_size == 0


def test_processes_are_an_option_as_in_a_training() -> None:
    values = as_json("model.vocab_size=1000", "train.steps=10", "--nproc", "4", "--quick")
    assert values["processes"] == 4


def test_the_table_has_the_rate_of_a_tasks_own_ngrams() -> None:
    rows = {line.split()[0]: line.split() for line in run("--parametrization").splitlines()}
    assert rows["task_ngram"][2:6] == ["4"] * 4
    assert rows["ngram"][2:4] != rows["task_ngram"][2:4]


def test_text_is_plain_when_piped() -> None:
    text = run("model.vocab_size=1000", "train.steps=10")
    assert "\x1b" not in text
    for word in ("parameters", "tokens", "time", "memory"):
        assert word in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian.steps=3"], "did you mean 'train'"),
        (["model.d_model=10", "model.n_heads=3"], "does not divide"),
        (["--budget", "soon"], "not a budget"),
        (["train.epochs=2"], "add data.corpus"),
        (["data.corpus=nowhere"], "there is no folder nowhere"),
    ],
)
def test_mistakes_are_named(arguments: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        run(*arguments)


def test_a_machine_that_is_known_costs_no_import_of_torch() -> None:
    code = (
        "import sys; from wafergpt.cli.plan import command;"
        "command(['--json', 'system.device=cpu'], standalone_mode=False);"
        "assert 'torch' not in sys.modules"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ, check=False
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.slow
@pytest.mark.usefixtures("preloaded")
def test_a_measured_plan_ends_with_the_command_that_trains_it(tmp_path: Path) -> None:
    settings = [
        f"data.corpus={soak.corpus(tmp_path)}", "model.n_layers=1", "model.d_model=32",
        "model.n_heads=2", "model.seq_len=48", "system.compile=off", "train.steps=20",
    ]  # fmt: skip
    lines = run(*settings).splitlines()
    assert any(line.lstrip().startswith("time  ") and "start-up" in line for line in lines)
    assert any(line.endswith("tokens/s on cpu, measured") for line in lines)
    words = shlex.split(lines[-1].removeprefix("next: "))
    assert words[:2] == ["wafergpt", "pretrain"]
    assert load_recipe(None, [w for w in words[2:] if not w.startswith("--")]).train.steps == 20


@pytest.mark.slow
@pytest.mark.usefixtures("preloaded")
def test_a_budget_prints_its_candidates_and_what_it_chose(tmp_path: Path) -> None:
    corpus = f"data.corpus={soak.corpus(tmp_path)}"
    (tmp_path / "runs" / "run").mkdir(parents=True)
    asked = ("model.seq_len=48", "model.d_ffn=100", "train.steps=5", "system.compile=off")
    text = run(corpus, *asked, "--budget", "6s", "--runs", str(tmp_path / "runs"))
    lines = text.splitlines()
    assert "chosen by the budget, and so not model.d_ffn=100, train.steps=5" in text
    head = next(index for index, line in enumerate(lines) if line.startswith("layers × width"))
    (row,) = (line for line in lines[head + 1 :] if line.endswith("  chosen"))
    words = shlex.split(lines[-1].removeprefix("next: "))
    chosen = load_recipe(None, [word for word in words[2:] if "=" in word])
    assert row.startswith(f"{chosen.model.n_layers} × {chosen.model.d_model} ")
    assert f"{chosen.train.tokens:,}" in row
    assert chosen.model.d_ffn == 4 * chosen.model.d_model
    # A run of the usual name exists.
    assert chosen.name == "run-2"


def test_it_estimates_for_another_machine(tmp_path: Path) -> None:
    file = tmp_path / "large.json"
    large = replace(MACHINE, name="large", memory_available=1 << 40, bandwidth=1e12)
    file.write_text(json.dumps({"machine": asdict(large)}))
    facts = json.loads(run("cerebras-gpt/1.3b", "--machine", str(file), "--json"))
    assert (facts["machine"], facts["fits"], facts["measured"]) == ("large", True, False)
    file.write_text("{}")
    with pytest.raises(InputError, match="is no machine: on that machine, run wafergpt doctor"):
        run("--machine", str(file))


def test_a_run_is_no_recipe(tmp_path: Path) -> None:
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "recipe.yaml").write_text("name: tiny")
    found = CliRunner().invoke(command, ["tiny", "--runs", str(tmp_path)])
    assert found.exit_code == 2
    assert "'tiny' is a run, not a recipe: --from tiny" in found.stderr


def test_the_parametrization_is_a_table_of_roles() -> None:
    text = run("--parametrization", "model.parametrization=mup", "model.d_model=512")
    assert {"embedding", "qkv", "ffn_out", "multipliers:"} <= set(text.split())
    with pytest.raises(SystemExit):
        run("--parametrization", "--budget", "1m")


@pytest.mark.parametrize(
    ("start", "words"),
    [
        (None, ["finetune", "scratch", "task.train=rows.csv", "task.name=classify"]),
        ("base", ["finetune", "base", "task.train=rows.csv", "task.name=classify"]),
    ],
)
def test_what_trains_a_task_is_finetune(start: str | None, words: list[str]) -> None:
    arguments = ["task.train=rows.csv", "task.name=classify"]
    recipe = load_recipe(None, [*arguments, "train.steps=5", "model.vocab_size=300"])
    found = estimate(recipe, MACHINE, RowFacts(100, 20.0, 10, 20))
    line = _next(found, arguments, start, None, Path("runs"))
    assert shlex.split(line.removeprefix("next: wafergpt ")) == words


def test_what_reads_rows_several_times_is_planned_so(tmp_path: Path) -> None:
    lines = [f"a film that I saw {n} times,{'ab'[n % 2]}" for n in range(400)]
    (tmp_path / "rows.csv").write_text("text,label\n" + "\n".join(lines))
    asked = ["task.train=rows.csv", "model.vocab_size=300", "model.d_model=128", "train.epochs=3"]
    augment = "task.augment=[typos]"

    def of(*more: str) -> dict[str, Any]:
        return as_json("--quick", *asked, *more)

    plain, once = of(), of(augment)
    assert once["tokens"] == pytest.approx(2 * plain["tokens"], rel=0.02)
    assert of(augment, "task.augment_copies=3")["flops"] == pytest.approx(
        4 * plain["flops"], rel=0.02
    )
    # A sentence is an eighth of a text, and both of these are as long as before.
    text = " ".join(["It was a fine film that I liked a lot."] * 8)
    (tmp_path / "rows.csv").write_text(
        "text,label\n" + "".join(f"{text} {n},{'ab'[n % 2]}\n" for n in range(400))
    )
    long = of("task.excerpts=0")
    assert of("task.excerpts=4")["tokens"] == pytest.approx(1.5 * long["tokens"], rel=0.1)
    (tmp_path / "rows.csv").write_text("text,label\n" + "\n".join(lines))
    for passes, more in ((2, (augment, "task.consistency=1")), (8 / 3, ("task.adversarial=0.05",))):
        found = of(*more)
        assert found["tokens"] == plain["tokens"]
        assert found["flops"] == pytest.approx(passes * plain["flops"])
        assert found["seconds"] > 1.5 * plain["seconds"]
        assert found["memory_bytes"] > plain["memory_bytes"]
