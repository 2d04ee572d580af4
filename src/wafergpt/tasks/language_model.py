"""The language model task: predict every next token of a corpus."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from wafergpt.config import Recipe
from wafergpt.data.corpus import Corpus
from wafergpt.data.tokenizer import Tokenizer
from wafergpt.errors import InputError
from wafergpt.planning.plan import TOKENS_PER_PARAMETER
from wafergpt.shapes.counts import dense_parameters, training_flops
from wafergpt.tasks.base import Direction, EvaluationSet, Outputs, Splits, Task, Teacher
from wafergpt.tasks.graph import Graph

if TYPE_CHECKING:
    from torch import Tensor, nn

    from wafergpt.data.batches import Batch, Batches
    from wafergpt.data.language_batches import LanguageBatches
    from wafergpt.tasks.graph import Graph

PROBE = "It's a test of 1,234 tokens:\tnaïve café, 日本 🙂\n\n  def f(x): return x\n"
"""Two tokenizers that encode this alike count as the same."""

SAMPLE_TOKENS = 64
"""Length of a text that is sampled during training."""


class LanguageModel(Task):
    """Predicts the next token of a corpus (``data.corpus``); its network is the GPT itself."""

    metrics: ClassVar[Mapping[str, Direction]] = {"loss": "min", "bits_per_byte": "min"}
    lowers = True
    distils = True

    def texts(self) -> Iterator[str]:
        """Raise: a corpus comes with its own tokenizer."""
        raise NotImplementedError

    def tokenizer(self, source: Tokenizer | None) -> Tokenizer:
        """Return the corpus' own, which must be that of the run to start from."""
        corpus = corpus_of(self.recipe)
        # A resumed run identifies its corpus by the fingerprint.
        new = self.recipe.data.fingerprint is None
        if new and source is not None and source.encode(PROBE) != corpus.tokenizer.encode(PROBE):
            start = self.recipe.start or Path()
            raise InputError(
                f"{corpus.path} was written with another tokenizer than {start} reads: prepare it "
                f"with --tokenizer {start / 'tokenizer.json'}"
            )
        return corpus.tokenizer

    def prepare(self, tokenizer: Tokenizer) -> tuple[Recipe, Splits]:
        """Open the corpus; where the recipe sets no horizon, it is 20 tokens per parameter."""
        corpus = corpus_of(self.recipe)
        recipe = with_horizon(for_corpus(self.recipe, corpus))
        train = _batches(recipe, corpus, tokenizer, "train")
        if train.samples_per_epoch < recipe.train.batch_size:
            raise InputError(
                f"{corpus.path} has {train.samples_per_epoch} sequences of {recipe.model.seq_len} "
                f"tokens, less than one batch of {recipe.train.batch_size}: prepare more text, or "
                "lower train.batch_size or model.seq_len"
            )
        references = {"tokens": len(corpus.tokens("val")), "bytes": corpus.bytes_val}
        validation = EvaluationSet(_batches(recipe, corpus, tokenizer, "val"), references)
        return recipe, Splits(train, validation, None, len(corpus.tokens("train")))

    def network(self) -> nn.Module:
        """Build the GPT."""
        from wafergpt.model.gpt import GPT

        return GPT(self.recipe.model)

    def flops(self, batch: Batch) -> float:
        """Return the FLOPs of a forward and backward pass in training."""
        from wafergpt.model.loss import sampled_rows

        model, sample = self.recipe.model, self.recipe.train.sampled_softmax
        rows: float = model.vocab_size
        if sample:
            rows = sampled_rows(batch["targets"], model.vocab_size, sample)
        sequences, length = batch["tokens"].shape
        return sequences * training_flops(model, length, rows, lora=self.recipe.lora)

    def loss(self, network: nn.Module, batch: Batch) -> Tensor:
        """Return the summed next-token loss; in training, of a sampled softmax if set."""
        from wafergpt.model.gpt import GPT
        from wafergpt.model.loss import next_token_loss, sampled_softmax_loss

        assert isinstance(network, GPT)
        hidden = network.scaled(network(batch["tokens"], batch.get("documents")))
        sample = self.recipe.train.sampled_softmax
        if sample and network.training:
            return sampled_softmax_loss(hidden, network.head, batch["targets"], sample)
        return next_token_loss(hidden, network.head, batch["targets"])

    def distilled_loss(self, network: nn.Module, batch: Batch, teacher: Teacher) -> Tensor:
        """Return the next-token loss, a share of it the divergence from the teacher's softmax."""
        import torch

        from wafergpt.model.gpt import GPT
        from wafergpt.model.loss import SoftTargets, next_token_loss

        assert isinstance(network, GPT)
        assert isinstance(teacher.network, GPT)
        inputs = batch["tokens"], batch.get("documents")
        # First, for its activations are gone when the network's own come.
        with torch.no_grad():
            theirs = teacher.network.scaled(teacher.network(*inputs))
        hidden = network.scaled(network(*inputs))
        soft = SoftTargets(theirs, teacher.network.head, teacher.share)
        return next_token_loss(hidden, network.head, batch["targets"], soft)

    def require_teacher(self, teacher: Task) -> None:
        """Require the same vocabulary."""
        super().require_teacher(teacher)
        ours, theirs = (task.recipe.model.vocab_size for task in (self, teacher))
        if ours != theirs:
            raise InputError(f"has a vocabulary of {theirs:,}, not {ours:,}")

    def traced_loss(self, network: nn.Module, batch: Batch) -> Tensor:
        """Return the summed loss with all logits at once."""
        from torch.nn import functional as F

        from wafergpt.model.gpt import GPT

        assert isinstance(network, GPT)
        logits = network.logits(network(batch["tokens"])).float()
        targets = batch["targets"].flatten().long()
        return F.cross_entropy(logits.flatten(0, 1), targets, reduction="sum")

    def outputs(self, network: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        """Return one row for the batch: its summed ``loss``, and its number of ``terms``."""
        loss = self.loss(network, batch).double().view(1)
        return {"loss": loss, "terms": loss.new_tensor([batch.weight])}

    def compute_metrics(self, outputs: Outputs, references: Any) -> dict[str, Any]:
        """Return ``loss``, in nats per token, and ``bits_per_byte`` of the validation text."""
        loss = sum(outputs["loss"].tolist()) / sum(outputs["terms"].tolist())
        bits = loss * references["tokens"] / max(references["bytes"], 1) / math.log(2)
        return {"loss": loss, "bits_per_byte": bits}

    def graph(self) -> Graph:
        """Describe the GPT, which computes the ``logits`` of every next token."""
        from wafergpt.model.gpt import GPT

        def forward(network: nn.Module, batch: Batch) -> dict[str, Tensor]:
            assert isinstance(network, GPT)
            return {"logits": network.logits(network(batch["tokens"]))}

        def evaluated(found: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
            from torch.nn import functional as F

            logits, targets = found["logits"].flatten(0, 1), batch["targets"].flatten().long()
            loss = F.cross_entropy(logits, targets, reduction="sum").double().view(1)
            return {"loss": loss, "terms": loss.new_tensor([batch.weight])}

        return Graph(
            {"tokens": ("batch", "length")},
            {"logits": "`[batch, length, vocabulary]`, of the token that follows each"},
            forward,
            {"max_tokens": self.recipe.model.seq_len},
            "print(tokenizer.decode(ids))",
            evaluated,
        )

    def evaluation_samples(self, batches: Batches) -> int:
        """Return ``evaluate.batches`` batches, as many on every machine."""
        wanted = self.recipe.train.batch_size * self.recipe.evaluate.batches
        return min(wanted, batches.samples_per_epoch)

    def evaluation_rows(self) -> int:
        """Return a micro-batch, which is known to fit."""
        return self.recipe.train.micro_batch_size

    def sample(self, network: nn.Module, tokenizer: Tokenizer, prompt: str) -> str:
        """Return the model's continuation of ``prompt``."""
        import torch

        from wafergpt.decoding.generator import Sampling, TextStream
        from wafergpt.model.gpt import GPT

        assert isinstance(network, GPT)
        settings = Sampling(max_tokens=SAMPLE_TOKENS, seed=self.recipe.seed)
        # Decoding has a new length at each token, and would compile for each.
        with torch.compiler.set_stance("force_eager"):
            return "".join(TextStream(network, tokenizer, prompt, settings))


def corpus_of(recipe: Recipe) -> Corpus:
    """Open the recipe's corpus.

    Args:
        recipe: that names it.

    Returns:
        The corpus.

    Raises:
        InputError: if the recipe names none, or it does not exist.
    """
    if recipe.data.corpus is None:
        raise InputError("which corpus? add data.corpus=FOLDER (wafergpt prepare makes one)")
    return Corpus.open(recipe.data.corpus)


def for_corpus(recipe: Recipe, corpus: Corpus) -> Recipe:
    """Set the corpus' vocabulary, path and fingerprint in a recipe.

    Args:
        recipe: of a new or a resumed run.
        corpus: that it reads.

    Returns:
        The recipe.

    Raises:
        InputError: if the recipe names another vocabulary or another fingerprint.
    """
    model, data = recipe.model, recipe.data
    if model.vocab_size not in (0, corpus.vocab_size):
        raise InputError(
            f"model.vocab_size={model.vocab_size}, but {corpus.path} was written with a "
            f"vocabulary of {corpus.vocab_size}: set model.vocab_size={corpus.vocab_size}, or "
            "prepare the text with that tokenizer (wafergpt prepare --tokenizer PATH)"
        )
    if data.fingerprint not in (None, corpus.fingerprint):
        raise InputError(
            f"{corpus.path} is not the corpus that this run started with: its fingerprint is "
            f"{corpus.fingerprint[:12]}…, the run's is {str(data.fingerprint)[:12]}…"
        )
    return recipe.replace(
        model={"vocab_size": corpus.vocab_size},
        data={"corpus": corpus.path.resolve(), "fingerprint": corpus.fingerprint},
    )


def with_horizon(recipe: Recipe) -> Recipe:
    """Return the recipe with 20 tokens for each parameter, if it has no horizon."""
    train = recipe.train
    if train.steps or train.tokens or train.epochs or train.seconds:
        return recipe
    return recipe.replace(
        train={"tokens": round(TOKENS_PER_PARAMETER * dense_parameters(recipe.model))}
    )


def _batches(recipe: Recipe, corpus: Corpus, tokenizer: Tokenizer, split: str) -> LanguageBatches:
    from wafergpt.data.language_batches import LanguageBatches

    stream = corpus.tokens(split)
    length = recipe.model.seq_len
    if split == "val":
        # A short validation text is still worth an evaluation.
        length = min(length, max(len(stream) - 1, 1))
    try:
        return LanguageBatches(
            stream,
            length,
            corpus.fingerprint,
            seed=recipe.seed if split == "train" else None,
            end_of_text=tokenizer.end_of_text if recipe.data.document_mask else None,
        )
    except ValueError as error:
        raise InputError(f"{corpus.path} is too small: {error}") from None
