"""The model that comes with the package."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from wafergpt import api
from wafergpt.checkpoint import store
from wafergpt.cli.prepare import command as prepare
from wafergpt.cli.runs import command
from wafergpt.errors import InputError
from wafergpt.inference.writer import Writer
from wafergpt.model.loss import next_token_loss
from wafergpt.runs.run import SHIPPED, Run

TEXT = (
    "The town lies on the left bank of the river, and has been known since the fourteenth century "
    "for its market. Its church was built of red brick after the fire, and many of the older "
    "houses are still standing. The population lives mostly by farming and by the railway."
)


@pytest.fixture(scope="module")
def base() -> Run:
    return Run.find("base")


def files(folder: Path) -> dict[str, int]:
    return {str(p): p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}


def test_it_is_small_and_whole(base: Run) -> None:
    assert base.shipped
    assert sum(p.stat().st_size for p in base.path.rglob("*") if p.is_file()) <= 16_000_000
    assert [store.damage(folder) for folder in store.every(base)] == [None]
    assert "licence" in (base.path / "README.md").read_text(encoding="utf-8")
    assert base.recipe.data.corpus is None


def test_it_knows_english(base: Run) -> None:
    writer = Writer.load(base, "cpu")
    tokens = torch.tensor([writer.tokenizer.encode(TEXT)])
    with torch.no_grad():
        hidden = writer.gpt(tokens[:, :-1])
        nats = float(next_token_loss(hidden, writer.gpt.head, tokens[:, 1:]))
    assert nats / math.log(2) / len(TEXT) < 2.0


def test_a_run_of_the_name_comes_first(tmp_path: Path) -> None:
    own = tmp_path / "base"
    (own / "checkpoints").mkdir(parents=True)
    (own / "recipe.yaml").write_text("name: base\n")
    assert Run.find("base", tmp_path).path == own
    assert Run.find("base", tmp_path / "other").shipped
    with pytest.raises(InputError, match="no run 'bse'; did you mean 'base'"):
        Run.find("bse", tmp_path / "other")


@pytest.mark.slow
def test_nothing_is_written_to_it(
    base: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = files(SHIPPED)
    with pytest.raises(InputError, match="base comes with wafergpt, and is read only: add --out"):
        api.report("base")
    with pytest.raises(InputError, match="base comes with wafergpt, not trained here"):
        api.pretrain(resume="base")
    rows = [{"text": f"{w} film {n}", "label": w} for n in range(20) for w in ("good", "bad")]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    overrides = ["task.train=rows.jsonl", "train.steps=2", "system.compile=off"]
    found = api.finetune("base", None, overrides, root=tmp_path)
    assert found.run.name == "base-classify"
    assert found.run.read("result")["init"] == "base"
    assert files(SHIPPED) == before


def test_runs_lists_it(tmp_path: Path) -> None:
    result = CliRunner().invoke(command, ["--json", "--runs", str(tmp_path)])
    listed = json.loads(result.stdout.splitlines()[-1])["shipped"]
    assert [(run["name"], run["state"]) for run in listed] == [("base", "shipped")]
    shown = CliRunner().invoke(command, ["--runs", str(tmp_path)]).stdout
    assert "base" in shown
    assert f"no runs in {tmp_path}/ yet" in shown


@pytest.mark.slow
def test_it_goes_on_with_texts_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With its tokenizer, and tables of n-grams that it did not have."""
    monkeypatch.chdir(tmp_path)
    texts = [f"{TEXT} It has {n} inhabitants." for n in range(60)]
    (tmp_path / "texts.txt").write_text("\n\n".join(texts))
    run = CliRunner().invoke
    done = run(prepare, ["texts.txt", "--tokenizer", "base", "--out", "own"])
    assert done.exit_code == 0, done.output
    recipe = [
        "data.corpus=own",
        "train.tokens=4096",
        "train.batch_size=4",
        "train.micro_batch_size=2",
        "model.ngram_rows=4096",
    ]
    adapted = api.pretrain("adapt", recipe, start="base")
    assert adapted.recipe.model.ngrams == (2, 3)
    first, *_, last = (row["loss"] for row in adapted.metrics())
    assert last < first < 6.0
    missing = run(prepare, ["texts.txt", "--tokenizer", "bse", "--out", "other"])
    assert "no tokenizer at bse" in str(missing.exception)
