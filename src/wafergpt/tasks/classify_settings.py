"""The section ``task`` of a classification."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from wafergpt.tasks.text_settings import TextTaskSettings


class ClassifySettings(TextTaskSettings):
    """The section ``task`` of a classification."""

    name: Literal["classify"] = "classify"
    labels: tuple[str, ...] = ()
    """In the order of the model's outputs; set by the run."""
    known: tuple[str, ...] = ()
    """Those of the run that it goes on from, which stay; set by the run."""
    similar_labels: Literal["refuse", "merge", "keep"] = "refuse"
    """Labels that differ only in spelling, such as Positive and positive: refuse them, merge them
    into one class, or keep them apart."""
    loss: Literal["cross_entropy", "binary"] = "cross_entropy"
    """``binary`` has one output, the log-odds of the second of two labels."""
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """Share of the target that is spread over all classes."""
    class_weights: Literal["none", "balanced"] = "none"
    """``balanced`` makes every class count alike in the loss, by scikit-learn's formula; with
    ``multi``, the rows with a label as much as those without it."""
    ngram_ratios: bool = False
    """Weigh each n-gram by how unevenly the classes of the training rows use it, as NB-SVM does.
    The table then has rows for those n-grams alone that at least two training rows have."""
    multi: bool = False
    """Any number of labels to a text, each decided by itself."""
    separator: str = Field("", max_length=10)
    """Between the labels of a cell, with ``multi``; found among ``|``, ``;`` and ``,`` if it is
    certain. JSON has lists."""
    thresholds: Literal["fixed", "one", "each"] | None = None
    """What decides beside the probabilities. ``one`` corrects for frequent classes by a factor that
    is chosen by validation rows for ``evaluate.metric``, or with ``multi`` chooses the threshold of
    all labels; ``each`` chooses one for every label. What does not help is not kept. If omitted,
    ``one`` with ``multi``, else ``fixed``."""
    offsets: tuple[float, ...] = ()
    """That are added to log probabilities, or log-odds, to decide; set by the run."""
    priors: tuple[float, ...] = ()
    """Log-odds of each label among the training rows, which ``multi`` adds to scores; set by the
    run."""

    calibrate: bool = False
    """Fit a temperature to the validation rows: it changes no answer, but how certain it is. It
    stays 1 where all of them are answered right, which says nothing of how certain to be. With
    ``ngrams`` the factors of both scores are fitted anyhow."""
    temperature: float = Field(1.0, gt=0)
    """That divides the scores; set by the run."""

    abstain: float | None = Field(None, gt=0, le=1)
    """The share of validation rows that is answered; no answer is given to those less certain. With
    ``hierarchy`` they are answered with a leaf, and others perhaps with a node above it."""
    abstain_below: float | None = Field(None, ge=0, le=1)
    """The probability below which no answer is given; set by the run."""
    out_of_scope: str = ""
    """The label of rows that are of no class: none is trained on, and those of validation and test
    show how well certainty tells them."""

    hierarchy: str = Field("", max_length=10)
    """Between the names of labels that are paths, such as ``/`` in ``card/lost``: predictions stop
    at the level that is probable enough."""

    @property
    def loss_kind(self) -> str:
        """The loss as ``classification_loss`` knows it."""
        return "multi" if self.multi else self.loss

    @model_validator(mode="after")
    def _is_of_one_kind(self) -> ClassifySettings:
        if self.multi and self.loss != "cross_entropy":
            raise ValueError("task.multi decides each label by itself: leave task.loss out")
        if self.separator and not self.multi:
            raise ValueError("task.separator is of several labels in a cell: add task.multi=true")
        for key in ("abstain", "calibrate", "out_of_scope", "hierarchy"):
            if self.multi and getattr(self, key):
                raise ValueError(f"task.{key} is for one label to a text, and task.multi=true")
        if self.hierarchy and self.thresholds == "one":
            raise ValueError("task.hierarchy decides by its own rule: leave task.thresholds out")
        if self.thresholds == "each" and not self.multi:
            raise ValueError("task.thresholds=each is for task.multi=true; use one")
        return self
