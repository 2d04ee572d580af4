"""Dialogues: messages with roles, as the ecosystem writes them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from wafergpt.data.file_formats import column, counted, rows, whole
from wafergpt.data.labelled_rows import Table, described, held
from wafergpt.errors import InputError, nearest
from wafergpt.files import short
from wafergpt.progress import say

Role = Literal["system", "user", "assistant"]

ROLES: Mapping[str, Role] = {
    "system": "system", "developer": "system",
    "user": "user", "human": "user", "customer": "user",
    "assistant": "assistant", "gpt": "assistant", "bot": "assistant", "model": "assistant",
    "agent": "assistant",
}  # fmt: skip

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
    """

    role: Role
    content: str


def messages_of(value: object) -> list[Message]:
    """Read messages: objects with a role and a text, or pairs of them.

    Neighbours of one role are joined. Where nobody is an assistant, a system that speaks after a
    user is one.

    Args:
        value: a list, as JSON has it.

    Raises:
        InputError: if it is not one, with a message that continues after its place.
    """
    if not isinstance(value, list) or not value:
        raise InputError(f"is {described(value)}, not a list of messages")
    turns = [_turn(one, number) for number, one in enumerate(value, 1)]
    if not any(role == "assistant" for role, _ in turns):
        turns = [("assistant" if r == "system" and n else r, t) for n, (r, t) in enumerate(turns)]
    found: list[Message] = []
    for number, (role, text) in enumerate(turns, 1):
        if role == "system" and number > 1:
            raise InputError(f"has a system message in turn {number}: only the first can be one")
        if found and found[-1].role == role:
            found[-1] = Message(role, f"{found[-1].content}\n{text}")
        else:
            found.append(Message(role, text))
    return found


def _turn(value: object, number: int) -> tuple[Role, str]:
    role: object = None
    text: object = None
    if isinstance(value, Mapping):
        role = next((value[key] for key in ROLE_KEYS if key in value), None)
        text = next((value[key] for key in TEXT_KEYS if key in value), None)
    elif isinstance(value, Sequence) and not isinstance(value, str) and len(value) == 2:
        role, text = value
    if not isinstance(role, str) or not isinstance(text, str):
        raise InputError(f"has turn {number} without a role or a text: {short(value)}")
    known = ROLES.get(role.strip().lower())
    if known is None:
        raise InputError(
            f"has the role {short(role)} in turn {number}, where system, user and assistant are "
            f"known{nearest(role, ROLES)}"
        )
    if not text.strip():
        raise InputError(f"has an empty turn {number}")
    return known, text.strip()


def read_dialogues(path: str | Path, name: str) -> Table:
    """Read dialogues that end with a reply; what comes after the last reply is left out.

    Args:
        path: a jsonl file, plain or compressed.
        name: the column of messages; ``messages`` may be named as other tools name it.

    Returns:
        The messages before the last reply as ``texts``, in JSON, and that reply as ``labels``.

    Raises:
        InputError: if there is no such file or column, or a row is no dialogue.
    """
    path = Path(path)
    texts, labels, numbers, total = [], [], [], 0
    for number, _, found in _dialogues(path, name):
        total += 1
        while found and found[-1].role != "assistant":
            found.pop()
        if len(found) > 1:
            texts.append(whole(as_json(found[:-1]), path, number))
            labels.append(whole(found[-1].content, path, number))
            numbers.append(number)
    if not texts:
        raise InputError(f"{path} has no dialogue in which an assistant replies")
    say(counted(path, total, names=(name,)))
    notes: tuple[str, ...] = ()
    if without := total - len(texts):
        notes = (f"{path}: {without:,} of {total:,} dialogues have no reply and are skipped",)
    return Table(texts, labels, path, numbers, notes=notes)


def stream_messages(path: Path, name: str) -> Iterator[tuple[int, dict[str, Any], list[Message]]]:
    """Yield the line, all columns and the messages of dialogues to reply to.

    Args:
        path: a jsonl file, plain or compressed.
        name: the column of messages, as in ``read_dialogues``.

    Raises:
        InputError: if there is no such file or column, no row, or a row is no dialogue.
    """
    count = 0
    for row in _dialogues(path, name):
        count += 1
        yield row
    if not count:
        raise InputError(f"{path} has no rows")
    say(counted(path, count, names=(name,)))


def _dialogues(path: Path, name: str) -> Iterator[tuple[int, dict[str, Any], list[Message]]]:
    # A list counts by its text.
    numbered = ((number, row | {"": str(row)}) for number, row in rows(path, names=(name,)))
    for number, row in held(path, numbered, ("",)):
        place = name
        if name not in row and name == COLUMNS[0]:
            place = next((other for other in COLUMNS if other in row), name)
        del row[""]
        value = column(row, place, path, number, "task.messages=COLUMN")
        try:
            yield number, row, messages_of(value)
        except InputError as error:
            raise InputError(f"{path}, line {number}: column '{place}' {error}") from None


def as_json(messages: Iterable[Message]) -> str:
    """Write messages as JSON, on one line."""
    found = [{"role": one.role, "content": one.content} for one in messages]
    return json.dumps(found, ensure_ascii=False)


def from_json(text: str) -> list[Message]:
    """Read what ``as_json`` wrote."""
    found: list[dict[str, Any]] = json.loads(text)
    return [Message(one["role"], one["content"]) for one in found]
