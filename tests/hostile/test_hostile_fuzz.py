"""Good files spoilt at random: what still loads is sane, and all else is refused in one line."""

from __future__ import annotations

import gzip
import json
import lzma
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tests.hostile import folders
from tests.hostile.inputs import changed, fuzzed, judged, mutated, spoilt, written
from tests.machines import MACHINE
from wafergpt.checkpoint import store
from wafergpt.checkpoint.format import MOMENTS, SHARDS, WEIGHTS, Stored
from wafergpt.config import Recipe, load_recipe, recipe_from
from wafergpt.data.corpus import Corpus
from wafergpt.data.labelled_rows import (
    encode_labels,
    encode_scores,
    label_names,
    read_table,
    read_texts,
)
from wafergpt.data.labels import settle_classes, settle_numbers
from wafergpt.data.tokenizer import Tokenizer
from wafergpt.interop.hf_import import Imported, read_network
from wafergpt.model.gpt import GPT
from wafergpt.planning.estimate import estimate
from wafergpt.planning.plan import read_corpus
from wafergpt.reports import document, list_runs, write_report
from wafergpt.runs.run import Run


def is_sane(recipe: Recipe) -> bool:
    assert recipe_from(yaml.safe_load(recipe.to_yaml())) == recipe
    assert recipe.model.d_ffn >= 1
    assert recipe.model.base_d_ffn >= 1
    if recipe.data.corpus is None:
        price = judged(lambda: estimate(recipe, MACHINE))[0]
        assert price is None or math.isfinite(price.seconds)
    return True


@pytest.mark.slow
@fuzzed(75)
@given(st.data())
def test_recipes(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "recipe.yaml"
    values = {key: value for key, value in folders.RECIPE.items() if key != "data"}
    ways = mutated(yaml.safe_dump(values).encode()) | changed(values).map(written)
    path.write_bytes(data.draw(ways))
    recipe = judged(lambda: load_recipe(path))[0]
    assert recipe is None or is_sane(recipe)


@fuzzed(100)
@given(st.data())
def test_numbers_of_recipes_as_yaml_writes_them(data: st.DataObject) -> None:
    # JSON's NaN is a word in YAML.
    recipe = judged(lambda: load_recipe(None, [override(data)]))[0]
    assert recipe is None or is_sane(recipe)


def override(data: st.DataObject) -> str:
    section = data.draw(st.sampled_from(["model", "train", "optimizer", "schedule", "evaluate"]))
    keys = type(getattr(Recipe(), section)).model_fields
    numbers = st.integers() | st.floats() | st.sampled_from([10**k for k in range(1, 100, 7)])
    value = yaml.safe_dump(data.draw(numbers | st.text(max_size=5))).removesuffix("\n...\n")
    return f"{section}.{data.draw(st.sampled_from(sorted(keys)))}={value}"


DEFINITION = folders.tokenizer().definition


@fuzzed(75)
@given(st.data())
def test_tokenizers(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_bytes(data.draw(mutated(written(DEFINITION)) | changed(DEFINITION).map(written)))
    tokenizer = judged(lambda: Tokenizer.load(path))[0]
    if tokenizer is None:
        return
    assert 0 <= tokenizer.end_of_text < tokenizer.vocab_size
    for text in ("", "a few words", "<|endoftext|>", "日本 \0"):
        ids = judged(lambda text=text: tokenizer.encode(text))[0]  # type: ignore[misc]
        assert all(0 <= i < tokenizer.vocab_size for i in ids or ())
        judged(lambda ids=ids: tokenizer.decode(ids or []))  # type: ignore[misc]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folders.make_corpus(tmp_path_factory.mktemp("fuzz") / "corpus")


@pytest.mark.slow
@fuzzed(75)
@given(st.data())
def test_corpora(corpus: Path, data: st.DataObject) -> None:
    path = data.draw(st.sampled_from([p for p in sorted(corpus.iterdir()) if p.name[0] != "."]))
    good = path.read_bytes()
    path.write_bytes(data.draw(spoilt(path)))
    try:
        opened = judged(lambda: Corpus.open(corpus))[0]
        judged(lambda: read_corpus(corpus))
        if opened is None:
            return
        judged(lambda: opened.tokenizer)
        judged(opened.verify)
        for split in ("train", "val"):
            stream = judged(lambda split=split: opened.tokens(split))[0]  # type: ignore[misc]
            if stream is not None:
                taken = judged(lambda stream=stream: stream.take(0, len(stream)))[0]  # type: ignore[misc]
                assert taken is None or not len(taken) or taken.max() < opened.vocab_size
    finally:
        path.write_bytes(good)


@pytest.fixture(scope="module")
def hugging_face(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folders.make_hugging_face(tmp_path_factory.mktemp("fuzz") / "hf", index=True)


@pytest.mark.slow
@fuzzed(60)
@given(st.data())
def test_folders_of_hugging_face(hugging_face: Path, data: st.DataObject) -> None:
    names = ["config.json", "model.safetensors.index.json", "model-1.safetensors"]
    path = hugging_face / data.draw(st.sampled_from(names))
    good = path.read_bytes()
    path.write_bytes(data.draw(spoilt(path)))
    try:
        found = judged(lambda: read_network(hugging_face))[0]
    finally:
        path.write_bytes(good)
    assert found is None or fits(found)


def fits(found: Imported) -> bool:
    if found.task is None:
        GPT(found.model).load_state_dict(found.weights)
    return all(tensor.isfinite().all() for tensor in found.weights.values())


ROWS = "".join(f'{n % 3},"a text, of ""{n}"" words"\n' for n in range(6))
TABLES = {
    "a.csv": f"label,text\n{ROWS}".encode(),
    "a.tsv": f"label,text\n{ROWS}".replace(",", "\t").encode(),
    "a.jsonl": "".join(f'{{"label": {n % 3}, "text": "words {n}"}}\n' for n in range(6)).encode(),
}
PACK = {"": bytes, ".gz": lambda data: gzip.compress(data, mtime=0), ".xz": lzma.compress}


@pytest.mark.slow
@fuzzed(60)
@given(st.sampled_from(sorted(TABLES)), st.sampled_from(sorted(PACK)), st.data())
def test_tables(tmp_path: Path, name: str, suffix: str, data: st.DataObject) -> None:
    # Spoilt before it is packed, or after.
    plain = data.draw(mutated(TABLES[name]))
    packed = data.draw(mutated(PACK[suffix](TABLES[name])))
    path = tmp_path / f"{name}{suffix}"
    for content in (PACK[suffix](plain), packed):
        path.write_bytes(content)
        texts = judged(lambda: read_texts(path))[0]
        assert texts is None or [text.encode() for text in texts]
        table = judged(lambda: read_table(path))[0]
        if table is None:
            continue
        assert len(table.texts) == len(table.labels) > 0
        assert all(label and label == label.strip() for label in table.labels)
        labels = judged(lambda table=table: label_names(table))[0]  # type: ignore[misc]
        if labels is not None:
            assert max(encode_labels(table, labels, "training")) == len(labels) - 1
        judged(lambda table=table: encode_scores(table, "training"))  # type: ignore[misc]
        judged(lambda table=table: settle_numbers([table]))  # type: ignore[misc]
        settle_classes([table], "merge")


CELLS = st.one_of(
    st.text(max_size=3), st.integers(), st.floats(), st.none(), st.booleans(), st.just("\ud800"),
    st.lists(st.integers(), max_size=1), st.just(10**4000),
)  # fmt: skip


@fuzzed(100)
@given(
    st.lists(
        st.dictionaries(st.sampled_from(["text", "label", "x"]), CELLS), min_size=1, max_size=3
    )
)
def test_rows_of_any_json(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    table = judged(lambda: read_table(path))[0]
    if table is not None:
        assert all(text.encode().strip() for text in (*table.texts, *table.labels))
        judged(lambda: label_names(table))
        judged(lambda: settle_classes([table]))
        judged(lambda: settle_numbers([table]))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    root = tmp_path_factory.mktemp("fuzz")
    made = folders.make_run(root)
    shutil.copytree(made.path, root / "first")
    return made


@pytest.mark.slow
@fuzzed(40)
@given(st.data())
def test_pages_of_runs(run: Run, data: st.DataObject) -> None:
    names = ["result.json", "plan.json", "comparison.json", "metrics.jsonl", "samples.md"]
    path = run.path / data.draw(st.sampled_from(names))
    good = path.read_bytes()
    path.write_bytes(data.draw(spoilt(path)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(document, "_plotly", str)
        try:
            page = judged(lambda: write_report(run, run.path / "page.html"))[0]
            rows = judged(lambda: list_runs(run.path.parent))[0]
            judged(lambda: Run(run.path).rewind(3))
        finally:
            path.write_bytes(good)
            (run.path / "metrics.jsonl").write_bytes(all_rows(run))
    assert page is None or "</html>" in page.read_text()
    assert rows is not None
    assert {row["name"] for row in rows} == {"r", "first"}
    if page is None and path.suffix != ".md":
        assert any(row["state"] == "damaged" for row in rows) or path.name == "comparison.json"


def all_rows(run: Run) -> bytes:
    return (run.path.parent / "first" / "metrics.jsonl").read_bytes()


@pytest.fixture(scope="module", params=["whole", "in parts"])
def step(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = store.every(folders.make_run(tmp_path_factory.mktemp("fuzz")))[-1]
    if request.param == "in parts":
        folders.in_parts(folder)
    return folder


@pytest.mark.slow
@fuzzed(75)
@given(st.data())
def test_checkpoints_that_vouch_for_themselves(step: Path, data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(sorted(step.iterdir())))
    good, manifest = path.read_bytes(), (step / "manifest.json").read_bytes()
    path.write_bytes(data.draw(spoilt(path)))
    if path.name != "manifest.json":
        folders.agree(step)
    try:
        state = folders.state(9)
        judged(lambda: store.verify(step), most=1 << 15)
        judged(lambda: state.read(step), most=1 << 15)
        found = judged(lambda: dict(store.weights(Run(step.parents[1]))), most=1 << 15)[0]
        for kind in (WEIGHTS, MOMENTS):
            judged(lambda kind=kind: dict(Stored(step, kind)), most=1 << 15)  # type: ignore[misc]
    finally:
        path.write_bytes(good)
        (step / "manifest.json").write_bytes(manifest)
    assert found is None or all(isinstance(t, torch.Tensor) for t in found.values())
    if path.name == SHARDS:
        assert found is None or sum(t.numel() for t in found.values()) < 10_000
