"""A conversation with a run that was fine-tuned for dialogue."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path

from wafergpt.data.dialogues import Message
from wafergpt.decoding.generator import Sampling, TextStream
from wafergpt.errors import InputError
from wafergpt.files import from_home, short
from wafergpt.inference.predictor import Predictor
from wafergpt.model.gpt import GPT
from wafergpt.runs.run import RUNS, AnyRun, Run
from wafergpt.tasks.dialogue import Dialogue, dialogue_prompt, require_dialogue


@dataclass
class Conversation:
    """Messages so far, and who replies to them.

    Attributes:
        predictor: of a run with the task ``dialogue``.
        sampling: how words are chosen.
        system: a message before all others; "" for none.
        messages: of the user and the assistant in turn.
    """

    predictor: Predictor
    sampling: Sampling = field(default_factory=lambda: Sampling(temperature=0.7))
    system: str = ""
    messages: list[Message] = field(default_factory=list)

    @classmethod
    def load(cls, run: AnyRun, device: str = "auto", root: str | Path = RUNS) -> Conversation:
        """Open a run.

        Args:
            run: fine-tuned for dialogue.
            device: ``auto`` is the recipe's, if available, else the best one.
            root: the folder that holds runs.

        Returns:
            A conversation without messages.

        Raises:
            InputError: if it is a language model or has another task.
        """
        found = Run.find(run, from_home(root))
        require_dialogue(found)
        return cls(Predictor.load(found, device))

    def reply(self, text: str) -> Generator[str]:
        """Say something, and yield the reply piece by piece; both are kept when it has ended.

        Where messages do not fit the context, the oldest are not read.

        Args:
            text: of the user, not blank.

        Yields:
            Pieces of the reply, of whole characters.

        Raises:
            InputError: if nothing is said.
        """
        if not isinstance(text, str) or not text.strip():
            raise InputError(f"a text to reply to is wanted, not {short(text)}")
        asked = [*self.messages, Message("user", text.strip())]
        predictor, gpt = self.predictor, self.predictor.network
        assert isinstance(gpt, GPT)
        stream = TextStream(gpt, predictor.tokenizer, self._tokens(asked), self.sampling)
        pieces: list[str] = []
        try:
            for piece in stream:
                # A reply follows its role and a space.
                shown = piece if pieces else piece.lstrip()
                if shown:
                    pieces.append(shown)
                    yield shown
        finally:
            content = "".join(pieces).strip()
            self.messages = [*asked, *([Message("assistant", content)] if content else [])]

    @property
    def all_messages(self) -> list[Message]:
        """The messages, ``system`` before them."""
        return [*self._first, *self.messages]

    @property
    def _first(self) -> list[Message]:
        return [Message("system", self.system)] if self.system else []

    def _tokens(self, messages: list[Message]) -> list[int]:
        task = self.predictor.task
        assert isinstance(task, Dialogue)
        prompt = dialogue_prompt([*self._first, *messages], self.predictor.tokenizer)
        kept: list[int] = prompt.cut(task.longest_prompt, task.keeps_end).tokens.tolist()
        return kept

    def reset(self) -> None:
        """Forget the messages, but not ``system``."""
        self.messages = []
