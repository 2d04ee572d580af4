"""Dialogue: the assistant's next reply to messages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from wafergpt.data.dialogues import (
    Message,
    as_json,
    from_json,
    messages_of,
    read_dialogues,
    stream_messages,
)
from wafergpt.data.file_formats import require_kind
from wafergpt.data.labelled_rows import Table
from wafergpt.data.tokenizer import Tokenizer
from wafergpt.errors import InputError
from wafergpt.runs.run import Run
from wafergpt.tasks.base import Direction, InputFormat, InputRow, Outputs
from wafergpt.tasks.generative_task import GenerativeSettings, GenerativeTask
from wafergpt.tasks.predicting import require_no_conll
from wafergpt.tasks.prompts import Prompt


class DialogueSettings(GenerativeSettings):
    """The section ``task`` of a dialogue."""

    name: Literal["dialogue"] = "dialogue"
    messages: str = "messages"
    """The column of messages, each with a role and a text."""

    def usage(self) -> tuple[str, ...]:
        """Return words of a command that uses a run of the task."""
        return ("chat",)


class Dialogue(GenerativeTask):
    """Writes the next reply of the assistant, whose every reply is learned.

    A message is ``role: text`` and the end-of-text token (see ``TEMPLATE``).
    """

    Settings = DialogueSettings
    metrics: ClassVar[Mapping[str, Direction]] = {"loss": "min", "perplexity": "min"}
    keeps_end = True

    @property
    def settings(self) -> DialogueSettings:
        """The recipe's section ``task``."""
        assert isinstance(self.recipe.task, DialogueSettings)
        return self.recipe.task

    def read_rows(self, path: Path) -> Table:
        """Read dialogues."""
        return read_dialogues(path, self.settings.messages)

    def texts_of(self, table: Table) -> Iterator[str]:
        """Yield what is said in rows."""
        for text, reply in zip(table.texts, table.labels, strict=True):
            yield from (f"{one.role}: {one.content}" for one in from_json(text))
            yield reply

    def prompts(self, texts: Sequence[str], tokenizer: Tokenizer) -> list[Prompt]:
        """Encode messages and the start of a reply; earlier replies are learned."""
        return [dialogue_prompt(from_json(text), tokenizer) for text in texts]

    def encode_answers(self, texts: Sequence[str], tokenizer: Tokenizer) -> list[list[int]]:
        """Encode replies as they follow their role."""
        return tokenizer.encode_batch([f" {text}" for text in texts])

    def metrics_of(self, answers: Sequence[str], references: Sequence[str]) -> dict[str, Any]:
        """Return nothing: a reply is not wrong for being another one."""
        return {}

    def require_input(self, value: object) -> str | None:
        """Return messages as JSON: of a list of them, or of one text of a user's."""
        if isinstance(value, list):
            if not value:
                return None
            known = all(isinstance(one, Message) for one in value)
            return as_json(value if known else messages_of(value))
        text = super().require_input(value)
        return None if text is None else as_json([Message("user", text)])

    def stream_inputs(
        self, path: Path, column: str | None, file_format: InputFormat | None
    ) -> Iterator[InputRow]:
        """Read dialogues, or lines that a user says."""
        kind = require_no_conll(path, file_format)
        if require_kind(path, kind) == "txt":
            yield from super().stream_inputs(path, column, file_format)
            return
        for line, row, messages in stream_messages(path, column or self.settings.messages, kind):
            yield InputRow(line, row, messages or None, messages[-1].content if messages else "")

    def decode(self, outputs: Outputs, inputs: Sequence[Any]) -> list[dict[str, Any]]:
        """Return the ``reply``."""
        return [{"reply": text} for text in self.answers(outputs)]


def require_dialogue(run: Run) -> None:
    """Require a run that replies.

    Args:
        run: any.

    Raises:
        InputError: if it is a language model or has another task.
    """
    task = run.recipe.task
    if task is None or task.name != "dialogue":
        what = "is a language model" if task is None else f"has the task {task.name}"
        raise InputError(
            f"{run.path} {what}: wafergpt finetune {run.name if task is None else 'RUN'} "
            "task.name=dialogue task.train=FILE makes one that replies"
        )


def dialogue_prompt(messages: Sequence[Message], tokenizer: Tokenizer) -> Prompt:
    """Return the tokens that the assistant's next reply follows, and which are its replies'.

    A system message is always read; of the others, older ones may be left out.
    """
    pieces = [part for one in messages for part in (f"{one.role}:", f" {one.content}")]
    encoded = tokenizer.encode_batch([*pieces, "assistant:"])
    tokens: list[int] = []
    learned: list[bool] = []
    starts: list[int] = []
    for place, one in enumerate(messages):
        if starts or one.role != "system":
            starts.append(len(tokens))
        role, content = encoded[2 * place], [*encoded[2 * place + 1], tokenizer.end_of_text]
        tokens += [*role, *content]
        learned += [False] * len(role) + [one.role == "assistant" and one.learned] * len(content)
    tokens += encoded[-1]
    learned += [False] * len(encoded[-1])
    return Prompt(np.array(tokens, dtype=np.int64), np.array(learned), starts)
