from __future__ import annotations

import json
import lzma
import os
import signal
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wafergpt import files
from wafergpt.data import prepare as module
from wafergpt.data.corpus import Corpus, Tokens
from wafergpt.data.megatron_indexed import IndexedTokens, IndexedWriter
from wafergpt.data.prepare import prepare
from wafergpt.errors import InputError
from wafergpt.locks import Lock


@pytest.fixture(scope="session")
def articles(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first 100 Wikipedia articles: 1.2 MB."""
    path = tmp_path_factory.mktemp("wiki") / "articles.jsonl"
    with lzma.open(real_data / "wikipedia_en" / "articles.jsonl.xz", "rt") as source:
        path.write_text("".join(islice(source, 100)))
    return path


def contents(corpus: Path) -> dict[str, str]:
    return {p.name: files.sha256(p) for p in corpus.iterdir()}


def documents_of(corpus: Corpus, split: str) -> list[str]:
    """Read the tokens back into texts."""
    end, texts = corpus.tokenizer.end_of_text, []
    for prefix in sorted(corpus.path.glob(f"{split}-*.idx")):
        data = IndexedTokens(prefix.with_suffix(""))
        place = 0
        for length in data.lengths:
            ids = data.tokens[place : place + length].tolist()
            assert ids[-1] == end
            assert end not in ids[:-1]
            texts.append(corpus.tokenizer.decode(ids[:-1]))
            place += length
    return texts


def test_every_document_is_there_once(articles: Path, tmp_path: Path) -> None:
    corpus = prepare(articles, tmp_path / "c", vocab_size=1000)
    wanted = [json.loads(line)["text"] for line in articles.read_text().splitlines()]
    train, val = documents_of(corpus, "train"), documents_of(corpus, "val")
    assert sorted(train + val) == sorted(wanted)
    assert val
    facts = json.loads((tmp_path / "c" / "corpus.json").read_text())
    assert facts["documents"] == 100
    assert facts["bytes"] == sum(len(text.encode()) for text in wanted)
    assert facts["bytes_val"] == sum(len(text.encode()) for text in val)
    assert facts["tokens_train"] == len(corpus.tokens("train"))
    assert facts["tokens_val"] == len(corpus.tokens("val"))
    assert (facts["vocab_size"], facts["dtype"]) == (1000, "uint16")
    corpus.verify()


SCRIPT = """
import sys, time
from wafergpt.data import prepare as module
from wafergpt.data.tokenizer import Tokenizer
module.BLOCK_BYTES, module.BATCH_BYTES = 75_000, 20_000
encode = Tokenizer.encode_batch
def slow(self, texts):
    print("batch", flush=True)
    time.sleep(float(sys.argv[4]))
    return encode(self, texts)
Tokenizer.encode_batch = slow
module.prepare(sys.argv[1], sys.argv[2], vocab_size=600, workers=int(sys.argv[3]))
"""


def run(articles: Path, out: Path, workers: int, pause: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", SCRIPT, str(articles), str(out), str(workers), str(pause)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_killed_anywhere_or_with_other_workers_the_bytes_are_the_same(
    articles: Path, tmp_path: Path
) -> None:
    with run(articles, tmp_path / "straight", 1, 0) as straight:
        lines = straight.communicate()[0].count("batch")
    expected = contents(tmp_path / "straight")
    assert len([n for n in expected if n.startswith("train") and n.endswith("bin")]) > 3
    out = tmp_path / "killed"
    kills = 0
    for batches in (1, 4, 9, 14):
        with run(articles, out, 2, 0.05) as process:
            assert process.stdout is not None
            for _ in range(batches):
                process.stdout.readline()
            process.send_signal(signal.SIGKILL)
            kills += process.wait() == -signal.SIGKILL
        assert not (out / "corpus.json").exists(), "it was not in the middle"
    assert kills == 4
    done = len(list(out.glob("block-*.json")))
    assert done > 0
    with run(articles, out, 2, 0) as last:
        again = last.communicate()[0].count("batch")
    assert again < lines, "finished blocks were encoded again"
    assert {n: h for n, h in contents(out).items() if not n.startswith(".")} == expected


def test_a_finished_corpus_is_left_alone_and_other_input_is_refused(
    articles: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "c"
    first = prepare(articles, out, vocab_size=600)
    before = {p.name: p.stat().st_mtime_ns for p in out.iterdir()}
    assert prepare(articles, out, vocab_size=600).fingerprint == first.fingerprint
    assert "is prepared already" in capsys.readouterr().err
    assert {p.name: p.stat().st_mtime_ns for p in out.iterdir()} == before
    with pytest.raises(InputError, match="the settings changed"):
        prepare(articles, out, vocab_size=601)
    shorter = tmp_path / "shorter.jsonl"
    shorter.write_text("".join(articles.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(InputError, match="the text changed"):
        prepare(shorter, out, vocab_size=600)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious.txt").write_text("x")
    with pytest.raises(InputError, match="exists and is not a corpus"):
        prepare(articles, tmp_path / "full")


def test_too_large_a_vocabulary_leaves_the_way_free(tmp_path: Path) -> None:
    source = tmp_path / "a.jsonl"
    source.write_text("".join(json.dumps({"text": f"text number {n}"}) + "\n" for n in range(30)))
    with pytest.raises(InputError, match="too short for a vocabulary of 5,000"):
        prepare(source, tmp_path / "c", vocab_size=5000)
    assert prepare(source, tmp_path / "c", vocab_size=270).vocab_size == 270


@pytest.mark.slow
def test_the_split_follows_the_documents_not_their_order(articles: Path, tmp_path: Path) -> None:
    backwards = tmp_path / "b.jsonl"
    backwards.write_text("".join(articles.read_text().splitlines(keepends=True)[::-1]))
    splits = [
        sorted(documents_of(prepare(path, tmp_path / path.stem, vocab_size=400), "val"))
        for path in (articles, backwards)
    ]
    assert splits[0] == splits[1]


def test_even_a_tiny_corpus_has_validation_text(tmp_path: Path) -> None:
    source = tmp_path / "a.jsonl"
    source.write_text('{"text": "one"}\n{"text": "two"}\n')
    corpus = prepare(source, tmp_path / "c", vocab_size=257)
    assert len(corpus.tokens("val")) > 0
    assert len(corpus.tokens("train")) > 0
    source.write_text('{"text": "one"}\n')
    with pytest.raises(InputError, match="one document is too few"):
        prepare(source, tmp_path / "d", vocab_size=257)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vocab_size": 300, "tokenizer": "x"}, "omit --vocab-size"),
        ({"vocab_size": 10}, "at least 257"),
        ({"val_fraction": 1.5}, "between 0 and 1"),
        ({"tokenizer": "nowhere"}, "no tokenizer at nowhere"),
    ],
)
def test_impossible_settings(tmp_path: Path, options: dict[str, object], message: str) -> None:
    (tmp_path / "a.txt").write_text("some text")
    with pytest.raises(InputError, match=message):
        prepare(tmp_path / "a.txt", tmp_path / "c", **options)  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_changed_corpus_is_noticed(articles: Path, tmp_path: Path) -> None:
    out = tmp_path / "c"
    corpus = prepare(articles, out, vocab_size=400)
    data = out / "train-00000.bin"
    original = data.read_bytes()
    data.write_bytes(original[:-2])
    with pytest.raises(InputError, match="has changed since it was prepared"):
        Corpus.open(out)
    data.write_bytes(original[:-2] + b"\x01\x01")
    with pytest.raises(InputError, match=r"train-00000\.bin has changed"):
        corpus.verify()
    data.write_bytes(original)
    facts = json.loads((out / "corpus.json").read_text())
    facts["files"]["../../etc/passwd"] = {"bytes": 1, "sha256": ""}
    (out / "corpus.json").write_text(json.dumps(facts))
    with pytest.raises(InputError, match=r": the file '\.\./\.\./etc/passwd' is missing"):
        Corpus.open(out)


def test_tokens_are_one_stream_over_all_shards(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    flat: list[int] = []
    for shard in range(4):
        with IndexedWriter(tmp_path / f"s{shard}", 500) as writer:
            for length in rng.integers(1, 9, shard and 5):
                document = rng.integers(0, 500, length).tolist()
                writer.add(document)
                flat += document
    stream = Tokens(IndexedTokens(tmp_path / f"s{shard}") for shard in range(4))
    assert len(stream) == len(flat)
    for start in range(len(flat)):
        for length in (1, 7, len(flat) - start):
            if start + length <= len(flat):
                assert stream.take(start, length).tolist() == flat[start : start + length]
    with pytest.raises(IndexError):
        stream.take(len(flat) - 1, 2)


@pytest.mark.slow
def test_memory_stays_bounded(tmp_path: Path) -> None:
    """A source of 300 MB is prepared within 300 MB more than a small one."""
    source = tmp_path / "a.jsonl.gz"
    line = json.dumps({"text": "to be or not to be that is the question " * 250}) + "\n"
    import gzip

    with gzip.open(source, "wt", 1) as file:
        for number in range(30_000):
            file.write(line.replace("question", f"question{number}", 1))
    peak = {}
    for documents in (300, 30_000):
        script = (
            "import itertools\n"
            "from wafergpt.data import prepare as m\n"
            "class E:\n"
            "    vocab_size, end_of_text = 300, 0\n"
            "    def encode_batch(self, texts): return [[1] * 3 for _ in texts]\n"
            f"reader = m._Reader([m.Path({str(source)!r})], 'text', 'strict')\n"
            f"reader = itertools.islice(reader, {documents})\n"
            "survey = m.Survey(1, 300_000_000, 0, '')\n"
            f"out = m.Path({str(tmp_path)!r}) / 'o{documents}'\n"
            "out.mkdir()\n"
            "m._encode(out, E(), reader, m.Split(0), survey)\n"
            # A child has its parent's peak in ru_maxrss.
            "print(m.Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0])\n"
        )
        result = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=True
        )
        peak[documents] = int(result.stdout.split()[-1])
    assert peak[30_000] - peak[300] < 100_000


@pytest.mark.slow
def test_sigterm_names_the_command_that_resumes(articles: Path, tmp_path: Path) -> None:
    many = tmp_path / "many.jsonl"
    many.write_text(articles.read_text() * 4)
    command = [
        sys.executable,
        "-m",
        "wafergpt",
        "prepare",
        str(many),
        "--out",
        str(tmp_path / "c"),
        "--vocab-size=1000",
    ]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stderr is not None
        # From here on a tokenizer is trained.
        while not (tmp_path / "c" / "prepare.json").is_file():
            assert process.poll() is None
            time.sleep(0.05)
        time.sleep(0.2)
        process.send_signal(signal.SIGTERM)
        message = process.stderr.read()
    assert process.returncode == 130
    assert "run the same command to resume" in message
    assert "Traceback" not in message
    again = module.prepare(many, tmp_path / "c", vocab_size=1000)
    assert again.facts["documents"] == 400


def test_a_folder_that_may_not_be_read_is_not_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    walk = os.walk

    def walked(top: Path, onerror: Any) -> Any:
        for name in ("closed", ".hidden"):
            onerror(PermissionError(13, "Permission denied", str(top / name)))
            if name == "closed":
                yield from walk(top)

    (tmp_path / "a.txt").write_text("text\n")
    monkeypatch.setattr(os, "walk", walked)
    with pytest.raises(InputError, match="closed cannot be read: Permission denied"):
        prepare(tmp_path, tmp_path / "corpus")
    with pytest.raises(InputError, match="closed cannot be read: Permission denied"):
        prepare(tmp_path / "**" / "*.txt", tmp_path / "corpus")


def test_two_processes_do_not_write_one_corpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [f'{{"text": "some text of a document {n}"}}\n' for n in range(20)]
    (tmp_path / "a.jsonl").write_text("".join(rows))
    out = tmp_path / "corpus"
    lock = Lock(out / "prepare.json")
    finish = module._finish

    def second(*given: Any) -> None:
        assert not lock.acquire()
        with pytest.raises(InputError, match="is being prepared by another process"):
            prepare(tmp_path / "a.jsonl", out, vocab_size=257)
        finish(*given)

    monkeypatch.setattr(module, "_finish", second)
    assert prepare(tmp_path / "a.jsonl", out, vocab_size=257).path == out
    assert lock.acquire()
    lock.release()


def test_what_a_folder_has_beside_texts(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty file is skipped, a linked folder named, and a dump of pages refused."""
    folder, other = tmp_path / "texts", tmp_path / "other"
    for place in (folder, other):
        place.mkdir()
        for n in range(9):
            (place / f"{n}.txt").write_text(f"a text of {place.name}, number {n}\n")
    (folder / "none.txt").write_text("\n")
    (folder / "more").symlink_to(other)
    monkeypatch.setenv("HOME", str(tmp_path))
    found = prepare("~/texts", tmp_path / "corpus", vocab_size=257)
    assert found.facts["documents"] == 9
    said = capfd.readouterr().err
    assert f"{folder / 'none.txt'} contains no text: skipped" in said
    assert "1 linked folder not followed, such as" in said
    for name, start in (("a.xml", "<mediawiki xmlns="), ("b.txt", "WARC/1.0\n")):
        (tmp_path / name).write_text(start + "\n" + "words\n" * 9)
        with pytest.raises(InputError, match="extract its texts first"):
            prepare(tmp_path / name, tmp_path / "dump")
    assert not (tmp_path / "dump").exists()


def test_equal_documents_and_changing_sources_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "a.jsonl"
    source.write_text(50 * '{"text": "some text"}\n')
    tokenizer = prepare(_rows(tmp_path / "b.jsonl"), tmp_path / "b", vocab_size=257).path
    with pytest.raises(InputError, match="all documents are held out for validation"):
        prepare(source, tmp_path / "a", tokenizer=tokenizer)
    encode = module._encode

    def shortened(*given: Any) -> Any:
        source.write_text("".join(source.read_text().splitlines(keepends=True)[:100]))
        return encode(*given)

    monkeypatch.setattr(module, "_encode", shortened)
    _rows(source)
    with pytest.raises(InputError, match="the sources have changed while they were read"):
        prepare(source, tmp_path / "c", tokenizer=tokenizer)


def _rows(path: Path) -> Path:
    rows = [json.dumps({"text": f"some text, number {n}"}) + "\n" for n in range(200)]
    path.write_text("".join(rows))
    return path


def test_lower_case_is_of_the_whole_corpus(tmp_path: Path) -> None:
    source = tmp_path / "a.jsonl"
    texts = [f"A quiet Film number {n}, and a WARM one" for n in range(60)]
    source.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    corpus = prepare(source, tmp_path / "lower", vocab_size=300, lowercase=True)
    assert corpus.tokenizer.encode("WARM Film") == corpus.tokenizer.encode("warm film")
    ids = corpus.tokens("train").take(0, 40).tolist()
    assert corpus.tokenizer.decode(ids) == corpus.tokenizer.decode(ids).lower()
    with pytest.raises(InputError, match="settings"):
        prepare(source, tmp_path / "lower", vocab_size=300)
