"""Searching by vectors, by words and by both; nothing is trained."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from tests.interop.test_onnx import make_run
from wafergpt.cli.search import command
from wafergpt.errors import InputError
from wafergpt.inference.predictor import Predictor
from wafergpt.inference.search import WEIGHTS, SearchIndex, words_of

bm25s = pytest.importorskip("bm25s", reason="words are compared by bm25s")

TEXTS = ["the film was good", "a dull film", " ", "what an evening", "a good evening", "film film"]
QUERIES = ["good film", "evening", "unheard", "  "]


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    run = make_run(tmp_path_factory.mktemp("search"), {"name": "embed"})
    return Predictor.load(run, "cpu")


def vectors_of(predictor: Predictor, texts: list[str]) -> np.ndarray:
    found = [one["embedding"] if one else [0.0] * 32 for one in predictor.predict(texts)]
    return np.array(found)


def test_vectors_are_compared_by_their_cosine(predictor: Predictor) -> None:
    index = SearchIndex(TEXTS, predictor, "vectors")
    assert index.vectors is not None
    assert index.vectors == pytest.approx(vectors_of(predictor, TEXTS), abs=1e-6)
    cosines = vectors_of(predictor, QUERIES) @ vectors_of(predictor, TEXTS).T
    found = index.search(QUERIES, k=10)
    for hits, row in zip(found[:3], cosines, strict=False):
        order = [n for n in np.argsort(-row).tolist() if n != 2]
        assert [hit.row for hit in hits] == order
        assert [hit.score for hit in hits] == pytest.approx(row[order], abs=1e-5)
    assert found[3] == []


def test_shorter_vectors_are_the_first_numbers(predictor: Predictor) -> None:
    index = SearchIndex(TEXTS, predictor, "vectors", size=5)
    left, right = (vectors_of(predictor, some)[:, :5] for some in (QUERIES[:1], TEXTS))
    cosines = (left @ right.T)[0]
    cosines /= np.linalg.norm(left) * np.maximum(np.linalg.norm(right, axis=1), 1e-9)
    ((best, *_),) = index.search(QUERIES[:1])
    there = [n for n in range(6) if n != 2]
    assert best.row == max(there, key=lambda n: cosines[n])
    assert best.score == pytest.approx(max(cosines[there]), abs=1e-5)
    with pytest.raises(InputError, match="size=33, but the vectors have 32 numbers"):
        SearchIndex(TEXTS, predictor, size=33)


def test_words_are_compared_by_bm25() -> None:
    index = SearchIndex(TEXTS, how="words")
    other = bm25s.BM25()
    other.index([text.split() for text in TEXTS], show_progress=False)
    rows, scores = other.retrieve([QUERIES[0].split()], k=4, show_progress=False)
    found = index.search(QUERIES, k=10)
    assert {hit.row for hit in found[0]} == {0, 1, 4, 5}
    assert [hit.score for hit in found[0]] == pytest.approx(scores[0])
    assert found[0][0].row == rows[0, 0] == 0
    assert {hit.row for hit in found[1]} == {3, 4}
    assert found[2:] == [[], []]


def test_a_hybrid_adds_up_ranks_or_weighs_scores(predictor: Predictor) -> None:
    by = {how: SearchIndex(TEXTS, predictor, how).scores(QUERIES[:1])[0]
          for how in ("vectors", "words")}  # fmt: skip
    (row,) = SearchIndex(TEXTS, predictor).scores(QUERIES[:1])
    order = {how: np.argsort(-scores, kind="stable").tolist() for how, scores in by.items()}
    for text in (0, 1, 3, 4, 5):
        expected = 1 / (61 + order["vectors"].index(text))
        if by["words"][text] > 0:
            expected += 1 / (61 + order["words"].index(text))
        assert row[text] == pytest.approx(expected)
    (row,) = SearchIndex(TEXTS, predictor, weight=0.3).scores(QUERIES[:1])
    shares = np.maximum(by["words"], 0) / by["words"].max()
    for text in (0, 1, 3, 4, 5):
        assert row[text] == pytest.approx(0.3 * by["vectors"][text] + 0.7 * shares[text])


def test_the_weight_is_the_one_that_finds_the_most(predictor: Predictor) -> None:
    index = SearchIndex(TEXTS, predictor)
    queries, right = ["good film", "evening", "dull"], [[0], [4], [1]]
    weight = index.tune(queries, right)
    found = {}
    for other in WEIGHTS:
        hits = SearchIndex(TEXTS, predictor, weight=other).search(queries, 6)
        rows = [[hit.row for hit in some] for some in hits]
        ranks = [1 + some.index(own[0]) for some, own in zip(rows, right, strict=True)]
        found[other] = sum(1 / rank for rank in ranks)
    assert weight == index.weight == max(found, key=lambda one: found[one])


def test_words_are_split_in_any_script() -> None:
    assert words_of("It's the 2nd Straße, naïve!") == ["it", "s", "the", "2nd", "straße", "naïve"]
    assert words_of("我爱NLP。") == ["我", "爱", "nlp"]
    assert words_of("¿…?") == []


def test_what_cannot_be_is_refused(predictor: Predictor, tmp_path: Path) -> None:
    other = Predictor.load(make_run(tmp_path, {"labels": ("a", "b")}), "cpu")
    for arguments, message in (
        ((["", " "], predictor), "no texts to search in"),
        ((TEXTS, None), "needs a run with task.name=embed"),
        ((TEXTS, other), "has task.name=classify: texts are found with task.name=embed"),
        ((["…"], None, "words"), "no words to search by"),
        ((TEXTS, predictor, "hybrid", 1.5), "no share from 0 to 1"),
    ):
        with pytest.raises(InputError, match=message):
            SearchIndex(*arguments)
    index = SearchIndex(TEXTS, how="words")
    with pytest.raises(InputError, match="a list of queries is wanted"):
        index.search("good")
    with pytest.raises(InputError, match="k=0"):
        index.search(["good"], k=0)


def test_the_command_writes_what_the_index_finds(predictor: Predictor, tmp_path: Path) -> None:
    texts, queries = tmp_path / "texts.csv", tmp_path / "queries.txt"
    texts.write_text("id,positive\n" + "".join(f'{n},"{t}"\n' for n, t in enumerate(TEXTS)))
    queries.write_text("\n".join(QUERIES[:3]) + "\n")
    run, out = str(predictor.run.path), tmp_path / "found.jsonl"
    asked = [
        run,
        str(texts),
        "--file",
        str(queries),
        "-k",
        "2",
        "--how",
        "words",
        "--out",
        str(out),
    ]
    result = CliRunner().invoke(command, asked, catch_exceptions=False)
    assert result.exit_code == 0
    assert result.stdout == ""
    for wrong, message in (
        (out, "exists"),
        (queries.rename(tmp_path / "queries.jsonl"), "is the input itself"),
        (tmp_path / "no" / "a.jsonl", "no such folder"),
        (tmp_path / "hits.csv", "a .jsonl is wanted"),
    ):
        given = [str(wrong) if one == str(out) else one for one in asked]
        given = [str(tmp_path / "queries.jsonl") if one == str(queries) else one for one in given]
        assert message in str(CliRunner().invoke(command, given).exception)
    found = [json.loads(line) for line in out.read_text().splitlines()]
    index = SearchIndex(TEXTS, how="words")
    assert found == [
        {"query": query, "hits": [{"row": n, "score": s, "text": TEXTS[n]} for n, s in hits]}
        for query, hits in zip(QUERIES, index.search(QUERIES[:3], 2), strict=False)
    ]
    both = CliRunner().invoke(command, [run, str(texts), QUERIES[0], "--how", "hybrid", "--json"],
                              catch_exceptions=False)  # fmt: skip
    (one,) = json.loads(both.stdout)["results"]
    assert [hit["row"] for hit in one["hits"]] == [
        hit.row for hit in SearchIndex(TEXTS, predictor).search(QUERIES[:1], 5)[0]
    ]
    for more, message in (
        ([], "give either queries, or --file"),
        (["x", "--weight", "0.5"], "--weight is for --how hybrid"),
        (["x", "--column", "text"], "no column 'text'"),
        (["--file", str(texts)], "no column 'query'.*--query-column COLUMN names another"),
    ):
        refused = CliRunner().invoke(command, [run, str(texts), *more])
        assert re.search(message, str(refused.exception))


def test_columns_with_holes_are_searched(predictor: Predictor) -> None:
    for how in ("words", "hybrid"):
        index = SearchIndex([*TEXTS, None, float("nan")], predictor, how=how)  # type: ignore[list-item]
        first, none = index.search(["good film", None], 3)  # type: ignore[list-item]
        assert first[0].row < len(TEXTS)
        assert none == []
    with pytest.raises(InputError, match="a list of texts is wanted"):
        SearchIndex("a cat")
    with pytest.raises(InputError, match=r"1 of the queries is a number \(7\); texts are wanted"):
        index.search(["good film", 7])  # type: ignore[list-item]
