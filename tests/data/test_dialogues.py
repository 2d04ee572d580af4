"""Dialogues as other tools write them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wafergpt.data.dialogues import (
    Message,
    as_json,
    from_json,
    messages_of,
    read_dialogues,
    stream_messages,
)
from wafergpt.errors import InputError

HELLO = [Message("user", "Hello."), Message("assistant", "Hi!")]


@pytest.mark.parametrize(
    "value",
    [
        [{"role": "user", "content": "Hello."}, {"role": "assistant", "content": "Hi!"}],
        [{"from": "human", "value": "Hello. "}, {"from": "gpt", "value": "\nHi!"}],
        [{"speaker": "Customer", "text": "Hello."}, {"speaker": "AGENT", "text": "Hi!"}],
        [["USER", "Hello."], ["SYSTEM", "Hi!"]],
        [["user", "Hello."], ["bot", "Hi!"]],
    ],
)
def test_roles_and_texts_have_many_names(value: Any) -> None:
    assert messages_of(value) == HELLO


def test_a_system_that_only_opens_stays_one() -> None:
    value = [{"role": "system", "content": "Be kind."}, *({"role": m.role, "content": m.content}
                                                          for m in HELLO)]  # fmt: skip
    assert messages_of(value)[0] == Message("system", "Be kind.")
    assert messages_of([["SYSTEM", "Be kind."], ["USER", "Hello."]])[0].role == "system"


def test_neighbours_of_one_role_are_joined() -> None:
    found = messages_of([["user", "Hello."], ["user", "You there?"], ["bot", "Hi!"]])
    assert found == [Message("user", "Hello.\nYou there?"), Message("assistant", "Hi!")]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("Hello.", "is a value of type str .*, not a list of messages"),
        ([], "has no messages"),
        ([{"role": "assistant", "content": None, "tool_calls": [{}]}], "has no messages"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "turn 1 without a role or a text"),
        ([{"role": "user"}], "turn 1 without a role or a text"),
        ([["user", "Hello.", "x"]], "turn 1 without a role or a text"),
        ([["user", 3]], "turn 1 without a role or a text"),
        ([["user", "Hello."], ["assitant", "Hi!"]], "role 'assitant' in turn 2.*assistant"),
        ([["user", "Hello."], ["assistant", "  "]], "an empty turn 2"),
        (
            [["user", "Hello."], ["assistant", "Hi!"], ["system", "Stop."]],
            "a system message in turn 3",
        ),
    ],
)
def test_what_is_no_dialogue_is_refused(value: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        messages_of(value)


def test_tools_are_context_and_their_calls_are_not_learned() -> None:
    found = messages_of(
        [
            {"role": "developer", "content": "Be kind."},
            {"role": "user", "content": [{"type": "text", "text": "Rain?"}]},
            {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]},
            {"role": "tool", "content": "sunny", "tool_call_id": "1"},
            {"role": "assistant", "content": "No.", "weight": 0},
            {"role": "assistant", "content": "No rain."},
        ]
    )
    assert found == [
        Message("system", "Be kind."), Message("user", "Rain?"), Message("tool", "sunny"),
        Message("assistant", "No.", learned=False), Message("assistant", "No rain."),
    ]  # fmt: skip
    assert from_json(as_json(found)) == found
    shared = [
        {"from": "human", "value": "Rain?"},
        {"from": "function_call", "value": "{}"},
        {"from": "observation", "value": "sunny"},
        {"from": "gpt", "value": "No."},
    ]
    assert [one.role for one in messages_of(shared)] == ["user", "tool", "assistant"]


def test_rows_that_cannot_be_used_are_skipped_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    rows = [
        [["user", "Hello."], ["bot", "Hi!"]],
        [["user", "Hello."], ["narrator", "They met."]],
        [["user", "Hello."], ["assistant", ""]],
        [["user", "Rain?"], ["function", "sunny"], ["assistant", "No."]],
        [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "weight": 0}],
    ]
    path.write_text("\n".join(json.dumps({"messages": row}) for row in rows))
    table = read_dialogues(path, "messages")
    assert table.labels == ["Hi!", "No."]
    skipped, without, tools = table.notes
    assert (
        "2 of 5 dialogues are skipped (first: line 2 has the role 'narrator' in turn 2" in skipped
    )
    assert "1 of 5 dialogues have no reply" in without
    assert "1 of 5 dialogues have tools" in tools
    with pytest.raises(InputError, match="line 2 has the role 'narrator'"):
        list(stream_messages(path, "messages"))
    path.write_text(json.dumps({"messages": rows[1]}))
    with pytest.raises(InputError, match=r"no dialogue .*first: line 1 has the role 'narrator'"):
        read_dialogues(path, "messages")


@given(st.lists(st.tuples(st.sampled_from(["user", "assistant"]), st.text(min_size=1))))
def test_json_gives_messages_back(turns: list[tuple[Any, str]]) -> None:
    found = [Message(role, text) for role, text in turns]
    assert from_json(as_json(found)) == found
    assert "\n" not in as_json(found)


def test_a_row_is_what_comes_before_the_last_reply(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    rows = [
        {"conversations": [["user", "Hello."], ["bot", "Hi!"], ["user", "Bye."]]},
        {"conversations": [["user", "Nobody?"], ["user", "Well."]]},
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    table = read_dialogues(path, "messages")
    assert [from_json(text) for text in table.texts] == [HELLO[:1]]
    assert table.labels == ["Hi!"]
    assert "1 of 2 dialogues have no reply" in table.notes[0]
    with pytest.raises(InputError, match="no column 'talk'"):
        read_dialogues(path, "talk")


def test_a_bad_row_is_named(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    path.write_text('{"messages": [["user", "a"], ["bot", "b"]]}\n{"messages": "a"}\n')
    with pytest.raises(InputError, match=r"d.jsonl, line 2: column 'messages' is a value"):
        read_dialogues(path, "messages")
    path.write_text('{"messages": [["user", "a"]]}\n')
    with pytest.raises(InputError, match="no dialogue in which an assistant replies"):
        read_dialogues(path, "messages")
