"""Shared n-grams of test rows and training texts, against an intersection of sets."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.tasks.retrieval import SMALL, facts, write_lists
from wafergpt.api import evaluate, finetune, pretrain
from wafergpt.data.prepare import prepare
from wafergpt.errors import InputError
from wafergpt.reports import write_report
from wafergpt.runs.run import Run
from wafergpt.suites.contamination import contamination, words_of
from wafergpt.suites.rows import own_rows

QUICK = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
WORDS = st.sampled_from(["a", "b", "C", "d!", "日", "本", "ﬁ", "-", "é"])
TEXTS = st.lists(WORDS, max_size=12).map(" ".join)


def written(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return path


def grams(words: list[str], n: int) -> set[tuple[str, ...]]:
    return {tuple(words[at : at + n]) for at in range(len(words) - n + 1)}


@QUICK
@given(st.lists(TEXTS, min_size=1, max_size=8), st.lists(TEXTS, max_size=6), st.integers(1, 5))
def test_it_is_the_intersection_of_sets(
    tmp_path: Path, rows: list[str], corpus: list[str], n: int
) -> None:
    read = [words_of(text) for text in corpus]
    expected: dict[int, float] = {}
    short = set()
    for place, row in enumerate(rows):
        words = words_of(row)
        if not words:
            continue
        unspaced = sum(word in "日本" for word in words)
        length = 2 * n if unspaced >= len(words) - unspaced else n
        if len(words) < length:
            short.add(place)
            length = len(words)
        own = grams(words, length)
        seen = own & {gram for document in read for gram in grams(document, length)}
        expected[place] = len(seen) / len(own)
    # A file must have a text.
    source = written(tmp_path / "corpus.jsonl", [*corpus, "z"])
    if not expected:
        with pytest.raises(InputError, match="no row with a word"):
            contamination(rows, [source], n)
        return
    found = contamination(rows, [source], n)
    dirty = {place: share for place, share in expected.items() if share}
    assert {one["row"]: one["share"] for one in found["worst"]} == pytest.approx(dirty)
    assert [one["share"] for one in found["worst"]] == sorted(dirty.values(), reverse=True)
    assert {one["row"] for one in found["worst"] if one["short"]} == short & set(dirty)
    same = {place for place in expected if words_of(rows[place]) in read}
    assert {one["row"] for one in found["worst"] if one["duplicate"]} == same
    assert found["contaminated"] == len(dirty)
    assert found["share"] == pytest.approx(len(dirty) / len(expected))
    assert found["whole"] == sum(share == 1 for share in dirty.values())
    assert (found["duplicates"], found["short"]) == (len(same), len(short))
    assert found["short_contaminated"] == len(short & set(dirty))
    assert (found["rows"], found["blank"]) == (len(rows), len(rows) - len(expected))
    json.dumps(found, allow_nan=False)


@QUICK
@given(st.data())
def test_a_planted_passage_is_found_and_nothing_else(tmp_path: Path, data: Any) -> None:
    fresh = iter(range(10**6))
    rows = [
        " ".join(f"row{next(fresh)}" for _ in range(data.draw(st.integers(13, 30))))
        for _ in range(5)
    ]
    documents = [" ".join(f"text{next(fresh)}" for _ in range(40)) for _ in range(3)]
    chosen = data.draw(st.integers(0, 4))
    words = rows[chosen].split()
    start = data.draw(st.integers(0, len(words) - 13))
    for length, expected in ((12, []), (13, [chosen])):
        passage = f"“{', '.join(words[start : start + length])}”".upper()
        source = written(
            tmp_path / "c.jsonl", [*documents, f"{documents[0]} {passage}, {next(fresh)}"]
        )
        found = contamination(rows, [source])
        assert [one["row"] for one in found["worst"]] == expected
        for one in found["worst"]:
            assert one["share"] == pytest.approx(1 / (len(words) - 12))


def test_words_are_compared_without_case_and_punctuation() -> None:
    assert words_of("It's  “A-B”,\tÉtude_2!\u200b $5") == ["it", "s", "a", "b", "étude", "2", "5"]
    assert words_of("我爱GPT。หมา हिन्दी") == ["我", "爱", "gpt", "ห", "ม", "า", "हिन्दी"]
    assert words_of(" …!\n") == []


def test_a_text_without_spaces_is_compared_in_twice_as_many_characters(tmp_path: Path) -> None:
    row = "".join(chr(0x4E00 + number) for number in range(40))
    for length, expected in ((25, 0), (26, 1)):
        source = written(tmp_path / "c.jsonl", [f"x{row[3 : 3 + length]}y"])
        assert contamination([row], [source])["contaminated"] == expected


def test_duplicates_come_first_and_only_so_many_are_listed(tmp_path: Path) -> None:
    rows = [f"{'word ' * 20}number {number}" for number in range(30)]
    source = written(tmp_path / "c.jsonl", [rows[7].upper(), "word " * 13])
    found = contamination(rows, [source])
    assert (found["contaminated"], found["duplicates"], found["whole"]) == (30, 1, 1)
    assert [one["row"] for one in found["worst"]] == [7, *(n for n in range(20) if n != 7)]
    assert found["worst"][0]["duplicate"]
    assert len(found["worst"][0]["text"]) <= 120
    assert found["documents"] == 2
    assert found["bytes"] == len(rows[7]) + 5 * 13


def test_a_prepared_corpus_is_decoded_and_its_validation_part_is_not_read(tmp_path: Path) -> None:
    texts = [" ".join(f"word{n * 20 + k}" for k in range(20)) for n in range(40)]
    source = written(tmp_path / "texts.jsonl", texts)
    corpus = prepare(source, tmp_path / "corpus", vocab_size=300, val_fraction=0.3)
    found = contamination(texts, [corpus.path])
    assert found["documents"] == found["duplicates"] == found["contaminated"] < 40
    assert found["bytes"] == corpus.facts["bytes_train"]
    both = contamination(texts, [corpus.path, f"all={source}"])
    assert both["contaminated"] == 40
    assert both["documents"] == found["documents"] + 40


def test_candidates_of_a_ranking_are_searched_too(tmp_path: Path) -> None:
    path = write_lists(tmp_path / "lists.csv", facts(0)[:40])
    asked = [*SMALL, "task.name=rank", f"task.train={path}", "train.steps=1", "name=ranks",
             "train.batch_size=8"]  # fmt: skip
    ranker = finetune("scratch", None, asked, refit=False, root=tmp_path)
    lists = own_rows(ranker)[1].candidates
    texts = [one.text for candidates in lists for one in candidates]
    corpus = written(tmp_path / "c.jsonl", [texts[0]])
    found = evaluate("ranks", ["contamination"], corpus=[corpus], root=tmp_path)["contamination"]
    assert found["rows"] == len(lists) + len(texts)
    assert found["duplicates"] == texts.count(texts[0])


def test_the_rows_of_a_fine_tuning_are_searched_and_what_is_gone_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = [" ".join(f"word{n * 20 + k}" for k in range(20)) for n in range(40)]
    corpus = prepare(written(tmp_path / "lm.jsonl", texts[:20]), tmp_path / "corpus",
                     vocab_size=300, val_fraction=0.3).path  # fmt: skip
    shape = [one for one in SMALL if not one.startswith("model.vocab_size")]
    pretrain(None, [*shape, f"data.corpus={corpus}", "train.steps=1", "name=lm"], root=tmp_path)
    named = {}
    for part, some in (("train", texts[10:30]), ("test", texts[20:])):
        labelled = [{"text": t, "label": f"l{n % 2}"} for n, t in enumerate(some)]
        named[part] = tmp_path / f"{part}.jsonl"
        named[part].write_text("".join(json.dumps(row) + "\n" for row in labelled))
    files = [f"task.{part}={path}" for part, path in named.items()]
    finetune("lm", None, [*files, "task.held_out=0.1", "train.steps=1", "name=clf"], refit=False,
             root=tmp_path)  # fmt: skip
    found = evaluate("clf", ["contamination"], root=tmp_path)["contamination"]
    # Two rows of training were held out.
    assert 8 <= found["duplicates"] == found["contaminated"] <= 10
    assert found["rows"] == 20
    assert found["not_searched"] == []
    # A language model that went on with the same corpus has read it once more.
    on = [f"data.corpus={corpus}", "train.steps=1", "name=lm-2"]
    pretrain(None, on, start="lm", root=tmp_path)
    asked = [*files, "task.held_out=0.1", "train.steps=1", "name=clf-2"]
    finetune("lm-2", None, asked, refit=False, root=tmp_path)
    twice = evaluate("clf-2", ["contamination"], root=tmp_path)["contamination"]
    assert twice["documents"] == found["documents"]
    shutil.rmtree(corpus)
    again = evaluate("clf", ["contamination"], root=tmp_path)["contamination"]
    assert again["duplicates"] == found["duplicates"]
    assert again["documents"] < found["documents"]
    assert again["not_searched"] == ["lm"]
    assert "what lm was trained on is not here" in capsys.readouterr().err
    page = write_report(Run(tmp_path / "clf")).read_text()
    assert "Not searched, for it is not here: what lm was trained on." in page


def test_what_cannot_be_is_said(tmp_path: Path) -> None:
    source = written(tmp_path / "c.jsonl", ["text"])
    with pytest.raises(InputError, match="at least 1"):
        contamination(["text"], [source], n=0)
    with pytest.raises(InputError, match="which training texts"):
        contamination(["text"], [])
    for rows in ([], [" ", "…"]):
        with pytest.raises(InputError, match="no row with a word"):
            contamination(rows, [source])
