"""Translation: the text of a source in another language."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from wafergpt.data.labelled_rows import Table
from wafergpt.data.pairs import read_pairs
from wafergpt.errors import InputError
from wafergpt.tasks.base import Direction, Outputs
from wafergpt.tasks.generative_task import GenerativeSettings, GenerativeTask


class TranslateSettings(GenerativeSettings):
    """The section ``task`` of a translation."""

    name: Literal["translate"] = "translate"
    source: str = "source"
    """The column of sources; or, of two files with a line for each pair, the part of the name of
    ``task.train`` that is ``target`` in the other's, as in train.en and train.de."""
    target: str = "target"
    """The column of translations."""


class Translate(GenerativeTask):
    """Writes a translation, by beam search."""

    Settings = TranslateSettings
    metrics: ClassVar[Mapping[str, Direction]] = {
        "loss": "min",
        "perplexity": "min",
        "bleu": "max",
        "chrf": "max",
    }

    @property
    def settings(self) -> TranslateSettings:
        """The recipe's section ``task``."""
        assert isinstance(self.recipe.task, TranslateSettings)
        return self.recipe.task

    def read_rows(self, path: Path) -> Table:
        """Read pairs."""
        _sacrebleu()
        return read_pairs(path, self.settings.source, self.settings.target)

    @property
    def input_column(self) -> str:  # type: ignore[override]
        """The recipe's column of sources."""
        return self.settings.source

    def metrics_of(self, answers: Sequence[str], references: Sequence[str]) -> dict[str, Any]:
        """Return ``bleu`` and ``chrf`` (0 to 100) of sacreBLEU, and the ``signature`` of each."""
        metrics, found = _sacrebleu(), {}
        for name, metric in (("bleu", metrics.BLEU()), ("chrf", metrics.CHRF())):
            found[name] = metric.corpus_score(list(answers), [list(references)]).score
            found[f"{name}_signature"] = str(metric.get_signature())
        return found

    def decode(self, outputs: Outputs, inputs: Sequence[Any]) -> list[dict[str, Any]]:
        """Return the ``translation``."""
        return [{"translation": text} for text in self.answers(outputs)]


def _sacrebleu() -> Any:
    try:
        from sacrebleu import metrics
    except ImportError as error:
        raise InputError(
            "translations are judged by sacreBLEU: pip install 'wafergpt[translate]'"
        ) from error
    return metrics
