"""Texts that the model writes while it learns."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from wafergpt.progress import working
from wafergpt.run import Run
from wafergpt.train.state import Row, TrainState


class Samples:
    """Whenever the model was judged, lets it write on from prompts, into samples.md."""

    def __init__(self, run: Run, write_on: Callable[[str], str], prompts: Sequence[str]) -> None:
        self._file = run.path / "samples.md"
        self._write_on, self._prompts = write_on, prompts

    def after_step(self, state: TrainState, row: Row) -> None:
        """Write the samples of this step."""
        if "val_loss" not in row:
            return
        lines = [f"## step {state.step} · validation loss {row['val_loss']:.3f}", ""]
        for prompt in self._prompts:
            with working("writing samples"):
                text = f"**{prompt}**{self._write_on(prompt)}"
            lines += [*(f"> {line}" for line in text.splitlines()), ""]
        with self._file.open("a", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n")
