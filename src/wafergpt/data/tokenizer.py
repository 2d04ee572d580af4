"""Text to tokens and back: byte-level BPE of our own, and others' tokenizers as they are."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wafergpt import files
from wafergpt.data import unsplit, worker
from wafergpt.data.tokenizer_files import END_OF_TEXT, ENDS, build, default_end, find, save_end
from wafergpt.errors import InputError
from wafergpt.files import short

if TYPE_CHECKING:
    import tokenizers

SMALLEST = 257
"""The bytes and the end of text."""

TRAINED_HERE = 1 << 19
"""Characters that a tokenizer is trained on within two seconds, so that Ctrl-C can wait."""

AT_ONCE = 4 << 20
"""Characters of short texts that are encoded by one call, which does not hear Ctrl-C."""

HUGE, HUGE_UNSPLIT = 2 << 20, 1 << 19
"""Characters of a text that takes about two seconds: an ordinary one, and one long word."""

STRANGE = "\u0378\U0010fffd\ufffd\x00"
"""What a vocabulary without bytes does not know."""


class Tokenizer:
    """A ``tokenizers`` tokenizer for which every text is only text.

    The ids are those of ``transformers.AutoTokenizer`` with ``add_special_tokens=False`` and
    ``split_special_tokens=True``: nothing is put before or after a text, and a special token
    written out in it, ``<|endoftext|>`` say, is encoded like any other letters; the token itself is
    only ever put by whoever ends a document. Other tokens that were added after the training are
    found in a text.

    Args:
        definition: the content of a ``tokenizer.json``.
        where: what to call it in an error.
        end: the token that ends a text; left out, the first of ``ENDS`` that is there.

    Raises:
        InputError: if it is no tokenizer, has no token for the end of a text, or would read that
            token, or another special one, out of a text.
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
            raise InputError(f"{where} reads a text as other tokens each time (dropout={dropout})")
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
        _require_one_reading(self._whole, where)
        self._encoder = _encoder(content, end, where)

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int, lowercase: bool = False) -> Tokenizer:
        """Train a byte-level BPE (Sennrich et al., 2016; GPT-2's splitting) on texts.

        More than a little text is trained on in a process of its own, so that Ctrl-C is heard.

        Args:
            texts: to count pairs in.
            vocab_size: the tokens to end with.
            lowercase: read every text in lower case, from now on: fewer tokens mean the same, but
                what is decoded has no capitals.

        Raises:
            InputError: if the vocabulary is smaller than the bytes, or larger than the texts give.
            RunFailed: if that process died.
        """
        if vocab_size < SMALLEST:
            raise InputError(f"a vocabulary of {vocab_size} is too small: at least {SMALLEST}")
        pieces = unsplit.cut(texts)
        first, size = [], 0
        for piece in pieces:
            first.append(piece)
            size += len(piece)
            if size > TRAINED_HERE:
                break
        work = worker.train if size > TRAINED_HERE else train_bpe
        made = cls(work(chain(first, pieces), vocab_size, lowercase))
        if made.vocab_size < vocab_size:
            raise InputError(
                f"the text is too little for a vocabulary of {vocab_size:,}: "
                f"it gives at most {made.vocab_size:,} tokens"
            )
        return made

    @classmethod
    def load(cls, path: str | Path) -> Tokenizer:
        """Read a ``tokenizer.json``, or GPT-2's ``encoder.json`` and ``vocab.bpe``.

        Hugging Face's names of the latter, ``vocab.json`` and ``merges.txt``, will do too. What
        stands beside them (``tokenizer_config.json``, ``special_tokens_map.json``,
        ``added_tokens.json``, ``generation_config.json``, ``config.json``) says which tokens were
        added, and which one ends a text.

        Args:
            path: one of those files (also .gz), or the folder they are in.

        Raises:
            InputError: if there is none, or it cannot be read as ``AutoTokenizer`` does.
        """
        found = find(Path(path))
        return cls(found.definition, found.where, found.end)

    def require_at_most(self, vocab_size: int, where: Path) -> Tokenizer:
        """Return itself, if a network of ``vocab_size`` tokens knows each of its own.

        Raises:
            InputError: if not; ``where`` says of which folder.
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

    def token(self, index: int) -> str | None:
        """Return how the vocabulary writes a token, or None if there is no such id."""
        name: str | None = self._whole.id_to_token(index)
        return name

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a text.

        Raises:
            InputError: if the text holds half a character, or the tokenizer's patterns give up.
        """
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of texts, encoded on all cores.

        A call that would take more than two seconds is cut into several; of a single huge text, it
        is made by a process of its own. Either can be interrupted, from the main thread.

        Raises:
            InputError: as ``encode``.
        """
        ids: list[list[int]] = []
        for group in _groups(texts):
            if is_huge(group[0]):
                ids.append(worker.encode(self._definition, self._end, group[0]))
            else:
                with _reading():
                    found = self._encoder.encode_batch_fast(group, add_special_tokens=False)
                ids += [encoding.ids for encoding in found]
        return ids

    def encode_here(self, text: str) -> list[int]:
        """Return the token ids of a text by one call, however long it takes.

        Raises:
            InputError: as ``encode``.
        """
        with _reading():
            ids: list[int] = self._encoder.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of token ids; bytes that are no character become U+FFFD."""
        text: str = self._whole.decode(list(ids), skip_special_tokens=False)
        return text

    def save(self, path: Path) -> None:
        """Write a ``tokenizer.json``, and beside it which token ends a text if it does not say."""
        files.write_text(path, self._definition)
        if self._end is not None:
            save_end(path, self._end)

    def sha256(self) -> str:
        """Return a hash of all that ``save`` writes."""
        return hashlib.sha256((self._definition + (self._end or "")).encode()).hexdigest()


def train_bpe(texts: Iterable[str], vocab_size: int, lowercase: bool) -> str:
    """Return the ``tokenizer.json`` of a byte-level BPE; it may have fewer tokens than asked."""
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
    """Say whether a text takes a tokenizer more than about two seconds."""
    return len(text) > HUGE or (len(text) > HUGE_UNSPLIT and unsplit.is_unsplit(text))


def _groups(texts: Sequence[str]) -> Iterator[list[str]]:
    """Yield texts for one call each: many short ones, or a huge one."""
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


def _require_one_reading(whole: tokenizers.Tokenizer, where: str) -> None:
    """Refuse added tokens that become the same text: by chance the one or the other is found.

    Raises:
        InputError: naming them.
    """
    seen: dict[str, str] = {}
    for token in whole.get_added_tokens_decoder().values():
        if token.normalized and whole.normalizer is not None:
            with _reading():
                text = whole.normalizer.normalize_str(token.content)
            other = seen.setdefault(text, token.content)
            if other != token.content:
                raise InputError(
                    f"{where}: the added tokens {short(other)} and {short(token.content)} are the "
                    "same text to its normalizer, and one of them is found by chance"
                )


def _encoder(content: dict[str, Any], end: str, where: str) -> tokenizers.Tokenizer:
    """Build what encodes texts and never gives a special token.

    Raises:
        InputError: if it would.
    """
    # A text does not become shorter or longer than it is.
    content = {**content, "truncation": None, "padding": None}
    added = content.get("added_tokens") or []
    special = {token["content"] for token in added if token.get("special")}
    special = special - {_unknown(content["model"])} | {end}
    encoder = _without_special(content, end, where)
    read = _read_out(encoder, special)
    vocab = content["model"]["vocab"]
    if read and isinstance(vocab, list):
        # A Unigram finds its pieces by their letters: one without any is never found.
        pieces = [["", piece[1]] if piece[0] in read else piece for piece in vocab]
        content["added_tokens"] = [token for token in added if token["content"] not in read]
        content["model"] = {**content["model"], "vocab": pieces}
        encoder = _without_special(content, end, where)
        read = _read_out(encoder, special)
    if read:
        raise InputError(
            f"{where} reads {short(min(read))} that is written in a text as the special token "
            "itself, so a text could say where it ends"
        )
    return encoder


def _without_special(content: dict[str, Any], end: str, where: str) -> tokenizers.Tokenizer:
    encoder = build(json.dumps(content), where)
    if encoder.token_to_id(end) is not None:
        encoder.add_special_tokens([end])
    encoder.encode_special_tokens = True
    return encoder


def _unknown(model: dict[str, Any]) -> str | None:
    """Return the token for what a vocabulary does not know: a text may well give it."""
    index, vocab = model.get("unk_id"), model["vocab"]
    if isinstance(index, int) and isinstance(vocab, list):
        name: str = vocab[index][0]
        return name
    return model.get("unk_token")


def _read_out(encoder: tokenizers.Tokenizer, special: set[str]) -> set[str]:
    """Return the special tokens that are read out of a text."""
    probes = [STRANGE, *special, *(f"a {name} a" for name in special)]
    with _reading():
        found = encoder.encode_batch_fast(probes, add_special_tokens=False)
    return special & {encoder.id_to_token(index) for encoding in found for index in encoding.ids}


@contextmanager
def _reading() -> Iterator[None]:
    try:
        yield
    except TypeError:
        raise InputError("a text holds a lone surrogate, which is no character") from None
    except BaseException as error:
        # A Rust panic, of a pattern that takes too many steps say, is no Exception. What a signal
        # raises meanwhile goes on.
        if type(error) is not Exception and type(error).__name__ != "PanicException":
            raise
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"the tokenizer cannot read a text: {reason}") from None
