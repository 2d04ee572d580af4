"""Tagging: the named entities of a text."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from wafergpt.config import Recipe
from wafergpt.data.labels import spelled_alike
from wafergpt.data.tag_schemes import Entity, allowed, entities, tag_names, tags_of
from wafergpt.data.tagged_rows import Sentences, read_sentences
from wafergpt.data.tokenizer import Tokenizer
from wafergpt.data.word_splitting import units_of
from wafergpt.errors import InputError, nearest
from wafergpt.evaluation.entities import (
    entity_examples,
    entity_metrics,
    entity_mistakes,
    resampled_scores,
)
from wafergpt.evaluation.intervals import Bootstrap
from wafergpt.files import short
from wafergpt.logs import say
from wafergpt.progress import working
from wafergpt.tasks.base import (
    Direction,
    EvaluationSet,
    InputFormat,
    InputRow,
    Outputs,
    Splits,
)
from wafergpt.tasks.carried import notes_on, placed
from wafergpt.tasks.chosen import TAGGED_FAST, with_choices_for_tagging
from wafergpt.tasks.ngram_scores import mean_of_each
from wafergpt.tasks.tables import SplitRows
from wafergpt.tasks.tag_graph import graph_of_tags
from wafergpt.tasks.tag_settings import TagSettings
from wafergpt.tasks.tag_words import (
    entities_found,
    placed_words,
    require_words,
    sentences_of,
    word_rows,
)
from wafergpt.tasks.word_task import WordTask

if TYPE_CHECKING:
    from torch import Tensor, nn

    from wafergpt.checkpoint.format import Stored
    from wafergpt.data.batches import Batch
    from wafergpt.data.tagged_batches import EncodedSentences
    from wafergpt.distributed.sharding import Rows
    from wafergpt.tasks.graph import Graph

MOST_LABELS = 100
"""More are no kinds of entities, and a step of the field would take their square."""


@dataclass(frozen=True)
class Tagged:
    """What is known of evaluated sentences.

    Attributes:
        sentences: with their entities.
        targets: the tags of all words, one sentence after the other.
    """

    sentences: Sentences
    targets: NDArray[np.int64]


class Tag(WordTask[Sentences]):
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
        return tables, [*spelled_alike(labels | known), *notes_on(known, labels)]

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
        table_lr = TAGGED_FAST if self.table_rows else None
        return with_choices_for_tagging(self.recipe, asked, self.read_ahead().train.words, table_lr)

    def encoded(self, tables: SplitRows[Sentences], tokenizer: Tokenizer) -> Splits:
        """Encode the rows."""
        from wafergpt.data.tagged_batches import TaggedBatches

        recipe, words = self.recipe, tables.train.words
        train = self._encoded(words, tokenizer, "train")
        self.require_batch(len(train.windows))
        tokens = sum(len(window.tokens) for window in train.windows)
        targets = self._of_windows(train, self._targets(tables.train))
        size = recipe.train.batch_size
        batches = TaggedBatches(train, targets, size, recipe.seed, self.table_rows)
        return Splits(batches, *self.all_evaluated(tables, tokenizer), tokens)

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

    def stream_inputs(
        self, path: Path, column: str | None, file_format: InputFormat | None
    ) -> Iterator[InputRow]:
        """Read texts, lists of words, or the words of a CoNLL file."""
        rows = word_rows(path, column, file_format, self.settings.tokens, self.input_column)
        return super().stream_inputs(path, column, file_format) if rows is None else rows

    def evaluated(
        self, table: Sentences, tokenizer: Tokenizer, name: str = "validation"
    ) -> EvaluationSet:
        """Encode rows whose answers are known."""
        known = Tagged(table, self._targets(table))
        return self._samples(self._encoded(table.words, tokenizer, name), known)

    def _samples(self, found: EncodedSentences, known: Tagged | None) -> EvaluationSet:
        from wafergpt.data.tagged_batches import TaggedBatches

        targets = None if known is None else self._of_windows(found, known.targets)
        batches = TaggedBatches(found, targets, self.evaluation_rows(), None, self.table_rows)
        return EvaluationSet.of(batches, known)

    def _encoded(
        self, words: Sequence[Sequence[str]], tokenizer: Tokenizer, name: str
    ) -> EncodedSentences:
        from wafergpt.data.tagged_batches import encoded

        limit = self.limit
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

    # --- network ---------------------------------------------------------------------------------

    def network(self) -> nn.Module:
        """Build a GPT with a head for words."""
        return self.tagger(len(self._names), follow=True)

    def graph(self) -> Graph:
        """Describe the network; the field over its scores is read outside of the graph."""
        return graph_of_tags(self)

    def carried(
        self, network: nn.Module, start: Stored, splits: Splits | None
    ) -> Iterator[tuple[str, Rows]]:
        """Yield the weights of a run, those of its tags in their new places."""
        before, fresh = self.before, dict(self.drawn_head(network))
        if not isinstance(before, Tag):
            yield from super().carried(network, start, splits)
            return
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
        return self.word_flops(batch, len(self._names))

    def loss(self, network: nn.Module, batch: Batch) -> Tensor:
        """Return the summed loss of words; with features, the mean of the two scores' own."""
        from wafergpt.model.crf import losses

        scores, steps = self.scores(network, batch)
        known = steps, batch["word_counts"], batch["targets"]
        return mean_of_each(scores, lambda one: losses(one, *known).sum())

    def outputs(self, network: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        """Return the tags of words, and how sure they are.

        ``tags`` and ``probabilities [n, max_tokens]``, padded with 0; ``word_counts [n]``; and
        ``losses [n]``, summed over words, where the tags are known.
        """
        scores, steps = self.scores(network, batch)
        return self.found_by(self.mixed(scores), steps, batch)

    def found_by(self, mixed: Tensor, steps: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Return the outputs that scores ``[batch, words, tags]`` and those of steps lead to."""
        from torch.nn import functional as F

        from wafergpt.model.crf import best_paths, losses, marginals

        counts = batch["word_counts"]
        tags = best_paths(mixed, steps, counts)
        sure = marginals(mixed, steps, counts).gather(2, tags[..., None])[..., 0]
        room = (0, self.limit - tags.shape[1])
        found = {
            "tags": F.pad(tags, room).int(),
            "probabilities": F.pad(sure, room),
            "word_counts": counts,
        }
        if "targets" in batch:
            found["losses"] = losses(mixed, steps, counts, batch["targets"])
        return found

    def scores(self, network: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the scores of words' tags (see ``Tagger``), and of steps between them."""
        import torch

        from wafergpt.model.crf import with_forbidden
        from wafergpt.model.tagger import TagHead

        head = network.head
        assert isinstance(head, TagHead)
        assert head.transitions is not None
        transitions = head.transitions.weight
        may = torch.from_numpy(self._allowed).to(transitions.device)
        return self.word_scores(network, batch), with_forbidden(transitions, may)

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

    def resampled(self, outputs: Outputs, references: Any) -> Bootstrap:
        """Compute precision, recall and F1 on resamples of the sentences."""
        assert isinstance(references, Tagged)
        known = references.sentences
        predicted = self._predicted(outputs, known)
        return resampled_scores(predicted, known.entities, self.settings.labels)

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
        words = require_words(value)
        return words if super().require_input("".join(words)) else None

    def encode(self, inputs: Sequence[Any], tokenizer: Tokenizer) -> EvaluationSet:
        """Return the sentences of texts as samples, sorted by length."""
        with working("encoding the texts"):
            read = [one for value in inputs for one in sentences_of(value, self.settings.units)]
            return self._samples(self._encoded(read, tokenizer, "given"), None)

    def decode(self, outputs: Outputs, inputs: Sequence[Any]) -> list[dict[str, Any]]:
        """Return ``entities``: text, label, probability ``score``, and places of characters.

        ``start`` and ``end`` count in the text; words that were given are joined by spaces, but
        Chinese and Japanese ones by nothing. The score is the lowest among the entity's words.
        """
        rows, answers = _rows(outputs), []
        sure = iter(outputs["probabilities"])
        for value in inputs:
            text, words = placed_words(value, self.settings.units)
            found: list[dict[str, Any]] = []
            place = 0
            while place < len(words):
                tags, count = next(rows)
                here = words[place : place + count]
                found += entities_found(text, here, self._entities(tags[:count]), next(sure))
                place += count
            answers.append({"entities": found})
        return answers


def _rows(outputs: Outputs) -> Iterator[tuple[NDArray[Any], int]]:
    """Yield the tags of each window, and how many of them are of words."""
    yield from zip(outputs["tags"], outputs["word_counts"].tolist(), strict=True)
