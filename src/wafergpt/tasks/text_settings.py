"""The section ``task`` of every task with one answer per text."""

from __future__ import annotations

import json
from typing import Literal

from pydantic import Field, field_validator, model_validator

from wafergpt.config import TaskSettings
from wafergpt.data.text_columns import Columns, names_of
from wafergpt.data.text_ngrams import TextNgrams
from wafergpt.evaluation.perturbations import require_kinds
from wafergpt.tasks.ngram_scores import START, Factors

ADVERSARIAL_PASSES = 8 / 3
"""Two whole passes, and one whose backward pass ends at the inputs: two thirds of a pass."""


class TextTaskSettings(TaskSettings):
    """The settings of every task with one answer per text."""

    text: Columns = "text"
    """The column of texts, or a list of several: they are read one after the other, and the longest
    is cut first."""
    label: Columns = "label"
    """The column of answers; a list of several is for ``task.multi`` alone."""
    cut: Literal["end", "start", "middle"] = "end"
    """Where a text that is too long is cut."""
    pooling: Literal["last", "mean", "max", "mean_max_last"] = "last"
    """How hidden states are pooled for the head; ``last`` is Hugging Face's."""
    ngrams: TextNgrams = "none"
    """Score a text also by its words and pairs of words, as fastText does; with ``characters``, by
    the n-grams of the characters of its words too. The table is trained beside the GPT, each by a
    loss of its own, and both scores are added up."""
    ngram_rows: int = Field(1 << 16, ge=2, le=1 << 26)
    """Rows of that table, which n-grams share by a hash; those that no text uses are not stored."""
    ngram_kept: int = Field(0, ge=0, le=1 << 26)
    """Rows that are left of it, if others were taken out, else 0; set by the run, and by prune."""
    factors: Factors = START
    """Of the GPT's scores and the n-grams' in that sum; set by the run, from validation rows."""
    word_dropout: float = Field(0.0, ge=0, lt=1)
    """Share of a text's tokens that training replaces by the end-of-text token."""
    end_of_text: int | None = None
    """That token; set by the run."""
    spelling: bool = False
    """Read words that fewer than two training texts have as near ones that five or more have, in
    training and ever after: mistyped words are known again (Pruthi et al., arXiv:1905.11268, with a
    list of words in place of their network), what scanners misread (rn for m), letters that look
    Latin in a Latin word as Latin ones, and several spaces as one. For scripts with letters."""
    augment: tuple[str, ...] = ()
    """Changes of texts that keep their meaning, such as ``typos``: training rows get copies with
    them, each of a kind and severity of its own (see ``wafergpt evaluate RUN robustness``)."""
    augment_copies: int = Field(1, ge=1, le=100)
    """Changed copies of each training row."""
    excerpts: int = Field(0, ge=0, le=100)
    """Sentences of each training text, drawn at random, that are rows with its answer too, so that
    a GPT that learns from long texts also reads short ones. The table of ``ngrams`` is trained on
    whole texts alone."""
    consistency: float = Field(0.0, ge=0, le=100)
    """Read each row and one of its copies together, another one each epoch, and add so many times
    the divergence of the answer to the copy from that to the row, as its teacher."""
    adversarial: float = Field(0.0, ge=0, le=1)
    """Read each row a second time, its embedded tokens moved by this share of their norms to where
    its answer is worse (Miyato et al., arXiv:1605.07725); try 0.03."""

    @field_validator("augment")
    @classmethod
    def _kinds_exist(cls, kinds: tuple[str, ...]) -> tuple[str, ...]:
        require_kinds(kinds)
        return kinds

    @model_validator(mode="after")
    def _has_copies(self) -> TextTaskSettings:
        if self.consistency and not self.augment:
            raise ValueError("task.consistency compares rows with copies: add task.augment=[typos]")
        if self.excerpts and (self.consistency or len(self.columns) > 1):
            raise ValueError("task.excerpts is for texts of one column, without task.consistency")
        if self.consistency and self.adversarial:
            raise ValueError("task.consistency and task.adversarial: one of the two")
        return self

    @model_validator(mode="after")
    def _reads_no_label(self) -> TextTaskSettings:
        both = {*self.columns} & {*names_of(self.label)}
        if both and (len(self.columns) > 1 or not isinstance(self.label, str)):
            raise ValueError(f"the column {min(both)} is in both task.text and task.label")
        if not (isinstance(self.label, str) or getattr(self, "multi", False)):
            raise ValueError("task.label is a list of columns only with task.multi=true")
        return self

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that a text consists of."""
        return names_of(self.text)

    @property
    def passes(self) -> float:
        """Forward and backward passes over a row: 2 with its copy, 8/3 with an adversarial one."""
        if self.consistency:
            return 2
        return ADVERSARIAL_PASSES if self.adversarial else 1

    @property
    def samples_per_row(self) -> int:
        """The row, its excerpts, and its copies unless they are read together."""
        copies = self.augment_copies if self.augment and not self.consistency else 0
        return 1 + copies + self.excerpts

    @property
    def table_key(self) -> str:
        """The key of the n-grams' table, if there is one."""
        return "" if self.ngrams == "none" else "task.ngrams"

    def usage(self) -> tuple[str, ...]:
        """Return words of a command that uses a run of the task."""
        if len(self.columns) == 1:
            return super().usage()
        return ("predict", "--text", json.dumps(dict.fromkeys(self.columns, "a text")))
