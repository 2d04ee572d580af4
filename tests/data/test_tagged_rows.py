"""Files of tagged words as people have them."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import pytest

from wafergpt.data.tag_schemes import Entity
from wafergpt.data.tagged_rows import Sentences, read_sentences, stream_words
from wafergpt.errors import InputError

DATA = Path(os.environ.get("WAFERGPT_DATA", "../shared/data"))
PLAIN = "John B-PER\nSmith I-PER\nslept O\n\nParis B-LOC\n"
WANTED = Sentences(
    [("John", "Smith", "slept"), ("Paris",)], [(Entity(0, 2, "PER"),), (Entity(0, 1, "LOC"),)]
)


def read(folder: Path, content: str | bytes, name: str = "a.conll", **options: object) -> Sentences:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_sentences(path, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (PLAIN, "a.conll"),
        (PLAIN, "a.txt"),
        (PLAIN.replace(" ", "\t"), "a.tsv"),
        (PLAIN.replace(" ", "   \t "), "a.bio"),
        (PLAIN.replace("\n", "\r\n"), "a.conll"),
        (b"\xef\xbb\xbf" + PLAIN.encode(), "a.conll"),
        (PLAIN.encode("utf-16"), "a.conll"),
        (gzip.compress(PLAIN.encode(), mtime=0), "a.conll.gz"),
        (PLAIN.replace("\n\n", "\n \t \n\n"), "a.conll"),
        (f"-DOCSTART- -X- O O\n\n{PLAIN}\n-DOCSTART- O\n\n", "a.conll"),
        (f"# id = 5\n# text = John\n{PLAIN}", "a.conll"),
        (PLAIN.replace("B-", "I-"), "a.iob"),
        (PLAIN.replace("I-PER", "E-PER").replace("B-LOC", "S-LOC"), "a.bioes"),
        (PLAIN.replace(" ", " NN x "), "a.conll"),
    ],
)
def test_one_file_in_many_forms(tmp_path: Path, content: str | bytes, name: str) -> None:
    assert read(tmp_path, content, name) == WANTED


def test_jsonl(tmp_path: Path) -> None:
    rows: list[dict[str, list[str]]] = [
        {"tokens": ["John", "Smith", "slept"], "tags": ["B-PER", "I-PER", "O"]},
        {"tokens": ["Paris"], "tags": ["B-LOC"]},
        {"tokens": [], "tags": []},
    ]
    text = "\n".join(map(json.dumps, rows))
    assert read(tmp_path, text, "a.jsonl") == WANTED == read(tmp_path, text, "a.data")
    names = ["O", "B-PER", "I-PER", "B-LOC"]
    numbered = [{"tokens": r["tokens"], "ner_tags": [names.index(t) for t in r["tags"]]}
                for r in rows]  # fmt: skip
    found = read(tmp_path, "\n".join(map(json.dumps, numbered)), "n.jsonl", tag_names=names)
    assert found == WANTED
    renamed = text.replace('"tags"', '"ner"')
    assert read(tmp_path, renamed, "a.jsonl", tags="ner") == WANTED


def test_columns_by_number(tmp_path: Path) -> None:
    text = "1 John B-PER x\n2 Smith I-PER\n3 slept O y\n\n1 Paris B-LOC\n"
    assert read(tmp_path, text, tokens="2", tags="3") == WANTED
    assert read(tmp_path, text.replace(" y", "").replace(" x", ""), tokens="-2") == WANTED


def test_a_hash_may_be_a_word(tmp_path: Path) -> None:
    found = read(tmp_path, "# O\n1 O\n\nA B-X\n# O\n")
    assert found.words == [("#", "1"), ("A", "#")]


def test_words_that_are_spaces(tmp_path: Path) -> None:
    found = read(tmp_path, "中\tB-X\n\u3000\tO\n\xa0\tO\n \tO\n")
    assert found.words == [("中", "\u3000", "\xa0", " ")]


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ("", {}, "has no words"),
        ("\n \n", {}, "has no words"),
        ("a O\nb\n", {}, "line 2: 1 column, where line 1 has 2: the tag is missing"),
        ("a\tO\nb\t\n", {}, "line 2: .* the tag is missing"),
        ("a x O\nb c y O\n", {}, "line 2: 4 columns, where line 1 has 3"),
        ("a\nb\n", {}, "line 1: one column, where a word and its tag are wanted"),
        ("a\tO\n\tO\n", {}, "line 2: no word"),
        ("a NN\n", {}, "line 1: 'NN' is no tag of an entity, such as O"),
        ("a O\n", {"tags": "ner"}, "task.tags='ner': a column of a CoNLL file is a number"),
        ("a O\n", {"tags": "3"}, "no column 3, for there are 2; task.tags=NUMBER"),
        ("a O\n", {"tokens": "0"}, "a number from 1"),
        ("a B-X\n\nb O\nc I-X\n\nd I-X\ne B-X\n\nf B-X\n", {},
         r"line 4: 'I-X' after 'O', which BIO does not allow \(2 of such\): task.repair=true"),
        ("a B-X\n\nb I-X\n\nc B-X\n", {}, "line 3: 'I-X' after the sentence's start"),
        ("a B-X\nb E-X\n\nc B-X\n\nd O\n", {}, "line 4: the sentence ends in 'B-X', which BIOES"),
        ("a B-X\nb I-Y\n\nc B-X\n", {}, "line 2: 'I-Y' after 'B-X'"),
    ],
)  # fmt: skip
def test_one_line_says_what_is_wrong(
    tmp_path: Path, content: str, options: dict[str, str], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        read(tmp_path, content, **options)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"tokens": ["a"], "tags": [3]}, r"the tag 3 is a number: task.tag_names=\[O,B-PER"),
        ({"tokens": ["a", "b"], "tags": ["O", 3]}, "3 in it, where names are wanted"),
        ({"tokens": ["a", "b"], "tags": ["O"]}, "2 words, but 1 tag"),
        ({"tokens": "a b", "tags": ["O"]}, "'tokens' is not a list"),
        ({"tokens": [""], "tags": ["O"]}, "an empty word"),
        ({"words": ["a"], "tags": ["O"]}, "no column 'tokens'"),
    ],
)
def test_jsonl_that_is_wrong(tmp_path: Path, row: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(tmp_path, json.dumps(row), "a.jsonl")


def test_a_csv_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="wanted as CoNLL"):
        read(tmp_path, "word,tag\na,O\n", "a.csv")


def test_repair_is_counted(tmp_path: Path) -> None:
    found = read(tmp_path, "a B-X\n\nb O\nc I-X\n\nd B-X\n", repair=True)
    assert found.entities == [(Entity(0, 1, "X"),), (Entity(1, 2, "X"),), (Entity(0, 1, "X"),)]
    assert "1 tag that BIO does not allow are repaired (first: line 4)" in found.notes[0]


def test_words_need_no_tags(tmp_path: Path) -> None:
    path = tmp_path / "a.conll"
    path.write_text("John\nslept\n\nParis\n")
    assert list(stream_words(path)) == [(1, ("John", "slept")), (4, ("Paris",))]


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("conll2003/eng.testb", {"LOC": 1668, "ORG": 1661, "PER": 1617, "MISC": 702}),
        ("ncbi_disease/test", {"Disease": 960}),
    ],
)
def test_published_counts(name: str, counts: dict[str, int]) -> None:
    path = DATA / f"{name}.conll.gz"
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    found = read_sentences(path)
    labels = [entity.label for row in found.entities for entity in row]
    assert {label: labels.count(label) for label in counts} == counts
    assert len(labels) == sum(counts.values())
