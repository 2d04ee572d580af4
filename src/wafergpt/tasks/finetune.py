"""Fine-tuning: from labelled rows, and a pretrained run or nothing, to a classifier."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from wafergpt.config import Recipe, load_recipe
from wafergpt.data.batches import Batch
from wafergpt.data.holdout import classes_kept, hold_out, hold_out_of_each_class
from wafergpt.data.labelled import LabelledBatches
from wafergpt.data.labels import doubts, settle_classes, settle_numbers
from wafergpt.data.tables import (
    Table,
    encode_labels,
    encode_scores,
    label_names,
    read_table,
)
from wafergpt.data.tokenizer import Tokenizer
from wafergpt.errors import InputError
from wafergpt.evaluate.classification import judge, judge_scores
from wafergpt.model.heads import Classifier
from wafergpt.moved import require_sources
from wafergpt.parallel.meeting import joined
from wafergpt.parallel.sharding import fill
from wafergpt.parallel.team import Team
from wafergpt.progress import say, working
from wafergpt.run import RUNS, Run
from wafergpt.scaling.machine import Machine
from wafergpt.scaling.schedule import require_possible_warmup
from wafergpt.shapes.counts import training_flops
from wafergpt.tasks.beginning import with_task
from wafergpt.tasks.classify import TextClassifier, encode_texts, fresh_classifier, scores
from wafergpt.train import checkpoint
from wafergpt.train.given import require_trained
from wafergpt.train.loop import Loop
from wafergpt.train.loss import classification_loss
from wafergpt.train.pretrain import engine_of, new_run
from wafergpt.train.settings import may_change, resolve_system
from wafergpt.train.starting import asked_for, begun_before, language_model
from wafergpt.train.trainer import Trainer

VALIDATION_SHARE = 0.1
"""Of the training rows, where no validation file is named."""

SCRATCH_VOCABULARY = 8192
DEFAULT_EPOCHS = 3.0


@dataclass(frozen=True)
class Split:
    """One part of the labelled data, encoded."""

    texts: Sequence[NDArray[np.int64]]
    targets: NDArray[np.int64] | NDArray[np.float64]

    @property
    def tokens(self) -> int:
        """Count them, of all texts."""
        return sum(len(text) for text in self.texts)


@dataclass(frozen=True)
class Tables:
    """The labelled rows of a task, and what people should know of them, a line each."""

    train: Table
    validation: Table
    test: Table | None
    notes: tuple[str, ...] = ()

    @classmethod
    def read(cls, recipe: Recipe) -> Tables:
        """Read what the recipe names; hold out validation rows if it names none.

        Raises:
            InputError: on unusable rows, or labels with which nothing can be trained.
        """
        task = recipe.task
        if task is None or task.train is None:
            raise InputError("which labelled rows? add task.train=FILE (csv, tsv or jsonl)")
        named = {
            name: read_table(path, task.text, task.label)
            for name, path in (
                ("train", task.train),
                ("validation", task.validation),
                ("test", task.test),
            )
            if path is not None
        }
        if (before := cls._as_before(named, recipe.data.fingerprint)) is not None:
            return before
        notes = [note for table in named.values() for note in table.notes]
        if task.loss == "squared_error":
            settled, more = settle_numbers(list(named.values()))
        else:
            settled = settle_classes(list(named.values()), task.similar_labels)
            more = doubts(settled)
            labels = label_names(settled[0])
            for name, table in zip(named, settled, strict=True):
                encode_labels(table, labels, name)
        named = dict(zip(named, settled, strict=True))
        notes += more
        train, validation = named["train"], named.get("validation")
        if validation is None and task.loss == "squared_error":
            train, validation = hold_out(train, VALIDATION_SHARE)
        elif validation is None:
            train, validation, without = hold_out_of_each_class(train, VALIDATION_SHARE)
            notes += [classes_kept(without, train)] if without else []
        return cls(train, validation, named.get("test"), tuple(notes))

    @classmethod
    def _as_before(cls, named: dict[str, Table], fingerprint: str | None) -> Tables | None:
        """Return the tables of a run that was begun when labels stayed as they were written, and
        a hash alone decided what is held out; None if the run's rows are others.
        """
        if fingerprint is None:
            return None
        train, validation = named["train"], named.get("validation")
        try:
            if validation is None:
                train, validation = hold_out(train, VALIDATION_SHARE)
        except InputError:
            return None
        tables = cls(train, validation, named.get("test"))
        return tables if tables.fingerprint() == fingerprint else None

    def fingerprint(self) -> str:
        """Return a hash of all rows."""
        digest = hashlib.sha256()
        for table in (self.train, self.validation, self.test or Table([], [])):
            for text, label in zip(table.texts, table.labels, strict=True):
                digest.update(f"{len(text)} {label}\n{text}\n".encode("utf-8", "surrogatepass"))
        return digest.hexdigest()


def finetune(
    start: Run | str | Path,
    recipe: Recipe | str | Path | None = None,
    overrides: Sequence[str] = (),
    *,
    task: str = "classify",
    data: str | Path | None = None,
    resume: str | Path | None = None,
    go_on: bool = False,
    root: Path = RUNS,
    elsewhere: type[Trainer] | None = None,
) -> TextClassifier:
    """Teach a language model a task and return the best model that validation found.

    Args:
        start: a pretrained run, or ``"scratch"``.
        recipe: a recipe, a YAML file, or the name of a shipped recipe.
        overrides: ``section.key=value`` strings.
        task: the task's name.
        data: the labelled rows to train on, if the recipe does not name them.
        resume: a fine-tuning run to go on with, bit for bit; ``start`` is then not looked at.
        go_on: resume the run that this recipe began under its name, if it did; else begin it.
        root: the folder that holds runs.
        elsewhere: trains on devices that are not torch's.

    Raises:
        InputError: on an impossible recipe or unusable rows.
        RunFailed: if the run diverges.
        Interrupted: after saving, when a signal asked for a stop.
    """
    run = begun = None
    if resume is not None:
        run = Run.find(resume, root)
        require_trained(run)
        recipe = may_change(run.recipe, overrides)
        require_sources(recipe, run.path)
    else:
        if not isinstance(recipe, Recipe):
            recipe = load_recipe(recipe, overrides)
        require_possible_warmup(recipe.schedule)
        begun = None if str(start) == "scratch" else language_model(start, root)
        recipe = with_task(recipe, begun, task, data)
    if run is None and not go_on:
        Run.require_new(recipe.name, root)
    asked = asked_for(recipe)
    with joined(recipe.system.timeout) as team:
        if go_on and (before := begun_before(recipe, root, team)):
            (run, recipe), begun = before, None
        with working("reading the rows"):
            tables = Tables.read(recipe)
        for note in tables.notes:
            say(note)
        tokenizer = _tokenizer(run or begun, tables, recipe)
        recipe = _for_rows(recipe, tables, tokenizer)
        recipe, machine = resolve_system(recipe, team)
        with working("encoding the rows"):
            splits = _encode(tables, tokenizer, recipe)
        engine = engine_of(recipe, elsewhere)
        with working("making the network"):
            trainer = _trainer(recipe, machine, splits, begun, tokenizer, team, engine)
        if team.follows:
            return TextClassifier.load(trainer.follow())
        with trainer.signals:
            trainer.settle()
            resumed = run is not None
            if run is None:
                run = new_run(trainer, tokenizer, splits["train"].tokens, root, asked)
            judge = _judge(trainer.loop, splits["validation"])
            trainer.train(run, judge, resumed=resumed)
    classifier = TextClassifier.load(run)
    _write_result(classifier, trainer, splits)
    return classifier


def _tokenizer(source: Run | None, tables: Tables, recipe: Recipe) -> Tokenizer:
    if source is not None:
        return Tokenizer.load(source.tokenizer)
    vocab_size = recipe.model.vocab_size or SCRATCH_VOCABULARY
    with working(f"training a tokenizer of {vocab_size:,} tokens"):
        return Tokenizer.train(tables.train.texts, vocab_size)


def _trainer(
    recipe: Recipe,
    machine: Machine,
    splits: dict[str, Split],
    begun: Run | None,
    tokenizer: Tokenizer,
    team: Team,
    engine: type[Trainer],
) -> Trainer:
    assert recipe.task is not None
    if team.size > 1 and recipe.system.shard != 1:
        raise InputError("fine-tuning needs the whole weights in each process: system.shard=1")
    network = fresh_classifier(recipe.model, recipe.task, recipe.seed)
    if begun is not None:
        stored = checkpoint.weights(begun)
        checkpoint.require_fit(network.gpt, stored)
        fill(network.gpt, stored.by_rows.items())
    batches = _training_batches(splits["train"], recipe)
    objective = partial(_objective, tokenizer.end_of_text)
    flops = partial(_flops, network.score.weight.numel())
    trainer = engine(recipe, machine, network, network.gpt.blocks, batches, objective, flops, team)
    rows = splits["validation"]
    trainer.loop.validation = LabelledBatches(
        rows.texts, rows.targets, recipe.train.batch_size, None
    )
    return trainer


def _for_rows(recipe: Recipe, tables: Tables, tokenizer: Tokenizer) -> Recipe:
    """Write down what the rows decide: labels, vocabulary, fingerprint, horizon."""
    assert recipe.task is not None
    task, train = recipe.task, recipe.train
    fingerprint = tables.fingerprint()
    if recipe.data.fingerprint not in (None, fingerprint):
        raise InputError(f"the labelled rows are not those that this run began with: {task.train}")
    if train.tokens:
        raise InputError("fine-tuning counts in train.epochs, train.steps or train.seconds")
    limit = task.max_tokens or recipe.model.seq_len
    if limit > recipe.model.seq_len:
        raise InputError(
            f"task.max_tokens={limit} is more than the model's context of {recipe.model.seq_len}"
        )
    labels = () if task.loss == "squared_error" else label_names(tables.train)
    if task.loss == "squared_error" and recipe.evaluate.metric != "loss":
        raise InputError(f"evaluate.metric={recipe.evaluate.metric} is of classes; use loss")
    if task.loss == "binary" and len(labels) != 2:
        raise InputError(f"task.loss=binary needs two labels, not {len(labels)}: {labels}")
    paths = {
        key: None if path is None else Path(path).resolve()
        for key, path in (
            ("train", task.train),
            ("validation", task.validation),
            ("test", task.test),
        )
    }
    return recipe.replace(
        task={"labels": labels, "max_tokens": limit, **paths},
        data={"fingerprint": fingerprint},
        # An imported model may have more rows than its tokenizer has tokens.
        model={"vocab_size": max(recipe.model.vocab_size, tokenizer.vocab_size)},
        train={} if train.steps or train.epochs or train.seconds else {"epochs": DEFAULT_EPOCHS},
    )


def _encode(tables: Tables, tokenizer: Tokenizer, recipe: Recipe) -> dict[str, Split]:
    task = recipe.task
    assert task is not None
    splits = {}
    for name in ("train", "validation", "test"):
        table: Table | None = getattr(tables, name)
        if table is None:
            continue
        texts, cut = encode_texts(table.texts, tokenizer, recipe)
        if cut:
            say(
                f"warning: {cut:,} of {len(texts):,} {name} texts are longer than "
                f"{task.max_tokens} tokens; what is beyond is cut (task.cut={task.cut})"
            )
        targets = (
            encode_scores(table, name)
            if task.loss == "squared_error"
            else encode_labels(table, task.labels, name)
        )
        splits[name] = Split(texts, targets)
    return splits


def _training_batches(split: Split, recipe: Recipe) -> LabelledBatches:
    assert recipe.task is not None
    weights = None
    if recipe.task.class_weights == "balanced":
        counts = np.bincount(split.targets.astype(np.int64), minlength=len(recipe.task.labels))
        weights = len(split.texts) / (len(counts) * counts)
    size = recipe.train.batch_size
    if len(split.texts) < size:
        raise InputError(
            f"{len(split.texts)} training rows are less than one batch of {size}: "
            "lower train.batch_size"
        )
    return LabelledBatches(split.texts, split.targets, size, recipe.seed, weights)


def _objective(end_of_text: int, recipe: Recipe, model: nn.Module, batch: Batch) -> Tensor:
    assert isinstance(model, Classifier)
    assert recipe.task is not None
    assert batch.lengths is not None
    tokens = batch.tokens
    if model.training and recipe.task.word_dropout:
        # Whole words go, so that no single one decides (Iyyer et al., 2015).
        hidden = torch.rand(tokens.shape, device=tokens.device) < recipe.task.word_dropout
        tokens = tokens.masked_fill(hidden, end_of_text)
    return classification_loss(
        model(tokens, batch.lengths),
        batch.targets,
        recipe.task.loss,
        recipe.task.label_smoothing if model.training else 0.0,
        batch.weights,
    )


def _flops(score_weights: int, recipe: Recipe, batch: Batch) -> float:
    texts, length = batch.tokens.shape
    return texts * training_flops(recipe.model, length, 0, score_weights)


def _metrics(
    network: Classifier, split: Split, recipe: Recipe, poll: Callable[[], object] = lambda: None
) -> dict[str, Any]:
    assert recipe.task is not None
    values = scores(network, split.texts, recipe, poll=poll)
    if recipe.task.loss == "squared_error":
        return judge_scores(values[:, 0], split.targets.astype(np.float64)).to_dict()
    return judge(values, split.targets.astype(np.int64), recipe.task.labels).to_dict()


def _judge(loop: Loop, split: Split) -> Callable[[], dict[str, float]]:
    def judge_validation() -> dict[str, float]:
        network = loop.state.model
        assert isinstance(network, Classifier)
        return validation_scores(network, split, loop.recipe, loop.signals.poll)

    return judge_validation


def validation_scores(
    network: Classifier, split: Split, recipe: Recipe, poll: Callable[[], object] = lambda: None
) -> dict[str, float]:
    """Return ``val_loss``, and of classes ``val_accuracy`` and ``val_macro_f1``.

    ``poll`` is called before each batch, and may raise.
    """
    metrics = _metrics(network, split, recipe, poll)
    return {f"val_{k}": metrics[k] for k in ("loss", "accuracy", "macro_f1") if k in metrics}


def _write_result(classifier: TextClassifier, trainer: Trainer, splits: dict[str, Split]) -> None:
    run, recipe = classifier.run, classifier.recipe
    assert recipe.task is not None
    begun = recipe.start
    result = run.read("result")
    result["metrics"] = _metrics(classifier.network, splits["validation"], recipe)
    result["test"] = (
        _metrics(classifier.network, splits["test"], recipe) if "test" in splits else None
    )
    result["init"] = "scratch" if begun is None else begun.name
    result["pretrained"] = None if begun is None else str(begun)
    run.write("result", result)
