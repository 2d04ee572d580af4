"""A pretrained run, ready to write."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from wafergpt.data.tokenizer import Tokenizer
from wafergpt.errors import InputError
from wafergpt.generate.text import Sampling, stream_text
from wafergpt.model.gpt import GPT
from wafergpt.run import Run
from wafergpt.train import checkpoint


@dataclass(frozen=True)
class Writer:
    """A language model with its tokenizer."""

    gpt: GPT
    tokenizer: Tokenizer

    @classmethod
    def load(cls, run: Run) -> Writer:
        """Open a pretrained run.

        Raises:
            InputError: if the run is a classifier.
        """
        recipe = run.recipe
        if recipe.task is not None:
            raise InputError(f"{run.path} is fine-tuned for a task: wafergpt predict {run.name}")
        gpt = checkpoint.restored(partial(GPT, recipe.model), checkpoint.weights(run))
        tokenizer = Tokenizer.load(run.tokenizer)
        return cls(gpt.eval(), tokenizer.require_at_most(recipe.model.vocab_size, run.path))

    def stream(
        self, prompt: str, settings: Sampling, drawn: list[int] | None = None
    ) -> Iterator[str]:
        """Yield the continuation of ``prompt`` piece by piece; ``drawn`` takes its tokens."""
        return stream_text(self.gpt, self.tokenizer, prompt, settings, drawn)

    def write(self, prompt: str, settings: Sampling | None = None) -> str:
        """Return the continuation of ``prompt``."""
        return "".join(self.stream(prompt, settings or Sampling()))
