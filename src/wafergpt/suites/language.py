"""How well a language model predicts whole documents: by source, and by place in the document."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from wafergpt import files
from wafergpt.data.corpus import Corpus
from wafergpt.data.tokenizer import Tokenizer
from wafergpt.errors import InputError, RunFailed
from wafergpt.evaluation.intervals import Bootstrap
from wafergpt.planning.memory import head_chunk_rows
from wafergpt.progress import progress, working
from wafergpt.runs.run import Run
from wafergpt.suites.sources import Source, drawn, named_sources
from wafergpt.tasks.base import task_of
from wafergpt.tasks.language_model import for_corpus

if TYPE_CHECKING:
    import torch

    from wafergpt.config import Recipe
    from wafergpt.model.gpt import GPT

DOCUMENTS = 200
"""Documents of each source that are read, if it is not said."""

BATCH_TOKENS = 1 << 14
"""Tokens that the network reads at once."""


@dataclass(frozen=True)
class _Part:
    """The documents of a source that are read.

    Attributes:
        tokens: of each document, after the token that the first one is predicted from, if any.
        bytes: of each document's text, in UTF-8.
        total: documents in the source.
        blank: documents drawn, but without a token to predict.
    """

    tokens: list[NDArray[np.int64]]
    bytes: list[int]
    total: int
    blank: int


@dataclass(frozen=True)
class _Window:
    """Tokens ``start … end - 1`` of a document predict the next ones, scored from ``first`` on."""

    document: int
    start: int
    end: int
    first: int


def language(
    run: Run,
    sources: Sequence[str | Path] = (),
    documents: int | None = None,
    stride: int | None = None,
    device: str = "auto",
    column: str = "text",
) -> dict[str, Any]:
    """Score every token of whole documents once, in windows that slide over long ones.

    The first window of a document has ``seq_len`` tokens. Each later one begins ``stride`` tokens
    further, and only its tokens that no earlier one has scored count: they have at least
    ``seq_len - stride`` tokens of context. The first token of a document is predicted from the end
    of text, as in training; where attention stayed inside documents (``data.document_mask``),
    training predicts no first token, and none is scored. The end of text itself is not scored.

    Positions and n-grams (``model.ngrams``) begin anew in each window, as they do in each block of
    training. An n-gram of up to m tokens is therefore cut short at the first m - 1 tokens of a
    window. In a later window these are context alone if ``stride <= seq_len - m + 1``, so that
    every token is predicted from a whole last n-gram; with a larger stride the first ones scored
    are not.

    A source is a file, a folder or a glob of text, as ``wafergpt prepare`` reads it, or the folder
    of a corpus, of which the validation part is decoded; ``NAME=PATH`` names it. Documents are
    drawn by a hash of their text, whatever their order.

    Args:
        run: a language model.
        sources: of documents; the validation documents of the run's corpus if omitted.
        documents: at most so many of each source; 200 if omitted.
        stride: of the windows, in tokens; half the context if omitted.
        device: ``auto`` is the recipe's, if available, else the best one.
        column: of texts, in files that have columns.

    Returns:
        ``seq_len``, ``stride``, ``first_token``, whether it is scored, and ``drawn``, how documents
        were; ``all``, of the tokens of all sources together, and ``sources`` by name. Each has
        ``loss`` in nats per token, its ``loss_interval`` from resamples of the documents (None for
        one document), ``perplexity``, ``bits_per_byte`` (the loss times all tokens, over the bytes
        of the texts in UTF-8), ``tokens`` scored, ``bytes``, ``documents``, ``documents_found`` in
        the source, ``blank`` ones that were drawn and have no token to score, ``longest_context``
        in tokens, and ``by_position``: the ``loss`` and number of ``tokens`` from one place in the
        document ``to`` another, from 0. Only long documents have late places, so that a difference
        between two of them may be one of documents.

    Raises:
        InputError: if the run is no language model, a source cannot be read or has no text, the
            run's corpus is wanted and gone, or a setting is impossible.
        RunFailed: if a loss is not finite.
    """
    recipe = run.recipe
    if recipe.task is not None:
        raise InputError(f"language is for language models, not task.name={recipe.task.name}")
    length = recipe.model.seq_len
    n = DOCUMENTS if documents is None else documents
    stride = max(1, length // 2) if stride is None else stride
    if not 1 <= stride <= length:
        raise InputError(f"a stride of {stride} is impossible: from 1 to the context of {length}")
    if n < 1:
        raise InputError(f"{n} documents are too few: at least 1")
    chosen = named_sources(sources, column) if sources else [_own(run)]
    tokenizer = Tokenizer.load(run.tokenizer).require_at_most(recipe.model.vocab_size, run.path)
    begins = not recipe.data.document_mask
    parts = [_part(source, n, tokenizer, begins) for source in chosen]
    network, recipe, place = _loaded(run, device)
    scored = [tokens for part in parts for tokens in part.tokens]
    total = sum(one.end - one.start for one in _windows(scored, length, stride))
    with progress("reading documents", total, "tokens") as bar:
        losses = token_losses(network, scored, stride, recipe, place, bar.advance)
    if not all(np.isfinite(one).all() for one in losses):
        raise RunFailed(f"{run.path} gives a loss that is not finite")
    found, at = {}, 0
    for source, part in zip(chosen, parts, strict=True):
        own = losses[at : at + len(part.tokens)]
        found[source.name] = {"of": source.path, **_summary(part, own, begins, length)}
        at += len(part.tokens)
    return {
        "seq_len": length,
        "stride": stride,
        "first_token": begins,
        "drawn": f"at most {n:,} of each source, those with the smallest hash",
        "all": _summary(_together(parts), losses, begins, length),
        "sources": found,
    }


def token_losses(
    network: GPT,
    documents: Sequence[NDArray[np.int64]],
    stride: int,
    recipe: Recipe,
    device: torch.device,
    advance: Callable[[int], None] = lambda n: None,
) -> list[NDArray[np.float64]]:
    """Compute the loss of each token of documents but their first, as ``language`` scores them.

    Args:
        network: in evaluation mode, on ``device``.
        documents: ``[n]`` token ids of each, at least two.
        stride: of the windows.
        recipe: whose precision is used; the head is always in fp32.
        device: of the network.
        advance: called with the number of tokens read since the last call.

    Returns:
        ``[n - 1]`` losses of each document in nats.
    """
    import torch
    from torch.nn import functional as F

    from wafergpt.data.length_order import padded
    from wafergpt.engines.base import autocast

    model = network.config
    size = head_chunk_rows(model.vocab_size, model.d_model, device.type)
    losses = [np.zeros(len(tokens) - 1) for tokens in documents]
    with torch.inference_mode():
        for batch in _batches(_windows(documents, model.seq_len, stride)):
            longest = batch[0].end - batch[0].start
            rows = [documents[one.document][one.start : one.end] for one in batch]
            with autocast(recipe, device):
                # Causal attention: what a row is padded with does not reach its own tokens.
                states = network(padded(rows, longest).to(device))
            places = [slice(one.first - one.start, one.end - one.start) for one in batch]
            hidden = torch.cat([states[row, place] for row, place in enumerate(places)])
            wanted = [documents[one.document][one.first + 1 : one.end + 1] for one in batch]
            targets = torch.from_numpy(np.concatenate(wanted)).to(device)
            found = [
                F.cross_entropy(network.logits(some.float()).float(), target, reduction="none")
                for some, target in zip(hidden.split(size), targets.split(size), strict=True)
            ]
            values = torch.cat(found).double().cpu().numpy()
            ends = np.cumsum([len(one) for one in wanted])
            for one, own in zip(batch, np.split(values, ends[:-1]), strict=True):
                losses[one.document][one.first : one.end] = own
            advance(sum(map(len, rows)))
    return losses


def _own(run: Run) -> Source:
    """Return the corpus that a run was trained on, as it was.

    Raises:
        InputError: if there is none, or it is gone or has changed.
    """
    recipe = run.recipe
    path = recipe.data.corpus
    if path is None:
        raise InputError(f"{run.path} names no corpus of its own: name sources of documents")
    if not files.exists(path):
        raise InputError(f"{run.path} reads {path}, which is gone: name sources of documents")
    corpus = Corpus.open(path)
    for_corpus(recipe, corpus)
    return Source("validation", str(path), corpus)


def _part(source: Source, n: int, tokenizer: Tokenizer, begins: bool) -> _Part:
    """Read the documents that are drawn from a source.

    Raises:
        InputError: if none of them has a token to predict.
    """
    with working(f"reading {source.name}"):
        texts, total = drawn(source.texts("val"), n)
        encoded = tokenizer.encode_batch(texts)
    start = [tokenizer.end_of_text] if begins else []
    tokens = [np.array([*start, *ids], dtype=np.int64) for ids in encoded]
    kept = [place for place, ids in enumerate(tokens) if len(ids) > 1]
    if not kept:
        raise InputError(f"{source.path} has no document with a token to predict")
    return _Part(
        [tokens[place] for place in kept],
        [len(texts[place].encode()) for place in kept],
        total,
        len(texts) - len(kept),
    )


def _loaded(run: Run, device: str) -> tuple[GPT, Recipe, torch.device]:
    import torch

    from wafergpt.checkpoint import store
    from wafergpt.checkpoint.restored import restored
    from wafergpt.inference.devices import inference_device, on_device
    from wafergpt.model.gpt import GPT

    place = torch.device(inference_device(run.recipe, device))
    recipe = on_device(run.recipe, place.type)
    network = restored(task_of(recipe).network, store.weights(run)).to(place).eval()
    assert isinstance(network, GPT)
    return network, recipe, place


def _windows(documents: Sequence[NDArray[np.int64]], seq_len: int, stride: int) -> list[_Window]:
    found = []
    for place, tokens in enumerate(documents):
        n = len(tokens) - 1
        found.append(_Window(place, 0, min(n, seq_len), 0))
        for end in range(seq_len, n, stride):
            found.append(_Window(place, end + stride - seq_len, min(end + stride, n), end))
    return found


def _batches(windows: list[_Window]) -> Iterator[list[_Window]]:
    """Yield windows of similar length together, the longest first."""
    ordered = sorted(windows, key=lambda one: one.start - one.end)
    at = 0
    while at < len(ordered):
        rows = max(1, BATCH_TOKENS // (ordered[at].end - ordered[at].start))
        yield ordered[at : at + rows]
        at += rows


def _together(parts: Sequence[_Part]) -> _Part:
    return _Part(
        [tokens for part in parts for tokens in part.tokens],
        [count for part in parts for count in part.bytes],
        sum(part.total for part in parts),
        sum(part.blank for part in parts),
    )


def _summary(
    part: _Part, losses: Sequence[NDArray[np.float64]], begins: bool, seq_len: int
) -> dict[str, Any]:
    sums = np.array([one.sum() for one in losses])
    counts = np.array([len(one) for one in losses])
    sampled = Bootstrap.of(lambda rows: {"loss": sums[rows].sum() / counts[rows].sum()}, len(sums))
    loss = float(sampled.whole["loss"])
    # A first token that is not scored has its bytes too.
    tokens = int(counts.sum()) + (0 if begins else len(counts))
    return {
        "loss": loss,
        "loss_interval": list(sampled.interval("loss")) if len(sums) > 1 else None,
        "perplexity": math.exp(loss),
        "bits_per_byte": loss * tokens / sum(part.bytes) / math.log(2),
        "tokens": int(counts.sum()),
        "bytes": sum(part.bytes),
        "documents": len(sums),
        "documents_found": part.total,
        "blank": part.blank,
        "longest_context": int(min(counts.max(), seq_len)),
        "by_position": _by_position(losses, 0 if begins else 1),
    }


def _by_position(losses: Sequence[NDArray[np.float64]], first: int) -> list[dict[str, Any]]:
    """Return the mean loss between places in the document that are powers of two."""
    values = np.concatenate(losses)
    places = np.concatenate([np.arange(len(one)) + first for one in losses])
    # The bits that a place needs: 0, 1, 2–3, 4–7 and so on are together.
    bits = np.frexp(places)[1]
    counts, sums = np.bincount(bits), np.bincount(bits, weights=values)
    return [
        {
            "from": (1 << bit) >> 1,
            "to": 1 << bit,
            "tokens": int(counts[bit]),
            "loss": float(sums[bit] / counts[bit]),
        }
        for bit in np.flatnonzero(counts).tolist()
    ]
