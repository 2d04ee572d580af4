"""Paths in a recipe and on the command line."""

from __future__ import annotations

import glob
import os
import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

from wafergpt import files
from wafergpt.config.yaml_values import unquoted
from wafergpt.errors import InputError

_VARIABLE = re.compile(r"\$\{?([A-Za-z_]\w*)")
_ADDRESS = re.compile(r"[\"']?[A-Za-z][A-Za-z0-9+.-]*://")
_WINDOWS = re.compile(r"[\"']?([A-Za-z]):\\([^\"']*)")

ROWS = ("task.train", "task.validation", "task.test")
"""Keys whose path may be a pattern of several files."""

MAX_NAME_BYTES = 255
"""Maximum bytes of a file's name on common file systems."""


def _possible(path: Path) -> Path:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise ValueError("its name is not UTF-8, and cannot be written: rename it") from None
    path = files.from_home(path)
    if "\0" in str(path) or any(len(os.fsencode(part)) > MAX_NAME_BYTES for part in path.parts):
        raise ValueError("no file can have this name")
    return path


AnyPath = Annotated[Path, AfterValidator(_possible)]


def typed_path(key: str, text: str) -> str:
    """Return the path that was meant by ``key=text`` on the command line: as typed, if it exists.

    Otherwise ``~``, variables and wildcards, which no shell expands there, are expanded; a pattern
    of several files of rows stays one.

    Raises:
        InputError: if it can be no path of this machine, or matches several files.
    """
    if files.exists(files.from_home(text)):
        return text
    if _ADDRESS.match(text):
        raise InputError(f"{key}={text} is an address, not a path on this machine: fetch it first")
    windows = _WINDOWS.match(text)
    if windows and os.name == "posix":
        drive, rest = windows[1].lower(), windows[2].replace("\\", "/")
        raise InputError(
            f"{key}={text} is a path of Windows; here it may be {key}=/mnt/{drive}/{rest}"
        )
    path = unquoted(text.strip())
    for name in _VARIABLE.findall(path):
        if name not in os.environ:
            raise InputError(f"{key}={text}: it does not exist, and ${name} is not set")
    path = str(files.from_home(os.path.expandvars(path)))
    if files.exists(Path(path)) or not glob.has_magic(path):
        return path
    found = sorted(glob.glob(path))  # noqa: PTH207 - a Path globs below itself only
    if key in ROWS and len(found) > 1:
        return path
    if len(found) > 1:
        raise InputError(
            f"{key}={text} matches {len(found)} files, {found[0]} and {found[1]} among them: "
            "name one"
        )
    return found[0] if found else path
