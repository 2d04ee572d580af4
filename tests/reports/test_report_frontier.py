"""Pruned runs beside their relatives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from wafergpt.config import recipe_from
from wafergpt.reports.frontier import frontier_charts
from wafergpt.reports.sections import Chapter
from wafergpt.runs.run import Run

Numbers = tuple[float, float, float]
"""Loss, seconds and bytes."""


def run(
    root: Path, name: str, parent: str | None, after: Numbers, device: str = "cpu",
    before: Numbers = (2.0, 4.0, 9e6),
) -> Run:  # fmt: skip
    (root / name).mkdir()
    made = Run(root / name)
    made.save_recipe(recipe_from({"name": name, "system": {"device": device}}))
    keys = ("val_loss", "seconds", "bytes")
    result: dict[str, Any] = {f"{k}_after": n for k, n in zip(keys, after, strict=True)}
    result |= {f"{k}_before": n for k, n in zip(keys, before, strict=True)}
    if parent is not None:
        result["pruned"] = f"/elsewhere/{parent}"
    (root / name / "result.json").write_text(json.dumps(result if parent else {"step": 1}))
    return made


def points(made: Run) -> dict[str, tuple[float, float, str]]:
    (chart,) = frontier_charts(Chapter.of(made))
    dots = chart.data[1]
    columns = (dots["customdata"], dots["x"], dots["y"])
    return {name: (x, y, size) for (name, size), x, y in zip(*columns, strict=True)}


def test_relatives_are_found_through_others(tmp_path: Path) -> None:
    base = run(tmp_path, "base", None, (0, 0, 0))
    small = run(tmp_path, "small", "base", (2.1, 3.0, 6e6))
    smaller = run(tmp_path, "smaller", "small", (2.5, 1.0, 3e6), before=(9, 9, 9))
    sister = run(tmp_path, "sister", "base", (2.6, 3.5, 9e6))
    run(tmp_path, "other", "stranger", (1.0, 1.0, 1e6))
    run(tmp_path, "elsewhere", "base", (1.0, 1.0, 1e6), device="cuda")
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "result.json").write_text("{")
    expected = {"base": (4.0, 2.0, "9.0 MB"), "small": (3.0, 2.1, "6.0 MB"),
                "smaller": (1.0, 2.5, "3.0 MB"), "sister": (3.5, 2.6, "9.0 MB")}  # fmt: skip
    for one in (small, smaller, sister):
        assert points(one) == expected
    (chart,) = frontier_charts(Chapter.of(smaller))
    # The sister is slower than small, and worse.
    assert chart.data[0]["x"] == [1.0, 3.0, 4.0]
    assert frontier_charts(Chapter.of(base)) == []


def test_a_ring_of_parents_ends(tmp_path: Path) -> None:
    one = run(tmp_path, "one", "two", (2.1, 3.0, 6e6))
    run(tmp_path, "two", "one", (2.2, 3.0, 6e6))
    assert isinstance(frontier_charts(Chapter.of(one)), list)


def test_names_that_would_overlap_are_shown_by_the_mouse_alone(tmp_path: Path) -> None:
    for number in range(12):
        made = run(tmp_path, f"run-{number}", "base", (2.0 + number / 1e4, 3.0, 6e6))
    (chart,) = frontier_charts(Chapter.of(made))
    names = [name for name in chart.data[1]["text"] if name]
    assert "run-11" in names
    assert len(names) < 4
    assert len(chart.data[1]["customdata"]) == 13
