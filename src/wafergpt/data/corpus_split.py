"""Which documents of a corpus are held out for validation."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

VALIDATION_BYTES = 4 << 20
"""Bytes of validation text to aim at; of a larger corpus, at least 0.5%."""


@dataclass(frozen=True)
class Survey:
    """The result of the first pass over all documents."""

    documents: int
    bytes: int
    smallest_hash: int
    sha256: str


@dataclass(frozen=True)
class Split:
    """The documents for validation: those with a small hash."""

    limit: int

    @classmethod
    def of(cls, survey: Survey, fraction: float | None) -> Split:
        """Choose the limit so that at least the document with the smallest hash is below it."""
        if fraction is None:
            fraction = min(0.1, max(0.005, VALIDATION_BYTES / survey.bytes))
        return cls(max(int(fraction * 2**64), survey.smallest_hash + 1))

    def validates(self, data: bytes) -> bool:
        """Return whether a document is for validation."""
        return document_hash(data) < self.limit


def document_hash(data: bytes) -> int:
    """Return 64 bits of a hash of a document's bytes."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big")
