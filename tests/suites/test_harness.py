"""lm-evaluation-harness on our runs, against its own model of transformers' export."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.suites.test_language import NGRAMS, make_run, network_of
from wafergpt.api import evaluate, export
from wafergpt.errors import InputError
from wafergpt.inference.writer import Writer
from wafergpt.logs import silent
from wafergpt.model.gpt import GPT
from wafergpt.suites.harness import _scores, harness
from wafergpt.suites.harness_published import PUBLISHED
from wafergpt.suites.harness_tasks import local_tasks, task_config

pytest.importorskip("lm_eval", reason="the harness is lm-eval")

PAIRS = [
    ("It's a film", " that I loved."),
    ("", "It's dull!"),
    ("A film that I loved ", "dull"),
    ("It's a film that I loved. It's dull! " * 5, "It's a film"),
    ("no", "a film that I loved, it's a dull film that I loved"),
    ("naïve café", " 日本"),
    *(("It's a dull film, a film that I", f" {one}") for one in ("loved", "loved it", "a", "")),
    *(("A film, a film! It's", f" {one}") for one in ("dull", "a film that I loved and loved")),
]
LONG = PAIRS[3][0]


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
@pytest.mark.parametrize("model", [
    {"seq_len": 64},
    {"seq_len": 64, "parametrization": "mup", "base_d_model": 16},
    {"seq_len": 64, **NGRAMS},
])  # fmt: skip
def test_likelihoods_are_those_of_the_export_in_transformers(
    tmp_path: Path, folder: Path, model: dict[str, Any]
) -> None:
    pytest.importorskip("transformers", reason="exports to transformers")
    from lm_eval.api.instance import Instance
    from lm_eval.evaluator import evaluate as of_harness
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    from wafergpt.suites.harness_model import HarnessModel

    run = make_run(tmp_path, model=model)
    export(run, tmp_path / "hf", "hf")
    theirs = HFLM(
        pretrained=str(tmp_path / "hf"), device="cpu", dtype="float32", batch_size=2,
        trust_remote_code="ngrams" in model,
    )  # fmt: skip
    ours = HarnessModel(Writer.load(run, "cpu"))
    asked = [Instance("loglikelihood", {}, pair, n) for n, pair in enumerate(PAIRS)]
    for own, other in zip(ours.loglikelihood(asked), theirs.loglikelihood(asked), strict=True):
        assert own[0] == pytest.approx(other[0], abs=1e-4)
        assert own[1] == other[1]
    whole = [Instance("loglikelihood_rolling", {}, (text,), 0)
             for text in ("It's dull!", LONG)]  # fmt: skip
    assert ours.loglikelihood_rolling(whole) == pytest.approx(
        theirs.loglikelihood_rolling(whole), abs=1e-4
    )
    free = theirs.generate_until(_asked_to_write("", ("It's", LONG)))
    for end in ("", free[0][2:4], free[1][1:3]):
        until = _asked_to_write(end, ("It's", LONG))
        assert ours.generate_until(until) == theirs.generate_until(until)
    found = evaluate(run, ["harness"], tasks_folder=folder)["harness"]["tasks"]
    manager = TaskManager(include_defaults=False)
    configs = [task_config(name, path) for name, path in local_tasks(folder).items()]
    result = of_harness(theirs, manager.load(configs), bootstrap_iters=10, log_samples=False)
    assert result is not None
    for name, one in result["results"].items():
        assert found[name]["acc"] == one["acc,none"]
        assert found[name]["stderr"] == pytest.approx(one["acc_stderr,none"])


def _asked_to_write(end: str, texts: tuple[str, ...]) -> list[Any]:
    from lm_eval.api.instance import Instance

    asked = {"until": [end] if end else [], "max_gen_toks": 20, "do_sample": False}
    return [Instance("generate_until", {}, (text, dict(asked)), 0) for text in texts]


def _tokens(least: int, most: int) -> st.SearchStrategy[list[int]]:
    return st.lists(st.integers(0, 269), min_size=least, max_size=most)


# Several of the same length are read together.
CONTEXTS = st.sampled_from((1, 6, 9)).flatmap(lambda length: _tokens(length, length))
JUDGED = st.lists(st.one_of(_tokens(1, 5), _tokens(1, 12)), min_size=1, max_size=4)


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Writer, GPT]]:
    """Return a run without n-grams and one with them, each with a network of its weights."""
    found = {}
    for kind, model in (("plain", {}), ("ngrams", NGRAMS)):
        run = make_run(tmp_path_factory.mktemp(kind), model=model)
        found[kind] = Writer.load(run, "cpu"), network_of(run)
    return found


@pytest.mark.parametrize("kind", ["plain", "ngrams"])
@settings(max_examples=25)
@given(groups=st.lists(st.tuples(CONTEXTS, JUDGED), max_size=5))
@example(groups=[([n] * 6, [[3, 4, 5], [5, 6, 7, 8], [n]]) for n in (1, 2, 200)])
def test_rows_read_together_are_judged_as_each_alone(
    networks: dict[str, tuple[Writer, GPT]],
    kind: str,
    groups: list[tuple[list[int], list[list[int]]]],
) -> None:
    from wafergpt.suites.harness_model import HarnessModel

    writer, network = networks[kind]
    length, tokens = network.config.seq_len, writer.tokenizer.vocab_size
    rows = [(("", ""), context, one) for context, several in groups for one in several]
    model = HarnessModel(writer)
    with silent():
        found = model._loglikelihood_tokens(rows)
    assert model.cut == sum(len(c) + len(k) > length + 1 for _, c, k in rows)
    for (_, context, judged), (value, greedy) in zip(rows, found, strict=True):
        read = torch.tensor([*context, *judged][-(length + 1) :])
        with torch.no_grad():
            logits = network.logits(network(read[None, :-1]))[0, -len(judged) :, :tokens]
        wanted = read[-len(judged) :]
        known = torch.log_softmax(logits, 1).gather(1, wanted[:, None]).sum()
        assert value == pytest.approx(float(known), abs=1e-3)
        assert greedy == bool((logits.argmax(1) == wanted).all())


def test_a_context_is_read_once_for_all_that_follow_it(
    networks: dict[str, tuple[Writer, GPT]],
) -> None:
    from wafergpt.suites.harness_model import HarnessModel

    model = HarnessModel(networks["plain"][0])
    read: list[int] = []
    handle = model._gpt.register_forward_pre_hook(lambda _, given: read.append(given[0].numel()))
    model._loglikelihood_tokens([(("", ""), [1, 2, 3, 4, 5, 6], [n]) for n in range(5)])
    assert read == [6]
    model._loglikelihood_tokens([(("", ""), [1, 2, 3, 4, 5, 6], [n, 7]) for n in range(5)])
    assert read == [6, 6, 5]
    handle.remove()


def test_nothing_to_judge_is_refused(networks: dict[str, tuple[Writer, GPT]]) -> None:
    from wafergpt.suites.harness_model import HarnessModel

    model = HarnessModel(networks["plain"][0])
    with pytest.raises(InputError, match="nothing to judge after the text 'a film'"):
        model._loglikelihood_tokens([(("a film", ""), [1], [])])


@pytest.mark.parametrize(("name", "file", "query", "theirs"), [
    ("piqa", "piqa/piqa.yaml", "Question: dresser\n", {"goal": "dresser"}),
    ("arc_easy", "arc/arc_easy.yaml", "Question: Why?", {"question": "Why?"}),
    ("arc_challenge", "arc/arc_easy.yaml", "Question: Why?\nAnswer:", {"question": "Why?"}),
    ("boolq", "super_glue/boolq/default.yaml", "It is.\nQuestion: is it?",
     {"passage": "It is.", "question": "is it"}),
    ("openbook_qa", "openbookqa/openbookqa.yaml", "It is", {"question_stem": "It is"}),
])  # fmt: skip
def test_prompts_are_those_of_the_harness(
    tmp_path: Path, name: str, file: str, query: str, theirs: dict[str, str]
) -> None:
    import lm_eval.tasks
    import yaml
    from lm_eval.utils import apply_template

    path = Path(lm_eval.tasks.__file__).parent / file
    template = yaml.safe_load(path.read_text(encoding="utf-8"))["doc_to_text"]
    known = theirs[template] if template in theirs else apply_template(template, theirs)
    row = {"query": query, "choices": ["a", "b"], "gold": 0}
    config = task_config(name, lines(tmp_path / f"{name}.jsonl", [row]))
    assert config["doc_to_text"](row) == known


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
    assert found["cut"] > 0
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
    sound = {"query": "x", "choices": ["a", "b"], "gold": 0}
    for wrong, message in (
        ({"gold": 2}, "'gold' is no number from 0 to 1"),
        ({"gold": "0"}, "'gold' is no number"),
        ({"gold": True}, "'gold' is no number"),
        ({"choices": ["a"]}, "'choices' is no list of two or more texts"),
        ({"choices": ["a", 1]}, "'choices' is no list"),
        ({"query": ""}, "'query' is no text"),
    ):
        lines(tmp_path / "piqa.jsonl", [sound, {**sound, **wrong}])
        with pytest.raises(InputError, match=f"line 2: {message}"):
            evaluate(run, ["harness"], tasks_folder=tmp_path)


def test_a_run_of_a_task_is_refused(tmp_path: Path, folder: Path) -> None:
    run = make_run(tmp_path, task={"name": "classify", "train": "rows.csv"})
    with pytest.raises(InputError, match="is fine-tuned for a task"):
        harness(run, folder=folder)


def test_lm_eval_is_asked_for_where_it_is_missing(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval.evaluator", None)
    with pytest.raises(InputError, match=r"pip install 'wafergpt\[eval\]'"):
        harness(make_run(tmp_path), folder=folder)


def test_published_averages_are_those_of_the_paper() -> None:
    averages = [.315, .347, .370, .410, .462, .512, .570, .325, .351, .379, .419, .461]  # fmt: skip
    for one, average in zip(PUBLISHED, averages, strict=True):
        # Half a unit of the scores' last digit, and half a unit of the average's.
        assert sum(one["scores"].values()) / 7 == pytest.approx(average, abs=0.001)


def test_an_unknown_task_is_refused(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lm_eval import tasks

    # In place of the some thousand files of the harness, whose reading takes long.
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "piqa.yaml").write_text("task: piqa\n")
    real = tasks.TaskManager

    def few(include_defaults: bool) -> Any:
        path = str(tmp_path / "own") if include_defaults else None
        return real(include_defaults=False, include_path=path)

    monkeypatch.setattr(tasks, "TaskManager", few)
    with pytest.raises(InputError, match="did you mean 'piqa'"):
        evaluate(make_run(tmp_path), ["harness"], tasks=["piqaa"], tasks_folder=folder)


@pytest.mark.slow
def test_real_tasks_are_read(tmp_path: Path, real_data: Path) -> None:
    run = make_run(tmp_path)
    found = evaluate(run, ["harness"], tasks_folder=real_data / "lm_eval", rows=2)["harness"]
    assert len(found["tasks"]) == 11
    assert all(one["rows"] == 2 for one in found["tasks"].values())


def test_filters_of_a_metric_keep_their_names() -> None:
    values = {"exact_match,strict-match": 0.1, "exact_match,flexible-extract": 0.3, "acc,none": 0.5}
    found = _scores("gsm8k", {"results": {"gsm8k": values}})
    assert found["acc"] == 0.5
    assert found["exact_match,strict-match"] == 0.1
    assert found["exact_match,flexible-extract"] == 0.3
