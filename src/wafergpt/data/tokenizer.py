"""Text to tokens and back: byte-level BPE, so that every text has tokens."""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wafergpt import files
from wafergpt.errors import InputError

if TYPE_CHECKING:
    import tokenizers

END_OF_TEXT = "<|endoftext|>"
ENDS = (END_OF_TEXT, "<|end_of_text|>", "</s>", "<eos>")
"""What tokenizers of the field call the end of a document, the first that is there."""

GPT2_NAMES = (("encoder.json", "vocab.bpe"), ("vocab.json", "merges.txt"))
"""GPT-2's vocabulary and merges, as OpenAI and as Hugging Face call the files."""

GPT2_FILES = tuple(name for names in GPT2_NAMES for name in names)

SMALLEST = 257
"""The bytes and the end of text."""

FILE_BYTES = 64 << 20
"""A larger file is no tokenizer: one of 256 thousand tokens has 33 MB."""


class Tokenizer:
    """A ``tokenizers`` tokenizer for which every text is only text.

    A special token written out in a text, ``<|endoftext|>`` say, is encoded like any other
    letters; the token itself is only ever put by whoever ends a document.

    Args:
        definition: the content of a ``tokenizer.json``.
        where: what to call it in an error.

    Raises:
        InputError: if it is no tokenizer, or has no token for the end of a text.
    """

    def __init__(self, definition: str, where: str = "the tokenizer") -> None:
        try:
            content = json.loads(definition)
            names = {**content["model"]["vocab"]} if isinstance(content, dict) else {}
        except (ValueError, KeyError, TypeError, RecursionError):
            raise InputError(f"{where} is not a tokenizer.json with a BPE vocabulary") from None
        self._definition = definition
        self._whole = _build(definition, where)
        # Without its special tokens it cannot find them in a text; nor does a text become shorter
        # or longer than it is.
        plain = {**content, "added_tokens": [], "truncation": None, "padding": None}
        self._encoder = _build(json.dumps(plain), where)
        self.vocab_size: int = self._whole.get_vocab_size(with_added_tokens=True)
        largest = max(self._whole.get_vocab(with_added_tokens=True).values(), default=0)
        if largest >= max(self.vocab_size, 1):
            raise InputError(
                f"{where} has a token with the id {largest:,}, but {self.vocab_size:,} tokens"
            )
        ends = [self._whole.token_to_id(end) for end in ENDS]
        found = next((end for end in ends if end is not None), None)
        if found is None or not names:
            raise InputError(f"{where} has no token for the end of a text ({', '.join(ENDS)})")
        self.end_of_text: int = found

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int, lowercase: bool = False) -> Tokenizer:
        """Train a byte-level BPE (Sennrich et al., 2016; GPT-2's splitting) on texts.

        Args:
            texts: to count pairs in.
            vocab_size: the tokens to end with.
            lowercase: read every text in lower case, from now on: fewer tokens mean the same, but
                what is decoded has no capitals.

        Raises:
            InputError: if the vocabulary is smaller than the bytes, or larger than the texts give.
        """
        if vocab_size < SMALLEST:
            raise InputError(f"a vocabulary of {vocab_size} is too small: at least {SMALLEST}")
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
        possible = backend.get_vocab_size()
        if possible < vocab_size:
            raise InputError(
                f"the text is too little for a vocabulary of {vocab_size:,}: "
                f"it gives at most {possible:,} tokens"
            )
        return cls(backend.to_str())

    @classmethod
    def load(cls, path: str | Path) -> Tokenizer:
        """Read a ``tokenizer.json``, or GPT-2's ``encoder.json`` and ``vocab.bpe``.

        Hugging Face's names of the latter, ``vocab.json`` and ``merges.txt``, will do too.

        Args:
            path: one of those files (also .gz), or the folder they are in.

        Raises:
            InputError: if there is none, or it cannot be read.
        """
        path = Path(path)
        folder = path if path.is_dir() else path.parent
        whole = folder / "tokenizer.json" if path.is_dir() else path
        if whole.is_file() and not whole.name.startswith(GPT2_FILES):
            return cls(_read(whole), str(whole))
        for names in GPT2_NAMES:
            pair = [p for n in names for p in sorted(folder.glob(f"{n}*"))[:1] if p.is_file()]
            if len(pair) == len(names):
                vocabulary, merges = map(_read, pair)
                return cls(_gpt2_definition(vocabulary, merges, str(folder)), str(folder))
        raise InputError(f"no tokenizer at {path}: a tokenizer.json, or encoder.json and vocab.bpe")

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
        with _reading():
            ids: list[int] = self._encoder.encode(text, add_special_tokens=False).ids
        return ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of texts, encoded on all cores.

        Raises:
            InputError: as ``encode``.
        """
        with _reading():
            found = self._encoder.encode_batch_fast(texts, add_special_tokens=False)
        return [encoding.ids for encoding in found]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of token ids; bytes that are no character become U+FFFD."""
        text: str = self._whole.decode(list(ids), skip_special_tokens=False)
        return text

    def save(self, path: Path) -> None:
        """Write a ``tokenizer.json``."""
        files.write_text(path, self._definition)

    def sha256(self) -> str:
        """Return a hash of the definition."""
        return hashlib.sha256(self._definition.encode()).hexdigest()


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


def _build(definition: str, where: str) -> tokenizers.Tokenizer:
    from tokenizers import Tokenizer as Backend

    try:
        return Backend.from_str(definition)
    except (KeyboardInterrupt, SystemExit):
        raise
    # A Rust panic is no Exception.
    except BaseException as error:
        reason = str(error).splitlines()[0][:200]
        raise InputError(f"{where} is not a tokenizer: {reason}") from None


def _read(path: Path) -> str:
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            data = file.read(FILE_BYTES + 1)
        if len(data) > FILE_BYTES:
            raise InputError(f"{path} is too large for a tokenizer")
        return data.decode()
    except (UnicodeDecodeError, gzip.BadGzipFile, EOFError, zlib.error):
        raise InputError(f"{path} is not a tokenizer: not readable text") from None


def _gpt2_definition(encoder: str, merges: str, where: str) -> str:
    from tokenizers import AddedToken, decoders, models, pre_tokenizers
    from tokenizers import Tokenizer as Backend

    try:
        vocab: dict[str, Any] = json.loads(encoder)
        lines = merges.split("\n")
        # The first line names the version, where there is one.
        rest = lines[1:] if lines[0].startswith("#version") else lines
        halves = [line.rstrip("\r").partition(" ") for line in rest if line.strip()]
        pairs = [(left, right) for left, _, right in halves]
        model = models.BPE(vocab, pairs)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        reason = str(error).splitlines()[0][:200]
        raise InputError(f"{where}: vocabulary and merges do not fit: {reason}") from None
    backend = Backend(model)
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    if END_OF_TEXT in vocab:
        backend.add_special_tokens([AddedToken(END_OF_TEXT, special=True)])
    definition: str = backend.to_str()
    return definition
