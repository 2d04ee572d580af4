"""The page as a file: what is in it, what is never in it."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import os
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from wafergpt.config import recipe_from
from wafergpt.errors import InputError
from wafergpt.reports import write_report
from wafergpt.runs.run import SHIPPED, Run

HOSTILE = "<script>alert(1)</script>"


class Page(HTMLParser):
    """Collects what a browser would make of the page."""

    def __init__(self, path: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.ids: list[str] = []
        self.tags: list[str] = []
        self.links: list[str] = []
        self.handlers: list[str] = []
        self.csp = ""
        self.places: list[str] = []
        self.scripts: dict[str, str] = {}
        self.text: list[str] = []
        self._script: str | None = None
        self.bytes = path.read_bytes()
        self.feed(self.bytes.decode())
        self.close()
        self.figures = {f["id"]: f for f in json.loads(self.scripts["figures"])}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.tags.append(tag)
        self.handlers += [name for name in values if name.startswith("on")]
        self.links += [values[name] for name in ("src", "href", "srcset", "data") if name in values]
        if "id" in values:
            self.ids.append(values["id"])
        if values.get("http-equiv") == "Content-Security-Policy":
            self.csp = values["content"]
        if values.get("id") == "figures":
            self.places = values["data-plotly"].split()
        if tag == "script":
            self._script = values.get("id") or f"script-{len(self.scripts)}"
            self.scripts[self._script] = ""

    def handle_endtag(self, tag: str) -> None:
        if tag == "script":
            self._script = None

    def handle_data(self, data: str) -> None:
        if self._script is not None:
            self.scripts[self._script] += data
        else:
            self.text.append(data)

    @property
    def charts(self) -> set[str]:
        return {name.removeprefix("chart-") for name in self.figures}

    @property
    def shown(self) -> str:
        return " ".join("".join(self.text).split())


def make(root: Path, name: str, task: bool = False, **recipe: Any) -> Run:
    values: dict[str, Any] = {"name": name, **recipe}
    if task:
        values["task"] = {"labels": ["neg", "pos"]}
    return Run.create(recipe_from(values), root)


def log_training(run: Run, steps: int = 60, **more: float) -> None:
    for step in range(1, steps + 1):
        row = {
            "step": step,
            "tokens": step * 4096,
            "flops": step * 1e9,
            "seconds": step * 0.5,
            "loss": 9 / math.sqrt(step),
            "lr": 1e-3,
            "grad_norm": 2 / step,
            "tokens_per_second": 8192.0,
            "memory_bytes": 5e8,
        }
        run.log(row | (more if step % 20 == 0 else {}))


def held_out(labels: list[str], confusion: list[list[int]]) -> dict[str, Any]:
    right = sum(confusion[i][i] for i in range(len(labels)))
    classes = [
        {"label": label, "precision": 0.5, "recall": 0.5, "f1": 0.5, "support": sum(row)}
        for label, row in zip(labels, confusion, strict=True)
    ]
    accuracy = right / sum(map(sum, confusion))
    return {
        "accuracy": accuracy,
        "macro_f1": accuracy,
        "loss": 0.4,
        "labels": labels,
        "per_class": classes,
        "confusion": confusion,
    }


RESULT = {"step": 60, "tokens": 245760, "loss": 1.2, "seconds": 30.0, "parameters": 3_400_000}


def test_a_bare_run_gives_a_page(tmp_path: Path) -> None:
    run = make(tmp_path, "fresh")
    page = Page(write_report(run))
    assert page.charts == set()
    assert "Nothing has been measured yet" in page.shown
    assert "n_layers: 4" in page.shown


def test_an_unfinished_run_shows_what_there_is(tmp_path: Path) -> None:
    run = make(tmp_path, "half", train={"steps": 100})
    log_training(run, val_loss=2.0)
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 61, "lo')  # a kill in the middle of a line
    run.write("plan", {"seconds": 50.0, "tokens": 409600, "memory_bytes": 4e8})
    page = Page(write_report(run))
    assert "Not finished: at step 60 of 100, the last validation loss was 2.000." in page.shown
    assert "So far" in page.shown
    assert page.charts == {
        f"pretraining-{key}"
        for key in ("loss", "lr", "grad-norm", "tokens-per-second", "memory-bytes")
    }


@pytest.mark.parametrize(
    ("metric", "chart"),
    [
        ("val_bits_per_byte", "val-bits-per-byte"),
        ("val_accuracy", "val-accuracy"),
        ("mfu", "mfu"),
    ],
)
def test_a_chart_is_there_with_its_data_only(tmp_path: Path, metric: str, chart: str) -> None:
    without, given = make(tmp_path, "without"), make(tmp_path, "given")
    log_training(without)
    more: dict[str, Any] = {metric: 0.5}
    log_training(given, **more)
    assert f"pretraining-{chart}" not in Page(write_report(without)).charts
    assert f"pretraining-{chart}" in Page(write_report(given)).charts


def test_finetuning_comes_after_its_pretraining(tmp_path: Path) -> None:
    base, run = make(tmp_path, "base"), make(tmp_path, "classifier", task=True)
    log_training(base, val_loss=2.0)
    base.write("result", RESULT | {"val_loss": 2.0})
    log_training(run, val_loss=0.4, val_accuracy=0.8, val_macro_f1=0.79)
    test = held_out(["neg", "pos"], [[40, 10], [5, 45]])
    # The folder of runs was moved since: only the name still leads there.
    run.write("result", RESULT | {"test": test, "pretrained": "/gone/base", "init": "base"})
    rows = [
        {"name": "GPT", "kind": "gpt", "accuracy": 0.85, "loss": 0.4, "seconds": 9.0, "test": test},
        {"name": "TF-IDF", "kind": "tfidf", "accuracy": 0.91, "loss": 0.3, "seconds": 3.0},
        {"name": "BiLSTM", "kind": "bilstm", "accuracy": 0.80, "loss": 0.5, "seconds": 4.0},
    ]
    run.write("comparison", rows)
    page = Page(write_report(run))
    assert [i for i in page.ids if not i.startswith("chart-") and i != "figures"] == [
        "comparison",
        "pretraining",
        "fine-tuning",
    ]
    assert {"pretraining-loss", "finetuning-loss", "finetuning-confusion", "comparison"} < set(
        page.charts
    )
    assert (
        "The GPT labels 85.0% of 100 held-out rows correctly, 6.0 points below TF-IDF" in page.shown
    )
    bars = page.figures["chart-comparison"]
    assert bars["data"][0]["x"] == [0.91, 0.85, 0.80]
    assert bars["layout"]["yaxis"]["ticktext"] == ["TF-IDF", "GPT", "BiLSTM"]


def test_a_lost_pretraining_run_is_reported(tmp_path: Path) -> None:
    run = make(tmp_path, "classifier", task=True)
    run.write("result", RESULT | {"pretrained": "runs/base-that-is-gone"})
    assert "The pretraining run cannot be shown" in Page(write_report(run)).shown


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    run = make(tmp_path, "plain", task=True)
    # Names come from a folder, labels from data, samples from a model.
    folder = tmp_path / "<img src=x onerror=alert(1)>"
    run.path.rename(folder)
    run = Run(folder)
    log_training(run, val_loss=1.0)
    test = held_out([HOSTILE, "</script>" + HOSTILE], [[3, 1], [1, 3]])
    run.write("result", RESULT | {"test": test, "init": HOSTILE})
    run.write("comparison", [{"name": HOSTILE, "kind": "gpt", "accuracy": 0.75, "test": test}])
    (run.path / "samples.md").write_text(
        f"## step 20 {HOSTILE}\n\n> **{HOSTILE}**{HOSTILE}\n\n```\n{HOSTILE}\n```\n\x00\x1b[31m\n"
    )
    page = Page(write_report(run))
    assert page.tags.count("script") == 2
    assert "img" not in page.tags
    assert page.handlers == []
    assert page.shown.count(HOSTILE) >= 6
    assert not re.search(rb"[\x00-\x08\x0b\x0c\x0e-\x1f]", page.bytes.split(b"figures")[0])
    # Plotly reads tags in its texts; there they are escaped once more.
    drawn = json.dumps(
        [page.figures["chart-finetuning-confusion"], page.figures["chart-comparison"]]
    )
    assert "<script" not in drawn
    assert "&lt;script" in drawn


def test_nothing_is_fetched_and_only_own_scripts_run(tmp_path: Path) -> None:
    run = make(tmp_path, "plain")
    log_training(run, val_loss=1.0)
    page = Page(write_report(run))
    alone = Page(write_report(run, self_contained=True))
    for found, scripts, more in ((page, 1, " 'strict-dynamic'"), (alone, 2, "")):
        assert all(link.startswith(("#", "data:")) for link in found.links)
        rules = dict(rule.strip().split(" ", 1) for rule in found.csp.split(";"))
        assert rules["default-src"] == "'none'"
        own = [found.scripts[name] for name in found.scripts if name != "figures"]
        hashes = [base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in own]
        assert rules["script-src"] == " ".join(f"'sha256-{value}'" for value in hashes) + more
        assert len(own) == scripts
    assert alone.places == []


def test_plotly_lies_once_beside_the_runs_and_beside_a_page_elsewhere(tmp_path: Path) -> None:
    run, other = make(tmp_path / "runs", "plain"), make(tmp_path / "runs", "other")
    for each in (run, other):
        log_training(each, steps=3)
    page = Page(write_report(run))
    (script,) = (tmp_path / "runs").glob("*.js")
    assert page.places == [f"../{script.name}", script.name]
    assert script.name in page.shown
    assert "plotly.js v" in script.read_text(encoding="utf-8")[:400]
    before = script.stat().st_mtime_ns
    write_report(other)
    assert script.stat().st_mtime_ns == before
    script.write_text("damaged")
    write_report(other)
    assert script.stat().st_size > 1e6
    out = write_report(run, tmp_path / "elsewhere" / "page.html")
    assert Page(out).places == [script.name, f"../{script.name}"]
    assert sorted(path.name for path in out.parent.iterdir()) == ["page.html", script.name]
    assert not list(run.path.glob("*.js"))


def test_where_the_script_cannot_be_written_it_is_in_the_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make(tmp_path, "plain")
    log_training(run, steps=3)

    def refuse(*_: object) -> None:
        raise PermissionError(13, os.strerror(13))

    monkeypatch.setattr("wafergpt.reports.document.atomic_files.write_bytes", refuse)
    monkeypatch.setattr(
        "wafergpt.reports.page.atomic_files.write_text", lambda path, text: path.write_text(text)
    )
    page = Page(write_report(run))
    assert page.places == []
    assert len(page.bytes) > 1e6
    assert "cannot be written (Permission denied)" in capsys.readouterr().err


def test_a_loss_that_was_planned_by_the_published_law_is_labelled(tmp_path: Path) -> None:
    run = make(tmp_path, "plain")
    run.write("plan", {"predicted_loss": 2.6, "predicted_loss_of": "the Pile's test set, by a law"})
    assert "The planned loss is that on the Pile's test set, by a law." in (
        Page(write_report(run)).shown
    )
    run.write("plan", {"seconds": 3.0})
    assert "No law was fitted" in Page(write_report(run)).shown


def test_the_same_run_gives_the_same_bytes(tmp_path: Path) -> None:
    run = make(tmp_path, "plain")
    log_training(run, val_loss=1.0)
    first = write_report(run).read_bytes()
    assert write_report(run).read_bytes() == first
    alone = write_report(run, tmp_path / "deep" / "copy.html", self_contained=True).read_bytes()
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["copy.html"]
    assert write_report(run, self_contained=True).read_bytes() == alone


@pytest.mark.slow
def test_a_long_run_stays_below_a_megabyte(tmp_path: Path) -> None:
    run = make(tmp_path, "long")
    log_training(run, steps=20_000, val_loss=1.0, val_bits_per_byte=1.0, mfu=0.3)
    (run.path / "samples.md").write_text(
        "".join(f"## step {step}\n\n> {'word ' * 5000}\n\n" for step in range(500))
    )
    assert write_report(run).stat().st_size < 1e6
    assert write_report(run, self_contained=True).stat().st_size < 6e6


def test_a_loss_that_is_not_finite_is_omitted(tmp_path: Path) -> None:
    run = make(tmp_path, "diverged")
    log_training(run, steps=3)
    run.log({"step": 4, "tokens": 5, "seconds": 1.0, "loss": math.nan, "grad_norm": math.inf})
    page = Page(write_report(run))
    assert len(page.figures["chart-pretraining-loss"]["data"][0]["y"]) == 3


def test_without_plotly_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    with pytest.raises(InputError, match=r"pip install 'wafergpt\[report\]'"):
        write_report(make(tmp_path, "plain"))


@pytest.mark.parametrize("name", ["result", "plan", "comparison"])
def test_a_damaged_file_is_named(tmp_path: Path, name: str) -> None:
    run = make(tmp_path, "plain")
    (run.path / f"{name}.json").write_text('{"step": ')
    with pytest.raises(InputError, match=rf"{name}\.json is damaged"):
        write_report(run)
    assert not (run.path / "report.html").exists()


def test_without_test_rows_classes_are_those_of_the_validation_rows(tmp_path: Path) -> None:
    run = make(tmp_path, "clf", task=True)
    log_training(run)
    run.log({"step": 60, "tokens": 245760, "seconds": 31.0, "val_loss": 0.4, "val_accuracy": 0.75})
    found = held_out(["neg", "pos"], [[30, 10], [15, 45]])
    found["risk_coverage"] = [[0.5, 0.9], [1.0, 0.75]]
    shipped = str(SHIPPED / "base")
    run.write("result", {**RESULT, "metrics": found, "test": None, "pretrained": shipped})
    page = Page(write_report(run))
    assert {"finetuning-confusion", "finetuning-coverage"} <= page.charts
    assert "75 of 100 validation rows on the diagonal" in page.shown
    assert "Label by label, validation rows" in page.shown
    # One evaluation is no curve, and what the package brings is not of this run.
    assert "finetuning-val-accuracy" not in page.charts
    assert not any(chart.startswith("pretraining") for chart in page.charts)
    assert "wafergpt report base --out base.html shows its pretraining" in page.shown


def test_a_regression_has_no_nats(tmp_path: Path) -> None:
    run = Run.create(recipe_from({"name": "value", "task": {"name": "regress"}}), tmp_path)
    log_training(run)
    (figure,) = [f for f in Page(write_report(run)).figures.values() if f["id"].endswith("-loss")]
    assert figure["layout"]["yaxis"]["title"]["text"] == "Loss"
