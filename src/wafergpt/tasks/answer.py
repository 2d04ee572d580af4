"""Answering: the span of a given context that answers a question."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from wafergpt.config import Recipe
from wafergpt.data.answer_rows import Columns, Questions, pair_of, read_questions, stream_asked
from wafergpt.data.answer_windows import best_span, split
from wafergpt.data.labelled_split import hold_out
from wafergpt.data.tokenizer import Tokenizer
from wafergpt.errors import InputError
from wafergpt.evaluation.answers import (
    answer_examples,
    answer_metrics,
    answer_scores,
    best_margin,
    token_f1,
)
from wafergpt.evaluation.intervals import Bootstrap
from wafergpt.logs import say
from wafergpt.progress import working
from wafergpt.tasks.answer_graph import graph_of_answers
from wafergpt.tasks.base import Direction, EvaluationSet, InputFormat, InputRow, Outputs, Splits
from wafergpt.tasks.chosen import with_choices_for_tagging
from wafergpt.tasks.ngram_scores import mean_of_each
from wafergpt.tasks.tables import SplitRows
from wafergpt.tasks.word_task import WordTask, WordTaskSettings

if TYPE_CHECKING:
    from torch import Tensor, nn

    from wafergpt.data.answer_batches import EncodedQuestions
    from wafergpt.data.batches import Batch
    from wafergpt.tasks.graph import Graph

MANY_CONTEXTS = 50
"""From so many on, all questions on a context are on one side of a split."""

LEAST_TOKENS = 8
"""Of a window, half of which a question may take."""

HIDDEN = -1e9
"""Score of padding."""


class AnswerSettings(WordTaskSettings):
    """The section ``task`` of an answering."""

    name: Literal["answer"] = "answer"
    question: str = "question"
    """The column of questions."""
    context: str = "context"
    """The column of texts that the answers are found in."""
    answer: str = "answer"
    """The column of answers; an empty one says that the context has none."""
    answer_start: str = "answer_start"
    """The column of where in the context they begin, in characters; it need not be there."""
    stride: int = Field(0, ge=0)
    """Tokens from one window of a long context to the next; half of what fits if omitted."""
    max_answer_words: int = Field(30, ge=1, le=1000)
    """Of an answer that is found."""
    feature_rows: int = Field(1 << 18, ge=2, le=1 << 26)
    """Rows of the table of features, which share them by a hash."""
    no_answer: bool = False
    """Whether a context may have no answer; set by the run, if some training row has none."""
    no_answer_margin: float = 0.0
    """What is taken off the log-probability of "no answer"; set by the run, for the highest F1 on
    validation rows."""

    def usage(self) -> tuple[str, ...]:
        """Return words of a command that uses a run of the task."""
        return ("predict", "--file", str(self.test or self.train))


@dataclass(frozen=True)
class _Asked:
    """Evaluated questions, and as what they were encoded."""

    table: Questions
    encoded: EncodedQuestions


class Answer(WordTask[Questions]):
    """Finds the words of a context that answer a question, or that none do.

    Each word is scored as the first and as the last one of the answer, and so is "no answer"
    (Devlin et al., 2018, arXiv:1810.04805).
    """

    Settings = AnswerSettings
    metrics: ClassVar[Mapping[str, Direction]] = {"loss": "min", "f1": "max", "exact_match": "max"}
    occasional = ("start", "end")
    formats = "csv, tsv or jsonl with question, context and answer; or SQuAD's JSON"

    @property
    def settings(self) -> AnswerSettings:
        """The recipe's section ``task``."""
        assert isinstance(self.recipe.task, AnswerSettings)
        return self.recipe.task

    # --- rows ------------------------------------------------------------------------------------

    def read_rows(self, path: Path) -> Questions:
        """Read questions with contexts and answers."""
        return read_questions(path, self._columns)

    @property
    def _columns(self) -> Columns:
        settings = self.settings
        return Columns(settings.question, settings.context, settings.answer, settings.answer_start)

    def settle(self, tables: dict[str, Questions]) -> tuple[dict[str, Questions], list[str]]:
        """Check that training has answers."""
        if not any(tables["train"].answers):
            raise InputError(f"{tables['train'].path} has no answers: nothing to learn")
        return tables, []

    def hold_out(self, train: Questions) -> tuple[Questions, Questions, list[str]]:
        """Hold out contexts with all of their questions; of few contexts, questions."""
        few = len(set(train.contexts)) < MANY_CONTEXTS
        by = self.known_by(train.texts if few else train.contexts)
        return *hold_out(train, self.settings.held_out, by=by), []

    def from_rows(self, tables: SplitRows[Questions]) -> dict[str, Any]:
        """Return whether a context may have no answer."""
        return {"no_answer": not all(tables.train.answers)}

    def with_choices(self, asked: Collection[str]) -> Recipe:
        """Choose the settings of a fine-tuning by the rows."""
        return with_choices_for_tagging(
            self.recipe, asked, [text.split() for text in self.read_ahead().train.texts]
        )

    def encoded(self, tables: SplitRows[Questions], tokenizer: Tokenizer) -> Splits:
        """Encode the rows."""
        from wafergpt.data.answer_batches import AnswerBatches

        recipe, settings = self.recipe, self.settings
        train = self._encoded(tables.train.pairs, tokenizer, "train")
        self.require_batch(len(train.windows))
        targets = train.targets(tables.train.answers)
        long = int((targets[:, 1] - targets[:, 0] >= settings.max_answer_words).sum())
        if long:
            say(
                f"warning: {long:,} training answers are longer than {settings.max_answer_words} "
                "words, which none that is found will be: task.max_answer_words"
            )
        batches = AnswerBatches(
            train, targets, recipe.train.batch_size, recipe.seed, self.table_rows
        )
        return Splits(batches, *self.all_evaluated(tables, tokenizer), train.tokens)

    def evaluated(
        self, table: Questions, tokenizer: Tokenizer, name: str = "validation"
    ) -> EvaluationSet:
        """Encode rows whose answers are known."""
        found = self._encoded(table.pairs, tokenizer, name)
        return self._samples(found, found.targets(table.answers), _Asked(table, found))

    def _samples(
        self, found: EncodedQuestions, targets: NDArray[np.int64] | None, known: _Asked | None
    ) -> EvaluationSet:
        from wafergpt.data.answer_batches import AnswerBatches

        batches = AnswerBatches(found, targets, self.evaluation_rows(), None, self.table_rows)
        return EvaluationSet.of(batches, known)

    def _encoded(
        self, rows: Sequence[tuple[str, str]], tokenizer: Tokenizer, name: str
    ) -> EncodedQuestions:
        from wafergpt.data.answer_batches import encoded

        limit = self.limit
        if limit < LEAST_TOKENS:
            raise InputError(
                f"{limit} tokens hold no question with its context: task.max_tokens, model.seq_len"
            )
        found = encoded(rows, tokenizer, limit, self.settings.stride)
        if found.cut:
            say(
                f"warning: {found.cut:,} of {len(rows):,} {name} questions take more than half of "
                f"{limit} tokens; what is beyond is not read"
            )
        return found

    # --- network ---------------------------------------------------------------------------------

    def network(self) -> nn.Module:
        """Build a GPT with a head for words."""
        return self.tagger(2, follow=False)

    def graph(self) -> Graph:
        """Describe the network; answers are read from its scores outside of the graph."""
        return graph_of_answers(self)

    def flops(self, batch: Batch) -> float:
        """Return the FLOPs of a forward and backward pass, padding included."""
        return self.word_flops(batch, 2)

    def loss(self, network: nn.Module, batch: Batch) -> Tensor:
        """Return the summed loss of windows; with features, the mean of the two scores' own."""
        scores = self.word_scores(network, batch)
        return mean_of_each(scores, lambda one: _losses(one, batch).sum())

    def outputs(self, network: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        """Return the likeliest answer of each window.

        ``spans [n, 2]``, the places in the context of its first and its last word; the logarithms
        of the probabilities ``scores [n]`` of it and ``nones [n]`` of "no answer", from which
        ``margins [n]`` are to be taken off;
        ``lasts [n]``, whether a window is the last one of its question; and ``losses [n]`` where
        answers are known.
        """
        return self.found_by(self.mixed(self.word_scores(network, batch)), batch)

    def found_by(self, mixed: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Return the outputs that scores ``[batch, words, 2]`` lead to."""
        import torch

        settings = self.settings
        parts = batch["parts"].cpu().numpy()
        spans, scores, nones = [], [], []
        for own, count, part in zip(
            mixed.float().cpu().double().numpy(),
            batch["word_counts"].tolist(),
            parts,
            strict=True,
        ):
            start, end, score, none = best_span(own[:count], settings.max_answer_words)
            spans.append((part[0] + start, part[0] + end))
            scores.append(score)
            nones.append(none if settings.no_answer else -np.inf)
        found = {
            "spans": torch.from_numpy(np.array(spans, dtype=np.int64)),
            "scores": torch.tensor(scores, dtype=torch.float64),
            "nones": torch.tensor(nones, dtype=torch.float64),
            "margins": torch.full((len(nones),), settings.no_answer_margin, dtype=torch.float64),
            "lasts": torch.from_numpy(parts[:, 1] == 1),
        }
        if "targets" in batch:
            found["losses"] = _losses(mixed, batch)
        return found

    # --- metrics and answers ---------------------------------------------------------------------

    def fit(self, outputs: Outputs, references: Any) -> tuple[dict[str, Any], Outputs]:
        """Choose the margin of "no answer" with the highest F1, if there are both kinds."""
        assert isinstance(references, _Asked)
        table = references.table
        if not self.settings.no_answer or all(table.answers) or not any(table.answers):
            return {}, outputs
        gains = []
        unmoved = {**outputs, "margins": np.zeros_like(outputs["nones"])}
        for (span, score, none), places, context, true in zip(
            _of_questions(unmoved),
            references.encoded.places,
            table.contexts,
            table.answers,
            strict=True,
        ):
            text = context[places[span[0], 0] : places[span[1], 1]]
            answered = max((token_f1(text, one.text) for one in true), default=0.0)
            gains.append((none - score, answered - (not true)))
        margin = best_margin(gains)
        return {"no_answer_margin": margin}, {**outputs, "margins": unmoved["margins"] + margin}

    def compute_metrics(self, outputs: Outputs, references: Any) -> dict[str, Any]:
        """Return the loss of a window, and what was answered: see ``answer_metrics``.

        ``examples`` are questions with answers, true and predicted.
        """
        assert isinstance(references, _Asked)
        predicted, answers, true = _answered(outputs, references)
        table = references.table
        right = [[(span.start, span.end) for span in spans] for spans in table.answers]
        return {
            "loss": float(outputs["losses"].mean()),
            **answer_metrics(answers, true),
            "examples": answer_examples(table.questions, table.contexts, right, predicted),
        }

    def resampled(self, outputs: Outputs, references: Any) -> Bootstrap:
        """Compute F1 and exact match on resamples of the questions."""
        assert isinstance(references, _Asked)
        _, answers, true = _answered(outputs, references)
        return Bootstrap.of_means(answer_scores(answers, true), shares=("exact_match",))

    def require_input(self, value: object) -> tuple[str, str] | None:
        """Return a question and its context; None where one is blank."""
        pair = pair_of(value, self._columns)
        if pair is None:
            return None
        question, context = (super(Answer, self).require_input(text) for text in pair)
        return None if question is None or context is None else (question, context)

    def stream_inputs(
        self, path: Path, column: str | None, file_format: InputFormat | None
    ) -> Iterator[InputRow]:
        """Read questions with their contexts, or lines of JSON."""
        if file_format == "txt" or file_format == "conll":
            raise InputError(f"{path}: {file_format} has no columns: {self.formats} is wanted")
        names = self._columns._replace(question=column or self.settings.question)
        for line, columns, question, context in stream_asked(path, names, file_format):
            yield InputRow(line, columns, (question, context), question)

    def inputs_of(self, texts: Sequence[str]) -> list[Any]:
        """Return each text as a question on itself."""
        return [pair for text in texts if (pair := self.require_input((text, text))) is not None]

    def inputs_of_rows(self, rows: Questions) -> list[tuple[str, str]]:
        """Return the questions with their contexts."""
        return rows.pairs

    def encode(self, inputs: Sequence[Any], tokenizer: Tokenizer) -> EvaluationSet:
        """Return the windows of questions as samples, sorted by length."""
        with working("encoding the texts"):
            return self._samples(self._encoded(inputs, tokenizer, "given"), None, None)

    def decode(self, outputs: Outputs, inputs: Sequence[Any]) -> list[dict[str, Any]]:
        """Return the ``answer``, its probability ``score``, and its places in the context.

        ``start`` and ``end`` count characters; they are not there, and the answer is "", where the
        context has none.
        """
        answers: list[dict[str, Any]] = []
        for (_, context), (span, score, none) in zip(inputs, _of_questions(outputs), strict=True):
            if none > score:
                sure = float(np.exp(none + self.settings.no_answer_margin))
                answers.append({"answer": "", "score": sure})
                continue
            words, _ = split(context)
            start, end = words[span[0]].start, words[span[1]].end
            found = {"answer": context[start:end], "start": start, "end": end}
            answers.append({**found, "score": float(np.exp(score))})
        return answers


def _losses(scores: Tensor, batch: Batch) -> Tensor:
    """Return the negative log-likelihood ``[n]`` of the first and the last word, added up."""
    import torch
    from torch.nn import functional as F

    there = torch.arange(scores.shape[1], device=scores.device) < batch["word_counts"][:, None]
    scores = scores.float().masked_fill(~there[..., None], HIDDEN)
    return F.cross_entropy(scores, batch["targets"], reduction="none").sum(1)


def _answered(
    outputs: Outputs, asked: _Asked
) -> tuple[list[tuple[int, int] | None], list[str], list[list[str]]]:
    """Return the answered places of each question, the answers, and the true ones."""
    table = asked.table
    predicted = [
        (int(places[span[0], 0]), int(places[span[1], 1])) if none <= score else None
        for (span, score, none), places in zip(
            _of_questions(outputs), asked.encoded.places, strict=True
        )
    ]
    answers = [
        "" if span is None else context[span[0] : span[1]]
        for span, context in zip(predicted, table.contexts, strict=True)
    ]
    return predicted, answers, [[span.text for span in spans] for spans in table.answers]


def _of_questions(outputs: Outputs) -> Iterator[tuple[tuple[int, int], float, float]]:
    """Yield the best span of each question's windows, its score, and that of "no answer".

    Where a window holds an answer, "no answer" is unlikely: the lowest of its scores counts.
    """
    begin = 0
    for stop in (np.flatnonzero(outputs["lasts"]) + 1).tolist():
        scores = outputs["scores"][begin:stop]
        best = begin + int(scores.argmax())
        start, end = outputs["spans"][best].tolist()
        none = (outputs["nones"] - outputs["margins"])[begin:stop].min()
        yield (start, end), float(scores.max()), float(none)
        begin = stop
