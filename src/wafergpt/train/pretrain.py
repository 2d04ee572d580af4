"""Pretraining: from a recipe and a corpus to a run with a language model in it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wafergpt.config import Recipe, load_recipe
from wafergpt.data.batches import Batch, Batches, LanguageBatches
from wafergpt.data.corpus import Corpus
from wafergpt.data.tokenizer import Tokenizer
from wafergpt.errors import InputError
from wafergpt.generate.text import Sampling, TextStream
from wafergpt.model.gpt import GPT
from wafergpt.moved import require_sources
from wafergpt.parallel.meeting import joined
from wafergpt.parallel.sharding import Rows
from wafergpt.parallel.team import Team
from wafergpt.progress import working
from wafergpt.run import RUNS, Run
from wafergpt.scaling.plan import TOKENS_PER_PARAMETER, plan
from wafergpt.scaling.schedule import require_possible_warmup
from wafergpt.shapes.counts import parameters, training_flops
from wafergpt.train import checkpoint
from wafergpt.train.given import require_trained
from wafergpt.train.loop import autocast
from wafergpt.train.loss import next_token_loss, sampled_rows, sampled_softmax_loss
from wafergpt.train.settings import may_change, resolve_system
from wafergpt.train.starting import asked_for, begun_before, language_model, on_top_of
from wafergpt.train.trainer import Trainer
from wafergpt.train.validation import mean_loss

PROBE = "It's a test of 1,234 tokens:\tnaïve café, 日本 🙂\n\n  def f(x): return x\n"
"""Two tokenizers that read this alike are taken for the same."""


def pretrain(
    recipe: Recipe | str | Path | None = None,
    overrides: Sequence[str] = (),
    *,
    start: Run | str | Path | None = None,
    resume: str | Path | None = None,
    go_on: bool = False,
    root: Path = RUNS,
    elsewhere: type[Trainer] | None = None,
) -> Run:
    """Train a language model and return its run.

    Args:
        recipe: a recipe, a YAML file, or the name of a shipped recipe.
        overrides: ``section.key=value`` strings.
        start: a run whose weights to begin with, trained here or imported; its shape is taken over.
        resume: a run to go on with, bit for bit; only its horizon and what does not touch the
            weights may be overridden.
        go_on: resume the run that this recipe began under its name, if it did; else begin it.
        root: the folder that holds runs.
        elsewhere: trains on devices that are not torch's.

    Raises:
        InputError: on an impossible recipe, a missing or changed corpus, an existing run.
        RunFailed: if the run diverges, or has no good checkpoint to resume from.
        Interrupted: after saving, when a signal asked for a stop.
    """
    run = begun = None
    if resume is not None:
        run = Run.find(resume, root)
        require_trained(run)
        recipe = may_change(run.recipe, overrides)
        require_sources(recipe, run.path)
    elif not isinstance(recipe, Recipe):
        recipe = load_recipe(recipe, overrides)
    if run is None:
        require_possible_warmup(recipe.schedule)
    if recipe.evaluate.metric != "loss":
        raise InputError(
            f"evaluate.metric={recipe.evaluate.metric} is of a classifier; "
            "a language model is judged by its loss"
        )
    if run is None and start is not None:
        begun = language_model(start, root)
        recipe = on_top_of(recipe, begun)
    if run is None and not go_on:
        Run.require_new(recipe.name, root)
    asked = asked_for(recipe)
    with joined(recipe.system.timeout) as team:
        if go_on and (before := begun_before(recipe, root, team)):
            (run, recipe), begun = before, None
        corpus = corpus_of(recipe)
        if begun is not None:
            _same_tokens(begun, corpus)
        recipe = with_horizon(for_corpus(recipe, corpus))
        trainer = _trainer(recipe, corpus, begun, team, engine_of(recipe, elsewhere))
        trainer.loop.validation = _batches(recipe, corpus, "val")
        if team.follows:
            return trainer.follow()
        return _led(trainer, corpus, run, root, asked)


def _led(
    trainer: Trainer, corpus: Corpus, run: Run | None, root: Path, asked: Mapping[str, Any]
) -> Run:
    """Train in a run, or in a new one."""
    with trainer.signals:
        trainer.settle()
        resumed = run is not None
        if run is None:
            run = new_run(trainer, corpus.tokenizer, len(corpus.tokens("train")), root, asked)
        judge = _judge(trainer, corpus)
        write_on = _writer(trainer.state.model, corpus, trainer.recipe.seed)
        trainer.train(run, judge, write_on, resumed)
    return run


def new_run(
    trainer: Trainer, tokenizer: Tokenizer, tokens: int, root: Path, asked: Mapping[str, Any]
) -> Run:
    """Make a run's folder, with its tokenizer and its plan, for a corpus of so many tokens."""
    run = Run.create(trainer.recipe, root, asked)
    tokenizer.save(run.tokenizer)
    system = trainer.recipe.system
    if system.device != "cerebras" or system.cerebras.mode == "cpu":
        # What was measured here says nothing of a cluster.
        run.write("plan", plan(trainer.recipe, trainer.machine, tokens).to_dict())
    return run


def engine_of(recipe: Recipe, elsewhere: type[Trainer] | None) -> type[Trainer]:
    """Return what trains on the recipe's device.

    Raises:
        InputError: if nothing was given that does.
    """
    if recipe.system.device != "cerebras":
        return Trainer
    if elsewhere is None:
        raise InputError("system.device=cerebras: call wafergpt.pretrain or wafergpt.finetune")
    return elsewhere


def _trainer(
    recipe: Recipe, corpus: Corpus, begun: Run | None, team: Team, engine: type[Trainer]
) -> Trainer:
    recipe, machine = resolve_system(recipe, team)
    batches = _batches(recipe, corpus, "train")
    if batches.samples_per_epoch < recipe.train.batch_size:
        raise InputError(
            f"{corpus.path} has {batches.samples_per_epoch} sequences of {recipe.model.seq_len} "
            f"tokens, less than one batch of {recipe.train.batch_size}: prepare more text, or "
            "lower train.batch_size or model.seq_len"
        )
    if recipe.evaluate.prompts and team.size > 1 and recipe.system.shard != 1:
        raise InputError(
            "no process has the whole weights, to write on from evaluate.prompts: "
            "set evaluate.prompts=[] or system.shard=1"
        )
    with working("making the network"):
        # Weights that are spread are never whole anywhere.
        with torch.device("meta" if recipe.system.shards > 1 else "cpu"):
            gpt = GPT(recipe.model)
        weights: Iterable[tuple[str, Rows]] = gpt.fresh_weights(recipe.seed)
        if begun is not None:
            stored = checkpoint.weights(begun)
            checkpoint.require_fit(gpt, stored)
            weights = stored.by_rows.items()
        objective, flops = language_objective, language_flops
        return engine(recipe, machine, gpt, gpt.blocks, batches, objective, flops, team, weights)


def validation_loss(run: Run) -> float:
    """Return the loss of a language model's weights on its corpus, as its training judged them.

    Raises:
        InputError: if its corpus is not there any more, or another one is.
    """
    corpus = corpus_of(run.recipe)
    recipe = for_corpus(run.recipe, corpus)
    batches = _batches(recipe, corpus, "val")
    device = torch.device(recipe.system.host)
    gpt = checkpoint.restored(partial(GPT, recipe.model), checkpoint.weights(run)).to(device)

    def look(first: int, n: int) -> tuple[float, float]:
        batch = batches.batch(first, n)
        with autocast(recipe, device):
            loss = language_objective(recipe, gpt, batch.to(device))
        return float(loss), batch.weight

    return mean_loss(gpt, _samples(recipe, batches), recipe.train.micro_batch_size, look)


def _samples(recipe: Recipe, batches: Batches) -> int:
    """Return how many validation samples a look reads, the same whatever the processes."""
    return min(recipe.train.micro_batch_size * recipe.evaluate.batches, batches.samples_per_epoch)


def _same_tokens(begun: Run, corpus: Corpus) -> None:
    if not begun.tokenizer.is_file():
        return
    if Tokenizer.load(begun.tokenizer).encode(PROBE) != corpus.tokenizer.encode(PROBE):
        raise InputError(
            f"{corpus.path} was written with another tokenizer than {begun.path} reads: prepare "
            f"it with --tokenizer {begun.tokenizer}"
        )


def for_corpus(recipe: Recipe, corpus: Corpus) -> Recipe:
    """Return the recipe with the corpus' vocabulary and fingerprint written in.

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
            f"{corpus.path} is not the corpus that this run began with: its fingerprint is "
            f"{corpus.fingerprint[:12]}…, the run's is {str(data.fingerprint)[:12]}…"
        )
    return recipe.replace(
        model={"vocab_size": corpus.vocab_size},
        data={"corpus": corpus.path.resolve(), "fingerprint": corpus.fingerprint},
    )


def with_horizon(recipe: Recipe) -> Recipe:
    """Return the recipe with 20 tokens for each parameter, if it does not say how long."""
    train = recipe.train
    if train.steps or train.tokens or train.epochs or train.seconds:
        return recipe
    return recipe.replace(train={"tokens": round(TOKENS_PER_PARAMETER * parameters(recipe.model))})


def corpus_of(recipe: Recipe) -> Corpus:
    """Open the recipe's corpus.

    Raises:
        InputError: if it names none, or there is none.
    """
    if recipe.data.corpus is None:
        raise InputError("which corpus? add data.corpus=FOLDER (wafergpt prepare makes one)")
    return Corpus.open(recipe.data.corpus)


def _batches(recipe: Recipe, corpus: Corpus, split: str) -> LanguageBatches:
    stream = corpus.tokens(split)
    length = recipe.model.seq_len
    if split == "val":
        # A short validation text is still worth a look.
        length = min(length, max(len(stream) - 1, 1))
    try:
        return LanguageBatches(
            stream,
            length,
            corpus.fingerprint,
            seed=recipe.seed if split == "train" else None,
            end_of_text=corpus.tokenizer.end_of_text if recipe.data.document_mask else None,
        )
    except ValueError as error:
        raise InputError(f"{corpus.path} is too small: {error}") from None


def language_objective(recipe: Recipe, model: nn.Module, batch: Batch) -> Tensor:
    """Return the summed next-token loss of a batch; sampled, if at all, only while training."""
    assert isinstance(model, GPT)
    hidden = model.scaled(model(batch.tokens, batch.documents))
    sample = recipe.train.sampled_softmax
    if sample and model.training:
        return sampled_softmax_loss(hidden, model.head, batch.targets, sample)
    return next_token_loss(hidden, model.head, batch.targets)


def language_flops(recipe: Recipe, batch: Batch) -> float:
    """Return the FLOPs of a batch's forward and backward pass while training."""
    model, sample = recipe.model, recipe.train.sampled_softmax
    rows = sampled_rows(batch.targets, model.vocab_size, sample) if sample else model.vocab_size
    sequences, length = batch.tokens.shape
    return sequences * training_flops(model, length, rows)


def _judge(trainer: Trainer, corpus: Corpus) -> Callable[[], dict[str, float]]:
    loop = trainer.loop

    def judge() -> dict[str, float]:
        assert loop.validation is not None
        samples = _samples(loop.recipe, loop.validation)
        at_once = loop.recipe.train.micro_batch_size * loop.team.size
        loss = mean_loss(loop.state.model, samples, at_once, loop.look, loop.signals.poll)
        return validation_scores(loss, corpus)

    return judge


def validation_scores(loss: float, corpus: Corpus) -> dict[str, float]:
    """Return ``val_loss``, in nats a token, and ``val_bits_per_byte``."""
    bits = loss * len(corpus.tokens("val")) / max(corpus.bytes_val, 1) / math.log(2)
    return {"val_loss": loss, "val_bits_per_byte": bits}


def _writer(gpt: nn.Module, corpus: Corpus, seed: int) -> Callable[[str], str]:
    assert isinstance(gpt, GPT)
    settings = Sampling(max_tokens=64, seed=seed)

    def write_on(prompt: str) -> str:
        # Decoding has a new length at each token, and would compile for each.
        with torch.compiler.set_stance("force_eager"):
            return "".join(TextStream(gpt, corpus.tokenizer, prompt, settings))

    return write_on
