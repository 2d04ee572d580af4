"""Limits of numbers and names in a recipe."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

from wafergpt.files import from_home

MAX_COUNT = 1 << 60
"""Maximum steps and tokens: beyond any training, and in a float's range."""

MAX_SEQUENCES = 1 << 20
"""Maximum sequences of a batch."""

MAX_NAME_BYTES = 255
"""Maximum bytes of a file's name on common file systems."""


def _possible(path: Path) -> Path:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise ValueError("its name is not UTF-8, and cannot be written: rename it") from None
    path = from_home(path)
    if "\0" in str(path) or any(len(os.fsencode(part)) > MAX_NAME_BYTES for part in path.parts):
        raise ValueError("no file can have this name")
    return path


AnyPath = Annotated[Path, AfterValidator(_possible)]
