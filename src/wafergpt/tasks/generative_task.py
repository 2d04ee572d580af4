"""What tasks that write an answer share: rows, loss on the answer alone, and writing it."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from wafergpt.config import Recipe, TaskSettings
from wafergpt.data.labelled_rows import Table
from wafergpt.data.tokenizer import Tokenizer
from wafergpt.errors import InputError
from wafergpt.logs import say
from wafergpt.progress import working
from wafergpt.shapes.counts import training_flops
from wafergpt.tasks.base import EvaluationSet, Outputs, Splits
from wafergpt.tasks.chosen import with_choices_for_writing
from wafergpt.tasks.labelled_task import LabelledTask
from wafergpt.tasks.language_model import LanguageModel
from wafergpt.tasks.prompts import Answers, Ints, Prompt
from wafergpt.tasks.tables import Tables

if TYPE_CHECKING:
    from torch import Tensor, nn

    from wafergpt.data.batches import Batch
    from wafergpt.decoding.beam import Beam
    from wafergpt.model.gpt import GPT
    from wafergpt.tasks.graph import Graph

NOTHING = -1
"""Stands behind the tokens of an answer."""

SAMPLES = 20
"""Answers that are kept beside their references."""

ROOM = 64
"""Tokens of the context that are kept free for an answer, at most."""


class GenerativeSettings(TaskSettings):
    """The settings of every task that writes an answer."""

    vocabulary_head: ClassVar[bool] = True
    beams: int = Field(4, ge=1, le=64)
    """Continuations that the search for an answer keeps; 1 takes the likeliest token each time."""
    length_penalty: float = Field(1.0, ge=0, le=10)
    """An answer's log-probability is divided by its number of tokens to this power."""
    max_new_tokens: int = Field(0, ge=0, le=1 << 20)
    """Of an answer; if omitted, one and a half times those of the longest training answer."""
    written: int = Field(100, ge=1)
    """Validation rows whose answers are written at each evaluation, for metrics of texts."""
    end_of_text: int | None = None
    """The token that ends prompts and answers; set by the run."""


class GenerativeTask(LabelledTask[Table]):
    """A task whose answer is a text that follows a prompt; its network is the GPT itself.

    A sample is the prompt's tokens, the end-of-text token, the answer's, and that token again. The
    answer and its end are learned, and the prompt is read.

    Args:
        recipe: of the training, resolved or not.

    Attributes:
        keeps_end: of a prompt that is too long its end is kept, not its start.
    """

    Settings = GenerativeSettings
    keeps_end: ClassVar[bool] = False

    def __init__(self, recipe: Recipe) -> None:
        super().__init__(recipe)
        self._tokenizer: Tokenizer | None = None

    @property
    def settings(self) -> GenerativeSettings:
        """The recipe's section ``task``."""
        assert isinstance(self.recipe.task, GenerativeSettings)
        return self.recipe.task

    @abstractmethod
    def read_rows(self, path: Path) -> Table:
        """Read prompts as ``texts`` and answers as ``labels``."""

    @abstractmethod
    def metrics_of(self, answers: Sequence[str], references: Sequence[str]) -> dict[str, Any]:
        """Return metrics of the texts of answers, those of ``metrics`` among them."""

    def with_choices(self, asked: Collection[str]) -> Recipe:
        """Choose passes, batch and learning rate by the number of rows."""
        return with_choices_for_writing(self.recipe, asked, self.read_ahead().train.texts)

    def texts_of(self, table: Table) -> Iterator[str]:
        """Yield prompts and answers of rows."""
        yield from table.texts
        yield from table.labels

    # --- data ------------------------------------------------------------------------------------

    def from_tokenizer(self, tokenizer: Tokenizer) -> dict[str, Any]:
        """Return the end of answers, and their length at most."""
        most = self.settings.max_new_tokens
        if not most:
            answers = self.encode_answers(self.tables.train.labels, tokenizer)
            longest = math.ceil(1.5 * (max(map(len, answers)) + 1))
            most = min(self.recipe.model.seq_len, longest)
        return {"end_of_text": tokenizer.end_of_text, "max_new_tokens": most}

    def encoded(self, tables: Tables, tokenizer: Tokenizer) -> Splits:
        """Encode prompts and answers."""
        from wafergpt.data.continuation_batches import ContinuationBatches

        texts, learned, _ = self._samples(tables.train, tokenizer, trained=True)
        if not texts:
            raise InputError(f"no training row fits {self.limit} tokens: raise model.seq_len")
        self.require_batch(len(texts))
        size = self.recipe.train.batch_size
        train = ContinuationBatches(texts, learned, size, self.recipe.seed)
        tokens = sum(map(len, texts)) - len(texts)
        return Splits(train, *self.all_evaluated(tables, tokenizer), tokens)

    def evaluated(self, table: Table, tokenizer: Tokenizer, name: str = "") -> EvaluationSet:
        """Encode rows.

        The answers of all ``test`` rows are written, of a few ``validation`` rows from everywhere,
        and of others none.
        """
        from wafergpt.data.continuation_batches import ContinuationBatches

        texts, learned, prompts = self._samples(table, tokenizer, trained=False)
        most = {"test": len(texts), "validation": self.settings.written}.get(name, 0)
        places = np.linspace(0, len(texts) - 1, min(len(texts), most))
        written = np.unique(places.astype(np.int64))
        asked = np.zeros(len(texts), dtype=np.int64)
        asked[written] = np.array(prompts)[written]
        batches = ContinuationBatches(texts, learned, self.evaluation_rows(), None, asked)
        answers = Answers(table.texts, table.labels, written, tokenizer)
        return EvaluationSet.of(batches, answers)

    def prompts(self, texts: Sequence[str], tokenizer: Tokenizer) -> list[Prompt]:
        """Encode prompts with all that an answer follows; by default the end-of-text token."""
        found = []
        for ids in tokenizer.encode_batch(texts):
            tokens = np.array([*ids, tokenizer.end_of_text], dtype=np.int64)
            found.append(Prompt(tokens, np.zeros(len(tokens), dtype=np.bool_)))
        return found

    def encode_answers(self, texts: Sequence[str], tokenizer: Tokenizer) -> list[list[int]]:
        """Encode answers, without their end."""
        return tokenizer.encode_batch(texts)

    def _samples(
        self, table: Table, tokenizer: Tokenizer, trained: bool
    ) -> tuple[list[Ints], list[NDArray[np.bool_]], list[int]]:
        """Return the rows' tokens, which are learned, and how many are the prompt's."""
        limit = self.limit
        texts, learned, prompts, cut = [], [], [], 0
        both = (
            self.prompts(table.texts, tokenizer),
            self.encode_answers(table.labels, tokenizer),
        )
        for prompt, answer in zip(*both, strict=True):
            # The last token is not read.
            if len(prompt.tokens) + len(answer) > limit:
                cut += 1
                if trained and not self.keeps_end:
                    continue
                prompt = prompt.cut(self.longest_prompt, self.keeps_end)
            room = max(1, limit + 1 - len(prompt.tokens))
            own = np.array([*answer, tokenizer.end_of_text], dtype=np.int64)[:room]
            texts.append(np.concatenate([prompt.tokens, own]))
            learned.append(np.concatenate([prompt.learned, np.ones(len(own), dtype=np.bool_)]))
            prompts.append(len(prompt.tokens))
        if cut:
            left_out = trained and not self.keeps_end
            say(
                f"warning: {cut:,} of {len(table.texts):,} rows are longer than {limit} tokens and "
                f"are {'left out' if left_out else 'cut'}{_of(table)}: model.seq_len is the context"
            )
        return texts, learned, prompts

    def encode(self, inputs: Sequence[Any], tokenizer: Tokenizer) -> EvaluationSet:
        """Return prompts as samples, cut where they leave no room for an answer."""
        from wafergpt.data.continuation_batches import ContinuationBatches

        self._tokenizer = tokenizer
        most = self.longest_prompt
        with working("encoding the texts"):
            prompts = self.prompts(inputs, tokenizer)
        if cut := sum(len(prompt.tokens) > most for prompt in prompts):
            say(f"warning: {cut:,} of {len(inputs):,} texts are longer than {most} tokens: cut")
        kept = [prompt.cut(most, self.keeps_end).tokens for prompt in prompts]
        # The last token of a sample is a target alone, and here none.
        texts = [np.append(tokens, tokenizer.end_of_text) for tokens in kept]
        learned = [np.zeros(len(text), dtype=np.bool_) for text in texts]
        lengths = np.array([len(tokens) for tokens in kept], dtype=np.int64)
        batches = ContinuationBatches(texts, learned, self.evaluation_rows(), None, lengths)
        return EvaluationSet.of(batches)

    @property
    def longest_prompt(self) -> int:
        """Tokens of a prompt that leave room for an answer."""
        room = min(ROOM, self.settings.max_new_tokens, self.limit // 2)
        return max(1, self.limit - room)

    # --- network ---------------------------------------------------------------------------------

    def network(self) -> nn.Module:
        """Build the GPT."""
        from wafergpt.model.gpt import GPT

        return GPT(self.recipe.model)

    def graph(self) -> Graph:
        """Describe the GPT, as that of a language model."""
        return replace(LanguageModel(self.recipe).graph(), evaluated=_from_logits)

    def flops(self, batch: Batch) -> float:
        """Return the FLOPs of a forward and backward pass; the head reads what is learned alone."""
        model = self.recipe.model
        texts, length = batch["tokens"].shape
        share = batch.weight / (texts * length)
        rows = model.vocab_size * share
        return texts * training_flops(model, length, rows, lora=self.recipe.lora)

    def loss(self, network: nn.Module, batch: Batch) -> Tensor:
        """Return the summed next-token loss of the answers."""
        from wafergpt.model.gpt import GPT
        from wafergpt.model.loss import next_token_loss

        assert isinstance(network, GPT)
        hidden, targets = network.scaled(network(batch["tokens"])), batch["targets"]
        learned = targets >= 0
        return next_token_loss(hidden[learned], network.head, targets[learned])

    def outputs(self, network: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        """Return the summed ``loss [batch]`` of each row, its number of ``terms``, and the tokens
        ``written [batch, max_new_tokens]`` where prompts are to be continued, -1 behind them.
        """
        from wafergpt.model.gpt import GPT

        assert isinstance(network, GPT)
        terms = (batch["targets"] >= 0).sum(1)
        # Prompts whose answers are not known have none.
        losses = self._row_losses(network, batch) if terms.any() else terms.new_zeros(terms.shape)
        found = {"loss": losses.double(), "terms": terms}
        if "prompts" in batch:
            found["written"] = self._written(network, batch["tokens"], batch["prompts"])
        return found

    def _row_losses(self, network: GPT, batch: Batch) -> Tensor:
        """Return the summed loss ``[batch]`` of each row."""
        import torch

        from wafergpt.model.loss import next_token_loss

        hidden = network.scaled(network(batch["tokens"]))
        # Of a prompt the head reads nothing.
        losses = [
            next_token_loss(one[own >= 0], network.head, own[own >= 0])
            for one, own in zip(hidden, batch["targets"], strict=True)
        ]
        return torch.stack(losses)

    def _written(self, gpt: GPT, tokens: Tensor, prompts: Tensor) -> Tensor:
        """Continue the first ``prompts`` tokens of each row; those of 0 are not."""
        import torch

        from wafergpt.decoding.beam import beam_search, searched_together

        most = self.settings.max_new_tokens
        # Of all rows this is kept until the last one is written.
        found = torch.full((len(tokens), most), NOTHING, dtype=torch.int32, device=tokens.device)
        # Decoding has a new length at each token, and would compile for each.
        with (
            torch.autocast(tokens.device.type, enabled=False),
            torch.compiler.set_stance("force_eager"),
        ):
            lengths = prompts.tolist()
            for rows, beam in searched_together(lengths, gpt.config, self._beam):
                answers = beam_search(gpt, [tokens[row, : lengths[row]] for row in rows], beam)
                for row, answer in zip(rows, answers, strict=True):
                    found[row, : len(answer)] = torch.tensor(answer).to(found)
        return found

    def _beam(self, length: int) -> Beam:
        from wafergpt.decoding.beam import Beam

        settings, model = self.settings, self.recipe.model
        assert settings.end_of_text is not None
        # The last token of an answer is not read.
        room = max(1, model.seq_len - length + 1)
        return Beam(
            settings.beams, min(settings.max_new_tokens, room), settings.length_penalty,
            settings.end_of_text, model.vocab_size,
        )  # fmt: skip

    # --- answers ---------------------------------------------------------------------------------

    def compute_metrics(self, outputs: Outputs, references: Any) -> dict[str, Any]:
        """Return ``loss`` and ``perplexity`` per token, and those of the texts that are written,
        with some of them as ``samples``.
        """
        assert isinstance(references, Answers)
        loss = float(outputs["loss"].sum() / max(1, outputs["terms"].sum()))
        found: dict[str, Any] = {"loss": loss, "perplexity": math.exp(min(loss, 700.0))}
        rows = references.written.tolist()
        if not rows:
            return found
        texts = _decoded(outputs["written"][rows], references.tokenizer)
        wanted = [references.references[row] for row in rows]
        samples = [
            {"prompt": references.prompts[row], "reference": right, "answer": text}
            for row, right, text in list(zip(rows, wanted, texts, strict=True))[:SAMPLES]
        ]
        return {**found, **self.metrics_of(texts, wanted), "written": len(rows), "samples": samples}

    def answers(self, outputs: Outputs) -> list[str]:
        """Return the texts that outputs of ``encode``'s samples are."""
        assert self._tokenizer is not None
        found = _decoded(outputs["written"], self._tokenizer)
        if not any(found):
            say("warning: every answer is empty: the model has hardly been trained")
        return found

    def sample(self, network: nn.Module, tokenizer: Tokenizer, prompt: str) -> str:
        """Return the answer to a prompt, after an arrow."""
        import torch

        from wafergpt.model.gpt import GPT

        assert isinstance(network, GPT)
        given = self.require_input(prompt)
        if given is None:
            return ""
        (asked,) = self.prompts([given], tokenizer)
        device = next(network.parameters()).device
        network.eval()
        tokens = torch.from_numpy(asked.cut(self.longest_prompt, self.keeps_end).tokens[None])
        lengths = torch.tensor([tokens.shape[1]], device=device)
        written = self._written(network, tokens.to(device), lengths)
        return " → " + _decoded(written.cpu().numpy(), tokenizer)[0]

    def evaluation_rows(self) -> int:
        """Return the rows of a forward pass: prompts are continued together."""
        return 128


def _from_logits(found: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
    from torch.nn import functional as F

    targets = batch["targets"]
    losses = F.cross_entropy(found["logits"].transpose(1, 2), targets, reduction="none")
    return {"loss": losses.double().sum(1), "terms": (targets >= 0).sum(1)}


def _of(table: Table) -> str:
    return "" if table.path is None else f" ({table.path})"


def _decoded(written: NDArray[np.int32], tokenizer: Tokenizer) -> list[str]:
    return [tokenizer.decode([i for i in row.tolist() if i != NOTHING]).strip() for row in written]
