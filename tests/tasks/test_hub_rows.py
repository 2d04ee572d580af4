"""Data sets of the hub, by a stand-in for ``datasets``: no network."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from wafergpt.config import load_recipe
from wafergpt.errors import InputError
from wafergpt.tasks.hub_rows import fetched
from wafergpt.train.finetuning import with_task


@dataclass
class Feature:
    """``Value``, ``ClassLabel`` and ``Sequence``, as far as they are read."""

    names: list[str] | None = None
    feature: Any = None


@dataclass
class Rows:
    rows: list[dict[str, Any]]
    features: dict[str, Feature] = field(default_factory=dict)

    def __iter__(self) -> Any:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)


CALLS: list[tuple[str, str | None]] = []


@pytest.fixture(autouse=True)
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    CALLS.clear()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    label = Feature(["neg", "pos"])
    features = {"text": Feature(), "label": label, "tags": Feature(feature=label)}

    def load_dataset(name: str, configuration: str | None) -> dict[str, Rows]:
        CALLS.append((name, configuration))
        if name == "gone":
            raise ConnectionError("no network\nand more")
        rows = [{"text": f"text {n}", "label": n % 2, "tags": [1, 0]} for n in range(30)]
        unlabelled = [{"text": "a", "label": -1, "tags": None}]
        return {
            "unsupervised": Rows(unlabelled, features), "train": Rows(rows, features),
            "test": Rows(unlabelled, features), "validation": Rows(rows[:4], features),
        }  # fmt: skip

    module = ModuleType("datasets")
    module.load_dataset = load_dataset  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", module)


def test_a_name_is_a_folder_that_is_fetched_once(tmp_path: Path) -> None:
    recipe = load_recipe(None, ["task.train=hf:some/set:plain"])
    for _ in range(2):
        found = with_task(recipe, None, chooses=True)
        folder = Path(str(found.task and found.task.train))
        assert folder == tmp_path / "cache/wafergpt/datasets/some--set--plain"
    assert CALLS == [("some/set", "plain")]
    assert sorted(path.name for path in folder.iterdir()) == ["train.jsonl", "validation.jsonl"]
    first = json.loads((folder / "train.jsonl").read_text().splitlines()[1])
    assert first == {"text": "text 1", "label": "pos", "tags": ["pos", "neg"]}


def test_what_cannot_be_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"hf:gone cannot be fetched: no network$"):
        fetched("gone")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match=r"pip install 'wafergpt\[hub\]'"):
        fetched("some/set")
    assert not (tmp_path / "cache").exists()
