"""Behavioural tests of single abilities (CheckList; Ribeiro et al., ACL 2020, arXiv:2005.04118)."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import prod
from typing import Any

from wafergpt.data.text_columns import in_each, shown
from wafergpt.errors import InputError
from wafergpt.evaluation.behaviour_files import (
    PLACEHOLDER,
    TEXT,
    BehaviourFile,
    BehaviourTest,
    placeholders,
)
from wafergpt.evaluation.intervals import wilson
from wafergpt.evaluation.perturbations import perturbed
from wafergpt.files import short

CASES = 100
"""Maximum cases of a test, which are drawn if its templates stand for more."""

SHOWN = 3
"""Failures of a test that are kept as examples."""

Answer = Mapping[str, Any]


@dataclass(frozen=True)
class Case:
    """One input with its right answer, or an input and its changed form.

    Attributes:
        test: that it is of.
        inputs: places in the texts of ``Cases``, one or two.
        expected: of MFT, the label of the file, or the entities as ``(text, label)``.
    """

    test: BehaviourTest
    inputs: tuple[int, ...]
    expected: str | tuple[tuple[str, str], ...] | None = None


@dataclass
class Cases:
    """The cases of a file.

    Attributes:
        file: that they are of.
        texts: all inputs, each once, to be answered in this order.
        cases: of all tests, in their order.
    """

    file: BehaviourFile
    texts: list[str] = field(default_factory=list)
    cases: list[Case] = field(default_factory=list)


def labels_for(file: BehaviourFile, run_labels: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return the run's labels that each label of a file stands for; case is ignored.

    The names at one place of all labels belong together: "1" is positive beside "0", and negative
    beside "5". A run with labels that are in neither the names nor ``beside`` is of another kind.

    Args:
        file: of tests.
        run_labels: of the run.

    Returns:
        By label of the file.

    Raises:
        InputError: if the run has no labels of these names; both are named.
    """
    there = {label.casefold(): label for label in run_labels}
    names = {
        label: [(one,) if isinstance(one, str) else one for one in of_label]
        for label, of_label in file.labels.items()
    }
    for place, scheme in enumerate(zip(*names.values(), strict=True)):
        known = {name.casefold() for same in scheme for name in same}
        if file.beside and there.keys() - known - {n.casefold() for n in file.beside[place]}:
            continue
        if all(same[0].casefold() in there for same in scheme):
            return {
                label: tuple(there[n.casefold()] for n in same if n.casefold() in there)
                for label, same in zip(names, scheme, strict=True)
            }
    if not names:
        return {}
    raise InputError(
        f"the tests are of the labels {', '.join(names)}, and the run has "
        f"{short(', '.join(run_labels))}: add the run's names to labels in the file of the tests"
    )


def expanded(
    file: BehaviourFile, rows: Sequence[str] = (), seed: int = 0, limit: int = CASES
) -> Cases:
    """Write out the cases of all tests.

    Args:
        file: of tests.
        rows: inputs of the tests that have ``rows: true``; of several columns each is changed.
        seed: of what is drawn.
        limit: maximum cases of a test.

    Returns:
        The cases; the same arguments give the same ones.

    Raises:
        InputError: if a test needs rows and there are none, or templates leave it without a case.
    """
    found = Cases(file)
    places: dict[str, int] = {}
    for test in file.tests:
        if test.rows and not any(row.strip() for row in rows):
            raise InputError(
                f"test {short(test.name)} takes its inputs from rows, and none are given"
            )
        count = 0
        for texts, expected in _written(file, test, rows, seed, limit):
            count += 1
            inputs = tuple(places.setdefault(text, len(places)) for text in texts)
            found.cases.append(Case(test, inputs, expected))
        if not count and not test.rows:
            raise InputError(f"test {short(test.name)}: its changes change none of its inputs")
    found.texts = list(places)
    return found


def failures(
    cases: Cases, answers: Sequence[Answer | None], labels: Mapping[str, Sequence[str]]
) -> list[dict[str, Any]]:
    """Judge the answers to all cases.

    Args:
        cases: of a file.
        answers: of ``Predictor.predict`` to ``cases.texts``; no answer is never a right one.
        labels: of ``labels_for``.

    Returns:
        For each test ``name``, ``capability``, ``type``, ``cases``, ``failed``, ``failure_rate``,
        its 95% ``interval``, and ``examples`` of failures: ``inputs``, ``expected`` and ``got``.
        Rows that a test's changes do not touch leave it without cases: its rate is None.

    Raises:
        InputError: if the answers are not of the task of the tests.
    """
    key = "label" if cases.file.task == "classify" else "entities"
    for answer in answers:
        if answer is not None and key not in answer:
            raise InputError(
                f"the tests are of task.name={cases.file.task} with one answer to a text, and the "
                f"run answers with {', '.join(answer)}"
            )
    judge: Callable[..., _Verdict] = _classified if cases.file.task == "classify" else _tagged
    found: dict[str, dict[str, Any]] = {
        test.name: {
            "name": test.name, "capability": test.capability, "type": test.type,
            "cases": 0, "failed": 0, "failure_rate": None, "interval": None, "examples": [],
        }
        for test in cases.file.tests
    }  # fmt: skip
    for case in cases.cases:
        entry = found[case.test.name]
        fails, expected, got = judge(case, [answers[place] for place in case.inputs], labels)
        entry["cases"] += 1
        entry["failed"] += fails
        if fails and len(entry["examples"]) < SHOWN:
            inputs = [shown(cases.texts[place]) for place in case.inputs]
            entry["examples"].append({"inputs": inputs, "expected": expected, "got": got})
    for entry in found.values():
        if n := entry["cases"]:
            entry["failure_rate"] = entry["failed"] / n
            entry["interval"] = list(wilson(entry["failure_rate"], n))
    return list(found.values())


@dataclass(frozen=True)
class _Base:
    """An unchanged input, its template, and what stands for the placeholders."""

    text: str
    template: str
    values: Mapping[str, str]


_Written = tuple[tuple[str, ...], str | tuple[tuple[str, str], ...] | None]
"""The input or inputs of a case, and what is expected."""

_Verdict = tuple[bool, Any, Any]
"""Whether a case fails, and for people what was expected and what came."""


def _written(
    file: BehaviourFile, test: BehaviourTest, rows: Sequence[str], seed: int, limit: int
) -> Iterator[_Written]:
    key = f"{test.name} {seed}".encode("utf-8", "surrogatepass")
    draw = random.Random(int.from_bytes(hashlib.sha256(key).digest()))
    if test.rows:
        given = [row for row in dict.fromkeys(rows) if row.strip()]
        bases = [_Base(given[place], TEXT, {}) for place in _drawn(len(given), limit, draw)]
    else:
        bases = list(_bound(file, test, limit, draw))
    if test.type == "MFT":
        for base in bases:
            there = set(PLACEHOLDER.findall(base.template))
            of = {name: label for name, label in (test.entities or {}).items() if name in there}
            yield (base.text,), test.label or tuple((base.values[name], of[name]) for name in of)
        return
    # Changes take turns, so that each has its share of the cases.
    forms = [list(_forms(file, test, base, seed, draw)) for base in bases]
    turns = max(map(len, forms), default=0)
    pairs = [
        (base.text, of_base[(place + turn) % len(of_base)])
        for turn in range(turns)
        for place, (base, of_base) in enumerate(zip(bases, forms, strict=True))
        if turn < len(of_base)
    ]
    yield from ((pair, None) for pair in list(dict.fromkeys(pairs))[:limit])


def _bound(
    file: BehaviourFile, test: BehaviourTest, limit: int, draw: random.Random
) -> Iterator[_Base]:
    """Return inputs of templates, each of which has its share of the cases.

    Of more templates than cases, so many are drawn.
    """
    lists = {**file.lists, **test.lists}
    seen: set[str] = set()
    chosen = [test.templates[n] for n in _drawn(len(test.templates), limit, draw)]
    for turn, template in enumerate(chosen):
        share = (limit - len(seen)) // (len(chosen) - turn)
        # A changed template may have placeholders of its own.
        names = [n for n in placeholders([template, *test.changed]) if n in lists]
        sizes = [len(lists[name]) for name in names]
        for number in _drawn(prod(sizes), share, draw):
            values = {}
            for name, size in zip(names, sizes, strict=True):
                number, place = divmod(number, size)
                values[name] = lists[name][place]
            text = _filled(template, values)
            if text not in seen:
                seen.add(text)
                yield _Base(text, template, values)


def _forms(
    file: BehaviourFile, test: BehaviourTest, base: _Base, seed: int, draw: random.Random
) -> Iterator[str]:
    """Return the changed forms of an input that differ from it."""
    lists, text = {**file.lists, **test.lists}, base.text
    found = [in_each(text, _filler(template, base.values)) for template in test.changed]
    if test.vary:
        others = dict(base.values)
        for name in test.vary:
            choices = [one for one in lists[name] if one != others[name]]
            others[name] = choices[int(draw.random() * len(choices))]
        found.append(_filled(base.template, others))
    for kind, severity in test.perturb.items():
        found.append(in_each(text, partial(perturbed, kind=kind, severity=severity, seed=seed)))
    if test.letters:
        found.append(text.lower() if test.letters == "lower" else text.upper())
    yield from (form for form in dict.fromkeys(found) if form != text)


def _filler(template: str, values: Mapping[str, str]) -> Callable[[str], str]:
    """Return what makes a column's changed form; a column without a text keeps none."""
    return lambda part: _filled(template, {**values, TEXT: part}) if part.strip() else part


def _drawn(n: int, limit: int, draw: random.Random) -> list[int]:
    """Return numbers below ``n``, at most ``limit`` of them, in their order."""
    if n <= limit:
        return list(range(n))
    chosen: set[int] = set()
    while len(chosen) < limit:
        chosen.add(int(draw.random() * n))
    return sorted(chosen)


def _filled(template: str, values: Mapping[str, str]) -> str:
    return PLACEHOLDER.sub(lambda match: values[match[1]], template)


def _classified(
    case: Case, answers: Sequence[Answer | None], labels: Mapping[str, Sequence[str]]
) -> _Verdict:
    test = case.test
    found = [None if answer is None else answer["label"] for answer in answers]
    if test.type == "INV":
        return found[0] != found[1], found[0], found[1]
    if test.type == "MFT":
        right = labels[str(case.expected)]
        return found[0] not in right, " or ".join(right), found[0]
    of = labels[str(test.label)]
    shares = [0.0 if a is None else sum(a["scores"][name] for name in of) for a in answers]
    change = shares[1] - shares[0]
    fails = (change if test.must_not == "rise" else -change) > test.tolerance
    expected = f"p({' or '.join(of)}) must not {test.must_not} by more than {test.tolerance:g}"
    return fails, expected, [round(share, 4) for share in shares]


def _tagged(
    case: Case, answers: Sequence[Answer | None], labels: Mapping[str, Sequence[str]]
) -> _Verdict:
    found = [
        [(one["text"], one["label"]) for one in (answer or {"entities": []})["entities"]]
        for answer in answers
    ]
    if case.test.type == "INV":
        same = _same if case.test.changed or case.test.letters else _same_labels
        return not same(*found), found[0], found[1]
    # Labels of the run that the tests know nothing of are not judged.
    own = {name: label for label, names in labels.items() for name in names}
    got = sorted((text, own[label]) for text, label in found[0] if label in own)
    expected = sorted(case.expected or ())
    return got != expected, expected, got


def _same(one: Sequence[tuple[str, str]], two: Sequence[tuple[str, str]]) -> bool:
    return [(t.casefold(), n) for t, n in one] == [(t.casefold(), n) for t, n in two]


def _same_labels(one: Sequence[tuple[str, str]], two: Sequence[tuple[str, str]]) -> bool:
    return [label for _, label in one] == [label for _, label in two]
