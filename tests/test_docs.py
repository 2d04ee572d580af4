"""Every command and every line of Python in the guides works when pasted."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import soak
from tests.preloaded import folder_with_command
from wafergpt.cerebras import environment
from wafergpt.checkpoint import store
from wafergpt.data.prepare import prepare
from wafergpt.runs.run import Run

pytestmark = pytest.mark.usefixtures("preloaded")

ROOT = Path(__file__).parents[1]


def blocks(page: str) -> list[tuple[str, str]]:
    """Return the (language, content) of each fenced block."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(r"^```(\w+)\n(.*?)^```", text, flags=re.M | re.S)


def paste(page: str, folder: Path) -> None:
    places = [str(folder_with_command()), str(Path(sys.executable).parent), os.environ["PATH"]]
    environment = {**os.environ, "PATH": os.pathsep.join(places)}
    # As users have it.
    environment.pop("OMP_NUM_THREADS", None)
    for language, content in blocks(page):
        if language == "text":
            continue
        command = (
            ["bash", "-euc", content] if language == "bash" else [sys.executable, "-c", content]
        )
        result = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True
        )
        assert result.returncode == 0, f"{content}\n{result.stdout}\n{result.stderr}"


@pytest.mark.slow
def test_the_guide_works_when_pasted(tmp_path: Path) -> None:
    paste("docs/guide.md", tmp_path)
    assert (tmp_path / "runs" / "clf" / "report.html").stat().st_size > 20_000


@pytest.mark.slow
def test_the_page_on_base_works_when_pasted(tmp_path: Path) -> None:
    paste("docs/base.md", tmp_path)
    assert (tmp_path / "runs" / "frombase" / "result.json").is_file()


@pytest.mark.slow
def test_the_page_on_other_programs_works_when_pasted(tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="the page exports to transformers")
    pytest.importorskip("gguf", reason="the page exports to GGUF")
    paste("docs/interop.md", tmp_path)
    assert (tmp_path / "first.gguf").is_file()
    assert (tmp_path / "again-hf" / "config.json").is_file()


@pytest.mark.slow
def test_the_page_on_sparsity_works_when_pasted(tmp_path: Path) -> None:
    soak.corpus(tmp_path)
    rows = (json.dumps({"text": f"it is {w} {n}", "label": w})
            for n in range(40) for w in ("good", "bad"))  # fmt: skip
    (tmp_path / "reviews.jsonl").write_text("\n".join(rows))
    paste("docs/sparsity.md", tmp_path)
    zeros = {}
    for name in ("sparse", "dense-again", "still-sparse"):
        weights = store.weights(Run.find(name, tmp_path / "runs"))
        zeros[name] = sum(int((w == 0).sum()) for n, w in weights.items() if "blocks" in n)
    assert 10 * zeros["dense-again"] < zeros["sparse"] <= 1.01 * zeros["still-sparse"]


@pytest.mark.slow
def test_the_page_on_adapters_works_when_pasted(tmp_path: Path) -> None:
    rows = (json.dumps({"text": f"it is {w} {n}", "label": w})
            for n in range(40) for w in ("good", "bad"))  # fmt: skip
    (tmp_path / "reviews.jsonl").write_text("\n".join(rows))
    paste("docs/lora.md", tmp_path)
    assert Run.find("clf", tmp_path / "runs").recipe.lora.base_sha256


@pytest.mark.slow
def test_the_page_on_translation_and_dialogue_works_when_pasted(tmp_path: Path) -> None:
    paste("docs/translation-and-dialogue.md", tmp_path)
    assert (tmp_path / "runs" / "en-de" / "report.html").is_file()
    assert (tmp_path / "runs" / "desk" / "result.json").is_file()


@pytest.mark.slow
def test_the_page_on_clusters_works_when_pasted(tmp_path: Path) -> None:
    soak.corpus(tmp_path)
    paste("docs/clusters.md", tmp_path)
    hashes = [
        json.loads((tmp_path / "runs" / name / "result.json").read_text())["weights_sha256"]
        for name in ("one", "two")
    ]
    assert hashes[0] == hashes[1]


@pytest.mark.slow
@pytest.mark.cerebras
@pytest.mark.skipif(environment.state() is None, reason="Cerebras' SDK is not installed")
def test_the_page_on_cerebras_works_when_pasted(tmp_path: Path) -> None:
    soak.corpus(tmp_path)
    paste("docs/cerebras.md", tmp_path)
    run = json.loads((tmp_path / "runs" / "wafer" / "result.json").read_text())
    assert run["step"] == 80


@pytest.mark.slow
def test_the_page_on_answering_works_when_pasted(tmp_path: Path) -> None:
    paste("docs/answering.md", tmp_path)
    assert (tmp_path / "runs" / "facts" / "report.html").is_file()


@pytest.mark.slow
def test_the_page_on_tagging_works_when_pasted(tmp_path: Path) -> None:
    paste("docs/tagging.md", tmp_path)
    assert (tmp_path / "runs" / "names" / "report.html").is_file()


@pytest.mark.slow
def test_the_page_on_retrieval_works_when_pasted(tmp_path: Path) -> None:
    pytest.importorskip("bm25s", reason="the page searches by words too")
    paste("docs/retrieval.md", tmp_path)
    assert (tmp_path / "runs" / "facts" / "report.html").is_file()
    assert (tmp_path / "runs" / "order" / "result.json").is_file()


@pytest.mark.slow
def test_the_page_on_folds_and_runs_works_when_pasted(tmp_path: Path) -> None:
    paste("docs/folds-and-runs.md", tmp_path)
    runs = tmp_path / "runs"
    assert {path.name for path in runs.glob("clf*")} == {"clf", "clf-2"}
    labels = json.loads((runs / "clf-2" / "result.json").read_text())["metrics"]["labels"]
    assert labels == ["bad", "good", "mixed"]


@pytest.mark.slow
def test_the_page_on_evaluation_works_when_pasted(tmp_path: Path) -> None:
    paste("docs/evaluation.md", tmp_path)
    found = json.loads((tmp_path / "runs" / "clf" / "evaluation.json").read_text())
    assert {"rows", "behaviour", "calibration", "outside", "contamination"} <= set(found)


@pytest.mark.slow
def test_the_page_on_robustness_works_when_pasted(tmp_path: Path) -> None:
    paste("docs/robustness.md", tmp_path)
    assert "Changed texts" in (tmp_path / "runs" / "robust" / "README.md").read_text()


@pytest.mark.slow
def test_the_page_on_tuning_works_when_pasted(tmp_path: Path) -> None:
    paste("docs/tuning.md", tmp_path)
    result = json.loads((tmp_path / "runs" / "clf-tune" / "result.json").read_text())
    assert result["trials"] == 6
    assert (tmp_path / "runs" / "clf-tune" / "report.html").is_file()


@pytest.mark.slow
def test_the_page_on_data_works_when_pasted(tmp_path: Path) -> None:
    paste("docs/data.md", tmp_path)
    assert len((tmp_path / "answers.csv").read_text().splitlines()) == 101


@pytest.mark.slow
def test_the_page_on_classification_works_when_pasted(tmp_path: Path) -> None:
    pytest.importorskip("sklearn", reason="the page compares with TF-IDF")
    paste("docs/classification.md", tmp_path)
    assert (tmp_path / "runs" / "tones" / "report.html").is_file()
    for name, key in (("topics", "auroc"), ("tones", "lrap"), ("stars", "spearman")):
        result = json.loads((tmp_path / "runs" / name / "result.json").read_text())
        assert key in result["metrics"]


@pytest.mark.slow
def test_the_page_on_mup_works_when_pasted(tmp_path: Path) -> None:
    pytest.importorskip("optuna", reason="the page tunes with Optuna")
    paste("docs/mup.md", tmp_path)
    assert (tmp_path / "tuned.yaml").is_file()
    assert (tmp_path / "runs" / "big" / "result.json").is_file()


PAGES = sorted(str(p.relative_to(ROOT)) for p in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")))


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert ((ROOT / page).parent / target).exists(), target


def test_the_chinese_readme_says_the_same() -> None:
    english, chinese = blocks("README.md"), blocks("README.zh-CN.md")

    def bare(content: str) -> str:
        return re.sub(r"\s*#.*", "", content)

    assert [(k, bare(c)) for k, c in english] == [(k, bare(c)) for k, c in chinese]


def test_verbs_in_the_readme_exist() -> None:
    from wafergpt.cli import VERBS

    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^wafergpt (\w+)", text, flags=re.M)) <= set(VERBS)
    assert all(f"`{verb}`" in text for verb in VERBS)


@pytest.mark.slow
def test_the_page_on_reliability_works_when_pasted(corpus: Path) -> None:
    paste("docs/reliability.md", corpus)
    assert (corpus / "runs" / "other" / "result.json").is_file()


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """A folder with a corpus as the guide makes it."""
    text = "".join(json.dumps({"text": f"Review {n}: a quiet film."}) + "\n" for n in range(2000))
    (tmp_path / "reviews.jsonl").write_text(text, encoding="utf-8")
    prepare(tmp_path / "reviews.jsonl", tmp_path / "corpus", vocab_size=300)
    return tmp_path


def test_each_promise_names_a_test_that_is_there() -> None:
    page = (ROOT / "docs/reliability.md").read_text(encoding="utf-8")
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", page)
    assert len(named) > 15
    for file, test in named:
        assert f"def {test}(" in (ROOT / file).read_text(encoding="utf-8"), test
    rows = [line for line in page.splitlines() if line.startswith("| ") and "promise" not in line]
    assert all("::test_" in row for row in rows)
