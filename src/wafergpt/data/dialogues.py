"""Dialogues: messages with roles, as the ecosystem writes them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from wafergpt.data.cells import cell_text, described
from wafergpt.data.file_formats import FileFormat, column, counted, rows, whole
from wafergpt.data.labelled_rows import Table, held
from wafergpt.errors import InputError, nearest
from wafergpt.files import short
from wafergpt.logs import say

Role = Literal["system", "user", "assistant", "tool"]

ROLES: Mapping[str, Role] = {
    "system": "system", "developer": "system",
    "user": "user", "human": "user", "customer": "user",
    "assistant": "assistant", "gpt": "assistant", "bot": "assistant", "model": "assistant",
    "agent": "assistant",
    "tool": "tool", "function": "tool", "observation": "tool", "ipython": "tool",
}  # fmt: skip

CALLS = ("tool_calls", "function_call")
"""Where a message has calls of tools; a role in other forms."""

COLUMNS = ("messages", "conversations", "conversation", "turns", "dialogue", "dialog")
"""Where messages are, if the column that is asked for is not there."""

ROLE_KEYS, TEXT_KEYS = ("role", "from", "speaker"), ("content", "value", "text")

TEMPLATE = (
    "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + eos_token }}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
)
"""The form of a dialogue for a model, in Jinja as transformers reads it."""


@dataclass(frozen=True)
class Message:
    """One turn.

    Attributes:
        role: who speaks.
        content: what is said, not blank.
        learned: whether a reply is one to learn; false where its ``weight`` is 0.
    """

    role: Role
    content: str
    learned: bool = True


class UnusableError(InputError):
    """A list that is no dialogue to learn from or to reply to."""


def messages_of(value: object) -> list[Message]:
    """Read messages: objects with a role and a text, or pairs of them.

    Neighbours of one role are joined. Where nobody is an assistant, a system that speaks after a
    user is one. Calls of tools are left out; what a tool gives back is read.

    Args:
        value: a list, as JSON has it.

    Raises:
        UnusableError: if a turn is none, its role unknown, or its text empty; or a system speaks
            late. The message continues after the place, as that of the next one.
        InputError: if it is no list.
    """
    if not isinstance(value, list):
        raise InputError(f"is {described(value)}, not a list of messages")
    read = [_turn(one, number) for number, one in enumerate(value, 1)]
    turns = [turn for turn in read if turn is not None]
    if not turns:
        raise UnusableError("has no messages")
    if not any(turn.role == "assistant" for turn in turns):
        turns = [
            replace(turn, role="assistant") if turn.role == "system" and place else turn
            for place, turn in enumerate(turns)
        ]
    found: list[Message] = []
    for number, turn in enumerate(turns, 1):
        if turn.role == "system" and number > 1:
            raise UnusableError(f"has a system message in turn {number}: only the first can be one")
        if found and replace(turn, content=found[-1].content) == found[-1]:
            found[-1] = replace(turn, content=f"{found[-1].content}\n{turn.content}")
        else:
            found.append(turn)
    return found


def _turn(value: object, number: int) -> Message | None:
    """Return a turn; None for a call of a tool."""
    role: object = None
    text: object = None
    learned = True
    calls = False
    if isinstance(value, Mapping):
        role = next((value[key] for key in ROLE_KEYS if key in value), None)
        text = _text(next((value[key] for key in TEXT_KEYS if key in value), None))
        calls = role in CALLS or any(value.get(key) for key in CALLS)
        learned = value.get("weight") != 0
    elif isinstance(value, Sequence) and not isinstance(value, str) and len(value) == 2:
        role, text = value
    if role in CALLS or (calls and (text is None or not str(text).strip())):
        return None
    if not isinstance(role, str) or not isinstance(text, str):
        raise UnusableError(f"has turn {number} without a role or a text: {short(value)}")
    known = ROLES.get(role.strip().lower())
    if known is None:
        raise UnusableError(
            f"has the role {short(role)} in turn {number}, where system, user, assistant and tool "
            f"are known{nearest(role, ROLES)}"
        )
    if not text.strip():
        raise UnusableError(f"has an empty turn {number}")
    return Message(known, text.strip(), learned)


def _text(content: object) -> object:
    """Return the text of parts, as in ``[{"type": "text", "text": "Hello."}]``."""
    if not isinstance(content, list):
        return content
    texts = [one.get("text") for one in content if isinstance(one, Mapping)]
    whole = len(texts) == len(content) and all(isinstance(text, str) for text in texts)
    return "\n".join(map(str, texts)) if whole else content


def read_dialogues(path: str | Path, name: str) -> Table:
    """Read dialogues that end with a reply; what comes after the last reply is left out.

    Rows that cannot be learned from are skipped, and counted in the table's notes.

    Args:
        path: a jsonl file, plain or compressed.
        name: the column of messages; ``messages`` may be named as other tools name it.

    Returns:
        The messages before the last reply as ``texts``, in JSON, and that reply as ``labels``.

    Raises:
        InputError: if there is no such file or column, a row is no list of messages, or no row
            has a reply.
    """
    path = Path(path)
    texts, labels, numbers, total, with_tools = [], [], [], 0, 0
    unusable: list[tuple[int, str]] = []
    for number, _, found in _dialogues(path, name):
        total += 1
        if isinstance(found, UnusableError):
            unusable.append((number, str(found)))
            continue
        with_tools += any(one.role == "tool" for one in found)
        while found and not (found[-1].role == "assistant" and found[-1].learned):
            found.pop()
        if len(found) > 1:
            texts.append(whole(as_json(found[:-1]), path, number))
            labels.append(whole(found[-1].content, path, number))
            numbers.append(number)
    first = f"first: line {unusable[0][0]} {unusable[0][1]}" if unusable else ""
    if not texts:
        raise InputError(
            f"{path} has no dialogue in which an assistant replies{f' ({first})' if first else ''}"
        )
    say(counted(path, total, names=(name,)))
    notes = []
    if unusable:
        notes.append(f"{len(unusable):,} of {total:,} dialogues are skipped ({first})")
    if without := total - len(texts) - len(unusable):
        notes.append(f"{without:,} of {total:,} dialogues have no reply and are skipped")
    if with_tools:
        notes.append(
            f"{with_tools:,} of {total:,} dialogues have tools: what they give back is read, and "
            "calls are left out"
        )
    notes = [f"{path}: {note}" for note in notes]
    return Table(texts, labels, path, numbers, notes=tuple(notes))


def stream_messages(
    path: Path, name: str, file_format: FileFormat | None = None
) -> Iterator[tuple[int, dict[str, Any], list[Message]]]:
    """Yield the line, all columns and the messages of dialogues to reply to.

    A text in place of messages is what a user says; a blank one, and an empty list, are none.

    Args:
        path: a jsonl file, plain or compressed.
        name: the column of messages, as in ``read_dialogues``.
        file_format: of the file; detected if omitted.

    Raises:
        InputError: if there is no such file or column, no row, or a row is no dialogue.
    """
    count = 0
    for number, row, found in _dialogues(path, name, file_format, "--column COLUMN", said=True):
        if isinstance(found, UnusableError):
            raise InputError(f"{path}, line {number} {found}")
        count += 1
        yield number, row, found
    if not count:
        raise InputError(f"{path} has no rows")
    say(counted(path, count, file_format=file_format, names=(name,)))


_Dialogue = tuple[int, dict[str, Any], list[Message] | UnusableError]


def _dialogues(
    path: Path,
    name: str,
    file_format: FileFormat | None = None,
    option: str = "task.messages=COLUMN",
    said: bool = False,
) -> Iterator[_Dialogue]:
    read = rows(path, blank_lines=said, file_format=file_format, names=(name,))
    # A list counts by its text.
    numbered = ((number, row | {"": str(row)}) for number, row in read)
    for number, row in held(path, numbered, ("",)):
        place = name
        if name not in row and name == COLUMNS[0]:
            place = next((other for other in COLUMNS if other in row), name)
        del row[""]
        value = column(row, place, path, number, option)
        if said and (value == [] or value is None or isinstance(value, str)):
            text = cell_text(value or None, place, path, number).strip()
            yield number, row, [Message("user", text)] if text else []
            continue
        try:
            found: list[Message] | UnusableError = messages_of(value)
        except UnusableError as error:
            found = error
        except InputError as error:
            raise InputError(f"{path}, line {number}: column '{place}' {error}") from None
        yield number, row, found


def as_json(messages: Iterable[Message]) -> str:
    """Write messages as JSON, on one line."""
    found = [
        {"role": one.role, "content": one.content} | ({} if one.learned else {"weight": 0})
        for one in messages
    ]
    return json.dumps(found, ensure_ascii=False)


def from_json(text: str) -> list[Message]:
    """Read what ``as_json`` wrote."""
    found: list[dict[str, Any]] = json.loads(text)
    return [Message(one["role"], one["content"], one.get("weight") != 0) for one in found]
