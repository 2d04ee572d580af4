"""lm-evaluation-harness on our runs, against its own model of transformers' export."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.suites.test_language import make_run
from wafergpt.api import evaluate, export
from wafergpt.errors import InputError
from wafergpt.inference.writer import Writer
from wafergpt.suites.harness_tasks import PUBLISHED

pytest.importorskip("lm_eval", reason="the harness is lm-eval")

PAIRS = [
    ("It's a film", " that I loved."),
    ("", "It's dull!"),
    ("A film that I loved ", "dull"),
    ("It's a film that I loved. It's dull! " * 5, "It's a film"),
    ("no", "a film that I loved, it's a dull film that I loved"),
    ("naïve café", " 日本"),
]


def lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tasks")
    question = {"query": "Question: What is it", "choices": ["a film that I loved", "dull", "x"]}
    lines(folder / "piqa.jsonl", [{**question, "gold": n} for n in (0, 1, 1, 2)])
    lines(folder / "lambada_openai.jsonl", [{"context": "It's a", "continuation": "film"}] * 3)
    lines(folder / "winogrande.jsonl", [
        {"context_options": ["It's a film", "It's dull"], "continuation": "I loved.", "gold": 1},
        {"context_options": ["dull", "loved"], "continuation": "it's a film", "gold": 0},
    ])  # fmt: skip
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    "model", [{"seq_len": 64}, {"seq_len": 64, "parametrization": "mup", "base_d_model": 16}]
)
def test_likelihoods_are_those_of_the_export_in_transformers(
    tmp_path: Path, folder: Path, model: dict[str, Any]
) -> None:
    pytest.importorskip("transformers", reason="exports to transformers")
    from lm_eval.api.instance import Instance
    from lm_eval.evaluator import evaluate as of_harness
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    from wafergpt.suites.harness_model import HarnessModel
    from wafergpt.suites.harness_tasks import local_tasks, task_config

    run = make_run(tmp_path, model=model)
    export(run, tmp_path / "hf", "hf")
    theirs = HFLM(pretrained=str(tmp_path / "hf"), device="cpu", dtype="float32", batch_size=2)
    ours = HarnessModel(Writer.load(run, "cpu"))
    asked = [Instance("loglikelihood", {}, pair, n) for n, pair in enumerate(PAIRS)]
    for own, other in zip(ours.loglikelihood(asked), theirs.loglikelihood(asked), strict=True):
        assert own[0] == pytest.approx(other[0], abs=1e-4)
        assert own[1] == other[1]
    whole = [Instance("loglikelihood_rolling", {}, (text,), 0)
             for text in ("It's dull!", PAIRS[3][0])]  # fmt: skip
    assert ours.loglikelihood_rolling(whole) == pytest.approx(
        theirs.loglikelihood_rolling(whole), abs=1e-4
    )
    until = [Instance("generate_until", {}, ("It's", {"until": ["\n"], "max_gen_toks": 6}), 0)]
    assert ours.generate_until(until)[0].strip() == theirs.generate_until(until)[0].strip()
    found = evaluate(run, ["harness"], tasks_folder=folder)["harness"]["tasks"]
    manager = TaskManager(include_defaults=False)
    configs = [task_config(name, path) for name, path in local_tasks(folder).items()]
    result = of_harness(theirs, manager.load(configs), bootstrap_iters=10, log_samples=False)
    assert result is not None
    for name, one in result["results"].items():
        assert found[name]["acc"] == one["acc,none"]
        assert found[name]["stderr"] == pytest.approx(one["acc_stderr,none"])


def test_a_choice_is_that_with_the_highest_likelihood(tmp_path: Path, folder: Path) -> None:
    from wafergpt.suites.harness_model import HarnessModel

    run = make_run(tmp_path)
    found = evaluate("run", ["harness"], tasks_folder=folder, root=tmp_path)["harness"]
    model = HarnessModel(Writer.load(run, "cpu"))
    choices = ["a film that I loved", "dull", "x"]
    from lm_eval.api.instance import Instance

    asked = [Instance("loglikelihood", {}, ("Question: What is it\nAnswer:", f" {one}"), 0)
             for one in choices]  # fmt: skip
    sums = [value for value, _ in model.loglikelihood(asked)]
    best = max(range(3), key=sums.__getitem__)
    normed = max(range(3), key=lambda n: sums[n] / len(choices[n]))
    piqa = found["tasks"]["piqa"]
    assert piqa["acc"] == sum(gold == best for gold in (0, 1, 1, 2)) / 4
    assert piqa["acc_norm"] == sum(gold == normed for gold in (0, 1, 1, 2)) / 4
    assert piqa["rows"] == 4
    assert found["average"] == pytest.approx(
        sum(one["score"] for one in found["tasks"].values()) / 3
    )
    assert found["published"][0]["scores"]["piqa"] == PUBLISHED[0]["scores"]["piqa"] == 0.594
    limited = evaluate("run", ["harness"], tasks_folder=folder, rows=1, root=tmp_path)["harness"]
    assert limited["tasks"]["piqa"]["rows"] == 1


def test_mistakes_get_one_line(tmp_path: Path, folder: Path) -> None:
    run = make_run(tmp_path)
    with pytest.raises(InputError, match="no such folder of tasks"):
        evaluate(run, ["harness"], tasks_folder=tmp_path / "nowhere")
    with pytest.raises(InputError, match="has no file such as"):
        evaluate(run, ["harness"], tasks_folder=tmp_path)
    with pytest.raises(InputError, match="add --tasks"):
        evaluate(run, ["harness"])
    lines(tmp_path / "piqa.jsonl", [{"query": "x", "choices": ["a"]}])
    with pytest.raises(InputError, match=r"line 1: no 'gold'"):
        evaluate(run, ["harness"], tasks_folder=tmp_path)


@pytest.mark.slow
def test_an_unknown_task_is_refused(tmp_path: Path, folder: Path) -> None:
    # The harness reads some thousand files to know the names of its own tasks.
    with pytest.raises(InputError, match="did you mean 'piqa'"):
        evaluate(make_run(tmp_path), ["harness"], tasks=["piqaa"], tasks_folder=folder)


@pytest.mark.slow
def test_real_tasks_are_read(tmp_path: Path, real_data: Path) -> None:
    run = make_run(tmp_path)
    found = evaluate(run, ["harness"], tasks_folder=real_data / "lm_eval", rows=2)["harness"]
    assert len(found["tasks"]) == 11
    assert all(one["rows"] == 2 for one in found["tasks"].values())
