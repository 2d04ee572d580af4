"""Text to tokens and back: our own byte-level BPE, and other tokenizers unchanged."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from copy import copy
from itertools import chain, islice
from pathlib import Path
from typing import Any

from wafergpt import atomic_files
from wafergpt.data import long_words, worker
from wafergpt.data.spelling import Spelling
from wafergpt.data.text_encoder import encoder_of, reading, require_one_reading
from wafergpt.data.tokenizer_files import (
    END_OF_TEXT,
    ENDS,
    build,
    default_end,
    find,
    save_end,
    save_spelling,
)
from wafergpt.errors import InputError
from wafergpt.logs import say

SMALLEST = 257
"""The bytes and the end of text."""

TRAINED_HERE = 1 << 19
"""Characters that a tokenizer is trained on within two seconds, a delay of Ctrl-C that is fine."""

AT_ONCE = 4 << 20
"""Characters of short texts that are encoded by one call, which Ctrl-C cannot interrupt."""

HUGE, HUGE_UNSPLIT = 2 << 20, 1 << 19
"""Characters that take about two seconds: of an ordinary text, and of one long word."""


class Tokenizer:
    """A ``tokenizers`` tokenizer that never reads special tokens from a text.

    The ids are those of ``transformers.AutoTokenizer`` with ``add_special_tokens=False`` and
    ``split_special_tokens=True``: nothing is added before or after a text, and a special token
    written in it, such as ``<|endoftext|>``, is encoded as ordinary characters; only the caller
    that ends a document adds the token itself. Other tokens that were added after the training are
    found in a text.

    Args:
        definition: the content of a ``tokenizer.json``.
        where: the name to use in errors.
        end: the token that ends a text; if omitted, the first of ``ENDS`` in the vocabulary.

    Attributes:
        vocab_size: number of tokens.
        end_of_text: the token that ends a text.
        spelling: the words that a task reads texts with, if it does so; ``encode`` does not.

    Raises:
        InputError: if it is not a tokenizer, has no token for the end of a text, or would read that
            token, or another special one, from a text.
    """

    def __init__(
        self, definition: str, where: str = "the tokenizer", end: str | None = None
    ) -> None:
        try:
            content = json.loads(definition)
            names = [*content["model"]["vocab"]]
            dropout = content["model"].get("dropout")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise InputError(f"{where} is not a tokenizer.json with a vocabulary") from None
        if dropout:
            raise InputError(f"{where} gives a text different tokens each time (dropout={dropout})")
        self._definition, self._end = definition, end
        self._whole = build(definition, where)
        ids = set(self._whole.get_vocab(with_added_tokens=True).values())
        self.vocab_size: int = len(ids)
        if max(ids, default=0) >= max(len(ids), 1):
            raise InputError(
                f"{where} has a token with the id {max(ids):,}, but {len(ids):,} tokens"
            )
        end = end or default_end(self._whole)
        found = None if end is None else self._whole.token_to_id(end)
        if end is None or found is None or not names:
            raise InputError(
                f"{where} has no token for the end of a text ({', '.join(ENDS)}): name it as "
                "eos_token in a tokenizer_config.json beside it"
            )
        self.end_of_text: int = found
        require_one_reading(self._whole, where)
        self._encoder = encoder_of(content, end, where)
        self.spelling: Spelling | None = None

    def around(self) -> list[str]:
        """Return the tokens that its definition adds to every text, which ``encode`` does not."""
        whole = build(self._definition, "the tokenizer")
        whole.no_truncation()
        whole.no_padding()
        added, plain = (
            Counter(whole.encode("a", add_special_tokens=adds).ids) for adds in (True, False)
        )
        return [str(self.token(token)) for token in (added - plain).elements()]

    @classmethod
    def train(
        cls,
        texts: Iterable[str],
        vocab_size: int,
        lowercase: bool = False,
        exactly: bool = True,
    ) -> Tokenizer:
        """Train a byte-level BPE (Sennrich et al., 2016; GPT-2's splitting) on texts.

        Training on more than a little text runs in a process of its own, so that Ctrl-C works.

        Args:
            texts: the training texts.
            vocab_size: the size of the vocabulary.
            lowercase: lower-case every text, in later encoding too: words need fewer tokens, but
                decoded texts have no capitals.
            exactly: refuse texts that give a smaller vocabulary.

        Raises:
            InputError: if the vocabulary is smaller than the bytes, or larger than the texts allow.
            RunFailed: if the training process died.
        """
        if vocab_size < SMALLEST:
            raise InputError(f"a vocabulary of {vocab_size} is too small: at least {SMALLEST}")
        pieces = long_words.cut(texts)
        first, size = [], 0
        for piece in pieces:
            first.append(piece)
            size += len(piece)
            if size > TRAINED_HERE:
                break
        work = worker.train if size > TRAINED_HERE else train_bpe
        made = cls(work(chain(first, pieces), vocab_size, lowercase))
        if exactly and made.vocab_size < vocab_size:
            raise InputError(
                f"the text is too short for a vocabulary of {vocab_size:,}: "
                f"it gives at most {made.vocab_size:,} tokens"
            )
        return made

    @classmethod
    def load(cls, path: str | Path) -> Tokenizer:
        """Read a ``tokenizer.json``, or GPT-2's ``encoder.json`` and ``vocab.bpe``.

        Hugging Face's names of the latter, ``vocab.json`` and ``merges.txt``, are accepted too. The
        files beside them (``tokenizer_config.json``, ``special_tokens_map.json``,
        ``added_tokens.json``, ``generation_config.json``, ``config.json``) define which tokens were
        added, and which one ends a text.

        Args:
            path: one of those files (also .gz), or the folder they are in.

        Raises:
            InputError: if there is none, or its ids may differ from those of ``AutoTokenizer``.
        """
        found = find(Path(path))
        return cls(found.definition, found.where, found.end).with_spelling(found.spelling)

    def with_spelling(self, spelling: Spelling | None) -> Tokenizer:
        """Return a tokenizer of the same tokens, beside other words to read texts with."""
        found = copy(self)
        found.spelling = spelling
        return found

    def require_at_most(self, vocab_size: int, where: Path) -> Tokenizer:
        """Return the tokenizer if its tokens fit into a network of ``vocab_size`` tokens.

        Raises:
            InputError: if not; ``where`` is the folder that is named.
        """
        if self.vocab_size > vocab_size:
            raise InputError(
                f"{where}: the tokenizer has {self.vocab_size:,} tokens, the model only "
                f"{vocab_size:,}"
            )
        return self

    @property
    def definition(self) -> dict[str, Any]:
        """The content of its ``tokenizer.json``."""
        content: dict[str, Any] = json.loads(self._definition)
        return content

    def encoder_definition(self) -> str:
        """Return a ``tokenizer.json`` for the package ``tokenizers`` alone.

        With ``encode_special_tokens`` set, and ``add_special_tokens=False``, it gives these ids.
        """
        definition: str = self._encoder.to_str()
        return definition

    def token(self, index: int) -> str | None:
        """Return a token as written in the vocabulary, or None if there is no such id."""
        name: str | None = self._whole.id_to_token(index)
        return name

    def words(self) -> list[str]:
        """Return the words that are one token after a space."""
        # Decoders may drop a space at the start of a text.
        pairs = (self.decode([index, index]).split() for index in range(self.vocab_size))
        return [a for a, *rest in filter(None, pairs) if rest == [a] and a.isalpha()]

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a text.

        Raises:
            InputError: if the text has a lone surrogate, or the tokenizer's patterns give up.
        """
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of texts, encoded on all cores.

        A call that would take more than two seconds is split into several; a single huge text is
        encoded in a process of its own. Both can be interrupted from the main thread.

        Raises:
            InputError: as ``encode``.
        """
        ids: list[list[int]] = []
        for group in _groups(texts):
            if is_huge(group[0]):
                ids.append(worker.encode(self._definition, self._end, group[0]))
            else:
                with reading():
                    found = self._encoder.encode_batch_fast(group, add_special_tokens=False)
                ids += [encoding.ids for encoding in found]
        return ids

    def encode_here(self, text: str) -> list[int]:
        """Return the token ids of a text in one call, however long it takes.

        Raises:
            InputError: as ``encode``.
        """
        with reading():
            ids: list[int] = self._encoder.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of token ids; invalid bytes become U+FFFD."""
        text: str = self._whole.decode(list(ids), skip_special_tokens=False)
        return text

    def save(self, path: Path) -> None:
        """Write a ``tokenizer.json``, and beside it what it lacks of an end and a spelling."""
        if self._end is not None:
            save_end(path, self._end)
        if self.spelling is not None:
            save_spelling(path, self.spelling)
        # Where it is, the rest is.
        atomic_files.write_text(path, self._definition)

    def sha256(self) -> str:
        """Return a hash of what gives a text its tokens."""
        return hashlib.sha256((self._definition + (self._end or "")).encode()).hexdigest()


def train_bpe(texts: Iterable[str], vocab_size: int, lowercase: bool) -> str:
    """Return the ``tokenizer.json`` of a byte-level BPE, which may have fewer tokens than asked."""
    from tokenizers import Tokenizer as Backend
    from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    if lowercase:
        backend.normalizer = normalizers.Lowercase()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    definition: str = backend.to_str()
    return definition


def is_huge(text: str) -> bool:
    """Return whether a tokenizer needs more than about two seconds for a text."""
    return len(text) > HUGE or (len(text) > HUGE_UNSPLIT and long_words.is_unsplit(text))


def _groups(texts: Sequence[str]) -> Iterator[list[str]]:
    """Yield the texts of each call: many short ones, or one huge one."""
    group: list[str] = []
    size = 0
    for text in texts:
        huge = is_huge(text)
        if group and (huge or size >= AT_ONCE):
            yield group
            group, size = [], 0
        if huge:
            yield [text]
        else:
            group.append(text)
            size += len(text)
    if group:
        yield group


OF_ANOTHER_SCRIPT = 1.25
"""Tokens of a character: one whose every character has a token takes one, and three for those that
are rare; one without any takes two or three for each."""

SOME, THEIR_START = 1000, 1000
"""Texts, and characters of each, by which a tokenizer is judged."""


def warn_of_another_script(tokenizer: Tokenizer, texts: Iterable[str]) -> None:
    """Warn of a tokenizer that has no tokens for the script of the texts."""
    some = [text[:THEIR_START] for text in islice(texts, SOME)]
    tokens, characters = sum(map(len, tokenizer.encode_batch(some))), sum(map(len, some))
    if tokens > OF_ANOTHER_SCRIPT * characters:
        say(
            f"warning: the tokenizer takes {tokens / characters:.1f} tokens for a character of "
            "these texts, so it was made for another script, as was the model that reads with "
            "it: start from one of their language, or from scratch"
        )
