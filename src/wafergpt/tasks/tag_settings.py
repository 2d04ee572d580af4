"""The section ``task`` of a tagging."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from wafergpt.config import TaskSettings
from wafergpt.data.word_splitting import Units
from wafergpt.tasks.ngram_scores import START, Factors


class TagSettings(TaskSettings):
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
    attention: Literal["two_way", "causal"] = "two_way"
    """``two_way`` lets each token see those after it too."""
    pooling: Literal["first", "mean", "last"] = "mean"
    """Of the hidden states of a word's tokens."""
    word_features: bool = True
    """Score a word also by what it looks like and stands beside, as a conditional random field with
    features does. The table is trained beside the GPT, each by a loss of its own, and both scores
    are added up."""
    feature_rows: int = Field(1 << 19, ge=2, le=1 << 26)
    """Rows of that table, which features share by a hash."""
    factors: Factors = START
    """Of the GPT's scores and the features' in that sum."""

    @property
    def table_key(self) -> str:
        """The key of the table of features, if there is one."""
        return "task.word_features" if self.word_features else ""
