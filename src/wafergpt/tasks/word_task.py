"""What tasks that score the words of a text share: their settings, network and scores."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from wafergpt.config import TaskSettings
from wafergpt.data.labelled_split import R
from wafergpt.shapes.counts import training_flops
from wafergpt.tasks.labelled_task import LabelledTask
from wafergpt.tasks.ngram_scores import START, Factors, mixed

if TYPE_CHECKING:
    from torch import Tensor, nn

    from wafergpt.data.batches import Batch


class WordTaskSettings(TaskSettings):
    """The section ``task`` of a task that scores words."""

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


class WordTask(LabelledTask[R]):
    """A task that scores each word of a text, by the GPT and by a table of features."""

    chosen = frozenset({"attention", "pooling", "word_features", "feature_rows", "factors"})

    @property
    def settings(self) -> WordTaskSettings:
        """The recipe's section ``task``."""
        assert isinstance(self.recipe.task, WordTaskSettings)
        return self.recipe.task

    @property
    def table_rows(self) -> int:
        """Rows of the table of features; 0: there is none."""
        return self.settings.feature_rows if self.settings.word_features else 0

    def tagger(self, n_scores: int, follow: bool) -> nn.Module:
        """Build a GPT with a head for words.

        Args:
            n_scores: of each word.
            follow: whether steps from one word to the next have scores too.

        Returns:
            The network.
        """
        from wafergpt.model.gpt import GPT
        from wafergpt.model.tagger import Tagger

        pooling, two_way = self.settings.pooling, self.settings.attention == "two_way"
        gpt = GPT(self.recipe.model)
        return Tagger(gpt, n_scores, pooling, two_way, self.table_rows, follow=follow)

    def word_flops(self, batch: Batch, n_scores: int) -> float:
        """Return the FLOPs of a forward and backward pass, padding included."""
        rows, length = batch["tokens"].shape
        weights = batch["words"].shape[1] * n_scores * self.recipe.model.d_model
        recipe = self.recipe
        return rows * training_flops(recipe.model, length, 0, weights, recipe.lora)

    def word_scores(self, network: nn.Module, batch: Batch) -> Tensor:
        """Return the scores ``[1 or 2, batch, words, n_scores]`` of the GPT and of features."""
        features = [batch["features"]] if "features" in batch else []
        scores: Tensor = network(batch["tokens"], batch["lengths"], batch["words"], *features)
        return scores

    def mixed(self, scores: Tensor) -> Tensor:
        """Add up the scores ``[1 or 2, batch, words, n_scores]`` of the GPT and of features."""
        return scores[0] if len(scores) == 1 else mixed(scores.float(), self.settings.factors)
