"""Standard streams that may be closed, or close while a training goes on."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import Any, TextIO

from wafergpt.progress import FAILURES


class Lasting:
    """A text stream for people, who may leave: what it cannot take any more is dropped.

    A terminal that was closed, the end of a pipe and a full disk end no training.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write, or drop, a text."""
        try:
            return self._stream.write(text)
        except FAILURES:
            return len(text)

    def flush(self) -> None:
        """Flush what can be."""
        with suppress(*FAILURES):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def secure() -> None:
    """Open what is closed of the three standard streams, and have stderr last.

    Else the next file that is opened would take the place of stderr, and what libraries write
    there with it.
    """
    for descriptor, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(descriptor, mode, encoding="utf-8", closefd=False))
    if not isinstance(sys.stderr, Lasting):
        sys.stderr = Lasting(sys.stderr)
