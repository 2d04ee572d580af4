"""A corpus: a folder of token shards, with the tokenizer that made them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wafergpt import files
from wafergpt.data.megatron_indexed import IndexedTokens
from wafergpt.data.tokenizer import Tokenizer
from wafergpt.errors import InputError, RunFailed

FORMAT = 1


class Tokens:
    """The tokens of several shards as one stream.

    Args:
        shards: the shards, in order.
        vocab_size: an upper bound that every token id must be below.
        name: the name to use in errors.
    """

    def __init__(
        self, shards: Iterable[IndexedTokens], vocab_size: int = 1 << 31, name: str = "the corpus"
    ) -> None:
        self._shards = [shard.tokens for shard in shards]
        self._vocab_size, self._name = vocab_size, name
        self._ends = np.cumsum([len(shard) for shard in self._shards], dtype=np.int64)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def take(self, start: int, length: int) -> NDArray[np.integer]:
        """Return ``length`` tokens starting at ``start``, across shards.

        Raises:
            IndexError: if there are fewer tokens.
            RunFailed: if a token is beyond the vocabulary: the files were changed or damaged.
        """
        if start < 0 or start + length > len(self):
            raise IndexError(f"tokens {start}…{start + length} of {len(self)}")
        pieces = []
        shard = int(np.searchsorted(self._ends, start, side="right"))
        while length > 0:
            offset = start - (int(self._ends[shard - 1]) if shard else 0)
            piece = self._shards[shard][offset : offset + length]
            pieces.append(piece)
            start, length, shard = start + len(piece), length - len(piece), shard + 1
        taken = np.concatenate(pieces) if len(pieces) > 1 else np.asarray(pieces[0])
        # Hashes are not compared at each start, so an id beyond the embedding is caught here.
        if taken.size and not 0 <= int(taken.min()) <= int(taken.max()) < self._vocab_size:
            raise RunFailed(
                f"{self._name} holds tokens beyond its vocabulary of {self._vocab_size:,}: "
                "it is damaged, prepare it again"
            )
        return taken


@dataclass(frozen=True)
class Corpus:
    """A prepared corpus.

    Attributes:
        path: its folder.
        facts: the content of ``corpus.json``.
    """

    path: Path
    facts: dict[str, Any]

    @classmethod
    def open(cls, path: str | Path) -> Corpus:
        """Open a corpus, comparing the size of every file with what was written.

        Raises:
            InputError: if it is not a corpus, is not finished, or has changed.
        """
        path = Path(path)
        card = path / files.CORPUS
        if not card.is_file():
            unfinished = (path / "prepare.json").is_file()
            hint = (
                "not finished: run the same wafergpt prepare again"
                if unfinished
                else "not a corpus"
            )
            raise InputError(f"{path} is {hint}" if path.is_dir() else f"there is no folder {path}")
        try:
            facts = files.read_json(card)
            sizes = {name: entry["bytes"] for name, entry in facts["files"].items()}
            sound = facts["fingerprint"] == fingerprint_of(facts["files"])
            counts = (facts["vocab_size"], facts["bytes_val"])
            sound &= all(type(count) is int and 0 <= count < 1 << 63 for count in counts)
        except (ValueError, KeyError, TypeError, AttributeError):
            raise InputError(f"{card} is damaged: remove {path}, and prepare it again") from None
        for name, size in sizes.items():
            # The name comes from a file that is not trusted.
            if Path(name).name != name or not files.is_file(path / name):
                raise InputError(
                    f"{path}: the file '{name}' is missing: remove {path}, and prepare it again"
                )
            if (path / name).stat().st_size != size:
                raise InputError(f"{path / name} has changed since it was prepared")
        if not sound:
            raise InputError(f"{card} is damaged: its numbers do not fit its files")
        return cls(path, facts)

    @property
    def fingerprint(self) -> str:
        """A hash of the tokenizer and all tokens."""
        return str(self.facts["fingerprint"])

    @property
    def vocab_size(self) -> int:
        """The number of tokens in the tokenizer's vocabulary."""
        return int(self.facts["vocab_size"])

    @property
    def bytes_val(self) -> int:
        """UTF-8 bytes of the validation text."""
        return int(self.facts["bytes_val"])

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer that made the tokens."""
        return Tokenizer.load(self.path / "tokenizer.json")

    def tokens(self, split: str) -> Tokens:
        """Return the tokens of ``train`` or ``val``."""
        prefixes = sorted(
            {Path(name).stem for name in self.facts["files"] if name.startswith(split)}
        )
        shards = (IndexedTokens(self.path / prefix) for prefix in prefixes)
        return Tokens(shards, self.vocab_size, str(self.path))

    def verify(self) -> None:
        """Read every file and compare its hash.

        Raises:
            InputError: naming the first file that has changed.
        """
        for name, facts in self.facts["files"].items():
            if files.sha256(self.path / name) != facts["sha256"]:
                raise InputError(f"{self.path / name} has changed since it was prepared")


def fingerprint_of(entries: dict[str, Any]) -> str:
    """Return the fingerprint of a corpus from the hashes of its files."""
    lines = [f"{name} {entries[name]['sha256']}\n" for name in sorted(entries)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()
