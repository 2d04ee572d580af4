"""The section ``task`` of a tagging."""

from __future__ import annotations

from typing import Literal

from wafergpt.data.word_splitting import Units
from wafergpt.tasks.word_task import WordTaskSettings


class TagSettings(WordTaskSettings):
    """The section ``task`` of a tagging."""

    name: Literal["tag"] = "tag"
    tokens: str | None = None
    """Column of the words: of a CoNLL file its number, the first if omitted; of jsonl its name,
    ``tokens`` if omitted."""
    tags: str | None = None
    """Column of the tags: the last one, or ``tags`` or ``ner_tags``."""
    tag_names: tuple[str, ...] = ()
    """Of tags that are numbers from 0."""
    repair: bool = False
    """Read tags that no scheme allows as conlleval does, instead of refusing them."""
    labels: tuple[str, ...] = ()
    """Of the entities; set by the run."""
    known: tuple[str, ...] = ()
    """Those of the run that it goes on from, which stay; set by the run."""
    units: Units = "words"
    """What the training rows have as words, which raw texts are split into; set by the run."""
