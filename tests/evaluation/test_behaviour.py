"""Behavioural tests: their files, the cases they stand for, and what counts as a failure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from wafergpt.errors import InputError
from wafergpt.evaluation.behaviour import Cases, expanded, failures, labels_for
from wafergpt.evaluation.behaviour_files import (
    BehaviourFile,
    load_behaviour,
    shipped_behaviour,
)

ROWS = ["How do I reset my card?", "i don't know my balance", "Cancel it, please, right now."]
LABELS = {"positive": ("pos",), "negative": ("neg",)}


def classify(test: dict[str, Any], **more: Any) -> BehaviourFile:
    given = {"name": "t", "capability": "c", **test}
    labels = {"positive": ["pos"], "negative": ["neg"]}
    return BehaviourFile.model_validate(
        {"task": "classify", "labels": labels, "tests": [given], **more}
    )


def tag(test: dict[str, Any]) -> BehaviourFile:
    lists = {"who": ["Ann", "Bo"], "where": ["Rome"]}
    return BehaviourFile.model_validate(
        {
            "task": "tag",
            "labels": {"person": ["PER"], "place": ["LOC"]},
            "lists": lists,
            "tests": [{"name": "t", "capability": "c", **test}],
        }
    )


def said(label: str | None, share: float = 0.5) -> dict[str, Any]:
    return {"label": label, "score": share, "scores": {"pos": share, "neg": 1 - share}}


def entities(*found: tuple[str, str]) -> dict[str, Any]:
    return {
        "entities": [{"text": t, "label": n, "start": 0, "end": 1, "score": 1} for t, n in found]
    }


def by_words(texts: Sequence[str]) -> list[dict[str, Any]]:
    """Answer as a lexicon does, which knows no negation."""
    lists = load_behaviour("sentiment").lists
    good, bad = ({*lists[one], *lists[two]} for one, two in (("good", "praise"), ("bad", "blame")))
    answers = []
    for text in texts:
        words = re.findall(r"\w+", text.lower())
        more = sum(w in good for w in words) - sum(w in bad for w in words)
        answers.append(said("neg" if more < 0 else "pos", 1 / (1 + 2.0**-more)))
    return answers


def judged(name: str, answer: Any) -> dict[str, dict[str, Any]]:
    cases = expanded(load_behaviour(name), ROWS)
    return {one["name"]: one for one in failures(cases, answer(cases.texts), LABELS)}


def test_a_lexicon_knows_words_and_no_negation() -> None:
    found = judged("sentiment", by_words)
    for name in (
        "words of praise", "words of blame", "more praise at the end", "names of people",
        "names of places", "typing errors", "addresses and handles", "contractions",
    ):  # fmt: skip
        assert found[name]["failed"] == 0, name
        assert found[name]["examples"] == []
    assert found["praise that is denied"]["failure_rate"] == 1
    assert found["blame that is denied"]["failure_rate"] > 0.4
    first = found["praise that is denied"]["examples"][0]
    assert first["expected"] == "neg"
    assert first["got"] == "pos"
    assert "{" not in first["inputs"][0]


def by_characters(texts: Sequence[str]) -> list[dict[str, Any]]:
    """Answer as a lexicon of Chinese words does, which knows no negation."""
    lists = load_behaviour("sentiment_zh").lists
    good, bad = (
        {word for name in names for word in lists[name]}
        for names in (("good", "praise", "well", "pleased"), ("bad", "blame", "ill", "annoyed"))
    )
    sums = [sum(w in text for w in good) - sum(w in text for w in bad) for text in texts]
    return [said("neg" if more < 0 else "pos", 1 / (1 + 2.0**-more)) for more in sums]


def test_a_chinese_lexicon_knows_words_and_no_negation() -> None:
    file = load_behaviour("sentiment_zh").model_copy(
        update={"labels": {"positive": ("pos",), "negative": ("neg",)}}
    )
    cases = expanded(file)
    found = {one["name"]: one for one in failures(cases, by_characters(cases.texts), LABELS)}
    english = {test.name for test in load_behaviour("sentiment").tests}
    assert {*found} - english == {"traditional characters"}
    for name in (
        "words of praise", "words of blame", "more praise at the end", "names of people",
        "names of places", "addresses and handles", "sentences that say nothing",
    ):  # fmt: skip
        assert found[name]["failed"] == 0, (name, found[name]["examples"])
    assert found["praise that is denied"]["failure_rate"] == 1
    changed = [case.inputs for case in cases.cases if case.test.name == "traditional characters"]
    assert len(changed) > 50
    assert any("\u89ba" in cases.texts[after] for _, after in changed)


@pytest.mark.parametrize("name", shipped_behaviour())
def test_shipped_files_stand_for_enough_different_cases(name: str) -> None:
    file = load_behaviour(name)
    cases = expanded(file, ROWS * 2)
    again = expanded(file, ROWS * 2)
    assert (cases.texts, cases.cases) == (again.texts, again.cases)
    assert len(set(cases.texts)) == len(cases.texts)
    assert not any(re.search(r"[{}]", text) for text in cases.texts)
    counts = Counter(case.test.name for case in cases.cases)
    assert set(counts) <= {test.name for test in file.tests}
    assert max(counts.values()) <= 100
    for case in cases.cases:
        assert len(case.inputs) == (1 if case.test.type == "MFT" else 2)
        assert len(set(case.inputs)) == len(case.inputs)
        if file.task == "tag" and case.test.type == "MFT":
            assert isinstance(case.expected, tuple)
            assert all(text in cases.texts[case.inputs[0]] for text, _ in case.expected)
    if name != "intents":
        assert len(counts) == len(file.tests)
        assert expanded(file, seed=1).texts != cases.texts


def test_one_answer_to_all_is_invariant_and_another_to_each_is_not() -> None:
    same = judged("intents", lambda texts: [said("pos")] * len(texts))
    assert sum(one["failed"] for one in same.values()) == 0
    other = judged("intents", lambda texts: [said(text) for text in texts])
    assert all(one["failure_rate"] in (1, None) for one in other.values())
    # No row has two spaces, or a gap that changes at this severity.
    assert other["polite words"]["cases"] == 12
    empty = [one for one in other.values() if not one["cases"]]
    assert all(one["interval"] is None for one in empty)


@settings(max_examples=25)
@given(st.lists(st.integers(1, 7), min_size=1, max_size=3), st.integers(1, 60), st.integers(0, 5))
def test_cases_are_a_part_of_the_product(sizes: list[int], limit: int, seed: int) -> None:
    lists = {f"p{i}": [f"{i}w{k}" for k in range(n)] for i, n in enumerate(sizes)}
    template = " ".join(f"{{{name}}}" for name in lists)
    test = {"type": "MFT", "templates": [template], "label": "positive", "lists": lists}
    found = expanded(classify(test), seed=seed, limit=limit)
    total = 1
    for n in sizes:
        total *= n
    assert len(set(found.texts)) == len(found.cases) == min(limit, total)
    for text in found.texts:
        assert all(word in lists[f"p{i}"] for i, word in enumerate(text.split()))


@settings(max_examples=25)
@given(st.lists(st.booleans(), min_size=1, max_size=30))
def test_rates_and_intervals(right: list[bool]) -> None:
    lists = {"n": [str(i) for i in range(len(right))]}
    test = {"type": "MFT", "templates": ["{n}"], "label": "positive", "lists": lists}
    cases = expanded(classify(test))
    (found,) = failures(cases, [said("pos" if one else "neg") for one in right], LABELS)
    assert found["cases"] == len(right)
    assert found["failed"] == right.count(False)
    interval = binomtest(found["failed"], len(right)).proportion_ci(0.95, method="wilson")
    assert found["interval"] == pytest.approx([interval.low, interval.high], abs=1e-4)
    assert len(found["examples"]) == min(3, found["failed"])


def test_a_template_shares_the_cases_and_fills_in_once() -> None:
    file = classify(
        {"type": "MFT", "templates": ["a {x}", "b {x}"], "label": "positive",
         "lists": {"x": ["{x}", *"1234567"]}}
    )  # fmt: skip
    found = expanded(file, limit=6)
    assert Counter(text[0] for text in found.texts) == {"a": 3, "b": 3}
    assert "a {x}" in expanded(file).texts


def test_varied_and_changed_inputs() -> None:
    lists = {"who": ["Ann", "Bo"], "x": ["1", "2"]}
    file = classify({"type": "INV", "templates": ["{who}: {x}"], "vary": ["who"], "lists": lists})
    cases = expanded(file)
    pairs = {tuple(cases.texts[place] for place in case.inputs) for case in cases.cases}
    assert pairs == {
        (f"{a}: {x}", f"{b}: {x}") for x in "12" for a, b in (("Ann", "Bo"), ("Bo", "Ann"))
    }
    file = classify({"type": "INV", "rows": True, "changed": ["{text}!"], "letters": "upper"})
    cases = expanded(file, ["a {b}", " ", "C"])
    pairs = {tuple(cases.texts[place] for place in case.inputs) for case in cases.cases}
    assert pairs == {("a {b}", "a {b}!"), ("a {b}", "A {B}"), ("C", "C!")}


@pytest.mark.parametrize(
    ("must_not", "before", "after", "fails"),
    [("fall", 0.9, 0.75, True), ("fall", 0.9, 0.85, False), ("fall", 0.1, 0.9, False),
     ("rise", 0.2, 0.4, True), ("rise", 0.2, 0.25, False), ("rise", 0.9, 0.1, False)],
)  # fmt: skip
def test_directions(must_not: str, before: float, after: float, fails: bool) -> None:
    file = classify(
        {"type": "DIR", "templates": ["a"], "changed": ["{text} b"], "label": "positive",
         "must_not": must_not, "tolerance": 0.1}
    )  # fmt: skip
    cases = expanded(file)
    assert cases.texts == ["a", "a b"]
    (found,) = failures(cases, [said("pos", before), said("pos", after)], LABELS)
    assert found["failed"] == fails


def test_no_answer_is_not_right_and_does_not_differ_from_none() -> None:
    right = expanded(classify({"type": "MFT", "templates": ["a"], "label": "positive"}))
    for answer in (None, said(None)):
        assert failures(right, [answer], LABELS)[0]["failed"] == 1
    same = expanded(classify({"type": "INV", "templates": ["a"], "changed": ["{text} b"]}))
    assert failures(same, [said(None), said(None)], LABELS)[0]["failed"] == 0
    assert failures(same, [said("pos"), said(None)], LABELS)[0]["failed"] == 1


def test_entities() -> None:
    file = tag({"type": "MFT", "templates": ["{who} in {where}"],
                "entities": {"who": "person", "where": "place"}})  # fmt: skip
    labels = labels_for(file, ["LOC", "MISC", "PER"])
    cases = expanded(file)
    assert cases.texts[0] == "Ann in Rome"
    bo = entities(("Rome", "LOC"), ("Bo", "PER"))
    for answer, failed in (
        (entities(("Ann", "PER"), ("Rome", "LOC")), 0),
        (entities(("Ann", "PER"), ("Rome", "LOC"), ("in", "MISC")), 0),
        (entities(("Ann", "PER")), 1),
        (entities(("Ann", "LOC"), ("Rome", "LOC")), 1),
        (entities(("Ann", "PER"), ("Rome", "LOC"), ("in", "PER")), 1),
        (entities(("Ann in", "PER"), ("Rome", "LOC")), 1),
        (None, 1),
    ):
        assert failures(cases, [answer, bo], labels)[0]["failed"] == failed


def test_another_name_keeps_labels_and_small_letters_keep_names_too() -> None:
    ann, bo = entities(("Ann", "PER")), entities(("Bo", "PER"))
    varied = expanded(tag({"type": "INV", "templates": ["{who} ran"], "vary": ["who"]}))
    assert failures(varied, [ann, bo], {})[0]["failed"] == 0
    assert failures(varied, [ann, entities(("Bo", "LOC"))], {})[0]["failed"] == 2
    small = expanded(tag({"type": "INV", "templates": ["Ann ran"], "letters": "lower"}))
    assert failures(small, [ann, entities(("ann", "PER"))], {})[0]["failed"] == 0
    assert failures(small, [ann, entities(("ann ran", "PER"))], {})[0]["failed"] == 1


@pytest.mark.parametrize(
    ("run", "positive", "negative"),
    [
        (["neg", "pos"], ("pos",), ("neg",)),
        (["Negative", "NEUTRAL", "Positive"], ("Positive",), ("Negative",)),
        (["0", "1"], ("1",), ("0",)),
        (["1", "2"], ("2",), ("1",)),
        (["-1", "0", "1"], ("1",), ("-1",)),
        (list("12345"), ("5", "4"), ("1", "2")),
        ([str(n) for n in range(1, 11)], ("10", "9", "8", "7"), ("1", "2", "3", "4")),
        (["1", "2", "3", "4", "7", "8", "9", "10"], ("10", "9", "8", "7"), ("1", "2", "3", "4")),
    ],
)
def test_sentiment_labels(run: list[str], positive: Any, negative: Any) -> None:
    found = labels_for(load_behaviour("sentiment"), run)
    assert found == {"positive": positive, "negative": negative}


def test_labels_of_another_kind_are_refused() -> None:
    sentiment, names = load_behaviour("sentiment"), load_behaviour("entities")
    for run in (["world", "sports"], list("0123"), ["positive", "sports", "negative"], ["pos"]):
        with pytest.raises(InputError, match="and the run has"):
            labels_for(sentiment, run)
    with pytest.raises(InputError, match="Disease"):
        labels_for(names, ["Disease"])
    assert labels_for(names, ["GPE", "LOC", "ORG", "PERSON", "DATE"])["place"] == ("GPE", "LOC")
    assert labels_for(load_behaviour("intents"), ["anything"]) == {}


def test_answers_of_another_task_are_refused() -> None:
    cases: Cases = expanded(classify({"type": "MFT", "templates": ["a"], "label": "positive"}))
    with pytest.raises(InputError, match=r"answers with labels"):
        failures(cases, [{"labels": []}], LABELS)
    with pytest.raises(InputError, match="none are given"):
        expanded(load_behaviour("intents"), [" "])


GOOD = """
task: classify
labels: {positive: [pos]}
lists: {x: [a, b]}
tests:
  - {name: first, capability: c, type: MFT, templates: ["{x}"], label: positive}
"""


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("label: positive", "labell: positive", "'first': unknown key 'labell'; did you mean"),
        ("label: positive", "label: 5", "'first': label=5 is impossible"),
        ("label: positive", "label: positiv", "no label 'positiv'.*did you mean 'positive'"),
        ("label: positive", "vary: [x]", "'first': a test of type MFT has templates"),
        ("label: positive", "entities: {x: positive}", "entities is not of task: classify"),
        (', label: positive', "", "one right answer"),
        ('"{x}"', '"{y}"', r"'first': there is no list for \{y\}"),
        ('"{x}"', '"{text}"', "'first': .*another name"),
        ("[a, b]", "[a, no]", "lists.x.1=False is impossible"),
        ("[a, b]", "abc", "lists.x='abc' is impossible"),
        ("MFT", "MTF", "'first': type='MTF' is impossible"),
        ("type: MFT", "type: INV", "INV needs changed, vary"),
        ("name: first", "name: first, name: second", "line 6: 'name' appears twice"),
        ("task: classify", "task: rank", "task='rank' is impossible"),
        ("task: classify", "tasks: classify", "unknown key 'tasks'; did you mean 'task'"),
        ("labels: {positive: [pos]}", "labels: {positive: [pos], other: [a, b]}", "as many names"),
        ("{name: first", "{name: first, rows: 1", "rows=1 is impossible"),
        ("type: MFT", "type: INV, perturb: {typo: 1}", "did you mean 'typos'"),
        ("type: MFT", "type: INV, perturb: {typos: 6}", "not from 1 to 5"),
        ("type: MFT", "type: DIR, changed: [b]", "must_not"),
        ("tests:", "tests: [", "is not YAML"),
        ("type: MFT, ", "", "'first': the key 'type' is missing"),
        (GOOD, "- a", "must hold 'task:'"),
    ],
)  # fmt: skip
def test_a_wrong_file_gets_one_line(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "cases.yaml"
    path.write_text(GOOD)
    assert [test.name for test in load_behaviour(path).tests] == ["first"]
    path.write_text(GOOD.replace(old, new, 1))
    with pytest.raises(InputError, match=message) as caught:
        load_behaviour(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_file_is_named() -> None:
    with pytest.raises(InputError, match=r"did you mean 'sentiment'.*shipped are entities"):
        load_behaviour("sentimant")
    with pytest.raises(InputError, match="change none of its inputs"):
        expanded(classify({"type": "INV", "templates": ["a"], "letters": "lower"}))
