"""Files of behavioural tests: YAML, those that come with wafergpt and the user's own."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from wafergpt import files
from wafergpt.config import Section
from wafergpt.config.messages import one_line
from wafergpt.config.yaml_values import RepeatedKeyError, parsed
from wafergpt.errors import InputError, nearest
from wafergpt.evaluation.perturbations import SEVERITIES, require_kinds
from wafergpt.files import short

FILE_BYTES = 1 << 20
"""A larger file is refused unread."""

PLACEHOLDER = re.compile(r"\{(\w+)\}")

TEXT = "text"
"""Placeholder of the unchanged input, in a template of the changed one."""

Texts = tuple[str, ...]


class BehaviourTest(Section):
    """A test of one ability, whose templates stand for many cases."""

    name: str = Field(min_length=1)
    capability: str = Field(min_length=1)
    type: Literal["MFT", "INV", "DIR"]
    templates: Texts = ()
    rows: bool = Field(False, strict=True)
    """Take the inputs from rows that are given, instead of templates."""
    lists: dict[str, Texts] = Field({})
    """What stands for each placeholder, beside the lists of the file."""
    label: str | None = None
    """Of MFT, the right answer of classify; of DIR, whose probability is watched."""
    entities: dict[str, str] | None = None
    """Of MFT, the right answer of tag: the label of each placeholder that is an entity."""
    changed: Texts = ()
    """Templates of a changed input; {text} is the unchanged one."""
    vary: Texts = ()
    """Placeholders that stand for something else in the changed input."""
    perturb: dict[str, Annotated[int, Field(strict=True)]] = Field({})
    """Kinds of changes (see ``KINDS``) with their severity."""
    letters: Literal["lower", "upper"] | None = None
    """The changed input is the unchanged one in small letters, or in capitals."""
    must_not: Literal["fall", "rise"] | None = None
    """Of DIR, what the label's probability must not do."""
    tolerance: float = Field(0.1, ge=0, lt=1, strict=True)
    """Of DIR, how far it may do so."""

    @field_validator("perturb")
    @classmethod
    def _are_kinds(cls, perturb: dict[str, int]) -> dict[str, int]:
        require_kinds(perturb)
        for kind, severity in perturb.items():
            if severity not in SEVERITIES:
                raise ValueError(f"{kind} has a severity of {severity}, which is not from 1 to 5")
        return perturb

    @model_validator(mode="after")
    def _is_whole(self) -> BehaviourTest:
        if self.rows == bool(self.templates):
            raise ValueError("a test has templates, or rows: true")
        changes = [key for key in ("changed", "vary", "perturb", "letters") if getattr(self, key)]
        if self.type == "MFT" and (self.rows or changes or self.must_not):
            raise ValueError("a test of type MFT has templates and a right answer, and no changes")
        if self.type == "MFT" and (self.label is None) == (self.entities is None):
            raise ValueError(
                "a test of type MFT has one right answer: label (classify) or entities (tag)"
            )
        if self.type != "MFT" and (not changes or self.entities is not None):
            raise ValueError(
                f"type {self.type} needs changed, vary, perturb or letters, and no entities"
            )
        if self.type == "INV" and (self.label or self.must_not):
            raise ValueError("type INV has no label: the answer must stay what it is")
        if self.type == "DIR" and (self.label is None or self.must_not is None):
            raise ValueError("type DIR needs a label, and must_not: fall or rise")
        return self


class BehaviourFile(Section):
    """Tests of one task."""

    task: Literal["classify", "tag"]
    about: str = ""
    labels: dict[str, tuple[str | Texts, ...]] = Field({})
    """Each label of the tests, with its names in the runs of others. Names at the same place
    belong together; of several in one place the run must have the first."""
    beside: tuple[Texts, ...] = ()
    """What other labels a run may have, at each place of labels; any others if omitted."""
    lists: dict[str, Texts] = Field({})
    """What stands for each placeholder, in all tests."""
    tests: tuple[BehaviourTest, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _labels_are_parallel(self) -> BehaviourFile:
        counts = {label: len(names) for label, names in self.labels.items()}
        if len(set(counts.values())) > 1 or 0 in counts.values():
            raise ValueError(f"labels need as many names each, and at least one: {counts}")
        if self.beside and {len(self.beside)} != set(counts.values()):
            raise ValueError(f"beside needs as many lists as labels have names: {counts}")
        return self


def shipped_behaviour() -> list[str]:
    """Return the names of the files of tests that come with wafergpt."""
    folder = resources.files("wafergpt") / "suites" / "cases"
    return sorted(
        entry.name.removesuffix(".yaml")
        for entry in folder.iterdir()
        if entry.name.endswith(".yaml")
    )


def load_behaviour(name: str | Path) -> BehaviourFile:
    """Read a file of behavioural tests.

    Args:
        name: a YAML file, or a name from ``shipped_behaviour``.

    Returns:
        The tests, each of which can be written out.

    Raises:
        InputError: if there is no such file, or a test in it is not one; both are named.
    """
    path = files.from_home(name)
    if not files.is_file(path):
        shipped = shipped_behaviour()
        if str(name) not in shipped:
            raise InputError(
                f"no file of behavioural tests: {path}{nearest(str(name), shipped)} (shipped are "
                f"{', '.join(shipped)})"
            )
        path = Path(str(resources.files("wafergpt") / "suites" / "cases" / f"{name}.yaml"))
    if path.stat().st_size > FILE_BYTES:
        raise InputError(f"{path} is too large for a file of tests (limit 1 MiB)")
    try:
        values = parsed(path.read_text(encoding="utf-8"))
    except RepeatedKeyError as error:
        raise InputError(f"{path}, line {error.line}: {short(error.key)} appears twice") from None
    except ValueError as error:
        raise InputError(f"{path} is not YAML: {error}") from None
    if not isinstance(values, dict):
        raise InputError(f"{path} is not a file of tests: it must hold 'task:' and 'tests:'")
    found = _file(path, values)
    seen: set[str] = set()
    for test in found.tests:
        if test.name in seen:
            raise InputError(f"{path}: two tests are named {short(test.name)}")
        seen.add(test.name)
        if fault := _fault(found, test):
            raise InputError(f"{path}, test {short(test.name)}: {fault}")
    return found


def placeholders(templates: Sequence[str]) -> list[str]:
    """Return the names of what templates leave open, in their order."""
    return list(dict.fromkeys(name for text in templates for name in PLACEHOLDER.findall(text)))


def _file(path: Path, values: Mapping[str, Any]) -> BehaviourFile:
    """Give values their types, the tests one by one, so that a message can name the test."""
    raw = values.get("tests")
    if isinstance(raw, list):
        for place, one in enumerate(raw):
            name = one.get("name") if isinstance(one, dict) else None
            where = f"{path}, test {place + 1 if name is None else short(name)}"
            try:
                BehaviourTest.model_validate(one)
            except ValidationError as error:
                raise InputError(f"{where}: {_line(error, BehaviourTest)}") from None
    try:
        return BehaviourFile.model_validate(values)
    except ValidationError as error:
        raise InputError(f"{path}: {_line(error, BehaviourFile)}") from None


def _line(error: ValidationError, section: type[Section]) -> str:
    # A key with a typing error is missing, too.
    unknown = [one for one in error.errors() if one["type"] == "extra_forbidden"]
    first = (unknown or error.errors())[0]
    key = str(first["loc"][-1]) if first["loc"] else ""
    if unknown:
        return f"unknown key {short(key)}{nearest(key, section.model_fields)}"
    if first["type"] == "missing":
        return f"the key '{key}' is missing"
    return one_line(error, {"": list(section.model_fields)})


def _fault(found: BehaviourFile, test: BehaviourTest) -> str:
    """Return what is wrong between a test and its file; "" if nothing is."""
    return next(_faults(found, test), "")


def _faults(found: BehaviourFile, test: BehaviourTest) -> Iterator[str]:
    lists = {**found.lists, **test.lists}
    named = placeholders(test.templates)
    of_changed = [name for name in placeholders(test.changed) if name != TEXT]
    if TEXT in lists or TEXT in named:
        yield "{text} is the unchanged input: give the list another name"
    for name in dict.fromkeys([*named, *of_changed]):
        if not lists.get(name):
            yield f"there is no list for {{{name}}}{nearest(name, lists)}"
    if test.rows and of_changed:
        yield f"{{{of_changed[0]}}} has no meaning where inputs are rows: use {{text}}"
    for key, names in (("vary", test.vary), ("entities", tuple(test.entities or ()))):
        for name in names:
            if name not in named:
                yield f"{key}={short(name)} is in no template{nearest(name, named)}"
    for name in test.vary:
        if len(set(lists[name])) < 2:
            yield f"the list of {{{name}}} has one item, so it cannot vary"
    for label in [*([test.label] if test.label else []), *(test.entities or {}).values()]:
        if label not in found.labels:
            yield f"no label {short(label)} in labels of the file{nearest(label, found.labels)}"
    other = "entities" if found.task == "classify" else "label"
    if getattr(test, other) is not None:
        yield f"{other} is not of task: {found.task}"
