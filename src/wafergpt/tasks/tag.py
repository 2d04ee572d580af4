"""Tagging: the named entities of a text."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from wafergpt.config import Recipe, TaskSettings
from wafergpt.data.labelled_rows import described
from wafergpt.data.tag_schemes import Entity, allowed, entities, tag_names, tags_of
from wafergpt.data.tagged_rows import Sentences, is_tagged, read_sentences, stream_words
from wafergpt.data.tokenizer import Tokenizer
from wafergpt.data.word_splitting import Units, Word, joined, sentences, units_of, words_of
from wafergpt.errors import InputError, nearest
from wafergpt.evaluation.entities import entity_examples, entity_metrics, entity_mistakes
from wafergpt.files import short
from wafergpt.progress import say, working
from wafergpt.tasks.base import (
    Direction,
    EvaluationSet,
    InputFormat,
    InputRow,
    Outputs,
    Splits,
    gpt_of,
)
from wafergpt.tasks.carried import notes_on, placed
from wafergpt.tasks.chosen import with_choices_for_tagging
from wafergpt.tasks.labelled_task import LabelledTask, warn_of_another_script
from wafergpt.tasks.ngram_scores import START, Factors
from wafergpt.tasks.tables import SplitRows

if TYPE_CHECKING:
    from torch import Tensor, nn

    from wafergpt.checkpoint.format import Stored
    from wafergpt.data.batches import Batch
    from wafergpt.data.tagged_batches import EncodedSentences
    from wafergpt.distributed.sharding import Rows
    from wafergpt.tasks.graph import Graph

MOST_LABELS = 100
"""More are no kinds of entities, and a step of the field would take their square."""


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


@dataclass(frozen=True)
class Tagged:
    """What is known of evaluated sentences.

    Attributes:
        sentences: with their entities.
        targets: the tags of all words, one sentence after the other.
    """

    sentences: Sentences
    targets: NDArray[np.int64]


class Tag(LabelledTask[Sentences]):
    """Finds named entities: spans of words with a label.

    Words have the tags of BIOES, whatever the scheme of the file, and a conditional random field
    over them never finds a sequence that the scheme forbids.
    """

    Settings = TagSettings
    metrics: ClassVar[Mapping[str, Direction]] = {
        "loss": "min",
        "f1": "max",
        "precision": "max",
        "recall": "max",
        "word_accuracy": "max",
    }
    chosen = frozenset({"attention", "pooling", "word_features", "feature_rows", "factors"})
    formats = "CoNLL: a word and its tag on each line; or jsonl"

    @property
    def settings(self) -> TagSettings:
        """The recipe's section ``task``."""
        assert isinstance(self.recipe.task, TagSettings)
        return self.recipe.task

    # --- rows ------------------------------------------------------------------------------------

    def read_rows(self, path: Path) -> Sentences:
        """Read a file of tagged sentences."""
        settings = self.settings
        return read_sentences(
            path, settings.tokens, settings.tags, settings.repair, settings.tag_names
        )

    def class_names(self, table: Sentences) -> Sequence[str]:
        """Return the labels of all entities."""
        return [entity.label for found in table.entities for entity in found]

    def settle(self, tables: dict[str, Sentences]) -> tuple[dict[str, Sentences], list[str]]:
        """Check that training has entities, and every label of the other sentences."""
        labels = {entity.label for found in tables["train"].entities for entity in found}
        known = set(self.settings.known)
        if not labels:
            raise InputError(f"{tables['train'].path} has no entities: nothing to learn")
        if len(labels) > MOST_LABELS:
            raise InputError(
                f"{tables['train'].path}: {len(labels):,} labels, such as {short(min(labels))}, "
                f"are more than {MOST_LABELS}: task.tags=COLUMN names another column"
            )
        for name, table in tables.items():
            for row, found in enumerate(table.entities):
                for entity in found:
                    if entity.label not in labels | known:
                        raise InputError(
                            f"the {name} rows have the label {short(entity.label)}, which no "
                            f"training row has ({table.place(row)})"
                            f"{nearest(entity.label, sorted(labels))}"
                        )
        return tables, notes_on(known, labels)

    def from_rows(self, tables: SplitRows[Sentences]) -> dict[str, Any]:
        """Return the labels of train and validation rows, and what the training words are."""
        held_out = () if tables.validation is None else tables.validation.entities
        rows = (*tables.train.entities, *held_out)
        labels = {entity.label for found in rows for entity in found}
        return {
            "labels": tuple(sorted(labels.union(self.settings.known))),
            "units": units_of(word for words in tables.train.words for word in words),
        }

    def with_choices(self, asked: Collection[str]) -> Recipe:
        """Choose the settings of a fine-tuning by the rows."""
        return with_choices_for_tagging(self.recipe, asked, self.read_ahead().train.words)

    def encoded(self, tables: SplitRows[Sentences], tokenizer: Tokenizer) -> Splits:
        """Encode the rows."""
        from wafergpt.data.tagged_batches import TaggedBatches

        recipe, words = self.recipe, tables.train.words
        train = self._encoded(words, tokenizer, "train")
        self.require_batch(len(train.windows))
        tokens = sum(len(window.tokens) for window in train.windows)
        warn_of_another_script(tokens, sum(len(word) for row in words for word in row))
        targets = self._of_windows(train, self._targets(tables.train))
        batches = TaggedBatches(
            train, targets, recipe.train.batch_size, recipe.seed, self.table_rows
        )
        validation, test = (
            None if table is None else self._evaluated(table, tokenizer, name)
            for name, table in (("validation", tables.validation), ("test", tables.test))
        )
        return Splits(batches, validation, test, tokens)

    def _targets(self, table: Sentences) -> NDArray[np.int64]:
        labels = self.settings.labels
        return np.concatenate(
            [
                tags_of(found, len(words), labels)
                for words, found in zip(table.words, table.entities, strict=True)
            ]
        )

    def _of_windows(
        self, found: EncodedSentences, targets: NDArray[np.int64]
    ) -> list[NDArray[np.int64]]:
        """Return the tags of each window's words; an entity that is cut is one in each."""
        windows = list(found.divided(targets))
        for place, tags in enumerate(windows if found.split else ()):
            windows[place] = tags_of(self._entities(tags), len(tags), self.settings.labels)
        return windows

    def evaluated(self, table: Sentences, tokenizer: Tokenizer) -> EvaluationSet:
        """Encode validation rows."""
        return self._evaluated(table, tokenizer, "validation")

    def stream_inputs(
        self, path: Path, column: str | None, file_format: InputFormat | None
    ) -> Iterator[InputRow]:
        """Read texts, or the words of a CoNLL file."""
        if not (file_format == "conll" or (file_format is None and is_tagged(path))):
            yield from super().stream_inputs(path, column, file_format)
            return
        for line, words in stream_words(path, column or self.settings.tokens):
            yield InputRow(line, {"tokens": list(words)}, words, joined(words)[0])

    def _evaluated(self, table: Sentences, tokenizer: Tokenizer, name: str) -> EvaluationSet:
        known = Tagged(table, self._targets(table))
        return self._samples(self._encoded(table.words, tokenizer, name), known)

    def _samples(self, found: EncodedSentences, known: Tagged | None) -> EvaluationSet:
        from wafergpt.data.tagged_batches import TaggedBatches

        targets = None if known is None else self._of_windows(found, known.targets)
        batches = TaggedBatches(found, targets, self.evaluation_rows(), None, self.table_rows)
        return EvaluationSet(batches, known, batches.indices(0, len(found.windows)))

    def _encoded(
        self, words: Sequence[Sequence[str]], tokenizer: Tokenizer, name: str
    ) -> EncodedSentences:
        from wafergpt.data.tagged_batches import encoded

        limit = self.settings.max_tokens or self.recipe.model.seq_len
        found = encoded(words, tokenizer, limit)
        if found.split:
            say(
                f"warning: {found.split:,} of {len(words):,} {name} sentences are longer than "
                f"{limit} tokens and are read in parts, each by itself"
            )
        if found.cut_words:
            say(
                f"warning: {found.cut_words:,} {name} words are longer than {limit} tokens; what "
                "is beyond is not read"
            )
        return found

    @property
    def table_rows(self) -> int:
        """Rows of the table of features; 0: there is none."""
        return self.settings.feature_rows if self.settings.word_features else 0

    # --- network ---------------------------------------------------------------------------------

    def network(self) -> nn.Module:
        """Build a GPT with a head for words."""
        from wafergpt.model.gpt import GPT
        from wafergpt.model.tagger import Tagger

        settings = self.settings
        return Tagger(
            GPT(self.recipe.model),
            len(self._names),
            settings.pooling,
            settings.attention == "two_way",
            self.table_rows,
        )

    def graph(self) -> Graph:
        """Describe the network; the field over its scores is read outside of the graph."""
        from wafergpt.tasks.tag_graph import graph_of_tags

        return graph_of_tags(self)

    def carried(
        self, network: nn.Module, start: Stored, splits: Splits | None
    ) -> Iterator[tuple[str, Rows]]:
        """Yield the weights of a run, those of its tags in their new places."""
        from wafergpt.checkpoint.store import require_fit

        before, fresh = self.before, dict(self.drawn_head(network))
        if not isinstance(before, Tag):
            yield from super().carried(network, start, splits)
            return
        gpt, below = gpt_of(network), start.below("gpt.")
        require_fit(gpt, below, gpt.added_to(below))
        places = [self._names.index(name) for name in before._names]
        ends = [*places, len(self._names)]
        moved: dict[str, tuple[list[int], list[int]]] = {
            "head.tags.weight": (places, [0]),
            "head.transitions.weight": (ends, [0, 1]),
            "head_ngrams.weight": (places, [1]),
        }
        for name, values in start.by_rows.items():
            if name in moved:
                yield name, placed(fresh[name], values[...], *moved[name])
            else:
                yield name, values

    def flops(self, batch: Batch) -> float:
        """Return the FLOPs of a forward and backward pass, padding included."""
        from wafergpt.shapes.counts import training_flops

        sentences, length = batch["tokens"].shape
        weights = batch["words"].shape[1] * len(self._names) * self.recipe.model.d_model
        recipe = self.recipe
        return sentences * training_flops(recipe.model, length, 0, weights, recipe.lora)

    def loss(self, network: nn.Module, batch: Batch) -> Tensor:
        """Return the summed loss of words; with features, the mean of the two scores' own."""
        scores, steps = self.scores(network, batch)
        losses = [_losses(one, steps, batch).sum() for one in scores]
        # Trained together, one would stop where the other has learned the rows by heart.
        return sum(losses[1:], losses[0]) / len(losses)

    def outputs(self, network: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        """Return the tags of words, and how sure they are.

        ``tags`` and ``probabilities [n, max_tokens]``, padded with 0; ``word_counts [n]``; and
        ``losses [n]``, summed over words, where the tags are known.
        """
        scores, steps = self.scores(network, batch)
        return self.found_by(self.mixed(scores), steps, batch)

    def mixed(self, scores: Tensor) -> Tensor:
        """Add up the scores ``[1 or 2, batch, words, tags]`` of the GPT and of features."""
        if len(scores) == 1:
            return scores[0]
        of_gpt, of_features = self.settings.factors
        return of_gpt * scores[0].float() + of_features * scores[1].float()

    def found_by(self, mixed: Tensor, steps: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Return the outputs that scores ``[batch, words, tags]`` and those of steps lead to."""
        from torch.nn import functional as F

        from wafergpt.model.crf import best_paths, marginals

        counts = batch["word_counts"]
        tags = best_paths(mixed, steps, counts)
        sure = marginals(mixed, steps, counts).gather(2, tags[..., None])[..., 0]
        limit = self.settings.max_tokens or self.recipe.model.seq_len
        room = (0, limit - tags.shape[1])
        found = {
            "tags": F.pad(tags, room).short(),
            "probabilities": F.pad(sure, room),
            "word_counts": counts,
        }
        if "targets" in batch:
            found["losses"] = _losses(mixed, steps, batch)
        return found

    def scores(self, network: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the scores of words' tags (see ``Tagger``), and of steps between them."""
        import torch

        from wafergpt.model.crf import with_forbidden
        from wafergpt.model.tagger import TagHead

        features = [batch["features"]] if "features" in batch else []
        scores: Tensor = network(batch["tokens"], batch["lengths"], batch["words"], *features)
        head = network.head
        assert isinstance(head, TagHead)
        assert head.transitions is not None
        transitions = head.transitions.weight
        may = torch.from_numpy(self._allowed).to(transitions.device)
        return scores, with_forbidden(transitions, may)

    @cached_property
    def _names(self) -> list[Any]:
        return tag_names(self.settings.labels)

    @cached_property
    def _allowed(self) -> NDArray[np.bool_]:
        return allowed(self.settings.labels)

    # --- metrics and answers ---------------------------------------------------------------------

    def compute_metrics(self, outputs: Outputs, references: Any) -> dict[str, Any]:
        """Return the loss of a word, the share of words with the right tag, and what was found.

        See ``entity_metrics``; ``examples`` are sentences with their entities, true and predicted.
        """
        assert isinstance(references, Tagged)
        known = references.sentences
        tags = np.concatenate([row[:n] for row, n in _rows(outputs)])
        predicted = self._predicted(outputs, known)
        metrics = entity_metrics(predicted, known.entities, self.settings.labels)
        return {
            "loss": float(outputs["losses"].sum()) / len(tags),
            "word_accuracy": float((tags == references.targets).mean()),
            **metrics,
            "words": len(tags),
            "examples": entity_examples(known.words, known.entities, predicted),
        }

    def intervals(self, outputs: Outputs, references: Any) -> dict[str, list[float]]:
        """Return that of F1."""
        return {"f1": self.compute_metrics(outputs, references)["f1_interval"]}

    def mistakes(self, outputs: Outputs, evaluated: EvaluationSet) -> list[dict[str, Any]]:
        """List the sentences with a wrong or missed entity, those with the most of them first."""
        assert isinstance(evaluated.references, Tagged)
        known = evaluated.references.sentences
        return entity_mistakes(known.words, known.entities, self._predicted(outputs, known))

    def _predicted(self, outputs: Outputs, known: Sentences) -> list[tuple[Entity, ...]]:
        tags = np.concatenate([row[:n] for row, n in _rows(outputs)])
        lengths = [len(words) for words in known.words]
        return [self._entities(row) for row in np.split(tags, np.cumsum(lengths)[:-1])]

    def _entities(self, tags: NDArray[np.int64]) -> tuple[Entity, ...]:
        return entities([self._names[tag] for tag in tags.tolist()])

    def require_input(self, value: object) -> str | tuple[str, ...] | None:
        """Return a text, or the words of a sentence; None where there is none."""
        if not isinstance(value, list | tuple):
            text: str | None = super().require_input(value)
            return text
        for place, word in enumerate(value):
            if not isinstance(word, str) or not word:
                what = described(word) if word != "" else "an empty word"
                raise InputError(f"[{place}] is {what}; words are wanted")
        words = tuple(map(str, value))
        return words if super().require_input("".join(words)) else None

    def encode(self, inputs: Sequence[Any], tokenizer: Tokenizer) -> EvaluationSet:
        """Return the sentences of texts as samples, sorted by length."""
        with working("encoding the texts"):
            read = [one for value in inputs for one in self._sentences(value)]
            return self._samples(self._encoded(read, tokenizer, "given"), None)

    def _sentences(self, value: str | tuple[str, ...]) -> Iterator[list[str]]:
        if not isinstance(value, str):
            yield list(value)
            return
        words, place = words_of(value, self.settings.units), 0
        for length in sentences(value, words):
            yield [word.text for word in words[place : place + length]]
            place += length

    def decode(self, outputs: Outputs, inputs: Sequence[Any]) -> list[dict[str, Any]]:
        """Return ``entities``: text, label, probability ``score``, and places of characters.

        ``start`` and ``end`` count in the text; words that were given are joined by spaces, but
        Chinese and Japanese ones by nothing. The score is the lowest among the entity's words.
        """
        rows, answers = _rows(outputs), []
        sure = iter(outputs["probabilities"])
        for value in inputs:
            text, words = self._placed(value)
            found: list[dict[str, Any]] = []
            place = 0
            while place < len(words):
                tags, count = next(rows)
                found += self._answers(text, words[place : place + count], tags, next(sure))
                place += count
            answers.append({"entities": found})
        return answers

    def _placed(self, value: str | tuple[str, ...]) -> tuple[str, list[Word]]:
        """Return the text of an input, and its words with their places."""
        if isinstance(value, str):
            return value, words_of(value, self.settings.units)
        return joined(value)

    def _answers(
        self, text: str, words: Sequence[Word], tags: NDArray[Any], sure: NDArray[Any]
    ) -> Iterator[dict[str, Any]]:
        for first, end, label in self._entities(tags[: len(words)]):
            start, stop = words[first].start, words[end - 1].end
            yield {
                "text": text[start:stop],
                "label": label,
                "start": start,
                "end": stop,
                "score": float(sure[first:end].min()),
            }


def _losses(scores: Tensor, steps: Tensor, batch: Batch) -> Tensor:
    """Return the negative log-likelihood ``[n]`` of the sentences' tags."""
    from wafergpt.model.crf import log_partition, path_scores

    counts = batch["word_counts"]
    return log_partition(scores, steps, counts) - path_scores(
        scores, steps, counts, batch["targets"]
    )


def _rows(outputs: Outputs) -> Iterator[tuple[NDArray[Any], int]]:
    """Yield the tags of each window, and how many of them are of words."""
    yield from zip(outputs["tags"], outputs["word_counts"].tolist(), strict=True)
