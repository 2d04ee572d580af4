"""Hostile bytes and values, and what a loader may do with them."""

from __future__ import annotations

import json
import os
import pickle
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from wafergpt.errors import InputError, RunFailed

T = TypeVar("T")

SECONDS = 10.0
"""No loader takes longer over a small file, whatever is in it."""


class OverdueError(BaseException):
    """Nothing that a loader could take for an error of its own."""


class Payload:
    """Makes a folder when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self._marker = str(marker)

    def __reduce__(self) -> Any:
        return os.mkdir, (self._marker,)


@contextmanager
def bounded(seconds: float = SECONDS) -> Iterator[None]:
    def ring(*_: object) -> None:
        raise OverdueError(f"still not done after {seconds} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def judged(load: Callable[[], T], most: int = 1500) -> tuple[T | None, str]:
    """Return what was loaded, or the one line with which it was refused; all else is a failure."""
    with bounded():
        try:
            return load(), ""
        except (InputError, RunFailed) as error:
            text = str(error)
    assert text
    assert "\n" not in text
    assert len(text) < most
    return None, text


def fuzzed(examples: int) -> Callable[[T], T]:
    """Return the settings of a test that only writes and reads small files."""
    checks = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]
    return settings(
        max_examples=examples,
        deadline=None,
        suppress_health_check=checks,
        database=None,
    )


NOT_JSON: dict[str, bytes] = {
    "empty": b"",
    "blank": b" \n\t ",
    "text": b"nonsense\n",
    "not UTF-8": b"\xff\xfe\x00\xd8\n",
    "NULs": bytes(64) + b"\n",
    "deep": b"[" * 100_000 + b"\n",
    "deep objects": b'{"a":' * 100_000 + b"\n",
    "long number": b'{"step":' + b"9" * 5000 + b"}\n",
    "cut": b'{"step": 1, "files": {"a": ',
    "two": b"{}{}\n",
}

NO_OBJECT: dict[str, bytes] = {
    "list": b"[[]]\n", "null": b"null\n", "number": b"-1e999\n", "NaN": b"NaN\n", "string": b'"x"\n'
}  # fmt: skip


def folder_there(path: Path) -> None:
    path.mkdir()


def loop_there(path: Path) -> None:
    path.symlink_to(path)


def pipe_there(path: Path) -> None:
    os.mkfifo(path)


def device_there(path: Path) -> None:
    path.symlink_to("/dev/zero")


NO_FILE = [folder_there, loop_there, pipe_there, device_there]


def pickled(marker: Path) -> bytes:
    return pickle.dumps(Payload(marker))


_CHUNKS = [
    b"\xff" * 8,
    b"\0" * 8,
    b"\x7f" + b"\xff" * 7,
    b'"',
    b"[" * 300,
    b"9" * 5000,
    b"\n",
    b",",
]


def mutated(data: bytes) -> st.SearchStrategy[bytes]:
    """Return ``data`` with bits flipped, pieces cut out, put in, or written over."""
    places = st.one_of(st.integers(0, min(80, len(data))), st.integers(0, len(data)))
    chunk = st.one_of(st.binary(min_size=1, max_size=9), st.sampled_from(_CHUNKS))
    change = st.tuples(st.sampled_from(["cut", "flip", "put", "over"]), places, places, chunk)
    return st.lists(change, min_size=1, max_size=3).map(lambda changes: _apply(data, changes))


def _apply(data: bytes, changes: list[tuple[str, int, int, bytes]]) -> bytes:
    for kind, place, other, chunk in changes:
        first, last = sorted((place, other))
        if kind == "cut":
            data = data[:first] + data[last:]
        elif kind == "put":
            data = data[:place] + chunk + data[place:]
        elif kind == "over":
            data = data[:place] + chunk + data[place + len(chunk) :]
        elif place < len(data):
            data = data[:place] + bytes([data[place] ^ 1 << other % 8]) + data[place + 1 :]
    return data


_DEEP: Any = []
for _ in range(400):
    _DEEP = [_DEEP]

_ODD = [
    None, True, False, 0, -1, 1, 2, 1.5, -0.0, 10**12, 10**400, -(10**30), 1 << 63, 1e308, 1e-320,
    float("nan"), float("inf"), "", " ", "\0", "\ud800", "\x1b[2J", "x" * 300, "9" * 5000, "../x",
    "/etc/passwd", "nan", "<b>", [], {}, [[]], [None], [1, "x"], {"": None}, {"step": 1}, _DEEP,
]  # fmt: skip
VALUES: st.SearchStrategy[Any] = st.one_of(
    st.sampled_from(_ODD),
    st.recursive(
        st.one_of(st.integers(), st.floats(), st.text(max_size=4), st.none()),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
        max_leaves=5,
    ),
)


def _places(value: Any) -> Iterator[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    for key, part in inner:
        yield (key,)
        if isinstance(part, dict | list):
            yield from ((key, *rest) for rest in _places(part))


def changed(value: Any) -> st.SearchStrategy[Any]:
    """Return JSON with one or two of its values replaced by others, lost, or under other names."""
    place = st.sampled_from(list(_places(value)))
    change = st.tuples(place, st.sampled_from(["set", "set", "set", "lose", "name"]), VALUES)
    return st.lists(change, min_size=1, max_size=2).map(lambda changes: _replace(value, changes))


def _replace(value: Any, changes: list[tuple[tuple[Any, ...], str, Any]]) -> Any:
    value = json.loads(json.dumps(value))
    for (*way, last), kind, new in changes:
        target = value
        try:
            for key in way:
                target = target[key]
            if kind == "set":
                target[last] = new
            elif kind == "lose":
                del target[last]
            else:
                target[str(new)[:200]] = target.pop(last)
        except (LookupError, TypeError, AttributeError, ValueError):
            # The other change took it away, or a list has no names.
            continue
    return value


def written(value: Any) -> bytes:
    return json.dumps(value).encode()


def spoilt(path: Path) -> st.SearchStrategy[bytes]:
    """Return what a good file may become: other bytes and, where it is JSON, other values."""
    good = path.read_bytes()
    ways = mutated(good)
    if path.suffix == ".json":
        ways |= changed(json.loads(good)).map(written)
    if path.suffix == ".jsonl":
        rows = [json.loads(line) for line in good.splitlines()]
        ways |= changed(rows).map(lambda rows: b"".join(written(row) + b"\n" for row in rows))
    return ways
