"""A pretrained run, ready to write."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from wafergpt.data.tokenizer import Tokenizer
from wafergpt.errors import InputError
from wafergpt.generate.text import Sampling, TextStream
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
            line = run.command("predict", "--text", "a text of yours")
            raise InputError(f"{run.path} is fine-tuned for a task: {line}")
        gpt = checkpoint.restored(partial(GPT, recipe.model), checkpoint.weights(run))
        tokenizer = Tokenizer.load(run.tokenizer)
        return cls(gpt.eval(), tokenizer.require_at_most(recipe.model.vocab_size, run.path))

    def stream(self, prompt: str, settings: Sampling) -> TextStream:
        """Yield the continuation of ``prompt`` piece by piece."""
        return TextStream(self.gpt, self.tokenizer, prompt, settings)

    def write(self, prompt: str, settings: Sampling | None = None) -> str:
        """Return the continuation of ``prompt``."""
        return "".join(self.stream(prompt, settings or Sampling()))
