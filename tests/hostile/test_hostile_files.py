"""Every loader over every kind of file that is none of its own: one line, nothing executed."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.hostile import folders
from tests.hostile.inputs import NO_FILE, NO_OBJECT, NOT_JSON, bounded, judged, pickled
from wafergpt.checkpoint import store
from wafergpt.checkpoint.format import SHARDS, WEIGHTS, Stored
from wafergpt.data.corpus import Corpus
from wafergpt.data.documents import find_files
from wafergpt.data.labelled_rows import label_names, read_table, read_texts
from wafergpt.data.prepare import prepare
from wafergpt.data.tokenizer import Tokenizer
from wafergpt.interop.hf_import import import_folder, read_network
from wafergpt.planning.plan import read_corpus
from wafergpt.reports import list_runs, write_report
from wafergpt.runs.run import Run
from wafergpt.tuning.storage import JOURNAL
from wafergpt.tuning.study import Study


def _corpus(root: Path) -> Path:
    return folders.make_corpus(root / "corpus")


def _hugging_face(root: Path, index: bool = False) -> Path:
    return folders.make_hugging_face(root / "hf", index)


def _checkpoint(root: Path, parts: bool = False) -> Path:
    folder = store.every(folders.make_run(root))[-1]
    if parts:
        folders.in_parts(folder)
    return folder


def _run(root: Path) -> Path:
    return folders.make_run(root).path


def _report(folder: Path) -> Path:
    (run,) = (run for run in list_runs(folder.parent) if run["name"] == folder.name)
    assert run["state"] == "damaged"
    return write_report(Run(folder), folder / "page.html")


def _rewound(folder: Path) -> Path:
    Run(folder).rewind(1)
    return _report(folder)


LOADERS: dict[str, tuple[Callable[[Path], Path], str, Callable[[Path], Any]]] = {
    "corpus": (_corpus, "corpus.json", Corpus.open),
    "corpus of a plan": (_corpus, "corpus.json", read_corpus),
    "corpus begun": (
        _corpus, "prepare.json", lambda f: prepare(f.parent / "rows.jsonl", f, vocab_size=262)
    ),
    "tokenizer": (_corpus, "tokenizer.json", Tokenizer.load),
    "import": (_hugging_face, "config.json", lambda f: import_folder(f, "i", f.parent)),
    "import index": (
        partial(_hugging_face, index=True), "model.safetensors.index.json", read_network
    ),
    "import weights": (_hugging_face, "model.safetensors", read_network),
    "import tokenizer": (
        _hugging_face, "tokenizer.json", lambda f: import_folder(f, "i", f.parent)
    ),
    "result": (_run, "result.json", _report),
    "plan": (_run, "plan.json", _report),
    "metrics": (_run, "metrics.jsonl", _rewound),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("loader", LOADERS)
def test_what_is_no_json_of_ours_is_refused_by_name(tmp_path: Path, loader: str) -> None:
    make, name, load = LOADERS[loader]
    folder = make(tmp_path)
    marker = tmp_path / "executed"
    contents = {**NOT_JSON, **NO_OBJECT, "pickle": pickled(marker) + b"\n"}
    if loader in ("metrics", "result", "plan"):
        # Nothing measured yet is no damage, nor is a last row that a kill cut short.
        absent = ("empty", "blank", "cut", "null") if loader == "metrics" else ("null",)
        contents = {what: data for what, data in contents.items() if what not in absent}
        contents |= {"null": b"null\n"} if loader == "metrics" else {}
    for what, data in contents.items():
        (folder / name).write_bytes(data)
        loaded, message = judged(lambda: load(folder))
        assert loaded is None, what
        assert name in message or folder.name in message, what
    assert not marker.exists()
    assert not (tmp_path / "i").exists()


@pytest.mark.parametrize("loader", [name for name in LOADERS if name not in ("result", "plan")])
@pytest.mark.parametrize("there", NO_FILE)
def test_what_is_no_file_is_not_waited_for(
    tmp_path: Path, loader: str, there: Callable[[Path], None]
) -> None:
    make, name, load = LOADERS[loader]
    folder = make(tmp_path)
    (folder / name).unlink()
    there(folder / name)
    if loader == "metrics":
        # As if nothing were measured yet.
        assert Run(folder).metrics() == []
        return
    if loader in ("corpus begun", "import tokenizer"):
        # What is not there is made, or done without.
        with bounded():
            judged(lambda: load(folder))
        return
    assert judged(lambda: load(folder))[0] is None


@pytest.mark.parametrize("name", ["result.json", "plan.json", "samples.md", "metrics.jsonl"])
@pytest.mark.parametrize("there", NO_FILE)
def test_a_page_needs_none_of_them(
    tmp_path: Path, name: str, there: Callable[[Path], None]
) -> None:
    folder = _run(tmp_path)
    (folder / name).unlink()
    there(folder / name)
    with bounded():
        assert write_report(Run(folder), tmp_path / "page.html").stat().st_size > 1000
        assert [run["name"] for run in list_runs(tmp_path)] == ["r"]


CHECKPOINT = ["manifest.json", "state.json", SHARDS, "model.safetensors", "optimizer.safetensors"]


@pytest.mark.parametrize("name", CHECKPOINT)
def test_a_checkpoint_that_vouches_for_nonsense(tmp_path: Path, name: str) -> None:
    folder = _checkpoint(tmp_path, parts=name == SHARDS)
    marker = tmp_path / "executed"
    for what, data in {**NOT_JSON, **NO_OBJECT, "pickle": pickled(marker)}.items():
        (folder / name).write_bytes(data)
        if name != "manifest.json":
            folders.agree(folder)
        assert judged(lambda: folders.state().read(folder))[1], what
        if name not in ("state.json", "optimizer.safetensors"):
            assert judged(lambda: store.weights(Run(folder.parents[1])))[1], what
    assert not marker.exists()


def test_labels_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text,label\na," + "9" * 999 + "\nb,1\n")
    assert label_names(read_table(path)) == ("1", "9" * 999)
    path.write_text("text,label\na," + "9" * 5000 + "\n")
    assert "5,000 characters: not a label" in judged(lambda: read_table(path))[1]


def test_cards_that_lead_astray(tmp_path: Path) -> None:
    folder = _corpus(tmp_path)
    card = json.loads((folder / "corpus.json").read_text())
    name = "train-00000.bin"
    entry = card["files"][name]
    odd: list[dict[str, Any]] = [
        {"files": {**card["files"], name: {"bytes": entry["bytes"]}}},
        {"files": {**card["files"], name: {**entry, "sha256": "\ud800"}}},
        {"files": {**card["files"], "a" * 300: entry}},
        {"files": {**card["files"], "\0": entry}},
        {"files": {**card["files"], "..": entry}},
        {"vocab_size": 1 << 63}, {"vocab_size": -1}, {"vocab_size": "262"}, {"bytes_val": None},
        {"vocab_size": float("inf")}, {"fingerprint": 7},
    ]  # fmt: skip
    for change in odd:
        (folder / "corpus.json").write_text(json.dumps({**card, **change}))
        assert judged(lambda: Corpus.open(folder))[0] is None, change
    for key in ("vocab_size", "tokens_train", "tokens_val"):
        for value in (float("inf"), 10**400, -1, 1.5, "7", [1], True):
            (folder / "corpus.json").write_text(json.dumps({**card, key: value}))
            assert "is not a corpus" in judged(lambda: read_corpus(folder))[1], value


def test_tokens_beyond_the_vocabulary_are_not_trained_on(tmp_path: Path) -> None:
    folder = _corpus(tmp_path)
    corpus = Corpus.open(folder)
    assert corpus.tokens("train").take(0, 5).max() < corpus.vocab_size
    data = np.fromfile(folder / "train-00000.bin", dtype=np.uint16)
    data[3] = corpus.vocab_size
    data.tofile(folder / "train-00000.bin")
    stream = Corpus.open(folder).tokens("train")
    assert stream.take(0, 3).size == 3
    assert "tokens beyond its vocabulary of 262" in judged(lambda: stream.take(0, 5))[1]


def test_blocks_that_are_none(tmp_path: Path) -> None:
    for data in (*NOT_JSON.values(), *NO_OBJECT.values(), b'{"files": {}}', b'{"tokens_train": 1}'):
        folder = _corpus(tmp_path)
        (folder / "corpus.json").unlink()
        (folder / "block-00000.json").write_bytes(data)
        again = partial(prepare, tmp_path / "rows.jsonl", folder, vocab_size=262)
        assert "block-00000.json" in judged(again)[1]
        shutil.rmtree(folder)


NAMES = [
    "../x.safetensors", "/x.safetensors", "\0.safetensors", "\ud800.safetensors",
    "a" * 300 + ".safetensors", "loop.safetensors", "pipe.safetensors", "x" * 10**6,
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_an_index_that_leads_astray(tmp_path: Path, name: str) -> None:
    folder = _hugging_face(tmp_path, index=True)
    (folder / "loop.safetensors").symlink_to(folder / "loop.safetensors")
    NO_FILE[2](folder / "pipe.safetensors")
    index = {"weight_map": {"t" * 10**5: name}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert judged(lambda: read_network(folder))[0] is None


def _with_header(entries: dict[str, Any], data: bytes = bytes(8)) -> bytes:
    header = json.dumps(entries).encode()
    return struct.pack("<Q", len(header)) + header + data


def _entry(kind: str = "F32", shape: tuple[int, ...] = (2,), ends: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": kind, "shape": shape, "data_offsets": ends}


SAFETENSORS = {
    "header of 2**63": struct.pack("<Q", 1 << 63) + b"{}",
    "header of 2**64 - 1": struct.pack("<Q", (1 << 64) - 1) + b"{}",
    "header is deep": struct.pack("<Q", 100_000) + b"[" * 100_000,
    "header of spaces": struct.pack("<Q", 9) + b" " * 9,
    "out of range": _with_header({"a": _entry(ends=(0, 1 << 62))}),
    "back to front": _with_header({"a": _entry(ends=(8, 0))}),
    "negative": _with_header({"a": _entry(ends=(-8, 0))}),
    "overlap": _with_header({"a": _entry(), "b": _entry(ends=(4, 12))}, bytes(12)),
    "a hole": _with_header({"a": _entry(ends=(4, 12))}, bytes(12)),
    "too large a shape": _with_header({"a": _entry(shape=(1 << 32, 1 << 32))}),
    "another type": _with_header({"a": _entry("F64", (2,))}),
    "no type": _with_header({"a": _entry("Q7", (2,))}),
    "half a byte": _with_header({"a": _entry("F6_E2M3", (4,), (0, 3))}, bytes(3)),
    "nothing of 2**64 - 1": _with_header({"a": _entry(shape=(0, (1 << 64) - 1), ends=(0, 0))}, b""),
    "many": _with_header({f"k{n}": _entry(shape=(0,), ends=(0, 0)) for n in range(20_000)}, b""),
    "a long name": _with_header({"k" * 10**6: _entry()}),
}


@pytest.mark.slow
@pytest.mark.parametrize("data", SAFETENSORS.values(), ids=SAFETENSORS)
def test_tensors_that_are_none(tmp_path: Path, data: bytes) -> None:
    folder = _hugging_face(tmp_path)
    (folder / "model.safetensors").write_bytes(data)
    assert judged(lambda: read_network(folder))[0] is None
    step = _checkpoint(tmp_path)
    (step / "model.safetensors").write_bytes(data)
    folders.agree(step)
    # A checkpoint's own names may be as long as its files are.
    assert judged(lambda: folders.state().read(step), most=1 << 21)[1]
    found: dict[str, torch.Tensor] | None = judged(lambda: dict(Stored(step, WEIGHTS)))[0]
    assert found is None or "embedding.weight" not in found


@pytest.mark.parametrize("there", NO_FILE[:3])
def test_folders_of_no_files_hold_no_text(tmp_path: Path, there: Callable[[Path], None]) -> None:
    there(tmp_path / "a.jsonl")
    for load in (
        read_table,
        read_texts,
        lambda path: find_files([path]),
        lambda _: find_files([tmp_path]),
    ):
        assert judged(lambda load=load: load(tmp_path / "a.jsonl"))[0] is None  # type: ignore[misc]


def test_links_that_lead_back_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    for name in ("a.txt", "deep/b.txt", ".hidden.txt"):
        (tmp_path / name).write_text("text")
    for n in range(3):
        (tmp_path / "deep" / f"back{n}").symlink_to(tmp_path)
    for pattern in ("**/*.txt", "**"):
        with bounded():
            found = find_files([tmp_path / pattern])
        assert [p.name for p in found] == ["a.txt", "b.txt"]
    assert find_files([tmp_path / "*.txt"]) == [tmp_path / "a.txt"]
    for pattern in ("**x/*.txt", "\0*"):
        assert judged(lambda pattern=pattern: find_files([pattern]))[1]  # type: ignore[misc]


def test_a_damaged_study_is_named(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    for data in (*NOT_JSON.values(), *NO_OBJECT.values()):
        (tmp_path / JOURNAL).write_bytes(data)
        said = judged(lambda: Study(tmp_path, "study", {}, {}, ["minimize"]))[1]
        assert not said or f"{JOURNAL} is damaged" in said
    assert said
