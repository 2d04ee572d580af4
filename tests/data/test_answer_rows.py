"""Questions, contexts and answers as people bring them."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wafergpt.data.answer_rows import (
    Columns,
    Questions,
    Span,
    _placed,
    read_questions,
    stream_asked,
)
from wafergpt.errors import InputError

CONTEXT = "Zoë (born 1998) lives in 東京 👩‍👩‍👧, and 1998 km from 東京."


def read(path: Path, rows: list[dict[str, Any]], **names: str) -> Questions:
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows))
    return read_questions(path, Columns(**names))


def row(answer: Any, question: str = "Who?", context: str = CONTEXT, **more: Any) -> dict[str, Any]:
    return {"question": question, "context": context, "answer": answer, **more}


def squad(answers: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    asked = {"id": "1", "question": "Who?", "answers": answers, **more}
    return {
        "version": "v2.0",
        "data": [
            {
                "title": "Z",
                "paragraphs": [
                    {
                        "context": CONTEXT,
                        "qas": [
                            asked,
                            {
                                "question": "Why?",
                                "answers": [],
                                "plausible_answers": [],
                                "is_impossible": True,
                            },
                        ],
                    }
                ],
            }
        ],
    }


def test_every_form_of_a_row_is_read(tmp_path: Path) -> None:
    span = Span("東京", 25, 27)
    assert CONTEXT[25:27] == "東京"
    forms: list[dict[str, Any]] = [
        row("東京"), row(" 東京 ", answer_start=24), row(["東京"]), row("東京", answer_start="25"),
        {"question": "Who?", "context": CONTEXT,
         "answers": {"text": ["東京"], "answer_start": [25]}},
        {"question": "Who?", "context": CONTEXT, "answers": [{"text": "東京", "answer_start": 25}]},
        squad([{"text": "東京", "answer_start": 25}] * 3)["data"][0],
    ]  # fmt: skip
    for form in forms:
        found = read(tmp_path / "a.jsonl", [form])
        assert (found.answers[0], found.contexts[0]) == ((span,), CONTEXT)
        assert found.notes == ()
    (tmp_path / "train-v2.0.json").write_text(json.dumps(squad([{"text": "東京"}]), indent=1))
    found = read_questions(tmp_path / "train-v2.0.json", Columns())
    assert found.questions == ["Who?", "Why?"]
    assert found.answers == [(span,), ()]
    with (tmp_path / "a.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([["q", "context", "a"], ["Who?", CONTEXT, "東京"], ["Why?", CONTEXT, ""]])
    found = read_questions(tmp_path / "a.csv", Columns(question="q", answer="a"))
    assert found.answers == [(span,), ()]
    asked = list(stream_asked(tmp_path / "a.csv", Columns("q")))
    assert (asked[1].question, asked[1].context) == ("Why?", CONTEXT)
    # Answers stay aligned with the file, of whatever name.
    (tmp_path / "a.dat").write_text("question\tcontext\nWho?\tA b.\n\nWhy?\tC.\n")
    asked = list(stream_asked(tmp_path / "a.dat", Columns(), "tsv"))
    assert [one.question for one in asked] == ["Who?", "", "Why?"]


def test_a_lone_surrogate_in_squads_json_is_placed(tmp_path: Path) -> None:
    whole = squad([{"text": "東京", "answer_start": 25}])
    whole["data"][0]["paragraphs"][0]["qas"][1]["question"] = "\ud800"
    (tmp_path / "train.json").write_text(json.dumps(whole, indent=1))
    with pytest.raises(InputError, match=r"train.json: a lone surrogate.* after question 2"):
        read_questions(tmp_path / "train.json", Columns())


def test_the_nearest_place_is_taken_and_said(tmp_path: Path) -> None:
    found = read(tmp_path / "a.jsonl", [row("1998", answer_start=40), row("1998", "When?")])
    assert [spans[0].start for spans in found.answers] == [CONTEXT.rindex("1998"), 10]
    (note,) = found.notes
    assert "1 of 2 rows have a start that is not their answer's" in note
    assert "(first: line 1)" in note


def test_what_is_not_as_it_should_be_is_counted(tmp_path: Path) -> None:
    rows = [
        row("zoë"), row("1998 KM\n from"), row("Tokyo"), row("Kyoto"), row("x", question=" "),
        row("x", context=""), row("Anna", context="<p>Anna &amp; Bob</p>"), row(None, "Why?"),
        row(1998, "When?"), row("1998", "When?"), row("東京", "When?"),
    ]  # fmt: skip
    found = read(tmp_path / "a.jsonl", rows)
    assert [[span.text for span in spans] for spans in found.answers] == [
        ["Zoë", "1998 km from"], ["Anna"], [], ["1998", "東京"],
    ]  # fmt: skip
    notes = "\n".join(found.notes)
    for said in (
        "2 of 11 rows have an answer in other case or spaces",
        "2 of 11 rows have an answer that is not in the context, and are skipped (first: line 3)",
        "1 of 11 rows have no question and are skipped (first: line 5)",
        "1 of 11 rows have no context and are skipped",
        "1 of 11 rows have HTML in the context",
        "3 of 11 rows repeat a question",
    ):
        assert said in notes
    assert found.take([2, 1]).questions == ["Why?", "Who?"]
    assert len(set(zip(found.texts, found.labels, strict=True))) == 4


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([row("Kyoto")], "1 of 1 rows have an answer that is not in the context.*line 1.*piece of"),
        ([row("{'text': array(['Zoë'])}")], "line 1: column 'answer' has a printed object"),
        ([row(True)], "column 'answer' holds a truth value"),
        ([row("Zoë", answer_start="here")], "line 1: answer_start is 'here', not a whole number"),
        ([row("Zoë", answer_start=float("inf"))], "answer_start is inf"),
        ([{"question": "Who?", "context": CONTEXT}], "no column 'answer'"),
        ([{"q": "Who?", "context": CONTEXT}], "no column 'question'.*task.question=COLUMN"),
        ([row({"text": ["a", "b"], "answer_start": [1, 2, 3]})], "2 answers, but 3 starts"),
        ([row([3])], "an answer is 3, not a text"),
        ([{"data": [{"title": "x"}]}], "no 'paragraphs' after question 0"),
        ([{"data": [{"paragraphs": [{"context": 3}]}]}], "no 'context' after question 0"),
    ],
)
def test_one_line_says_what_is_wrong(
    tmp_path: Path, rows: list[dict[str, Any]], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        read(tmp_path / "a.jsonl", rows)


@given(st.text("ab c東👩", min_size=1, max_size=20), st.data())
def test_a_piece_of_a_context_is_found_where_it_is(context: str, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(context) - 1))
    text = context[start : data.draw(st.integers(start + 1, len(context)))]
    span, said = _placed(text, start, context)
    assert (span, said) == (Span(text, start, start + len(text)), "")
