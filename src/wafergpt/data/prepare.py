"""From raw text to a corpus: survey, tokenizer, blocks of tokens, and finally ``corpus.json``.

Every step is a function of the documents alone, so the result has the same bytes for any number of
cores and any number of interruptions: a finished block is kept, an unfinished one is made again.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from wafergpt import atomic_files, files
from wafergpt.data.batch_encoding import encoded_batches, one_ahead
from wafergpt.data.corpus import FORMAT, Corpus, fingerprint_of
from wafergpt.data.corpus_split import Split, Survey, document_hash
from wafergpt.data.documents import documents, find_files
from wafergpt.data.file_formats import FileFormat, counted
from wafergpt.data.megatron_indexed import IndexedWriter, dtype_code
from wafergpt.data.opening import Errors
from wafergpt.data.tokenizer import SMALLEST, Tokenizer
from wafergpt.data.tokenizer_files import DEFINITION, SETTINGS
from wafergpt.errors import InputError, require_numbers, require_one_of
from wafergpt.locks import Lock
from wafergpt.logs import say
from wafergpt.progress import Bar, progress, working

DEFAULT_VOCABULARY = 8192
BLOCK_BYTES = 64 << 20
"""Bytes of text in one block, the most that an interruption can lose."""

BATCH_BYTES = 4 << 20
"""Bytes of text that are encoded at once, on all cores."""

TRAINING_BYTES = 128 << 20
"""Bytes of text that a tokenizer is trained on."""

LISTED = 20
"""Up to this many files are counted one by one; more are counted together."""


def prepare(
    sources: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    vocab_size: int | None = None,
    lowercase: bool = False,
    tokenizer: str | Path | None = None,
    text: str = "text",
    file_format: FileFormat | None = None,
    errors: Errors = "strict",
    val_fraction: float | None = None,
    workers: int = 0,
) -> Corpus:
    """Prepare a corpus, or continue one that was interrupted.

    Args:
        sources: files (txt, jsonl, json, csv, tsv, each also .gz, .xz or .bz2), folders and globs.
        out: the corpus folder to make.
        vocab_size: of the tokenizer to train; 8192 if omitted.
        lowercase: train a tokenizer that lower-cases every text.
        tokenizer: a tokenizer to load instead of training one.
        text: the column of jsonl, csv and tsv that holds the text.
        file_format: overrides the kinds that the files' names stand for.
        errors: ``replace`` reads invalid UTF-8 as U+FFFD instead of refusing it.
        val_fraction: share of the documents held out for validation, chosen by a hash of their
            bytes; if omitted, about 4 MiB of text, at least 0.5% and at most 10%.
        workers: threads that encode; 0 is one per core. It takes effect once per process.

    Raises:
        InputError: on unreadable sources, impossible settings, or an ``out`` with another corpus.
    """
    out = files.from_home(out)
    require_numbers(vocab_size=vocab_size, val_fraction=val_fraction, workers=workers)
    require_one_of(Errors, "errors", errors)
    if file_format is not None:
        require_one_of(FileFormat, "file_format", file_format)
    _require_possible(vocab_size, lowercase, tokenizer is not None, val_fraction)
    files.require_writable(out.parent, "--out")
    if workers:
        os.environ["RAYON_NUM_THREADS"] = str(workers)
    with working("finding files"):
        found = find_files([sources] if isinstance(sources, str | Path) else sources, file_format)
    loaded = (
        None
        if tokenizer is None
        else Tokenizer.load(files.from_home(tokenizer)).with_spelling(None)
    )
    reader = _Reader(found, text, errors, file_format)
    survey = _survey(reader)
    if survey.documents < 2:
        raise InputError("one document is too few: training and validation need one each")
    plan = {
        "format": FORMAT,
        "survey": asdict(survey),
        "vocab_size": None if loaded else vocab_size or DEFAULT_VOCABULARY,
        "lowercase": lowercase,
        "tokenizer": loaded and loaded.sha256(),
        "val_fraction": val_fraction,
    }
    if _claim(out, plan):
        say(f"{out} is prepared already")
        return Corpus.open(out)
    with _alone(out):
        split = Split.of(survey, val_fraction)
        chosen = _tokenizer(out, loaded, reader, split, survey, vocab_size, lowercase)
        blocks = _encode(out, chosen, reader, split, survey)
        _finish(out, chosen, survey, blocks)
    return Corpus.open(out)


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Keep others from writing the same files; a process that dies leaves the way free.

    Raises:
        InputError: if another process prepares this corpus.
    """
    lock = Lock(out / "prepare.json")
    if not lock.acquire():
        raise InputError(f"{out} is being prepared by another process: wait for it")
    try:
        yield
    finally:
        lock.release()


def _require_possible(
    vocab_size: int | None, lowercase: bool, loads: bool, val_fraction: float | None
) -> None:
    if loads and (lowercase or vocab_size is not None):
        raise InputError(
            "a loaded tokenizer has its own vocabulary and case: omit --vocab-size and --lowercase"
        )
    if vocab_size is not None and vocab_size < SMALLEST:
        raise InputError(f"a vocabulary of {vocab_size} is too small: at least {SMALLEST}")
    if val_fraction is not None and not 0 < val_fraction < 1:
        raise InputError(f"a validation fraction of {val_fraction} is impossible: between 0 and 1")


@dataclass(frozen=True)
class _Reader:
    files: list[Path]
    text: str
    errors: Errors
    file_format: FileFormat | None = None

    def __iter__(self) -> Iterator[str]:
        return (text for path in self.files for text in self.of(path))

    def of(self, path: Path) -> Iterator[str]:
        """Yield the documents of one file."""
        several = len(self.files) > 1
        found = documents([path], self.text, self.errors, self.file_format, may_be_empty=several)
        return (document.text for document in found)

    def counted(self, path: Path, count: int) -> str:
        return counted(path, count, "documents", self.file_format, (self.text,), self.errors)


def _survey(reader: _Reader) -> Survey:
    count, size, smallest, digest = 0, 0, 1 << 64, hashlib.sha256()
    with progress("reading", None, "MB") as bar:
        for number, path in enumerate(reader.files):
            before = count
            for document in reader.of(path):
                data = document.encode()
                value = document_hash(data)
                digest.update(value.to_bytes(8, "big"))
                count, size, smallest = count + 1, size + len(data), min(smallest, value)
                bar.advance(len(data) / 1e6)
            if count == before:
                bar.say(f"{path} contains no text: skipped")
            elif number < LISTED:
                bar.say(reader.counted(path, count - before))
        if len(reader.files) > LISTED:
            bar.say(f"… {len(reader.files):,} files: {count:,} documents")
    return Survey(count, size, smallest, digest.hexdigest())


def _claim(out: Path, plan: dict[str, Any]) -> bool:
    """Write the plan of ``out``; return whether it is already finished.

    Raises:
        InputError: if it holds something else.
    """
    card = out / "prepare.json"
    if card.is_file():
        try:
            before = files.read_json(card)
        except InputError:
            before = None
        if before != plan:
            survey = before.get("survey") if isinstance(before, dict) else plan["survey"]
            changed = "the settings" if survey == plan["survey"] else "the text"
            raise InputError(
                f"{out} was started with other input ({changed} changed): choose another --out, "
                "or remove it"
            )
        return files.is_corpus(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} exists and is not a corpus: choose another --out")
    atomic_files.write_json(card, plan)
    return False


def _tokenizer(
    out: Path,
    loaded: Tokenizer | None,
    reader: _Reader,
    split: Split,
    survey: Survey,
    vocab_size: int | None,
    lowercase: bool,
) -> Tokenizer:
    path = out / DEFINITION
    if not path.is_file():
        if loaded is None:
            vocab_size = vocab_size or DEFAULT_VOCABULARY
            texts = _training_texts(reader, split, survey)
            try:
                with working(f"training a tokenizer of {vocab_size:,} tokens"):
                    loaded = Tokenizer.train(texts, vocab_size, lowercase)
            except InputError:
                # A failed start must not block the next attempt.
                (out / "prepare.json").unlink()
                raise
        loaded.save(path)
    return Tokenizer.load(path)


def _training_texts(reader: _Reader, split: Split, survey: Survey) -> Iterator[str]:
    """Yield training documents, subsampled evenly if they are more than a tokenizer needs."""
    share = min(1.0, TRAINING_BYTES / survey.bytes)
    for text in reader:
        value = document_hash(text.encode())
        if value >= split.limit and (value * 0x9E3779B97F4A7C15) % 2**64 < share * 2**64:
            yield text


def _encode(
    out: Path, tokenizer: Tokenizer, reader: _Reader, split: Split, survey: Survey
) -> list[dict[str, Any]]:
    """Write every missing block; return the cards of all blocks."""
    cards: list[dict[str, Any]] = []
    with progress("encoding", survey.bytes / 1e6, "MB") as bar, one_ahead() as encoder:
        for number, batches in enumerate(_blocks(iter(reader))):
            card = out / f"block-{number:05d}.json"
            if card.is_file():
                cards.append(_read_card(card))
                for batch in batches:
                    bar.advance(_size(batch) / 1e6)
                continue
            facts = _write_block(out, number, batches, tokenizer, split, encoder, bar)
            atomic_files.write_json(card, facts)
            cards.append(facts)
    return cards


def _read_card(path: Path) -> dict[str, Any]:
    card = files.read_json(path)
    try:
        for key in ("tokens_train", "tokens_val", "bytes_train", "bytes_val"):
            card[key] = int(card[key])
        for name, entry in card["files"].items():
            card["files"][name] = {"bytes": int(entry["bytes"]), "sha256": str(entry["sha256"])}
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        raise InputError(f"{path} is damaged: remove it to make its block again") from None
    return dict(card)


def _blocks(texts: Iterator[str]) -> Iterator[Iterator[list[str]]]:
    """Cut the documents into blocks of batches; a block must be read to its end."""
    batches = _batches(texts)
    for first in batches:

        def block(first: list[str] = first) -> Iterator[list[str]]:
            size = _size(first)
            yield first
            while size < BLOCK_BYTES and (batch := next(batches, None)) is not None:
                size += _size(batch)
                yield batch

        yield block()


def _batches(texts: Iterator[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    size = 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _size(batch: list[str]) -> int:
    return sum(len(text.encode()) for text in batch)


def _write_block(
    out: Path,
    number: int,
    batches: Iterator[list[str]],
    tokenizer: Tokenizer,
    split: Split,
    encoder: ThreadPoolExecutor,
    bar: Bar,
) -> dict[str, Any]:
    names = {part: f"{part}-{number:05d}" for part in ("train", "val")}
    facts: dict[str, Any] = {f"{kind}_{part}": 0 for kind in ("tokens", "bytes") for part in names}
    hidden = {part: out / f".{name}" for part, name in names.items()}
    writers = {p: IndexedWriter(prefix, tokenizer.vocab_size) for p, prefix in hidden.items()}

    for batch, encoded in encoded_batches(batches, tokenizer, encoder):
        for text, ids in zip(batch, encoded, strict=True):
            data = text.encode()
            part = "val" if split.validates(data) else "train"
            writers[part].add([*ids, tokenizer.end_of_text])
            facts[f"bytes_{part}"] += len(data)
        bar.advance(_size(batch) / 1e6)
    facts["files"] = {}
    for part, name in names.items():
        facts[f"tokens_{part}"] = writers[part].tokens
        writers[part].close()
        for suffix in (".bin", ".idx"):
            path = hidden[part].with_name(hidden[part].name + suffix)
            facts["files"][name + suffix] = _entry(path)
            path.replace(out / (name + suffix))
    atomic_files.sync(out)
    return facts


def _entry(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": files.sha256(path)}


def _finish(out: Path, tokenizer: Tokenizer, survey: Survey, blocks: list[dict[str, Any]]) -> None:
    # The latter exists if the tokenizer.json does not define which token ends a text.
    names = [name for name in (DEFINITION, SETTINGS) if files.is_file(out / name)]
    entries = {name: _entry(out / name) for name in names}
    for block in blocks:
        entries.update(block["files"])
    totals = {
        f"{kind}_{part}": sum(block[f"{kind}_{part}"] for block in blocks)
        for kind in ("tokens", "bytes")
        for part in ("train", "val")
    }
    if not totals["tokens_train"]:
        raise InputError(
            "all documents are held out for validation: they are one text, or --val-fraction is "
            f"too large (remove {out} before another attempt)"
        )
    if totals["bytes_train"] + totals["bytes_val"] != survey.bytes:
        raise InputError(
            f"the sources have changed while they were read: remove {out}, and prepare it again"
        )
    facts = {
        "format": FORMAT,
        "documents": survey.documents,
        "bytes": survey.bytes,
        **totals,
        "vocab_size": tokenizer.vocab_size,
        "dtype": {4: "int32", 8: "uint16"}[dtype_code(tokenizer.vocab_size)],
        "fingerprint": fingerprint_of(entries),
        "files": entries,
    }
    atomic_files.write_json(out / files.CORPUS, facts)
    for card in out.glob("block-*.json"):
        card.unlink()
