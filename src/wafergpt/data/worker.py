"""Calls of the tokenizers library that may take minutes, in a process that can be killed.

Such a call cannot be interrupted by Ctrl-C, and a thread in it keeps the interpreter from exiting.
"""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
import tempfile
import threading
from array import array
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import chain
from typing import IO, Any

from wafergpt.errors import InputError, RunFailed

_BOOT = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from wafergpt.data.worker import main; main()"
)
_END = (1 << 64) - 1
"""Sent in place of a text's length: there are no more texts."""

_DONE = b"="
"""Sent before every answer, to distinguish an empty one from that of a process that died."""

BAD_INPUT = 2


def train(texts: Iterable[str], vocab_size: int, lowercase: bool) -> str:
    """Return the ``tokenizer.json`` of a BPE, as ``tokenizer.train_bpe`` does.

    Raises:
        RunFailed: if the process died.
    """
    return _call({"vocab_size": vocab_size, "lowercase": lowercase}, texts).decode()


def encode(definition: str, end: str | None, text: str) -> list[int]:
    """Return the token ids of a text.

    Raises:
        InputError: if the tokenizer cannot read it.
        RunFailed: if the process died.
    """
    ids = array("I")
    ids.frombytes(_call({"end": end}, [definition, text]))
    return ids.tolist()


def _call(request: dict[str, Any], texts: Iterable[str]) -> bytes:
    command = [sys.executable, "-I", "-c", _BOOT, json.dumps(sys.path)]
    pipe = subprocess.PIPE
    answer = said = b""
    # A pipe that nobody reads meanwhile would hold up a process that says much.
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=errors)
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            # If the process died, its exit code is reported below.
            with suppress(BrokenPipeError):
                for text in chain([json.dumps(request)], texts):
                    _send(process.stdin, text)
                process.stdin.write(struct.pack("<Q", _END))
                process.stdin.flush()
            answer, code = process.stdout.read(), process.wait()
            errors.seek(0)
            said = errors.read()
        finally:
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout):
                with suppress(BrokenPipeError):
                    stream.close()
    reason = " ".join(said.decode(errors="replace").split())[-300:]
    if code == BAD_INPUT:
        raise InputError(reason)
    if code or not answer.startswith(_DONE):
        raise RunFailed(f"the tokenizer's worker process ended with {code}: {reason}")
    return answer[len(_DONE) :]


def _send(pipe: IO[bytes], text: str) -> None:
    try:
        data = text.encode()
    except UnicodeEncodeError:
        raise InputError("a text contains a lone surrogate, which is not a character") from None
    pipe.write(struct.pack("<Q", len(data)))
    pipe.write(data)


def main() -> None:
    """Process the request on stdin; write the result to stdout."""
    from wafergpt.data.tokenizer import Tokenizer, train_bpe

    # A terminal sends Ctrl-C to all processes; only the parent acts on it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    texts = _received(sys.stdin.buffer)
    request = json.loads(next(texts))
    try:
        if "vocab_size" in request:
            answer = train_bpe(texts, **request).encode()
        else:
            tokenizer = Tokenizer(next(texts), end=request["end"])
            text = next(texts)
            next(texts, None)
            answer = array("I", tokenizer.encode_here(text)).tobytes()
    except InputError as error:
        print(error, file=sys.stderr, flush=True)
        os._exit(BAD_INPUT)
    sys.stdout.buffer.write(_DONE + answer)
    sys.stdout.buffer.flush()
    os._exit(0)


def _received(pipe: IO[bytes]) -> Iterator[str]:
    while (length := struct.unpack("<Q", _exactly(pipe, 8))[0]) != _END:
        yield _exactly(pipe, length).decode()
    # Nothing more arrives, except the end of the pipe if the parent was killed.
    threading.Thread(target=lambda: os.read(pipe.fileno(), 1) or os._exit(1), daemon=True).start()


def _exactly(pipe: IO[bytes], length: int) -> bytes:
    data = pipe.read(length)
    if len(data) < length:
        os._exit(1)
    return data
