"""Encoding batches of texts while others are read and written."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

from wafergpt.data.tokenizer import Tokenizer, is_huge


@contextmanager
def one_ahead() -> Iterator[ThreadPoolExecutor]:
    """Yield a thread to encode in; an interruption cancels what has not started."""
    encoder = ThreadPoolExecutor(1)
    try:
        yield encoder
    finally:
        encoder.shutdown(cancel_futures=True)


def encoded_batches(
    batches: Iterator[list[str]], tokenizer: Tokenizer, encoder: ThreadPoolExecutor
) -> Iterator[tuple[list[str], list[list[int]]]]:
    """Yield each batch with its token ids.

    The encoder works two batches ahead, in parallel with reading and writing. A huge text is
    encoded from this thread, the only one that receives Ctrl-C.
    """
    waiting: deque[tuple[list[str], Future[list[list[int]]]]] = deque()
    for batch in batches:
        huge = any(map(is_huge, batch))
        if not huge:
            waiting.append((batch, encoder.submit(tokenizer.encode_batch, batch)))
        while len(waiting) > (0 if huge else 2):
            first, future = waiting.popleft()
            yield first, future.result()
        if huge:
            yield batch, tokenizer.encode_batch(batch)
    for first, future in waiting:
        yield first, future.result()
