"""Each kind of failure as one line and an exit code."""

from __future__ import annotations

import errno
import os
import sys

import click

from wafergpt.distributed.launcher import LAUNCHED, LOST
from wafergpt.errors import InputError, ProcessLost, RunFailed
from wafergpt.logs import is_worker, place

LONGEST_LINE = 4000
"""The longest error message, in characters."""

_NO_SUCH_FILE = {
    errno.ENOENT, errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EACCES,
    errno.EPERM, errno.EROFS,
}  # fmt: skip


def explain(error: Exception) -> int:
    """Print the line of an error to stderr, and return its exit code."""
    if isinstance(error, click.UsageError):
        text, code = error.format_message(), 2
        if error.ctx is not None:
            text += f" (see '{error.ctx.command_path} --help')"
    elif isinstance(error, InputError):
        text, code = str(error), 2
    elif isinstance(error, OSError) and error.errno in _NO_SUCH_FILE:
        named = f": {error.filename}" if error.filename is not None else ""
        text, code = f"{error.strerror}{named}", 2
    elif isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EFBIG, errno.EDQUOT}:
        text, code = "the disk is full; everything saved before this is intact", 1
    elif isinstance(error, MemoryError):
        text, code = "there is not enough memory, or its limit (ulimit -v) is too low", 1
    elif isinstance(error, ProcessLost) and LAUNCHED in os.environ:
        text, code = str(error), LOST
    elif isinstance(error, RunFailed | OSError):
        text, code = str(error), 1
    else:
        text = f"{type(error).__name__}: {error} (a bug in wafergpt; --debug shows where)"
        code = 1
    text = _printable(text)
    if not is_worker():
        print(f"error: {text}", file=sys.stderr)
    elif not isinstance(error, InputError | ProcessLost):
        # Rank 0 reports an input error for all processes.
        print(f"process {place()[0]}: {text}", file=sys.stderr)
    return code


def _printable(text: str) -> str:
    """Return a text as one line of bounded length, without terminal control characters."""
    line = " ".join(text[:LONGEST_LINE].split())
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in line)
