"""Tests of abilities of a classifier that reads several columns."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.tasks.test_finetune import SMALL
from wafergpt.api import finetune
from wafergpt.errors import InputError
from wafergpt.evaluation.behaviour import expanded
from wafergpt.evaluation.behaviour_files import load_behaviour
from wafergpt.inference.predictor import Predictor
from wafergpt.suites.behaviour import behaviour


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    home = tmp_path_factory.mktemp("home")
    rows = [{"subject": f"about {n}", "body": f"it was very{y} {n}", "label": y}
            for n in range(30) for y in ("negative", "positive")]  # fmt: skip
    (home / "train.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    asked = [*SMALL, f"task.train={home / 'train.jsonl'}", "task.text=[subject,body]",
             "model.vocab_size=270", "train.steps=2", "train.batch_size=8"]  # fmt: skip
    return finetune("scratch", None, asked, refit=False, root=home)


def test_tests_of_its_own_rows_change_each_column(two: Predictor) -> None:
    found = behaviour(two)["tests"]
    assert {one["name"] for one in found} == {one.name for one in load_behaviour("intents").tests}
    assert all(one["cases"] for one in found if one["name"] in ("polite words", "capitals"))
    assert not any("\x1f" in text for one in found
                   for case in one["examples"] for text in case["inputs"])  # fmt: skip
    texts = expanded(load_behaviour("intents"), ["one\x1ftwo", "\x1fthree"]).texts
    assert {"one one\x1ftwo two", "ONE\x1fTWO", "\x1fthree three"} <= {*texts}
    assert {text.count("\x1f") for text in texts} == {1}


def test_templates_of_one_text_are_refused(two: Predictor, tmp_path: Path) -> None:
    path = tmp_path / "cases.yaml"
    path.write_text(
        "task: classify\ntests:\n  - {name: marks, capability: robustness, type: INV, "
        "templates: [it is good], changed: ['{text}!']}\n"
    )
    with pytest.raises(InputError, match=r"'marks' has templates .* columns subject, body: rows"):
        behaviour(two, path)


def test_of_many_templates_some_of_all_are_drawn(tmp_path: Path) -> None:
    path = tmp_path / "cases.yaml"
    texts = ", ".join(f"t{n} it is good" for n in range(300))
    path.write_text(
        "task: classify\nlabels: {good: [positive]}\ntests:\n  - {name: many, capability: words, "
        f"type: MFT, label: good, templates: [{texts}]}}\n"
    )
    numbers = [int(text[1:].split()[0]) for text in expanded(load_behaviour(path)).texts]
    assert len(numbers) == 100
    assert min(numbers) < 30
    assert max(numbers) > 270
