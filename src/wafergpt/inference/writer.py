"""A pretrained run, ready to generate text."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from wafergpt.checkpoint import store
from wafergpt.checkpoint.restored import restored
from wafergpt.data.tokenizer import Tokenizer
from wafergpt.decoding.generator import Sampling, TextStream
from wafergpt.errors import InputError, require_one_of
from wafergpt.files import from_home
from wafergpt.inference.devices import inference_device
from wafergpt.model.gpt import GPT
from wafergpt.model.quantized import Weights, with_weights
from wafergpt.runs.run import RUNS, AnyRun, Run


@dataclass(frozen=True)
class Writer:
    """A language model with its tokenizer.

    Attributes:
        gpt: the network, on its device.
        tokenizer: of the run.
    """

    gpt: GPT
    tokenizer: Tokenizer

    @classmethod
    def load(
        cls,
        run: AnyRun,
        device: str = "auto",
        weights: Weights = "fp32",
        root: str | Path = RUNS,
    ) -> Writer:
        """Open a pretrained run.

        Args:
            run: a language model.
            device: ``auto`` is the recipe's, if available, else the best one.
            weights: ``fp32``; ``bf16``, or on a CPU ``int8``, which are faster and less exact.
            root: the folder that holds runs.

        Returns:
            The writer.

        Raises:
            InputError: if the run has a task, the device is not available, or int8 weights are
                asked for on a GPU.
        """
        run = Run.find(run, from_home(root))
        recipe = run.recipe
        if recipe.task is not None:
            line = run.command("predict", "--text", "a text of yours")
            raise InputError(f"{run.path} is fine-tuned for a task: {line}")
        require_one_of(Weights, "weights", weights)
        place = inference_device(recipe, device)
        if weights == "int8" and place != "cpu":
            raise InputError("int8 weights are for CPUs: bf16, or another device")
        gpt = restored(partial(GPT, recipe.model), store.weights(run)).to(place)
        tokenizer = Tokenizer.load(run.tokenizer)
        gpt = with_weights(gpt.eval(), weights)
        return cls(gpt, tokenizer.require_at_most(recipe.model.vocab_size, run.path))

    def stream(self, prompt: str, settings: Sampling) -> TextStream:
        """Yield the continuation of ``prompt`` piece by piece."""
        return TextStream(self.gpt, self.tokenizer, prompt, settings)

    def write(self, prompt: str, settings: Sampling | None = None) -> str:
        """Return the continuation of ``prompt``."""
        return "".join(self.stream(prompt, settings or Sampling()))
